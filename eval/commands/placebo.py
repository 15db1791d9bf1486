"""A trigger beside its placebos: was it what the trigger knew, or would any consults at about these places have done?

RUN is a file or folder of records of `dodona eval`. For an arm in it, or for a --trigger that is run here on the same
problems, texts are written that spend as many consults:

  twin        as many consults in each text, the positions of all of them exchanged at random between texts
  own-oracle  the same trigger, and the base as its own oracle: greedily this must be the base's own text
  hindsight   where the two models are furthest apart on the base's own texts, told afterwards
  stepwise    each consult where the text as it then stands first goes another way than the oracle would

The table has each line's gain over the base alone and the arm's lead over it, paired on the same problems; of hindsight
and stepwise the lead's opposite is the arm's regret. These two know what no trigger can, and are still no true optimum:
an arm may do better. Everything that is run goes to RUN-placebo, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from dodona.engine.errors import DodonaError, OutOfMemoryError
from dodona.engine.records import encode_record
from dodona.engine.request import DEFAULT_CONSULTS, Request
from dodona.eval.arms import Arm
from dodona.eval.causal.origin import Origin
from dodona.eval.commands.forking import EXIT_INTERRUPTED, Loaded, Progress, add_origin_options, say
from dodona.eval.commands.options import add_engine_options, budget, positive, whole
from dodona.eval.placebo.apart import Apart, read_apart
from dodona.eval.placebo.arms import KINDS, OWN_ORACLE, TWIN, Placebo, placebos, read_kinds
from dodona.eval.placebo.book import Book
from dodona.eval.placebo.log import ScheduleLog
from dodona.eval.placebo.planner import Planner
from dodona.eval.placebo.runs import Placebos, run_arms, run_own_oracle
from dodona.eval.placebo.schedule import Schedule
from dodona.eval.placebo.study import Study, study
from dodona.eval.placebo.subjects import Folder, Subject, new_subjects, problems_of, recorded_subjects
from dodona.eval.placebo.tables import study_lines, write_csv

_DRAWS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    default = Request(prompt="")
    add_origin_options(parser)
    chosen = parser.add_argument_group("which arms")
    chosen.add_argument(
        "--arm", metavar="NAME", action="append", help="an arm of RUN; may be repeated (default: the only one)"
    )
    chosen.add_argument(
        "--trigger", metavar="T", action="append", help="a trigger that RUN has no arm of; may be repeated"
    )
    chosen.add_argument("--c", metavar="C", type=budget, help=f"its consults at most (default: {DEFAULT_CONSULTS})")
    chosen.add_argument("--k", metavar="K", type=budget, help=f"its tokens a consult (default: {default.k:g})")
    chosen.add_argument("--when", choices=("before", "after"), help="when it decides (default: before)")
    made = parser.add_argument_group("placebos")
    made.add_argument(
        "--placebos",
        metavar="LIST",
        default=",".join(KINDS),
        help=f"some of {', '.join(KINDS)}, with commas between them (default: all)",
    )
    made.add_argument(
        "--draws", metavar="N", type=positive, default=_DRAWS, help=f"twins of an arm (default: {_DRAWS})"
    )
    made.add_argument("--seed", metavar="N", type=whole, default=0, help="of the first twin (default: 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--output-dir", metavar="DIR", help="what is run here (default: RUN-placebo, beside RUN)")
    output.add_argument("--json", action="store_true", help="print everything as JSON, in place of the tables")
    output.add_argument("--csv", metavar="PATH", help="also write CSV: the lines to a .csv file, or all to a folder")
    output.add_argument("--html", metavar="FILE", help="also write one page with plots and tables")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the placebos, write and print."""
    kinds = read_kinds(args.placebos)
    check(args, kinds)
    if args.html:
        from dodona.eval.report.picture import check_matplotlib

        check_matplotlib("--html")
    origin = Origin(args.path, say)
    folder = Folder(Path(args.output_dir) if args.output_dir else origin.beside("-placebo"))
    folder.check(origin)
    if args.trigger:
        c = DEFAULT_CONSULTS if args.c is None else args.c
        k = Request(prompt="").k if args.k is None else args.k
        subjects = new_subjects(origin, args.trigger, c, k, args.when or "before")
    else:
        subjects = recorded_subjects(origin, args.arm or [None])
    made = {one.arm.name: placebos(one.arm, kinds, range(args.seed, args.seed + args.draws)) for one in subjects}
    own = folder.own_oracle if OWN_ORACLE in kinds else None
    try:
        schedules = work(args, origin, folder, subjects, made, own_oracle=own is not None)
    except KeyboardInterrupt:
        say(f"stopped: what was done is kept in {folder.path}; the same command goes on")
        return EXIT_INTERRUPTED
    book = Book(origin, folder.records)
    studies = [study(book, one.arm, one.base, made[one.arm.name], schedules, own) for one in subjects]
    show(args, studies, origin)
    return 0


