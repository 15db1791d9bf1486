"""What a trigger would have done on recorded traces: consults, hits on each label, cost; no model is needed.

PATH is a trace, a file of records with its trace beside it, or a folder of them. Any trigger can be tried, with any
budget; --threshold tries many values of one, --calibrate finds the one that spends a consult rate on one half of the
problems and shows what it spends on the other, and --fit fits a logistic trigger over signals. The recorded text stays
as it is, so a replay is exact up to the first consult that differs from the recorded ones; the table says how much that
is. Traces of the base alone (--c 0 --oracle-tail) have no consults, and every position's label.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.recording import Recording, read_recording
from dodona.engine.records import encode_record
from dodona.engine.replay import Budget, Replayer
from dodona.eval.analysis.fit import Fit, fit_trigger, read_signals
from dodona.eval.analysis.labels import Label, Limits, labels
from dodona.eval.analysis.outcomes import read_changes
from dodona.eval.analysis.replay_tables import (
    calibration_lines,
    csv_rows,
    fit_lines,
    trial_tables,
)
from dodona.eval.analysis.sources import find_files
from dodona.eval.analysis.study import choose_arms
from dodona.eval.analysis.thresholds import WORD, filled, has_threshold, read_grid, template_of
from dodona.eval.analysis.trials import (
    Calibrated,
    Halves,
    Trial,
    after_columns,
    budgets,
    calibrated,
    halves,
    offline_columns,
    trials,
)
from dodona.eval.commands.analyze import add_label_options, add_resampling_options, not_negative, say
from dodona.eval.commands.options import budget, listed
from dodona.eval.report.table import plain, text_lines

LABELS = ("differs", "differs_clear", "js", "helps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="traces, files of records, or folders of them")
    parser.add_argument("--arm", metavar="NAME", action="append", default=[], help="only this arm; may be repeated")
    tried = parser.add_argument_group("what is tried")
    tried.add_argument(
        "--trigger",
        metavar="T",
        action="append",
        help=f"a preset or an expression, or with --threshold one with the word {WORD} or a signal's name; repeat it "
        "for several (default: each run's own)",
    )
    tried.add_argument(
        "--threshold",
        metavar="GRID",
        type=grid,
        help="values for it: 0.5,1,2 or START:STOP:STEP with both ends; negative ones as --threshold=-1,0",
    )
    tried.add_argument(
        "--c", metavar="LIST", type=listed(some_budget), default=[], help="consult budgets (default: the runs' own)"
    )
    tried.add_argument(
        "--k", metavar="LIST", type=listed(some_budget), default=[], help="burst lengths (default: the runs' own)"
    )
    tried.add_argument(
        "--max-oracle-tokens", metavar="N", type=not_negative, help="cap on the oracle's tokens in a run"
    )
    tried.add_argument("--when", choices=("before", "after"), help="when the trigger decides (default: the runs' own)")
    tried.add_argument(
        "--calibrate",
        metavar="RATE",
        type=rate,
        help="find the threshold that spends so much: 0.02 or 2%% of the tokens",
    )
    tried.add_argument(
        "--per", choices=("token", "problem"), default="token", help="of what --calibrate is a rate (default: token)"
    )
    tried.add_argument(
        "--fit", metavar="SIGNALS", help="fit a logistic trigger over these: entropy,margin,ema(entropy, 0.9)"
    )
    tried.add_argument("--label", choices=LABELS, help="what --fit is to find (default: differs)")
    add_label_options(parser)
    add_resampling_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print everything as JSON, in place of the tables")
    output.add_argument("--csv", metavar="FILE", help="also write the trials as CSV")


def run(args: argparse.Namespace) -> int:
    """Read, replay, write and print."""
    check(args)
    files = find_files(args.paths, say)
    recording = choose_arms(read_recording(files.traces), args.arm)
    if not recording.runs:
        raise DodonaError(f"no run has left a token in {', '.join(map(str, files.traces))}")
    if recording.duplicates:
        say(f"{recording.duplicates} runs are in the traces more than once; the first of each counts")
    known = known_labels(args, recording)
    asked = budgets(recording, args.c, args.k, args.max_oracle_tokens, args.when)
    sampling: dict[str, int] = {"resamples": args.resamples, "seed": args.seed}
    split = halves(recording, args.seed) if args.calibrate is not None else None
    fit = fitted(args, recording, known, asked[0], split) if args.fit is not None else None
    texts: list[str | None] = list(args.trigger or [None]) if fit is None else [fit.template]
    if args.calibrate is not None or args.threshold is not None:
        texts = [template_of(text or "") for text in texts]
    for text in texts:
        _note_columns(text, args.when, recording)
    if fit is not None and split is None:
        say("note: the tables are of the problems that the trigger was fitted to; with --calibrate they are of others")
    found: list[Calibrated] = []
    done: list[Trial] = []
    if split is not None:
        for one in asked:
            for text in texts:
                assert text is not None
                found.append(calibrated(recording, known, one, text, args.calibrate, args.per, split, **sampling))
    if args.threshold is not None:
        values = [(filled(text or "", value), value) for text in texts for value in args.threshold]
        done = list(trials(recording, known, asked, values, **sampling))
    elif split is None:
        plain_texts = [(filled(text, 0.0), 0.0) if fit is not None and text else (text, None) for text in texts]
        done = list(trials(recording, known, asked, plain_texts, **sampling))
    _show(args, recording, fit, found, done)
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse options that do not belong together.

    Raises:
        DodonaError: naming them.
    """
    if args.fit is not None and args.trigger:
        raise DodonaError("--fit makes a trigger, and --trigger names one: give one of them")
    if args.label is not None and args.fit is None:
        raise DodonaError("--label belongs to --fit: the tables show every label")
    if args.calibrate is not None and args.threshold is not None:
        raise DodonaError("--calibrate finds a threshold, and --threshold lists some: give one of them")
    if args.calibrate is None and args.per != "token":
        raise DodonaError("--per belongs to --calibrate")
    if args.fit is not None:
        return
    for option in ("calibrate", "threshold"):
        if getattr(args, option) is not None:
            if not args.trigger:
                raise DodonaError(f"--{option} needs a trigger: --trigger 'entropy > {WORD}'")
            for text in args.trigger:
                template_of(text)
            return
    for text in args.trigger or ():
        if has_threshold(text):
            raise DodonaError(f"--trigger {text!r} has a {WORD} to fill in: give --threshold or --calibrate")


