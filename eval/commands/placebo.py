"""A trigger beside its placebos: was it the trigger's knowledge, or any consults at about these places?

RUN is a file or folder of records of `dodona eval` with the base alone and arms with consults. For each arm, at equal
consult counts:

  twin        as many consults in each text, the positions of all of them exchanged at random between texts
  shuffled    whole lists of positions exchanged at random between texts
  own-oracle  the same trigger, and the base as its own oracle: greedily this must be the base's own text
  hindsight   the positions of the base's own texts at which the two models are furthest apart
  stepwise    each consult where the text as it then stands first goes another way than the oracle would

The runs are added to RUN's records (own-oracle beside them), so that `dodona report` and `compare` show them too, and
the same command goes on where it was stopped. The table has the arm's gain, the placebos' gains and the differences
with paired intervals; for hindsight and stepwise the difference is the arm's regret.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record
from dodona.eval.causal.origin import Origin
from dodona.eval.commands.forking import EXIT_INTERRUPTED, Loaded, Progress, add_origin_options, say
from dodona.eval.commands.options import add_engine_options, positive, whole
from dodona.eval.placebo.arms import KINDS, OWN_ORACLE, Placebo, placebos, read_kinds
from dodona.eval.placebo.comparison import table
from dodona.eval.placebo.plan import LOG, Planner, StepLog
from dodona.eval.placebo.runs import OwnOracle, Placebos
from dodona.eval.placebo.schedule import Positions
from dodona.eval.placebo.study import Study, study
from dodona.eval.recorded import RecordedArm
from dodona.eval.report.table import text_lines

_DRAWS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_origin_options(parser)
    parser.add_argument(
        "--arm",
        metavar="NAME",
        action="append",
        help="an arm with consults; may be repeated (default: the only one)",
    )
    parser.add_argument(
        "--placebos",
        metavar="LIST",
        default=",".join(KINDS),
        help="which ones, with commas between them (default: all)",
    )
    parser.add_argument(
        "--draws", metavar="N", type=positive, default=_DRAWS, help=f"random draws of each kind (default: {_DRAWS})"
    )
    parser.add_argument("--seed", metavar="N", type=whole, default=0, help="of the first draw (default: 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--steps", metavar="FILE", help=f"where stepwise keeps its search (default: RUN{LOG})")
    output.add_argument("--json", action="store_true", help="print everything as JSON, in place of the tables")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the placebos and print the tables."""
    kinds = read_kinds(args.placebos)
    if args.seed < 0:
        raise DodonaError(f"--seed must be 0 or more, not {args.seed}")
    origin = Origin(args.path, say)
    arms = [origin.arm(name) for name in args.arm or [None]]
    made = {arm.name: placebos(origin.live(arm), kinds, range(args.seed, args.seed + args.draws)) for arm in arms}
    own = OwnOracle(origin, arms, origin.problems(arms[0])) if OWN_ORACLE in kinds else None
    try:
        work(args, origin, arms, made, own)
    except KeyboardInterrupt:
        say(f"stopped: what was done is kept in {origin.path}; the same command goes on")
        return EXIT_INTERRUPTED
    after = Origin(args.path)
    studies = [study(after, arm, made[arm.name], own) for arm in arms]
    if args.json:
        report = {"records": str(origin.path), "studies": [one.as_dict() for one in studies]}
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
    else:
        print("\n\n".join("\n".join(study_lines(one)) for one in studies))
    return 0


def work(
    args: argparse.Namespace,
    origin: Origin,
    arms: Sequence[RecordedArm],
    made: Mapping[str, Sequence[Placebo]],
    own: OwnOracle | None,
) -> None:
    """Run what is left of all placebos."""
    loaded = Loaded(origin, args)
    loaded.check()
    everything = [placebo for arm in arms for placebo in made[arm.name]]
    runs = Placebos(origin, origin.problems(arms[0]), everything)
    steps = Path(args.steps) if args.steps is not None else origin.beside(LOG)
    with Progress(hidden=args.json) as progress:
        with StepLog(steps, origin) as log, runs.open() as store:
            planners = {
                origin.live(arm).name: Planner(origin, arm, origin.base_of(arm), log, loaded.engine, progress)
                for arm in arms
            }

            def plan(placebo: Placebo) -> Mapping[str, Positions]:
                return planners[placebo.of.name].schedule(placebo)

            for row in runs.run(store, plan, loaded.engine):
                progress(row.arm)
        if own is not None:
            loaded.close()
            own.run(origin.models(vars(args)), lambda: progress("own-oracle"))


def study_lines(one: Study) -> list[str]:
    """A study as lines of text."""
    lines = text_lines(table(one.lines, one.arm.name, one.problems))
    if one.own_oracle_differs is not None:
        lines += ["", f"the base as its own oracle: {one.own_oracle_differs} texts are not the base's own"]
    return lines