def check(args: argparse.Namespace, kinds: Sequence[str]) -> None:
    """Refuse options that are out of range or do not belong together.

    Raises:
        DodonaError: naming them.
    """
    if args.seed < 0:
        raise DodonaError(f"--seed must be 0 or more, not {args.seed}")
    if TWIN not in kinds and (args.draws, args.seed) != (_DRAWS, 0):
        raise DodonaError(f"--draws and --seed are of twins, and --placebos {args.placebos} has none")
    if args.trigger and args.arm:
        raise DodonaError("--arm names arms of RUN, and --trigger one that it has not: give one of them")
    for option in ("c", "k", "when"):
        value = getattr(args, option)
        if value is not None and not args.trigger:
            raise DodonaError(f"--{option} belongs to --trigger: an arm of RUN has its own")
        if option != "when" and value is not None and value < 1:
            raise DodonaError(f"--{option} must be 1 or more, or inf, not {value:g}: without consults nothing is asked")


def work(
    args: argparse.Namespace,
    origin: Origin,
    folder: Folder,
    subjects: Sequence[Subject],
    made: Mapping[str, Sequence[Placebo]],
    *,
    own_oracle: bool,
) -> dict[str, Schedule]:
    """Run what is left, and give the schedules of all placebos by their names.

    Raises:
        DodonaError: something cannot be run, or not be written; what was written stays.
    """
    import torch

    problems = problems_of(origin)
    loaded = Loaded(origin, args)
    loaded.check()
    schedules: dict[str, Schedule] = {}
    try:
        with Progress(hidden=args.json) as progress:
            lacking = {arm.name: arm for one in subjects for arm in one if not origin.experiment.rows.get(arm.name)}
            if lacking:
                arms = list(lacking.values())
                run_arms(origin, problems, arms, folder.records, loaded.engine, lambda: progress("arms"))
            runs = Placebos(origin, problems, [one for own in made.values() for one in own], folder.records)
            with runs.open() as store, ScheduleLog(folder.log, origin) as log:
                book = Book(origin, folder.records)  # once the store has dropped what a kill left torn
                read: dict[Arm, Mapping[str, Apart]] = {}

                def apart(base: Arm) -> Mapping[str, Apart]:
                    if base not in read:
                        runs = book.runs(base)
                        step = partial(progress, "base's texts")
                        read[base] = read_apart(runs.origin, runs.arm, runs.texts, loaded.engine, step)
                    return read[base]

                planners = {
                    one.arm.name: Planner(
                        book.problems,
                        book.runs(one.arm),
                        book.runs(one.base),
                        log,
                        partial(apart, one.base),
                        loaded.engine,
                        progress,
                    )
                    for one in subjects
                }

                def plan(placebo: Placebo) -> Schedule:
                    schedules[placebo.arm.name] = planners[placebo.of.name].schedule(placebo)
                    return schedules[placebo.arm.name]

                for placebo in runs.run(store, plan, loaded.engine):
                    progress(placebo.kind)
            if own_oracle:
                loaded.close()
                arms = [one.arm for one in subjects]
                models = origin.models(vars(args))
                run_own_oracle(origin, problems, arms, folder.own_oracle, models, lambda: progress(OWN_ORACLE))
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            "the device ran out of memory: give a smaller --max-batch or --kv-tokens; the records before are kept"
        ) from error
    finally:
        loaded.close()
    return schedules


def show(args: argparse.Namespace, studies: Sequence[Study], origin: Origin) -> None:
    """Write the files that are asked for, and print."""
    written: list[Path] = []
    if args.csv:
        written += write_csv(Path(args.csv), studies)
    if args.html:
        from dodona.eval.placebo.figures import draw
        from dodona.eval.placebo.page import page
        from dodona.eval.report.files import write_file

        written.append(write_file(Path(args.html), page(studies, draw(studies), origin)))
    if args.json:
        report = {"confidence": 0.95, "records": str(origin.path), "studies": [one.as_dict() for one in studies]}
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
    else:
        print("\n\n".join("\n".join(study_lines(one)) for one in studies))
    for path in written:
        say(f"written: {path}")