def known_labels(args: argparse.Namespace, recording: Recording) -> dict[str, Label]:
    """The labels that the traces and the file of changes allow.

    Raises:
        DodonaError: the file cannot be read.
    """
    changes = None
    if args.changes is not None:
        changes, unmatched = read_changes(args.changes, recording)
        if unmatched:
            say(f"{unmatched} lines of {args.changes} are of positions that no trace has")
    known = labels(recording, Limits(args.near_tie, args.js), changes)
    if not known:
        say("no label is known: the oracle has looked at no token of these traces (run with --oracle-tail)")
    return known


def fitted(
    args: argparse.Namespace, recording: Recording, known: dict[str, Label], asked: Budget, split: Halves | None
) -> Fit:
    """The fitted trigger; where a threshold is to be calibrated, of the half on which that is done.

    Raises:
        DodonaError: as ``fit_trigger``.
    """
    name = args.label or "differs"
    if name not in known:
        raise DodonaError(f"--label {name} is not known on these traces; known: {', '.join(known) or 'none'}")
    after = args.when == "after" or (args.when is None and bool(recording.after.all()))
    label, part = known[name], recording
    if split is not None:
        part = recording.select(split.fit)
        values = label.values[split.fit.repeat(recording.lengths)]
        label = Label(label.name, label.definition, values)
    signals = read_signals(args.fit, after=after)
    return fit_trigger(Replayer(part, asked), label, signals, resamples=args.resamples, seed=args.seed)


def _note_columns(text: str | None, when: str | None, recording: Recording) -> None:
    if text is None:
        return
    example = filled(text, 0.0)
    if offline := offline_columns(example):
        say(f"note: {plain(text)} uses {', '.join(offline)}, which no running trigger knows: it is a bound")
    before = when == "before" or (when is None and not recording.after.all())
    if before and (late := after_columns(example)):
        say(f"note: {', '.join(late)} is of the token that is committed: a running trigger needs --when after for it")


def _show(
    args: argparse.Namespace, recording: Recording, fit: Fit | None, found: list[Calibrated], done: list[Trial]
) -> None:
    shown = [*done, *(one.trial for one in found)]
    if args.csv:
        from dodona.eval.report.csv_files import csv_text
        from dodona.eval.report.files import write_file

        say(f"written: {write_file(Path(args.csv), csv_text(csv_rows(shown)))}")
    if args.json:
        report: dict[str, Any] = {
            "confidence": 0.95,
            "bootstrap": {"over": "problems", "resamples": args.resamples, "seed": args.seed},
            "runs": len(recording.runs),
            "problems": len(recording.problems[0]),
            "tokens": recording.tokens,
            "fit": None if fit is None else fit.as_dict(),
            "calibrations": [one.as_dict() for one in found],
            "trials": [trial.as_dict() for trial in done],
        }
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
        return
    lines = [f"{len(recording.problems[0])} problems, {len(recording.runs)} runs, {recording.tokens} tokens"]
    if fit is not None:
        lines += ["", *fit_lines(fit)]
    for one in found:
        lines += ["", *calibration_lines(one)]
    for table in trial_tables(shown):
        lines += ["", *text_lines(table)]
    print("\n".join(lines))


def some_budget(text: str) -> float:
    """A budget of 0 or more."""
    if (value := budget(text)) < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def grid(text: str) -> list[float]:
    """Values of a threshold."""
    try:
        return read_grid(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas, or START:STOP:STEP, not {text!r}") from None


def rate(text: str) -> float:
    """A rate of 0 or more, or a percentage."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a rate such as 0.02 or 2%, not {text!r}")
    return value
