"""What `dodona eval` and `dodona sweep` share: doing one job's work, and what they print about it."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError, OutOfMemoryError
from dodona.engine.whole_file import check_writable
from dodona.eval.arms import Arm
from dodona.eval.compat.ladder import Ladder, ladders, ladders_as_dict
from dodona.eval.compat.tables import ladder_table
from dodona.eval.job import Job
from dodona.eval.lock import wait_until_free
from dodona.eval.models import Models
from dodona.eval.report.files import check_no_runs
from dodona.eval.report.table import text_lines
from dodona.eval.rows import Row
from dodona.eval.run import Experiment, Finished, Run
from dodona.eval.shard import Shard
from dodona.eval.show import COLOR_CHOICES, Marks, marked, marks_for
from dodona.eval.store import Place, Records, Store, checked_row
from dodona.eval.summary import errors, summarise, table_lines
from dodona.eval.traces import Traces

EXIT_INTERRUPTED = 130


class Interrupted(Exception):
    """Ctrl-C, after what was done has been written down; the message says where it is."""


class Screen(NamedTuple):
    """What to show while work goes on."""

    quiet: bool  # neither announcements nor a bar
    marks: Marks | None  # print every text with these; None: do not


class Outcome(NamedTuple):
    """What there is after a job's work."""

    experiment: Experiment
    config: Mapping[str, Any]
    place: Place
    rows: Mapping[tuple[str, str], Row]  # on the disk, of the experiment
    before: int  # of them that were there when this process began
    runs: int  # done by this process now
    tokens: int  # written in them
    seconds: float

    @property
    def missing(self) -> int:
        """Runs that are not on the disk."""
        return self.experiment.size - len(self.rows)

    @property
    def arms(self) -> list[Arm]:
        """Those that are a valid measure."""
        return [arm for arm in self.experiment.arms if not arm.compat]

    @property
    def ladders(self) -> list[Ladder]:
        """The first experiments' way of counting, where it was asked for."""
        rows: dict[str, dict[str, Row]] = {}
        for (arm, problem), row in self.rows.items():
            rows.setdefault(arm, {})[problem] = row
        return ladders(self.arms, self.experiment.problems, rows, self.experiment.compat)

    def report(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "config": dict(self.config),
            "records": str(self.place.path),
            "problems": len(self.experiment.problems),
            "arms": [
                summary.as_dict() for summary in summarise(self.arms, self.experiment.problems, self.rows.values())
            ],
            **({"compat": ladders_as_dict(self.ladders)} if self.experiment.compat else {}),
            "errors": errors(self.rows.values()),
            "missing": self.missing,
            "run": {
                "runs": self.runs,
                "runs_before": self.before,
                "tokens": self.tokens,
                "seconds": round(self.seconds, 3),
                "tokens_per_second": round(self.tokens / self.seconds, 1),
            },
        }

    def lines(self) -> list[str]:
        """The tables and what else is to be said, for people."""
        lines = table_lines(summarise(self.arms, self.experiment.problems, self.rows.values()))
        if self.experiment.compat:
            lines += ["", *text_lines(ladder_table(self.ladders))]
        for reason, count in errors(self.rows.values()).items():
            lines += ["", f"{count} runs failed: {reason}"]
        if self.missing:
            lines += [
                "",
                f"{self.missing} of {self.experiment.size} runs are missing: another process is still at work or ended "
                f"early. The same command goes on; `dodona report {self.place.path}` shows what there is.",
            ]
        if self.runs:
            rate = self.tokens / self.seconds
            done = f"{self.tokens} tokens in {self.seconds:.1f} s: {rate:.0f} tokens/s over all runs of this process"
            return [*lines, "", done]
        return [*lines, "", "nothing was left to run"]


@dataclass(slots=True)
class Loader:
    """Loads engines, one at a time: the one before is dropped first, unless it is asked for again."""

    _models: Models | None = None
    _engine: Engine | None = None

    def engine(self, models: Models) -> Engine:
        """The engine of these models.

        Raises:
            DodonaError: as Engine.
        """
        if self._engine is None or self._models != models:
            self._models = self._engine = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._engine = models.load()
            self._models = models
        return self._engine


def add_running_options(parser: argparse._ArgumentGroup) -> None:
    """Declare the options of what is shown."""
    parser.add_argument("--stats-file", metavar="FILE", help="also write the table to this file, as JSON")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, with its tokens and time")
    parser.add_argument(
        "--calibrate", action="store_true", help="with --dry-run: load the models and time a few short runs"
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help="also write every token with its signals, a Parquet file beside the records",
    )
    parser.add_argument("--verbose", action="store_true", help="print every text, with who wrote what")
    parser.add_argument("--color", choices=COLOR_CHOICES, default="auto", help="(default: auto, on a terminal)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON, and no progress")


