"""Measure accuracy over a grid of budgets, burst lengths and triggers.

Every combination of the lists is an arm, and every arm runs on the same problems. Records are appended to a file as the
runs finish; the same command goes on where it was stopped, and more arms or problems may be added to the same file.
The denominator is every problem asked for: a run without an answer, one that hit the token limit and one that failed
count as wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile
from dodona.engine.request import DEFAULT_CONSULTS, Request
from dodona.eval.arms import grid
from dodona.eval.commands.options import (
    add_engine_options,
    add_request_options,
    budget,
    listed,
    make_engine,
    request_options,
    whole,
)
from dodona.eval.run import Experiment, Run, default_path
from dodona.eval.show import COLOR_CHOICES, marked, marks_for
from dodona.eval.summary import errors, summarise, table_lines
from dodona.eval.tasks import TASKS

EXIT_INTERRUPTED = 130
PER_RUN = ("c", "k", "trigger", "when", "seed", "key", "sample", "id")  # fields of Request that the grid sets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    default = Request(prompt="")
    parser.add_argument("--dataset", choices=sorted(TASKS), help="the problems to solve")
    parser.add_argument("--num-samples", metavar="N", type=whole, default=100, help="problems (default: 100)")
    parser.add_argument("--start-index", metavar="N", type=whole, default=0, help="the first problem (default: 0)")
    parser.add_argument(
        "--level", metavar="LIST", type=listed(whole), action="append", help="of these levels only, as in 1,3"
    )
    arms = parser.add_argument_group("arms", "lists have commas between their values; every option may be repeated")
    arms.add_argument(
        "--c",
        metavar="LIST",
        type=listed(budget),
        action="append",
        help=f"consult budgets, as in 0,1,2,inf; 0 is the base alone (default: {DEFAULT_CONSULTS}, without oracle 0)",
    )
    arms.add_argument(
        "--k", metavar="LIST", type=listed(budget), action="append", help=f"burst lengths (default: {default.k})"
    )
    arms.add_argument(
        "--trigger",
        metavar="T",
        action="append",
        help=f"a preset or an expression; repeat it for several (default: {default.parsed_trigger.text})",
    )
    arms.add_argument(
        "--when", metavar="LIST", type=listed(str), action="append", help=f"before, after (default: {default.when})"
    )
    arms.add_argument(
        "--seed", metavar="LIST", type=listed(whole), action="append", help=f"seeds (default: {default.seed})"
    )
    add_engine_options(parser)
    add_request_options(parser, without=PER_RUN)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-file",
        metavar="FILE",
        help="records (default: runs/DATASET-BASE-ORACLE.jsonl, with the models' names)",
    )
    output.add_argument("--stats-file", metavar="FILE", help="also write the table to this file, as JSON")
    output.add_argument("--verbose", action="store_true", help="print every text, with who wrote what")
    output.add_argument("--color", choices=COLOR_CHOICES, default="auto", help="(default: auto, on a terminal)")
    output.add_argument("--json", action="store_true", help="print the table as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Run the grid and print the table."""
    experiment = experiment_of(args)
    marks = marks_for(sys.stdout, args.color) if args.verbose and not args.json else None
    with ExitStack() as files:
        stats_file = _writable(args.stats_file) if args.stats_file else None
        # Before the models are loaded, where its name does not depend on them.
        file = files.enter_context(RecordFile(args.output_file)) if args.output_file else None
        engine = make_engine(args)
        file = file or files.enter_context(RecordFile(default_path(experiment, engine)))
        job = Run(engine, experiment, file)
        before, tokens, started = len(job.rows), 0, time.perf_counter()
        if not args.json:
            print(_announcement(job, before), file=sys.stderr)
        try:
            with progress_bar(experiment.size, before, args.dataset, hidden=args.json) as bar:
                for done in job.finish():
                    tokens += done.row.tokens
                    if marks is not None:
                        bar.write(f"{done.row.arm}, {done.row.problem_id}: {done.row.outcome}", file=sys.stdout)
                        bar.write(marked(done.result.segments, marks) + "\n", file=sys.stdout)
                    bar.update()
        except KeyboardInterrupt:
            kept = sum(1 for _ in file.read()) - 1  # less the header
            print(f"stopped: {kept} records kept in {file.path}; the same command goes on", file=sys.stderr)
            return EXIT_INTERRUPTED
        seconds = time.perf_counter() - started
    summaries = summarise(experiment.arms, experiment.problems, job.rows.values())
    report = {
        "config": experiment.config(engine),
        "records": str(file.path),
        "problems": len(experiment.problems),
        "arms": [summary.as_dict() for summary in summaries],
        "errors": errors(job.rows.values()),
        "run": {
            "runs": len(job.rows) - before,
            "runs_before": before,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
        },
    }
    if stats_file is not None:
        stats_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(report))
        return 0
    print("\n".join(table_lines(summaries)))
    for reason, count in errors(job.rows.values()).items():
        print(f"\n{count} runs failed: {reason}")
    if len(job.rows) > before:
        print(f"\n{tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s over all runs of this command")
    else:
        print("\nnothing was left to run")
    return 0


def experiment_of(args: argparse.Namespace) -> Experiment:
    """The experiment that the options describe; what is wrong with it is known before a model is loaded.

    Raises:
        DodonaError: an option out of range, or no data set.
    """
    if args.dataset is None:
        raise DodonaError(f"--dataset says which problems to solve: {', '.join(sorted(TASKS))}")
    default = Request(prompt="")
    task = TASKS[args.dataset]
    problems = task.problems(args.num_samples, start=args.start_index, levels=_flat(args.level, []))
    alone = args.base_model is not None and args.oracle_model is None
    arms = grid(
        _flat(args.c, [0 if alone else DEFAULT_CONSULTS]),
        _flat(args.k, [default.k]),
        args.trigger or [default.parsed_trigger.text],
        _flat(args.when, [default.when]),
        _flat(args.seed, [default.seed]),
    )
    return Experiment(task, problems, arms, request_options(args, without=PER_RUN))


def _announcement(job: Run, before: int) -> str:
    arms, problems = len(job.experiment.arms), len(job.experiment.problems)
    there = f", {before} of them there already" if before else ""
    return f"{arms} arms x {problems} problems = {job.experiment.size} runs{there}; records: {job.file.path}"


def progress_bar(total: int, done: int, label: str, *, hidden: bool) -> Any:
    """A bar with rate and remaining time on standard error, where that is a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

    hide = True if hidden else None  # None: hidden unless it is a terminal
    return tqdm(total=total, initial=done, desc=label, unit="run", file=sys.stderr, disable=hide, smoothing=0.05)


def _flat(lists: Iterable[list[Any]] | None, default: list[Any]) -> list[Any]:
    return default if lists is None else [value for values in lists for value in values]


def _writable(path: str) -> Path:
    """A path that can be written, found out before anything is run."""
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise DodonaError(f"{path} cannot be written: {error.strerror or error}") from error
    return file
