"""Can a strong model come back from a wrong prefix? How often, against how often it solves the problem from the start.

Four stages, each with its own file in the study's folder: `appraise` (straight shots of both models, which give every
problem its difficulty), `prefixes` (wrong solutions, cut at token ids, and right ones as long beside them), `complete`
(the strong model goes on from those ids; and the controls), `report` (tables, plots and a page; nothing is generated).
The same command goes on where an earlier one stopped. More problems, fractions or completions may be asked for later.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dodona.engine.checkpoint import EMBEDDED
from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record
from dodona.engine.request import Request
from dodona.eval.commands.options import (
    add_placing_options,
    add_request_options,
    listed,
    number,
    positive,
    request_options,
    whole,
)
from dodona.eval.commands.running import EXIT_INTERRUPTED, Bars
from dodona.eval.lock import Lock
from dodona.eval.models import Models, Opened
from dodona.eval.recover.examples import MOST
from dodona.eval.recover.findings import BINS
from dodona.eval.recover.report import Report, write_report
from dodona.eval.recover.settings import (
    APPRAISE,
    COMPLETE,
    PREFIXES,
    REPORT,
    ROLES,
    STAGES,
    STRONG,
    TEMPERATURE,
    WEAK,
    Settings,
)
from dodona.eval.recover.stages import FILES, Study
from dodona.eval.recover.writer import Pair
from dodona.eval.report.picture import check_matplotlib
from dodona.eval.report.table import plain, text_lines
from dodona.eval.run import json_value
from dodona.eval.shard import WHOLE
from dodona.eval.store import place_name
from dodona.eval.tasks.options import add_task_options, task_from
from dodona.eval.tasks.problem import Task

# Fields of Request that a study leaves to the user; the others it sets itself, or one model alone has no use for them.
OPTIONS = ("max_new_tokens", "stop", "top_k", "top_p", "min_p", "raw", "seed")
_NOT_OURS = frozenset(Request.__dataclass_fields__) - {"prompt", *OPTIONS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    default = Settings()
    add_task_options(parser)
    study = parser.add_argument_group("study")
    study.add_argument(
        "--stage",
        metavar="LIST",
        type=listed(str),
        action="append",
        help=f"only these of {', '.join(STAGES)} (default: all)",
    )
    study.add_argument(
        "--samples",
        metavar="N",
        type=whole,
        default=default.samples,
        help=f"straight shots of a problem by each model, and as many again as controls (default: {default.samples})",
    )
    study.add_argument(
        "--tries",
        metavar="N",
        type=whole,
        default=default.tries,
        help=f"solutions of a problem drawn at most, in search of wrong ones (default: {default.tries})",
    )
    study.add_argument(
        "--wrong-solutions",
        metavar="N",
        type=whole,
        default=default.wrong_solutions,
        help=f"wrong solutions of a problem by each model at most (default: {default.wrong_solutions})",
    )
    study.add_argument(
        "--fraction",
        metavar="LIST",
        type=listed(number),
        action="append",
        help="where solutions are cut, as shares of their tokens, as in 0.1,0.5,0.9 (default: 0.7)",
    )
    study.add_argument(
        "--completions",
        metavar="M",
        type=whole,
        default=default.completions,
        help=f"of each prefix (default: {default.completions})",
    )
    study.add_argument(
        "--edited", action="store_true", help="also right solutions of the strong model with a number changed"
    )
    study.add_argument(
        "--exclude-answered", action="store_true", help="leave out prefixes that contain a boxed answer already"
    )
    models = parser.add_argument_group("models")
    models.add_argument(
        "--strong-model", metavar="MODEL", help="1B, 3B, 8B, smollm2, a folder, a GGUF file, a hub id or dummy:8B"
    )
    models.add_argument("--weak-model", metavar="MODEL", help="likewise; with neither, the pair that comes with dodona")
    add_placing_options(models)
    add_request_options(parser, without=_NOT_OURS)
    parser.add_argument(
        "--temperature",
        metavar="X",
        type=number,
        default=TEMPERATURE,
        help=f"of all samples; above 0, or all samples of a problem are one (default: {TEMPERATURE})",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir", metavar="DIR", help="the study's folder (default: runs/recover-DATASET-WEAK-STRONG)"
    )
    output.add_argument(
        "--bins", metavar="N", type=positive, default=BINS, help=f"of difficulty in the report (default: {BINS})"
    )
    output.add_argument(
        "--examples", metavar="N", type=whole, default=MOST, help=f"completions on the page at most (default: {MOST})"
    )
    output.add_argument("--no-plots", action="store_true", help="write the report without plots")
    output.add_argument("--json", action="store_true", help="print the tables as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Run the stages that are asked for, and print the report."""
    stages = stages_of(args.stage)
    settings = settings_of(args)
    if args.examples < 0:
        raise DodonaError(f"--examples must be 0 or more, not {args.examples}")
    if REPORT in stages and not args.no_plots:
        check_matplotlib("the report, but for --no-plots,")
    if stages == [REPORT] and args.output_dir is not None:
        return show(args, settings, Path(args.output_dir))  # its files say everything
    names = model_names(args)
    models = models_of(args, names)
    task, problems = task_from(args)
    folder = Path(args.output_dir) if args.output_dir else default_folder(task, names)
    if stages == [REPORT]:
        return show(args, settings, folder)
    options = task.recipe.options() | request_options(args, without=_NOT_OURS) | {"temperature": args.temperature}
    common = Request(prompt="", c=0, **options)  # checks them
    pair = Pair(names[STRONG], names[WEAK], models, {name: v for name, v in options.items() if name != "raw"})
    opened = pair.open()
    raw = bool(options.get("raw", False))
    study = Study(
        task=task,
        problems=list(problems) if raw else task.for_model(problems, opened[WEAK].tokenizer),
        settings=settings,
        config=config_of(task, opened, common),
        model_ids={role: opened[role].base_model_id for role in ROLES},
        tokenizer=opened[WEAK].tokenizer,
        writers=pair,
        folder=folder,
        progress=Bars(hidden=args.json),
        seed=common.seed,
        limit=common.max_new_tokens,
        raw=raw,
    )
    try:
        with_lock(study, stages, quiet=args.json)
    except KeyboardInterrupt:
        print(f"stopped: {kept(folder)} records kept in {folder}; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        pair.close()
    if REPORT in stages:
        return show(args, settings, folder)
    if not args.json:
        print(f"{', '.join(stages)}: done; {kept(folder)} records in {folder}")
    return 0


def with_lock(study: Study, stages: list[str], *, quiet: bool) -> None:
    """Do the stages that write samples, with nobody else writing there.

    Raises:
        DodonaError: as the stages, or the folder cannot be made or is being written by another process.
    """
    folder = study.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise DodonaError(f"{folder} is a file, and --output-dir needs a folder there") from error
    except OSError as error:
        raise DodonaError(f"{folder} cannot be written: {error.strerror or error}") from error
    work = {APPRAISE: study.appraise, PREFIXES: study.cut, COMPLETE: study.complete}
    lock = Lock(folder / ".lock", folder, WHOLE)
    try:
        for stage in stages:
            if stage in work:
                started = time.perf_counter()
                work[stage]()
                if not quiet:
                    print(f"{stage}: done in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    finally:
        lock.close()


def show(args: argparse.Namespace, settings: Settings, folder: Path) -> int:
    """Write the report, and print it."""
    report = write_report(
        folder,
        exclude_answered=settings.exclude_answered,
        bins=args.bins,
        most_examples=args.examples,
        plots=not args.no_plots,
    )
    if args.json:
        sys.stdout.write(encode_record(as_dict(report), ascii_only=True).decode("ascii"))
    else:
        print("\n".join(report_lines(report)))
    for path in report.written:
        if path.suffix == ".html":
            print(f"written: {path}", file=sys.stderr)
    return 0


def report_lines(report: Report) -> list[str]:
    """The report as lines of text."""
    title = plain(report.title)
    lines = [title, "=" * len(title), *(f"note: {plain(note)}" for note in report.notes)]
    for table in report.tables:
        lines += ["", *text_lines(table)]
    return lines


def as_dict(report: Report) -> dict[str, Any]:
    """The report for JSON: its tables as in the CSV files."""
    return {
        "title": report.title,
        "confidence": 0.95,
        "config": dict(report.findings.config),
        "notes": report.notes,
        **report.rows,
        "written": [str(path) for path in report.written],
    }


def stages_of(given: list[list[str]] | None) -> list[str]:
    """The stages in their order.

    Raises:
        DodonaError: there is no such stage.
    """
    names = [name.strip() for names in given or [list(STAGES)] for name in names]
    for name in names:
        if name not in STAGES:
            raise DodonaError(f"there is no stage {name!r}: --stage takes {', '.join(STAGES)}")
    return [stage for stage in STAGES if stage in names]


def settings_of(args: argparse.Namespace) -> Settings:
    """What is asked of the study.

    Raises:
        DodonaError: a number out of range.
    """
    given = [fraction for fractions in args.fraction or [] for fraction in fractions]
    if not args.temperature > 0:
        raise DodonaError(
            f"--temperature must be above 0, not {args.temperature:g}: greedy samples of a problem are all the same, "
            "and have no solve rate"
        )
    return Settings(
        samples=args.samples,
        tries=args.tries,
        wrong_solutions=args.wrong_solutions,
        fractions=tuple(given) if args.fraction else Settings().fractions,
        completions=args.completions,
        edited=args.edited,
        exclude_answered=args.exclude_answered,
    )


def model_names(args: argparse.Namespace) -> dict[str, str]:
    """The two models by their roles.

    Raises:
        DodonaError: one of them is named, and the other is not.
    """
    if args.strong_model is None and args.weak_model is None:
        weak, strong = EMBEDDED
        return {STRONG: strong, WEAK: weak}
    for role, other in ((STRONG, WEAK), (WEAK, STRONG)):
        if getattr(args, f"{role}_model") is None:
            raise DodonaError(
                f"--{other}-model needs a --{role}-model beside it; with neither, the embedded pair is used"
            )
    return {STRONG: args.strong_model, WEAK: args.weak_model}


def models_of(args: argparse.Namespace, names: Mapping[str, str]) -> Models:
    """Where to load the models, one at a time.

    Raises:
        DodonaError: a size below 1, or an option for two models at once.
    """
    if hasattr(args, "oracle_device_map"):
        raise DodonaError("--oracle-device-map is for an oracle beside a base: here one model is loaded at a time")
    models = Models.from_options(vars(args), names[WEAK], names[STRONG])
    _ = models.where
    return models


def default_folder(task: Task, names: Mapping[str, str]) -> Path:
    """``runs/recover-<dataset>-<weak>-<strong>``."""
    return Path("runs") / place_name("recover", task.name, names[WEAK], names[STRONG])


def config_of(task: Task, opened: Mapping[str, Opened], common: Request) -> dict[str, Any]:
    """What all records of a study share, by the options' names."""
    strong, weak = opened[STRONG], opened[WEAK]
    options = {name: json_value(getattr(common, name)) for name in (*OPTIONS, "temperature")}
    return {
        "dataset": task.name,
        "recipe": task.recipe.name,
        "strong_model": strong.base_model_id,
        "weak_model": weak.base_model_id,
        "weights": [*strong.identities, *weak.identities],
        "dtype": str(strong.dtype).removeprefix("torch."),
        "device": strong.device.type,
        "ops": strong.ops,
    } | options


def kept(folder: Path) -> int:
    """Records on the disk, counted there."""
    count = 0
    for name in FILES.values():
        if (folder / name).exists():
            with open(folder / name, "rb") as file:
                count += sum(line.endswith(b"\n") and not line.startswith(b'{"header"') for line in file)
    return count
