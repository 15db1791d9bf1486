"""What the commands share that go on with recorded runs: the models of the records, the log of forks, the output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.causal.forks import LOG, ForkLog
from dodona.eval.causal.origin import Origin
from dodona.eval.commands.options import add_engine_options
from dodona.eval.models import Opened
from dodona.eval.report.table import plain

EXIT_INTERRUPTED = 130


def add_origin_options(parser: argparse.ArgumentParser) -> None:
    """The records to go on with."""
    parser.add_argument("path", metavar="RUN", help="a file or a folder of records of `dodona eval`")


def add_fork_options(parser: argparse.ArgumentParser, ending: str) -> None:
    """Where things go, and where the models run: as in the records, unless it is said.

    Args:
        ending: of the default output file.
    """
    output = parser.add_argument_group("output")
    output.add_argument("--output-file", metavar="FILE", help=f"JSON lines (default: RUN{ending}, beside the records)")
    output.add_argument("--forks", metavar="FILE", help=f"the log of forks, which is gone on with (default: RUN{LOG})")
    output.add_argument("--json", action="store_true", help="print the summary as JSON, in place of the tables")
    output.add_argument("--csv", metavar="PATH", help="also write CSV: the lines to a .csv file, or all to a folder")
    output.add_argument("--html", metavar="FILE", help="also write one page with pictures, tables and texts")
    parser.add_argument("--ids", metavar="LIST", action="append", default=[], help="these problems only")
    add_engine_options(parser)


def check_pictures(args: argparse.Namespace) -> None:
    """Find out now whether a page can be made.

    Raises:
        DodonaError: there is no matplotlib.
    """
    if args.html:
        from dodona.eval.report.picture import check_matplotlib

        check_matplotlib("--html")


class Loaded:
    """The models of recorded runs, opened when their tokenizer is asked for and loaded when something is run.

    Args:
        origin: the runs.
        args: the parsed options of ``add_engine_options``.
    """

    def __init__(self, origin: Origin, args: argparse.Namespace) -> None:
        self._origin = origin
        self._models = origin.models(vars(args))
        self._opened: Opened | None = None
        self._engine: Engine | None = None

    @property
    def opened(self) -> Opened:
        """The models without their weights, checked to be those of the records.

        Raises:
            DodonaError: they are not, or cannot be used.
        """
        if self._opened is None:
            opened = self._models.open()
            self._origin.check(opened)
            self._opened = opened
        return self._opened

    def check(self) -> None:
        """Find out now whether the models can be used.

        Raises:
            DodonaError: they cannot, or are not those of the records.
        """
        _ = self.opened

    @property
    def tokenizer(self) -> Tokenizer:
        """Theirs."""
        return self.opened.tokenizer

    def engine(self) -> Engine:
        """The engine.

        Raises:
            DodonaError: as ``opened``, or as Engine.
        """
        if self._engine is None:
            self.check()
            self._engine = self._models.load()
        return self._engine

    def close(self) -> None:
        """Let go of the engine; it is loaded again if it is asked for."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class Progress:
    """A bar on standard error that says what is being done and how much of it was; nothing where it is no terminal."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str) -> None:
        """One more thing of a stage is done."""
        if stage != self._stage:
            self.close()
            from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

            hide = True if self._hidden else None  # None: hidden unless it is a terminal
            self._bar, self._stage = tqdm(desc=stage, unit="run", file=sys.stderr, disable=hide, smoothing=0.05), stage
        self._bar.update()

    def close(self) -> None:
        """Leave the last bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def paths_of(args: argparse.Namespace, origin: Origin, ending: str, field: str) -> tuple[Path, Path]:
    """The output file, and the log of forks.

    Args:
        ending: of the default output file.
        field: that its lines have, and no other file's. It is written anew each time, and nothing else is written over.

    Raises:
        DodonaError: one of them is where the records are or another kind of file, or both are the same.
    """
    output = Path(args.output_file) if args.output_file is not None else origin.beside(ending)
    log = Path(args.forks) if args.forks is not None else origin.beside(LOG)
    records = {Path(file).resolve() for file in origin.experiment.files}
    for path, option in ((output, "--output-file"), (log, "--forks")):
        if path.resolve() in records:
            raise DodonaError(f"{option} {path} is a file of records that is read: name another one")
        if path.is_dir():
            raise DodonaError(f"{option} {path} is a folder, and a file is needed")
    if not _ours(output, field):
        raise DodonaError(f"--output-file {output} is another kind of file: name another one")
    if output.resolve() == log.resolve():
        raise DodonaError(f"--output-file and --forks are both {output}: name two files")
    return output, log


def _ours(path: Path, field: str) -> bool:
    """Whether a file may be written anew: it is not there, a device, empty, or has lines like ours."""
    if not path.is_file():
        return True
    try:
        first = next(read_records(path), None)
    except DodonaError:
        return False
    if first is None:
        return path.stat().st_size == 0
    return "row_id" in first and field in first


def stopped(log: ForkLog) -> int:
    """Say where the work is after Ctrl-C; the exit code."""
    say(f"stopped: {sum(map(len, log.known.values()))} forks kept in {log.path}; the same command goes on")
    return EXIT_INTERRUPTED


def say(text: str) -> None:
    """A line on standard error."""
    print(plain(text), file=sys.stderr)
