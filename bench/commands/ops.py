"""Check every kernel against its float64 reference on this machine, and time it beside torch, torch.compile and cuBLAS.

The exit code is 1 if a kernel is wrong or does not run. Without a GPU, --quick checks tiny shapes in Triton's
interpreter. With --tune, better block sizes are looked for and written to kernels/tuning.json; the same command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError

PATIENCE = 300  # seconds


def names(text: str) -> list[str]:
    """Words with commas between them."""
    return [word for part in text.split(",") if (word := part.strip())]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--ops", metavar="LIST", type=names, help="kernels, with commas between them (default: all)")
    parser.add_argument("--shapes", metavar="LIST", type=names, help="models: 1B,3B,8B,70B (default: all)")
    parser.add_argument(
        "--peers", metavar="LIST", type=names, help="torch,compile,cublas,product (default: all); none for no peers"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="write everything as JSON, after each case")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write a page with the table")
    parser.add_argument("--quick", action="store_true", help="check tiny shapes and time nothing; needs no GPU")
    parser.add_argument("--check-only", action="store_true", help="check the real shapes and time nothing")
    parser.add_argument("--tune", action="store_true", help="look for better block sizes and keep them")
    parser.add_argument("--again", action="store_true", help="with --tune: also what the table has already")
    parser.add_argument(
        "--patience",
        metavar="S",
        type=float,
        default=PATIENCE,
        help=f"seconds after which a case on a GPU is given up (default: {PATIENCE})",
    )


def run(args: argparse.Namespace) -> int:
    """Run the cases and print a line for each.

    Raises:
        DodonaError: an unknown name, options that exclude each other, no device, or a file that cannot be written.
    """
    _prepare(args)
    from dodona.engine.whole_file import check_writable

    for path in filter(None, (args.out, args.markdown)):
        check_writable(path)
    return _tune(args) if args.tune else _bench(args)


def _prepare(args: argparse.Namespace) -> None:
    if args.tune and (args.quick or args.check_only or args.markdown or args.peers is not None):
        raise DodonaError("--tune goes with --ops, --shapes, --again, --out and --patience only")
    if args.again and not args.tune:
        raise DodonaError("--again belongs to --tune")
    if args.quick and args.shapes:
        raise DodonaError("--quick has shapes of its own: leave out --shapes")
    try:
        import torch

        if not torch.cuda.is_available():
            if not args.quick:
                raise DodonaError(
                    "there is no CUDA device: --quick checks the kernels on tiny shapes in Triton's interpreter"
                )
            os.environ["TRITON_INTERPRET"] = "1"  # triton reads it when it is imported
        from dodona.kernels.launch import interpreting
    except ImportError as error:
        raise DodonaError(f"the kernels cannot be used here: {error}") from error
    if interpreting() and not args.quick:
        raise DodonaError("TRITON_INTERPRET is set, and interpreted kernels have no times: unset it, or say --quick")


def _chosen(wanted: Sequence[str] | None, known: Sequence[str], what: str) -> tuple[str, ...]:
    if wanted is None:
        return tuple(known)
    if unknown := [name for name in wanted if name not in known]:
        raise DodonaError(f"there is no {what} {unknown[0]!r}: choose among {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def _outcomes(module: str, make: str, options: Any, keys: Sequence[str], patience: float) -> Iterator[tuple[str, Any]]:
    """Each key's result; on a GPU from another process, which may die."""
    import torch

    from dodona.bench.apart import results

    maker = getattr(importlib.import_module(module), make)
    if torch.cuda.is_available():
        yield from results(maker, (options,), keys, patience)
    else:
        work = maker(options)
        yield from ((key, work(key)) for key in keys)


