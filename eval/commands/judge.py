"""Whose answers are better? Pairs of answers, judged in both orders, with every pair in the denominator.

The pairs come from a file with two columns of answers, or one or both sides are models that answer now; the judge is a
model of this engine, any URL that speaks OpenAI's chat completions, or a scripted one (exact, first, second, longer,
shorter, random) whose bias is known. An answer wins if both orders name it; orders that disagree are a tie. The same
command goes on where an earlier one stopped, and a verdict is never asked for twice. With --preference-column the
verdicts of a file are counted as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record
from dodona.engine.request import Request
from dodona.eval.commands.options import (
    add_placing_options,
    add_request_options,
    number,
    options_given,
    positive,
    request_options,
    whole,
)
from dodona.eval.commands.running import EXIT_INTERRUPTED, progress_bar
from dodona.eval.judge.answering import answers, with_answers
from dodona.eval.judge.asked import Sides, inputs, judges_of
from dodona.eval.judge.files import VERDICTS, StageFile, kept
from dodona.eval.judge.judgement import preferred
from dodona.eval.judge.judges import Judge
from dodona.eval.judge.local import LocalJudge
from dodona.eval.judge.log import notes_of, pair_lines, totals
from dodona.eval.judge.page import MOST, page
from dodona.eval.judge.pair import Pair
from dodona.eval.judge.prompt import NAMES
from dodona.eval.judge.reading import Input
from dodona.eval.judge.remote import RemoteJudge
from dodona.eval.judge.results import Rated, read_several, results_dict, write_ratings
from dodona.eval.judge.study import Cache, Judged, judge_pairs
from dodona.eval.lock import Lock
from dodona.eval.report.files import write_file
from dodona.eval.shard import WHOLE
from dodona.eval.store import place_name

OPTIONS: Final = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "stop", "seed", "raw")
_NOT_OURS: Final = frozenset(Request.__dataclass_fields__) - {"prompt", *OPTIONS}
_GIVEN: Final = "the file's preferences"
_OF_COMPARE: Final = ("compare", "json", "quiet")
_OF_JUDGES: Final[Sequence[tuple[tuple[type, ...], Sequence[str], str]]] = (
    (
        (RemoteJudge,),
        ("judge_model", "judge_key_env", "judge_timeout", "judge_wait", "judge_workers", "no_judge_logprobs"),
        "a judge behind an address",
    ),
    ((LocalJudge,), ("judge_text", "judge_raw"), "a judge that is a model of the engine"),
    (
        (LocalJudge, RemoteJudge),
        ("prompt", "prompt_file", "judge_tokens"),
        "a judge that reads: a scripted one does not",
    ),
    ((object,), ("empty_loses", "retry_errors"), "a --judge: the file's preferences are counted as they are"),
)
PAGE: Final = "pairs.html"
LOG: Final = "log.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="pairs: JSONL, JSON, CSV, TSV, Parquet or Arrow")
    pairs = parser.add_argument_group("pairs")
    option = pairs.add_argument
    option("--dataset", metavar="DATA", help="a task of `dodona eval` in place of a file: both models answer it")
    option("--recipe", metavar="NAME", help="how its problems are asked")
    option("--level", metavar="LIST", help="of these levels of it only")
    option("--num-samples", metavar="N", help="pairs, or all (default: all of a file, 100 of a task)")
    option("--start-index", metavar="N", type=whole, default=0, help="the first of them, from 0 (default: 0)")
    columns = parser.add_argument_group(
        "columns", "of the file; where none is named, one with a usual name is looked for"
    )
    for name, help_ in (
        ("question", "the question"),
        ("context", "a text that the question is about"),
        ("reference", "the true answer"),
        ("answer-a", "the answers of side A"),
        ("answer-b", "the answers of side B"),
        ("human", "a person's verdict: a, b or tie"),
        ("preference", "a verdict that is there: 1 is all for A, 2 all for B, 1.5 a tie"),
        ("id", "the pair's id; row numbers the rows"),
    ):
        columns.add_argument(f"--{name}-column", metavar="NAME", help=help_)
    sides = parser.add_argument_group("sides")
    for letter in ("a", "b"):
        sides.add_argument(
            f"--model-{letter}", metavar="MODEL", help=f"side {letter.upper()}'s answers are written now by this model"
        )
    for letter in ("a", "b"):
        sides.add_argument(f"--name-{letter}", metavar="NAME", help=f"what side {letter.upper()} is called")
    sides.add_argument(
        "--answer-prompt-file", metavar="FILE", help="how models are asked: {question} in it, and {context}"
    )
    sides.add_argument(
        "--empty-loses", action="store_true", help="a missing answer loses against one that is there (default: error)"
    )
    add_request_options(parser, without=_NOT_OURS)
    judges = parser.add_argument_group("judge")
    option = judges.add_argument
    option(
        "--judge",
        metavar="JUDGE",
        action="append",
        help="a model, an address (http://127.0.0.1:8000/v1), exact, first, second, longer, shorter or random; may be "
        "repeated, and all judge the same pairs",
    )
    option("--prompt", metavar="NAME", help=f"{', '.join(NAMES)} (default: similarity where there are true answers)")
    option("--prompt-file", metavar="FILE", help="your own, with {question}, {answer_a}, {answer_b}")
    option(
        "--judge-tokens", metavar="N", type=whole, default=0, help="that it may write before its verdict (default: 0)"
    )
    option(
        "--judge-text",
        action="store_true",
        help="a model of the engine writes its verdict as text (default: its tokens' probabilities are read)",
    )
    option("--judge-raw", action="store_true", help="the judge's prompt without the chat template")
    option("--judge-model", metavar="NAME", help="as the server at the address calls it")
    option("--judge-key-env", metavar="NAME", help="environment variable with the server's key; never written down")
    option("--judge-timeout", metavar="S", type=number, default=120.0, help="seconds for an answer (default: 120)")
    option("--judge-wait", metavar="S", type=number, default=2.0, help="seconds before the one retry (default: 2)")
    option("--judge-workers", metavar="N", type=positive, default=4, help="requests at once (default: 4)")
    option("--no-judge-logprobs", action="store_true", help="do not ask the server for probabilities")
    option("--retry-errors", action="store_true", help="ask again for verdicts that were errors in an earlier run")
    placing = parser.add_argument_group("models")
    add_placing_options(placing)
    output = parser.add_argument_group("output")
    option = output.add_argument
    option("--output-dir", metavar="DIR", help="the study's folder (default: runs/judge-FILE-A-B)")
    option("--examples", metavar="N", type=whole, default=MOST, help=f"pairs of a judge on the page (default: {MOST})")
    option("--compare", metavar="DIR", nargs="+", help="judge nothing: put the judges of these folders side by side")
    option("--quiet", action="store_true", help="print the totals alone; the log is in the folder all the same")
    option("--json", action="store_true", help="print the figures as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Judge, or compare what was judged."""
    if args.compare is not None:
        return compare(args)
    if args.examples < 0:
        raise DodonaError(f"--examples must be 0 or more, not {args.examples}")
    source, sides = inputs(args, request_options(args, without=_NOT_OURS))
    judges = judges_of(args, source)
    check_used(options_given(args, add_arguments), judges)
    folder = Path(args.output_dir) if args.output_dir else default_folder(source, sides.names)
    _make(folder)
    config = {("dataset" if args.dataset else "file"): source.name, "name_a": sides.names[0], "name_b": sides.names[1]}
    lock = Lock(folder / ".lock", folder, WHOLE)
    try:
        pairs, notes = answered(source.pairs, sides, folder, hidden=args.json)
        ratings, shown = judged(args, pairs, judges, folder, config)
        notes += notes_of(ratings)
        written = [write_ratings(folder, config, ratings)]
        lines = totals(sides.names, ratings, notes)
        with open(folder / LOG, "a", encoding="utf-8", errors="replace") as log:
            print("\n".join(lines), file=log)
        title = f"Pairwise judge: {source.source}, {sides.names[0]} against {sides.names[1]}"
        text = page(title, sides.names, notes, ratings, shown, facts(folder, config, ratings), args.examples)
        written.append(write_file(folder / PAGE, text))
    except KeyboardInterrupt:
        print(f"stopped: {kept(folder)} records kept in {folder}; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        lock.close()
        for judge in judges:
            judge.close()
    if args.json:
        _print_json(results_dict(sides.names, ratings, notes))
    else:
        print("\n".join(lines))
    for path in written:
        print(f"written: {path}", file=sys.stderr)
    return 0


def compare(args: argparse.Namespace) -> int:
    """The judges of several studies side by side."""
    given = {name: option for name, option in options_given(args, add_arguments).items() if name not in _OF_COMPARE}
    if args.file is not None or given:
        raise DodonaError(f"--compare reads what was judged: leave out {next(iter(given.values()), 'the file')}")
    configs, ratings = read_several(args.compare)
    names = [tuple(str(config.get(f"name_{letter}", letter)) for letter in ("a", "b")) for config in configs]
    notes = notes_of(ratings)
    if len(set(names)) > 1:
        told = "; ".join(f"{path}: {a} and {b}" for path, (a, b) in zip(args.compare, names, strict=True))
        notes.insert(0, f"the studies call their sides by other names: {told}")
    if args.json:
        _print_json(results_dict(names[0], ratings, notes))
    else:
        print("\n".join(totals(names[0], ratings, notes)))
    return 0


def check_used(given: Mapping[str, str], judges: Sequence[Judge]) -> None:
    """Refuse an option that none of the judges has a use for.

    Raises:
        DodonaError: naming the option and what it is for.
    """
    for kind, names, needed in _OF_JUDGES:
        for name in names:
            if name in given and not any(isinstance(judge, kind) for judge in judges):
                raise DodonaError(f"{given[name]} belongs to {needed}")


def default_folder(source: Input, names: Sequence[str]) -> Path:
    """``runs/judge-<file or task>-<a>-<b>``."""
    return Path("runs") / place_name("judge", source.name, *names)


def answered(pairs: Sequence[Pair], sides: Sides, folder: Path, *, hidden: bool) -> tuple[list[Pair], list[str]]:
    """The pairs with the answers of the models that answer now, and what to know of these.

    Raises:
        DodonaError: as ``answers``.
    """
    found, notes = list(pairs), []
    for side, questions in sides.models:
        with _bar(f"answers of {side.letter.upper()}", hidden=hidden) as (asked, step):
            own = answers(side, questions, folder, asked=asked, step=step)
        found = with_answers(found, side.letter, own)
        cut = sum(answer.finish_reason == "length" for answer in own.values())
        if cut:
            notes.append(
                f"{cut} of {len(own)} answers of {side.letter.upper()} were cut off by --max-new-tokens; they are "
                "judged as they are."
            )
    same = sum(pair.answer_a is not None and pair.answer_a == pair.answer_b for pair in found)
    if same:
        notes.append(f"{same} of {len(found)} pairs have one answer on both sides: a judge can only make them ties.")
    return found, notes


def judged(
    args: argparse.Namespace, pairs: Sequence[Pair], judges: Sequence[Judge], folder: Path, config: Mapping[str, Any]
) -> tuple[list[Rated], dict[str, list[Judged]]]:
    """Every judge on every pair, with the log as they go.

    Raises:
        DodonaError: a file cannot be written or belongs to another study, or a judge cannot be loaded.
    """
    ratings: list[Rated] = []
    shown: dict[str, list[Judged]] = {}
    chatty = not (args.json or args.quiet)
    with (
        StageFile(folder / VERDICTS, "verdicts", config) as file,
        open(folder / LOG, "w", encoding="utf-8", errors="replace") as log,
    ):
        cache = Cache(file)
        if args.preference_column is not None:
            given = [Judged(pair, preferred(pair)) for pair in pairs]
            for place, one in enumerate(given, 1):
                _log(pair_lines(one, place, len(pairs), _GIVEN), log, chatty)
            ratings.append(Rated.of(_GIVEN, {"column": args.preference_column}, [one.judgement for one in given]))
            shown[_GIVEN] = given
        for judge in judges:
            known: list[Judged] = []
            with _bar(judge.name, hidden=args.json or (chatty and sys.stdout.isatty())) as (asked, step):
                for one in judge_pairs(
                    judge,
                    pairs,
                    cache,
                    retry_errors=args.retry_errors,
                    empty_loses=args.empty_loses,
                    asked=asked,
                    step=step,
                ):
                    known.append(one)
                    _log(pair_lines(one, len(known), len(pairs), judge.name), log, chatty)
            judge.close()
            ratings.append(Rated.of(judge.name, judge.settings, [one.judgement for one in known]))
            shown[judge.name] = known
    return ratings, shown


def _log(lines: Sequence[str], log: TextIO, chatty: bool) -> None:
    text = "\n".join(lines)
    print(text, file=log, flush=True)
    if chatty:
        print(text, flush=True)


def facts(folder: Path, config: Mapping[str, Any], ratings: Sequence[Rated]) -> dict[str, Any]:
    """What the page says of how it was made."""
    from dodona.eval.header import git_commit, versions

    found: dict[str, Any] = dict(config)
    for rated in ratings:
        found |= {f"{rated.judge}: {name}": value for name, value in rated.settings.items() if name != "judge"}
    found["commit"] = git_commit() or "not known"
    return found | {f"{name} (version)": value for name, value in versions().items()}


@contextmanager
def _bar(label: str, *, hidden: bool) -> Iterator[tuple[Callable[[int, int], None], Callable[[], None]]]:
    """A progress bar that begins when it is told how much there is."""
    bars: list[Any] = []

    def asked(done: int, total: int) -> None:
        bars.append(progress_bar(total, done, label, hidden=hidden))

    def step() -> None:
        bars[-1].update()

    try:
        yield asked, step
    finally:
        for bar in bars:
            bar.close()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise DodonaError(f"{folder} is a file, and --output-dir needs a folder there") from error
    except OSError as error:
        raise DodonaError(f"{folder} cannot be written: {error.strerror or error}") from error


def _print_json(content: Mapping[str, Any]) -> None:
    sys.stdout.write(encode_record(content, ascii_only=True).decode("ascii"))
