"""Measure our engine beside what people use today: the naive and the careful transformers loop, transformers' generate
(alone, compiled, assisted), and the HTTP design, with the oracle or both models behind a completions server.

Every peer runs in a process of its own on the same weights and threads, in turn with ours. The exit code is 1 where a
peer wrote another number of tokens, or other tokens where float32 makes them equal. Without models, the embedded pair
and SmolLM2 are measured (bfloat16 and float32).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dodona.bench.commands.options import add_output_options, listed, positive
from dodona.engine.errors import CheckpointError, DodonaError

if TYPE_CHECKING:
    from dodona.bench.compare import Comparison, Guided

DTYPES = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}
ENGINE_OPTIONS = ("backend", "ops", "loop", "lookahead")
NOT_REPEATED = ("--out", "--json")  # of a command line that is to be run again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    models = parser.add_argument_group("models")
    models.add_argument("--base-model", metavar="MODEL", help="alias, hub id, folder, GGUF file or dummy:NAME")
    models.add_argument("--oracle-model", metavar="MODEL", help="likewise")
    models.add_argument("--dtypes", metavar="LIST", type=listed(str), help="float32, bfloat16 (default: both)")
    models.add_argument("--device", help="cpu, cuda (default: cuda where there is one)")
    models.add_argument("--threads", metavar="N", type=positive, help="CPU threads of every process")
    for name in ("backend", "ops", "loop"):
        models.add_argument(f"--{name}", help="of our engine")
    models.add_argument("--lookahead", metavar="N", type=positive, help="of our engine")
    work = parser.add_argument_group("work")
    work.add_argument("--prompt", metavar="TEXT", action="append", help="may be given several times")
    work.add_argument("--tokens", metavar="N", type=positive, help="tokens of each text")
    work.add_argument(
        "--guided", metavar="C,K,TRIGGER", action="append", help="as in 8,8,every(12) or inf,1,at(3,17); several times"
    )
    work.add_argument("--repeats", metavar="N", type=positive, help="timed runs of each")
    work.add_argument("--ignore-eos", action="store_true", help="write on after end tokens, to the limit")
    work.add_argument("--parts", metavar="LIST", type=listed(str), help="guided,base,oracle: the work (default: all)")
    peers = parser.add_argument_group("peers")
    peers.add_argument(
        "--peers",
        metavar="LIST",
        type=listed(str),
        help="naive,careful,http,two-servers,servers-by-token,generate,compiled,assisted "
        "(default: all; with --quick, a few)",
    )
    peers.add_argument(
        "--python",
        metavar="[PEER=]PATH",
        action="append",
        default=[],
        help="interpreter of a peer, or of all that use transformers",
    )
    peers.add_argument("--url", help="a vLLM or SGLang server of the oracle, measured as one more HTTP design")
    peers.add_argument("--url-model", metavar="NAME", help="the model's name there (default: the first it lists)")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print tables.

    Raises:
        DodonaError: options or models that cannot be used.
    """
    import tempfile

    import torch

    from dodona.bench.birth import described, typed_command
    from dodona.bench.compare import resolved, rows, subject_of
    from dodona.bench.lines import ResultFile, json_text, lines_of

    comparisons = comparisons_of(args)
    command, again = typed_command("dodona", sys.argv[1:]), repeatable(sys.argv[1:])
    lines: list[dict[str, Any]] = []
    with ResultFile(args.out) as file, tempfile.TemporaryDirectory(prefix="dodona-peers-") as folder:
        for comparison in comparisons:
            try:
                comparison = resolved(comparison)
            except CheckpointError as error:
                if args.base_model:
                    raise
                print(f"not measured: {error}", file=sys.stderr)
                continue
            subject = subject_of(comparison)
            measured = ({**row, "arguments": again} for row in rows(comparison, Path(folder)))
            for line in lines_of("peers", measured, subject, command, torch.device(comparison.device)):
                file.append(line)
                lines.append(line)
                if args.json:
                    print(json_text(line), flush=True)
                else:
                    print(progress(line), file=sys.stderr, flush=True)
    if not lines:
        raise DodonaError("nothing was measured: --peers names none that does this work")
    if not args.json:
        print("\n".join([*described(lines[-1]["birth"]), "", *tables(lines)]))
    return int(any(line.get("faults") for line in lines))


