"""Write one text with both models: the base writes, the oracle is consulted where the trigger says so.

The prompt is the argument, a file (--file), or standard input. From a file or standard input one line end at the very
end is left out, as a shell does, and a byte order mark at the beginning.
"""

from __future__ import annotations

import argparse
import codecs
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile, encode_record
from dodona.engine.request import Request
from dodona.engine.result import Result, Token
from dodona.engine.trace import TraceWriter, read_metadata
from dodona.eval.commands.options import (
    add_engine_options,
    add_request_options,
    check_oracle_options,
    positive,
    request_options,
)
from dodona.eval.models import Models
from dodona.eval.report.files import check_apart, check_no_runs, check_no_study
from dodona.eval.show import COLOR_CHOICES, Marks, marked, marks_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("prompt", nargs="?", help="the prompt; - or nothing reads standard input")
    parser.add_argument("--prompt", dest="prompt_option", metavar="TEXT", help="the prompt, as an option")
    parser.add_argument("--file", metavar="FILE", help="read the prompt from a file")
    parser.add_argument("--n", type=positive, default=1, help="samples of the prompt (default: 1)")
    add_engine_options(parser)
    add_request_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--verbose", action="store_true", help="show who wrote what, and a summary on standard error")
    output.add_argument("--color", choices=COLOR_CHOICES, default="auto", help="(default: auto, on a terminal)")
    output.add_argument("--json", action="store_true", help="print one record a sample instead of the text")
    output.add_argument("--stream", action="store_true", help="print the text while it is written")
    output.add_argument("--trace", metavar="FILE", help="write every token with its signals to this Parquet file")
    output.add_argument("--output-file", metavar="FILE", help="append the record to this file of JSON lines")


def run(args: argparse.Namespace) -> int:
    """Generate and print."""
    if args.stream and (args.json or args.n != 1):
        raise DodonaError("--stream prints one text as it comes: leave out --json and --n")
    check_apart({"--file": args.file, "--output-file": args.output_file, "--trace": args.trace})
    check_outputs(args)
    request = Request(prompt=read_prompt(args), **request_options(args))
    replace(request, sample=request.sample + args.n - 1)  # the last of them can be
    requests = (replace(request, sample=request.sample + number) for number in range(args.n))
    models = Models.of(args)
    check_oracle_options(args, models)
    marks = marks_for(sys.stdout, args.color) if args.verbose else None
    with ExitStack() as files:  # opened first: what cannot be written is known before anything is generated
        records = files.enter_context(RecordFile(args.output_file)) if args.output_file else None
        trace = files.enter_context(TraceWriter(args.trace)) if args.trace else None
        engine = models.load()
        started = time.perf_counter()
        results = []
        stream = _streamed(engine, request, marks) if args.stream else engine.generate(requests)
        for result in stream:
            results.append(result.raise_for_error())
            if records is not None:
                records.append(result.record())
            if trace is not None:
                trace.write(result)
    seconds = time.perf_counter() - started
    results.sort(key=lambda result: result.request.sample)
    for number, result in enumerate(results):
        if args.json:
            sys.stdout.write(encode_record(result.record(), ascii_only=True).decode())
        elif len(results) > 1:
            print(f"{'' if number == 0 else chr(10)}--- sample {result.request.sample} ---")
        if not args.json and not args.stream:
            print(result.text if marks is None else marked(result.segments, marks), flush=True)
        if args.verbose:
            print(summary(result), file=sys.stderr)
    if args.verbose:
        written = sum(len(result.ids) for result in results)
        print(f"{written} tokens in {seconds:.2f} s, {written / seconds:.0f} tokens/s", file=sys.stderr)
    return 0


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse to put records among those of a study, and to replace anything but an earlier trace of this command.

    Raises:
        DodonaError: naming the file.
    """
    if args.output_file:
        check_no_study(Path(args.output_file))
    if args.trace:
        try:
            ours = "config_hash" not in read_metadata(args.trace)
        except DodonaError:  # not there, or no trace
            ours = False
        if not ours:
            check_no_runs(Path(args.trace))


def read_prompt(args: argparse.Namespace) -> str:
    """The prompt from the one place where it was given.

    Raises:
        DodonaError: none or several places, a file that cannot be read, or bytes that are not UTF-8.
    """
    given = [value for value in (args.prompt, args.prompt_option, args.file) if value is not None]
    if len(given) > 1:
        raise DodonaError("the prompt is given more than once: as an argument, with --prompt or with --file")
    if args.file is not None:
        try:
            return _text(Path(args.file).read_bytes(), args.file)
        except OSError as error:
            raise DodonaError(f"{args.file} cannot be read: {error.strerror or error}") from error
    prompt: str | None = given[0] if given else None
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise DodonaError("there is no prompt: give it as an argument, with --file, or on standard input")
    return _text(sys.stdin.buffer.read(), "standard input")


def _text(data: bytes, place: str) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DodonaError(
            f"{place} is not valid UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from error
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _streamed(engine: Engine, request: Request, marks: Marks | None) -> Iterator[Result]:
    """Print the text while it is written, then yield its result."""
    finished: list[Result] = []

    def tokens() -> Iterator[Token]:
        finished.append((yield from engine.stream(request)))

    source, close = None, ""
    try:
        for token in tokens():
            if marks is not None and token.source != source:
                source = token.source
                before, after = marks.of(source)
                sys.stdout.write(close + before)
                close = after
            sys.stdout.write(token.text)
            sys.stdout.flush()
    finally:
        print(close)
    yield from finished


def summary(result: Result) -> str:
    """One line about a finished text."""
    consults = "1 consult" if result.consults == 1 else f"{result.consults} consults"
    places = f" at {', '.join(map(str, result.cheat_positions))}" if result.consults else ""
    oracle = int(result.sources.sum())
    return (
        f"{len(result.ids)} tokens, {consults}{places}; the oracle wrote {oracle} ({result.oracle_share:.0%}); "
        f"ended by {result.finish_reason}"
    )
