"""What do many samples buy, and how should one choose among them?

Draws samples of every problem at several temperatures, of a model alone or of a guided pair, and looks at how accuracy
goes with their number, their likelihood and their diversity: majority, best-of-N, weighted votes, minimum Bayes risk
and coverage by sample size; correlations and buckets of each measure; and batches pruned to a few samples.

Four stages: `sample`, `score` (a reward of every sample, where one is asked for), `embed` (sentence embeddings of the
texts), `report` (tables, plots and a page; nothing is generated). The same command goes on where an earlier one
stopped; more problems, samples or temperatures may be asked for later. `--from FILE` takes samples drawn elsewhere.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record
from dodona.engine.request import Request
from dodona.eval.commands.options import (
    add_engine_options,
    add_request_options,
    listed,
    number,
    options_given,
    request_options,
    whole,
)
from dodona.eval.commands.running import EXIT_INTERRUPTED, Bars
from dodona.eval.diversity.bleu import check_sacrebleu
from dodona.eval.diversity.config import NOT_OURS, config_of, default_folder, models_of
from dodona.eval.diversity.embed import FILE, Embeddings, MiniLM, check_model, find_model
from dodona.eval.diversity.external import STEPS, pools_of, read_lines
from dodona.eval.diversity.report import Report, make_report, study_facts, study_notes
from dodona.eval.diversity.rewards import PlusMinus, Reward, function_reward
from dodona.eval.diversity.sampling import PER_SAMPLE, Study
from dodona.eval.diversity.settings import (
    BLEU,
    EMBED,
    EMBEDDINGS,
    PARTS,
    REPORT,
    SAMPLE,
    SCORE,
    STAGES,
    Options,
    Settings,
)
from dodona.eval.diversity.study import read_study
from dodona.eval.diversity.votes import TIES
from dodona.eval.lock import Lock
from dodona.eval.models import Models
from dodona.eval.report.picture import check_matplotlib
from dodona.eval.report.table import plain, text_lines
from dodona.eval.shard import WHOLE
from dodona.eval.store import Place
from dodona.eval.tasks.options import add_task_options, task_from

# The options that --from goes with: those of the report, and
_OF_FILES: Final = {"source", "step_scores", "texts", "embedding_model", "device", "output_dir", "no_plots", "json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    settings, options = Settings(), Options()
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
        default=settings.samples,
        help=f"of each problem at each temperature (default: {settings.samples})",
    )
    study.add_argument(
        "--temperatures",
        metavar="LIST",
        type=listed(number),
        action="append",
        help=f"above 0 (default: {','.join(f'{t:g}' for t in settings.temperatures)})",
    )
    study.add_argument("--from", dest="source", metavar="FILE", help="report on samples of a JSONL file instead")
    study.add_argument(
        "--step-scores", metavar="HOW", default="last", help=f"of lists of scores: {', '.join(STEPS)} (default: last)"
    )
    study.add_argument("--texts", action="store_true", help="with --from: also the diversity of the samples' texts")
    rewards = parser.add_argument_group("rewards", "beside the mean log-probability, which every study has")
    rewards.add_argument(
        "--reward-model", metavar="MODEL", help="a causal LM that says + or - after a solution: a folder or a hub id"
    )
    rewards.add_argument("--reward", metavar="MODULE:FUNCTION", help="a function of a question and a text")
    report = parser.add_argument_group("report")
    report.add_argument(
        "--sizes", metavar="LIST", type=listed(whole), action="append", help="of subsets (default: 1, 2, 4, ..., all)"
    )
    report.add_argument("--batch-size", metavar="N", type=whole, dest="batch", help="of the bucket tables (default: 8)")
    for name, text in (
        ("batches", "subsets of each problem, temperature and size whose measures are computed"),
        ("most", "use all subsets where there are at most so many"),
        ("draws", "subsets that are drawn where there are more"),
        ("buckets", "of a measure"),
        ("resamples", "of the bootstrap over problems"),
    ):
        default = getattr(options, name)
        report.add_argument(f"--{name}", metavar="N", type=whole, default=default, help=f"{text} (default: {default})")
    report.add_argument(
        "--ties",
        metavar="RULE",
        default=options.ties,
        help=f"of majorities: {', '.join(TIES)} (default: {options.ties})",
    )
    report.add_argument(
        "--without", metavar="LIST", type=listed(str), action="append", help=f"any of {', '.join(PARTS)}"
    )
    report.add_argument("--embedding-model", metavar="MODEL", help="a folder or a hub id (default: all-MiniLM-L6-v2)")
    add_engine_options(parser)
    add_request_options(parser, without=NOT_OURS)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir", metavar="DIR", help="the study's folder (default: runs/diversity-DATASET-BASE-ORACLE)"
    )
    output.add_argument("--no-plots", action="store_true", help="write the report without plots")
    output.add_argument("--json", action="store_true", help="print the tables as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Run the stages that are asked for, and print the report."""
    options = options_of(args)
    if args.source is not None:
        return from_file(args, options)
    for option, given in (("--texts", args.texts), ("--step-scores", args.step_scores != "last")):
        if given:
            raise DodonaError(f"{option} is for samples of a file: name it with --from")
    stages = stages_of(args)
    if REPORT in stages:
        check_report(args, options)
    if set(stages) <= {EMBED, REPORT} and args.output_dir is not None:
        folder = Path(args.output_dir)  # its files say everything
        if EMBED in stages:
            embed(args, options, folder)
        return show(args, options, folder) if REPORT in stages else 0
    study = study_of(args)
    reward = reward_of(args)
    if SCORE in stages and args.stage is not None and reward is None:
        raise DodonaError(f"the stage {SCORE} needs a --reward-model or a --reward")
    try:
        with_lock(study, stages, reward, args, options)
    except KeyboardInterrupt:
        print(f"stopped: what was written is kept in {study.folder}; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        study.close()
    if REPORT in stages:
        return show(args, options, study.folder)
    if not args.json:
        print(f"{', '.join(stages)}: done; records in {study.folder}")
    return 0


def with_lock(
    study: Study, stages: list[str], reward: Reward | None, args: argparse.Namespace, options: Options
) -> None:
    """Do the stages that write rows, with nobody else writing there.

    Raises:
        DodonaError: as the stages, or the folder cannot be made or is being written by another process.
    """
    folder = study.folder
    place = Place(folder)
    place.prepare()
    work: dict[str, Callable[[], object]] = {SAMPLE: study.sample, EMBED: lambda: embed(args, options, folder)}
    if reward is not None:
        work[SCORE] = lambda: study.score(reward)
    if EMBEDDINGS in options.without and EMBED in stages:
        del work[EMBED]
    lock = Lock(place.lock, folder, WHOLE)
    try:
        for stage in stages:
            if stage in work:
                started = time.perf_counter()
                work[stage]()
                if stage == SAMPLE:
                    study.close()  # the models' memory is for what comes after
                if not args.json:
                    print(f"{stage}: done in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    finally:
        lock.close()


def embed(args: argparse.Namespace, options: Options, folder: Path) -> Embeddings | None:
    """Embed the texts that have no vector yet.

    Raises:
        DodonaError: there is no study, or no embedding model.
    """
    if EMBEDDINGS in options.without:
        return None
    recorded = read_study(folder)
    embeddings = Embeddings(folder / FILE, MiniLM(find_model(args.embedding_model), args.device))
    add_all(embeddings, recorded.texts, hidden=args.json)
    return embeddings


def add_all(embeddings: Embeddings, texts: Sequence[str], *, hidden: bool) -> None:
    """Embed these texts with a bar."""
    different = len(set(texts))
    bar = Bars(hidden=hidden)
    bar.start(EMBED, different, different - len(embeddings.missing(texts)))
    embeddings.add(texts, bar.step)


def show(args: argparse.Namespace, options: Options, folder: Path) -> int:
    """Write a study's report, and print it."""
    started = time.perf_counter()
    recorded = read_study(folder)
    embeddings = embed(args, options, folder)
    bar = Bars(hidden=args.json)
    bar.start(REPORT, len(recorded.samples), 0)
    pools = recorded.pools(embeddings, bleu=BLEU not in options.without, step=bar.step)
    facts, notes = study_facts(recorded), study_notes(recorded)
    report = make_report(pools, recorded.title, notes, facts, options, folder, plots=not args.no_plots)
    printed(report, args, {"config": dict(recorded.header.config)})
    if not args.json:
        print(f"{REPORT}: done in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return 0


def from_file(args: argparse.Namespace, options: Options) -> int:
    """Report on samples that somebody else drew."""
    for name, option in options_given(args, add_arguments).items():
        if name not in _OF_FILES.union(Options.__dataclass_fields__):
            raise DodonaError(f"{option} is for samples that are drawn here, and --from names a file")
    folder = None if args.output_dir is None else Path(args.output_dir)
    if folder is not None and not args.no_plots:
        check_matplotlib("the report, but for --no-plots,")
    path = Path(args.source)
    if args.texts:
        check_texts(args, options)
    lines = read_lines(path, args.step_scores)
    embeddings = None
    if args.texts and EMBEDDINGS not in options.without and all(line.samples is not None for line in lines):
        embeddings = Embeddings(folder and folder / FILE, MiniLM(find_model(args.embedding_model), args.device))
        texts = [text for line in lines for text in line.samples or ()]
        add_all(embeddings, texts, hidden=args.json)
    pools = pools_of(lines, embeddings, texts=args.texts, bleu=BLEU not in options.without)
    title = f"Diversity of samples: {path.name}"
    report = make_report(pools, title, [], {"file": path.name}, options, folder, plots=not args.no_plots)
    printed(report, args, {"file": str(path)})
    return 0


def printed(report: Report, args: argparse.Namespace, extra: dict[str, Any]) -> None:
    """Print a report, as text or as JSON."""
    if args.json:
        rows = {name: some for name, some in report.rows.items() if name != "batches"}
        found = {"title": report.title, "confidence": 0.95, **extra, "notes": report.notes, **rows}
        found["written"] = [str(path) for path in report.written]
        sys.stdout.write(encode_record(found, ascii_only=True).decode("ascii"))
        return
    title = plain(report.title)
    lines = [title, "=" * len(title), *(f"note: {plain(note)}" for note in report.notes)]
    for table in report.tables:
        lines += ["", *text_lines(table)]
    print("\n".join(lines))
    for path in report.written:
        if path.suffix == ".html":
            print(f"written: {path}", file=sys.stderr)


def stages_of(args: argparse.Namespace) -> list[str]:
    """The stages in their order.

    Raises:
        DodonaError: there is no such stage.
    """
    names = [name.strip() for names in args.stage or [list(STAGES)] for name in names]
    for name in names:
        if name not in STAGES:
            raise DodonaError(f"there is no stage {name!r}: --stage takes {', '.join(STAGES)}")
    return [stage for stage in STAGES if stage in names]


def options_of(args: argparse.Namespace) -> Options:
    """How the report is made.

    Raises:
        DodonaError: a value out of range.
    """
    return Options(
        sizes=tuple(size for sizes in args.sizes or [] for size in sizes),
        batch=args.batch,
        batches=args.batches,
        most=args.most,
        draws=args.draws,
        ties=args.ties,
        buckets=args.buckets,
        without=tuple(part.strip() for parts in args.without or [] for part in parts),
        resamples=args.resamples,
        seed=getattr(args, "seed", 0),
    )


def check_report(args: argparse.Namespace, options: Options) -> None:
    """Find out what a report lacks before anything is generated.

    Raises:
        DodonaError: a package is not there.
    """
    if not args.no_plots:
        check_matplotlib("the report, but for --no-plots,")
    check_texts(args, options)


def check_texts(args: argparse.Namespace, options: Options) -> None:
    """Find out what looking at texts lacks before anything is done.

    Raises:
        DodonaError: a package is not there.
    """
    if BLEU not in options.without:
        check_sacrebleu()
    if EMBEDDINGS not in options.without:
        check_model(find_model(args.embedding_model))


def reward_of(args: argparse.Namespace) -> Reward | None:
    """The reward beside the log-probability.

    Raises:
        DodonaError: two are asked for, or one that cannot be used.
    """
    if args.reward_model is not None and args.reward is not None:
        raise DodonaError("--reward-model and --reward are two rewards: give one of them, and the other in another run")
    if args.reward_model is not None:
        return PlusMinus(args.reward_model, args.device)
    return None if args.reward is None else function_reward(args.reward)


def study_of(args: argparse.Namespace) -> Study:
    """The study that the options describe; what is wrong with it is known before a model is loaded.

    Raises:
        DodonaError: an option out of range, no data set, or models that cannot be used.
    """
    given = [value for values in args.temperatures or [] for value in values]
    settings = Settings(
        samples=args.samples, temperatures=tuple(given) if args.temperatures else Settings().temperatures
    )
    requested = request_options(args, without=NOT_OURS)
    models = models_of(Models.of(args), requested)
    task, problems = task_from(args)
    options = {name: v for name, v in task.recipe.options().items() if name not in PER_SAMPLE} | requested
    guided = models.guided
    if not guided:
        if options.get("c"):
            raise DodonaError(f"--c {options['c']:g} needs an oracle: name one with --oracle-model, or leave --c out")
        options["c"] = 0
    common = Request(prompt="", **options)  # checks them
    opened = models.open()
    raw = bool(options.get("raw", False))
    return Study(
        task=task,
        problems=list(problems) if raw else task.for_model(problems, opened.tokenizer),
        settings=settings,
        config=config_of(task, opened, common, guided=guided),
        options=options,
        load=models.load,
        folder=Path(args.output_dir) if args.output_dir else default_folder(task, models),
        progress=Bars(hidden=args.json),
    )