def comparisons_of(args: argparse.Namespace) -> list[Comparison]:
    """What the options ask for.

    Raises:
        DodonaError: an option that cannot be used.
    """
    from dataclasses import replace

    from dodona.bench.compare import PEERS, Comparison
    from dodona.bench.peers.sets import ALL, SOME, default_comparisons, default_prompts
    from dodona.engine.options import device_of, dtype_of

    if bool(args.base_model) != bool(args.oracle_model):
        raise DodonaError("--base-model and --oracle-model go together")
    device = device_of(args.device)
    dtypes = [DTYPES.get(name, name) for name in args.dtypes or ()]
    for name in dtypes:
        dtype_of(name, device)
    known = [peer for peer, _ in PEERS]
    for peer in args.peers or ():
        if peer not in known:
            raise DodonaError(f"there is no peer {peer!r}: choose among {', '.join(ALL)}")
    if args.url_model and not args.url:
        raise DodonaError("--url-model needs a --url")
    if "url" in (args.peers or ()) and not args.url:
        raise DodonaError("the peer url needs a --url")
    if args.base_model:
        single = Comparison(
            base=args.base_model,
            oracle=args.oracle_model,
            dtype="",
            prompts=default_prompts(args.base_model, 1 if args.quick else 4),
            tokens=48 if args.quick else 256,
            guided=(SOME,),
            peers=("careful", "http", "generate") if args.quick else ALL,
            repeats=2 if args.quick else 3,
        )
        found = [replace(single, dtype=dtype) for dtype in dtypes or ("bfloat16", "float32")]
    else:
        found = [c for c in default_comparisons(quick=args.quick) if not dtypes or c.dtype in dtypes]
        if not found:
            raise DodonaError("--dtypes leaves nothing to measure: the default set is in float32 and bfloat16")
    changes: dict[str, Any] = {
        "device": str(device),
        "engine": engine_options(args, device.type),
        "url": args.url,
        "url_model": args.url_model,
        "pythons": interpreters(args.python, known),
    }
    changes |= {name: getattr(args, name) for name in ("threads", "tokens", "repeats") if getattr(args, name)}
    if args.ignore_eos:
        changes["ignore_eos"] = True
    if args.prompt:
        if not all(args.prompt):
            raise DodonaError("--prompt is empty")
        changes["prompts"] = tuple(args.prompt)
    if args.guided:
        changes["guided"] = tuple(guided_of(text) for text in args.guided)
    if args.peers:
        changes["peers"] = args.peers
    if args.parts:
        changes["parts"] = tuple(part_of(name) for name in args.parts)
    found = [replace(comparison, **changes) for comparison in found]
    if args.url:
        found = [replace(c, peers=tuple(dict.fromkeys((*c.peers, "url")))) for c in found]
    return found


def engine_options(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Options of our engine that the user gave, and the backend that suits the device."""
    given = {name: getattr(args, name) for name in ENGINE_OPTIONS if getattr(args, name) is not None}
    return {"backend": "triton", **given} if device == "cuda" else given


def guided_of(text: str) -> Guided:
    """``C,K,TRIGGER`` read.

    Raises:
        DodonaError: anything else.
    """
    from dodona.bench.compare import Guided
    from dodona.bench.peers.work import parse_rule
    from dodona.engine.request import parse_budget

    try:
        c, k, trigger = text.split(",", 2)
        parse_rule(trigger)
        found = Guided(parse_budget(c), parse_budget(k), trigger.strip())
        if found.c < 0 or found.k < 1:
            raise ValueError("c is 0 or more and k is 1 or more")
    except ValueError as error:
        raise DodonaError(f"--guided takes C,K,TRIGGER as in 8,8,every(12), not {text!r} ({error})") from error
    return found


def part_of(name: str) -> str:
    """A part of the work by its short name.

    Raises:
        DodonaError: there is none of that name.
    """
    from dodona.bench.compare import BASE_ALONE, GUIDED, ORACLE_ALONE

    parts = {"guided": GUIDED, "base": BASE_ALONE, "oracle": ORACLE_ALONE}
    if name not in parts:
        raise DodonaError(f"--parts: there is no part {name!r}: choose among {', '.join(parts)}")
    return parts[name]


def interpreters(given: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Interpreters by peer, from ``PEER=PATH`` or ``PATH``; the empty name stands for all.

    Raises:
        DodonaError: a path that is no file.
    """
    found: dict[str, str] = {}
    for text in given:
        peer, equals, path = text.partition("=")
        if not equals or peer not in known:
            peer, path = "", text
        place = Path(path).expanduser()
        if not place.is_file():
            raise DodonaError(f"--python: there is no interpreter {path!r}")
        found[peer] = str(place.absolute())  # not resolved: a virtual environment's is a link
    return found


def repeatable(arguments: Iterable[str]) -> list[str]:
    """A command line without where its results go."""
    found: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument.startswith(NOT_REPEATED):
            skip = argument == "--out"
        else:
            found.append(argument)
    return found


def progress(line: dict[str, Any]) -> str:
    """A row in a line."""
    what = f"{line['subject']['dtype']} {line['name']}: {line['peer']}"
    if line.get("faults"):
        return f"{what}: WRONG: {line['faults'][0]}"
    return f"{what}: skipped" if "skipped" in line else f"{what}: ratio {line['ratio']['p50']:.2f}"


def tables(lines: list[dict[str, Any]]) -> list[str]:
    """The result's tables."""
    from dodona.bench.tables import table

    return table(lines)