def check_running(args: argparse.Namespace) -> None:
    """Refuse options of what is shown that would be without effect.

    Raises:
        DodonaError: naming them.
    """
    if args.calibrate and not args.dry_run:
        raise DodonaError("--calibrate belongs to --dry-run: it measures how long the runs would take")
    if args.stats_file and args.dry_run:
        raise DodonaError("--stats-file is for the table, and --dry-run makes none: leave one of them out")
    if args.verbose and args.json:
        raise DodonaError("--verbose prints texts and --json one object alone: leave one of them out")


def screen_of(args: argparse.Namespace, shard: Shard) -> Screen:
    """What the options and this process's place among others leave to be shown."""
    marks = marks_for(sys.stdout, args.color) if args.verbose else None
    return Screen(quiet=args.json or not shard.first, marks=marks)


def work(job: Job, shard: Shard, screen: Screen, loader: Loader) -> Outcome:
    """Do this process's part of a job. Models are loaded only if there is something left.

    Raises:
        DodonaError: the job cannot be done, or not to its end; what was written stays.
        Interrupted: Ctrl-C.
    """
    models = job.models_on(shard)
    opened = models.open()
    experiment = job.experiment(opened)
    config = experiment.config(opened)
    with (
        Store(job.place, config, experiment.arms, experiment.problems, shard, experiment.compat) as store,
        Traces(job.place, experiment.arms, config, shard) if job.trace else nullcontext() as traces,
    ):
        run = Run(experiment, store, traces)
        before, left = len(run.rows), run.left
        if not screen.quiet:
            print(_announcement(run, before), file=sys.stderr)
        if traces is not None and (untraced := traces.untraced()):
            print(f"{untraced} runs there have no trace, as they were made without --trace", file=sys.stderr)
        tokens, started = 0, time.perf_counter()
        try:
            if left:
                engine = loader.engine(models)
                started = time.perf_counter()
                with progress_bar(run.size, run.size - left, job.task.name, hidden=screen.quiet) as bar:
                    for done in run.finish(engine):
                        tokens += done.row.tokens
                        _show(done, screen, bar)
        except KeyboardInterrupt as stop:
            raise Interrupted(
                f"stopped: {store.kept()} records kept in {job.place.path}; the same command goes on"
            ) from stop
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{models.device or opened.device} ran out of memory: give a smaller --max-batch or --kv-tokens; "
                "the records before are kept"
            ) from error
        seconds = time.perf_counter() - started
        return Outcome(experiment, config, job.place, run.rows, before, len(run.rows) - before, tokens, seconds)


def with_others(outcome: Outcome, shard: Shard, screen: Screen) -> Outcome:
    """The outcome with what all processes wrote, once none of them writes any more, dead ones included.

    Where the file system has no locks: with what is there now.
    """
    if not screen.quiet:
        print(f"{shard.label} is done, and waits for the others", file=sys.stderr)
    wait_until_free(outcome.place.lock)
    wanted = {(arm.name, p.problem_id) for arm in outcome.experiment.arms for p in outcome.experiment.problems}
    rows: dict[tuple[str, str], Row] = {}
    for path, record in Records(outcome.place, outcome.config):
        row = checked_row(record, path)
        if (row.arm, row.problem_id) in wanted:
            rows.setdefault((row.arm, row.problem_id), row)
    return outcome._replace(rows=rows)


def print_interruption(stop: Interrupted, shard: Shard) -> None:
    """Say where the records are."""
    print(str(stop) if shard.whole else f"{shard.label} {stop}", file=sys.stderr)


def _announcement(run: Run, before: int) -> str:
    shard = run.store.shard
    part = "" if shard.whole else f", {run.size} of them in {shard.label}"
    there = f", {before} of them there already" if before else ""
    return f"{run.experiment.shape}{part}{there}; records: {run.store.place.path}"


def _show(done: Finished, screen: Screen, bar: Any) -> None:
    if screen.marks is not None:
        title = f"{done.row.arm}, {done.row.problem_id}: {done.row.outcome}"
        bar.write(f"{title}\n{marked(done.result.segments, screen.marks)}\n", file=sys.stdout)
    bar.update()


def progress_bar(total: int, done: int, label: str, *, hidden: bool) -> Any:
    """A bar with rate and remaining time on standard error, where that is a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

    hide = True if hidden else None  # None: hidden unless it is a terminal
    return tqdm(total=total, initial=done, desc=label, unit="run", file=sys.stderr, disable=hide, smoothing=0.05)


def writable(path: str) -> Path:
    """A path that can be written, found out before anything is run; nothing is left there.

    Raises:
        DodonaError: it cannot, or records or a trace are there.
    """
    file = Path(path)
    check_no_runs(file)
    check_writable(file)
    return file


class Bars:
    """Progress of a study on a terminal's standard error: a bar a stage."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: Any = None

    def start(self, label: str, total: int, done: int) -> None:
        """A new bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = progress_bar(total, done, label, hidden=self._hidden)

    def step(self) -> None:
        """One more."""
        self._bar.update()