def _bench(args: argparse.Namespace) -> int:
    import torch

    from dodona.bench import ops, ops_report
    from dodona.bench.apart import Lost
    from dodona.bench.lines import write_json, write_text

    options = ops.Options(
        ops=_chosen(args.ops, tuple(ops.OPS), "kernel"),
        models=_chosen(args.shapes, ops.MODELS, "model"),
        peers=_chosen([] if args.peers == ["none"] else args.peers, ops.PEERS, "peer"),
        quick=args.quick,
        timed=not (args.quick or args.check_only),
    )
    specs = {spec.key: spec for spec in options.specs()}
    report = _new_report(_why_not_timed(args, gpu=torch.cuda.is_available()))
    print(ops_report.header(timed=options.timed))
    keys = [*([ops.CEILINGS] if options.timed else []), *specs]
    for key, result in _outcomes("dodona.bench.ops", "worker", options, keys, args.patience):
        if key == ops.CEILINGS:
            report["ceilings"] = {"error": result.reason} if isinstance(result, Lost) else result
            print(ops_report.ceiling_line(report["ceilings"]), flush=True)
        else:
            row = ops.empty_row(specs[key], result) if isinstance(result, Lost) else result
            report["rows"].append(row)
            print(ops_report.line(row, report["ceilings"], timed=options.timed), flush=True)
        if args.out:
            write_json(args.out, report)
    print("\n".join(ops_report.summary(report)))
    if args.markdown:
        write_text(args.markdown, ops_report.markdown(report))
    return int(any(row["check"]["status"] != ops.PASSED for row in report["rows"]))


def _tune(args: argparse.Namespace) -> int:
    import torch

    from dodona.bench import ops, tune
    from dodona.bench.apart import Lost
    from dodona.bench.lines import write_json
    from dodona.kernels.launch import TUNING_TABLE

    options = tune.TuneOptions(
        ops=_chosen(args.ops, tuple(ops.OPS), "kernel"),
        models=_chosen(args.shapes, ops.MODELS, "model"),
        again=args.again,
    )
    report = _new_report(None)
    device = tune.device_name(torch.device("cuda", 0))
    keys = [spec.key for spec in options.specs()]
    lost = 0
    for key, result in _outcomes("dodona.bench.tune", "tuner", options, keys, args.patience):
        if isinstance(result, Lost):
            lost += 1
            report["rows"].append({"case": key, "error": result.reason})
            print(f"{key}: {result.reason}", flush=True)
        else:
            lost += sum(entry["config"] is None for entry in result)
            report["rows"] += result
            tune.write_entries(device, result)
            for entry in result:
                print(_tuned_line(entry), flush=True)
        if args.out:
            write_json(args.out, report)
    found = sum("config" in row and row["config"] is not None for row in report["rows"])
    print(f"{found} entries written to {TUNING_TABLE.name} for {device}; {lost} without a result")
    return int(lost > 0)


def _tuned_line(entry: dict[str, Any]) -> str:
    if entry["config"] is None:
        return f"{entry['op']} {entry['shape']}: no candidate is right; first: {entry['rejected'][0]['error']}"
    default = "default fails" if entry["default_us"] is None else f"default {entry['default_us']:.2f} us"
    config = ", ".join(f"{name} {value}" for name, value in entry["config"].items())
    counts = f"{entry['tried']} tried, {len(entry['rejected'])} rejected"
    return f"{entry['op']} {entry['shape']}: {entry['us']:.2f} us, {default}; {config} ({counts})"


def _why_not_timed(args: argparse.Namespace, *, gpu: bool) -> str | None:
    if not gpu:
        return "there is no CUDA device, and the times of Triton's interpreter say nothing about a kernel's"
    if args.quick:
        return "--quick checks tiny shapes, whose times say nothing about real ones"
    return "--check-only" if args.check_only else None


def _new_report(not_timed: str | None) -> dict[str, Any]:
    import torch

    from dodona.bench import birth, ops

    device = torch.device("cuda") if torch.cuda.is_available() else None
    certificate = birth.birth_certificate(birth.typed_command("dodona", sys.argv[1:]), device)
    print("\n".join(birth.described(certificate)))
    return {
        "schema": ops.SCHEMA,
        "birth": certificate,
        "not_timed": not_timed,
        "ceilings": {},
        "rows": [],
    }
