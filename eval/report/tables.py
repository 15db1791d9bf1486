"""The tables of a report's section. Each column is defined here, once, for the terminal, the page and the manual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dodona.eval.compat.tables import ladder_table
from dodona.eval.report.section import Line, Section
from dodona.eval.report.table import (
    NONE,
    Cell,
    Head,
    Table,
    count,
    number,
    p_value,
    points,
    rate,
    scaled,
    share,
    words,
)
from dodona.eval.stats.bootstrap import RESAMPLES, SEED
from dodona.eval.summary import Rate, group_name

_WIDEST: Final = 8  # groups side by side; more of them get a line each


class Column(NamedTuple):
    """One column over the lines of a section."""

    head: Head
    cell: Callable[[Line], Cell]


ARM: Final = Head(
    "arm",
    "c: consults allowed a text; k: tokens the oracle writes at a consult; the trigger; before or after: whether the "
    "oracle takes the position where the trigger fires or the next; seed. c=0 is the base alone, c=inf k=inf always "
    "the oracle alone. A line [n seeds] pools the arms that differ in their seed alone.",
)


def accuracy_columns() -> tuple[Column, ...]:
    """How many were right, and what became of the others."""
    return (
        Column(
            Head(
                "accuracy [95 %]",
                "right runs of all runs asked for. The interval is Wilson's score interval; of pooled seeds it is "
                "clustered by problem: Wilson's with the effective number of runs that the cluster-robust standard "
                "error gives, and with the number of problems where all runs agree; near 0 and 100 % of few problems "
                "it is too narrow.",
            ),
            lambda line: rate(line.summary.rate),
        ),
        Column(
            Head("n", "runs asked for: problems, times seeds where several are pooled. Nothing leaves it."),
            lambda line: count(line.summary.rate.n),
        ),
        Column(
            Head("right", "runs whose answer equals the gold answer"), lambda line: count(line.summary.rate.correct)
        ),
        Column(Head("wrong", "runs with an answer that does not"), lambda line: count(line.summary.wrong)),
        Column(
            Head("unparsed", "runs that ended by themselves without an answer that could be read; they count as wrong"),
            lambda line: count(line.summary.unparsed),
        ),
        Column(
            Head("truncated", "runs that the token limit cut off; they count as wrong, whatever they say"),
            lambda line: count(line.summary.truncated),
        ),
        Column(
            Head("failed", "runs that ended with an error; they count as wrong"),
            lambda line: count(line.summary.failed),
        ),
        Column(
            Head("missing", "runs asked for that have no record; they count as wrong"),
            lambda line: count(line.summary.missing),
        ),
    )


def cost_columns() -> tuple[Column, ...]:
    """What the oracle did, and what a run cost."""
    return (
        Column(
            Head(
                "consults", "consults that happened, mean of a run; this and what follows over runs that did not fail"
            ),
            lambda line: number(line.summary.consults, 2),
        ),
        Column(
            Head("of budget", "consults that happened as a share of those allowed"),
            lambda line: share(line.summary.budget_share),
        ),
        Column(
            Head("oracle tokens", "share of all generated tokens that the oracle wrote"),
            lambda line: share(line.summary.oracle_share),
        ),
        Column(Head("tokens", "generated tokens, mean of a run"), lambda line: number(line.summary.tokens, 1)),
        Column(
            Head("base forwards", "forwards of the base in which a run took part, mean"),
            lambda line: number(line.summary.cost.base_forwards, 1),
        ),
        Column(
            Head("oracle forwards", "forwards of the oracle in which a run took part, mean"),
            lambda line: number(line.summary.cost.oracle_forwards, 1),
        ),
        Column(
            Head("base fed", "tokens fed to the base, the prompt among them, mean of a run"),
            lambda line: number(line.summary.cost.base_fed, 1),
        ),
        Column(
            Head("oracle fed", "tokens fed to the oracle, the prompt among them, mean of a run"),
            lambda line: number(line.summary.cost.oracle_fed, 1),
        ),
        Column(
            Head(
                "FLOP",
                "floating point operations of both models by the ledger's formula, mean of a run. A prompt that "
                "several arms share is read once, and counts for each of them.",
            ),
            lambda line: scaled(line.summary.cost.flops),
        ),
        Column(
            Head(
                "ms",
                "wall time of the forwards of both models, shared out among the runs of a batch by tokens fed, mean of "
                "a run. It depends on the machine and on the batch.",
            ),
            lambda line: number(line.summary.cost.ms, 1),
        ),
    )


def paired_columns(*, holm: bool) -> tuple[Column, ...]:
    """Each line less the base alone, on the same problems."""
    columns = (
        Column(
            Head(
                "difference [95 %]",
                "accuracy less that of the base alone on the same problems, in percentage points. The interval is "
                "Tango's score interval of paired rates; of several seeds it is Student's over the problems' own "
                "differences, with Agresti and Min's added pairs. An arm is paired with the base of its seed, or with "
                "the one base there is.",
            ),
            lambda line: points(line.contrast.difference, line.contrast.interval) if line.contrast else Cell(NONE),
        ),
        Column(
            Head("won", "problems that this arm solved and the base did not; of several seeds: more often"),
            lambda line: count(line.contrast.pairs.only_b) if line.contrast else Cell(NONE),
        ),
        Column(
            Head("lost", "problems that the base solved and this arm did not; of several seeds: more often"),
            lambda line: count(line.contrast.pairs.only_a) if line.contrast else Cell(NONE),
        ),
        Column(
            Head(
                "p",
                "McNemar's test of won against lost: two-sided, exact at any count (binomial, no chi-square). Of "
                "several seeds the sign-flip test of the problems' differences, which is the same by problem, and "
                "exact where the base has as many.",
            ),
            lambda line: p_value(line.contrast.p if line.contrast else None),
        ),
    )
    corrected = Column(
        Head(
            "p (Holm)",
            "p corrected by Holm's method for all guided arms of the experiment, all seeds of one being one test",
        ),
        lambda line: p_value(line.p_holm),
    )
    return (*columns, corrected) if holm else columns


RHO: Final = Head(
    "rho [95 %]",
    "Spearman's rank correlation of c, or of k, with right (1) and wrong (0) over all runs, a run being a problem in "
    f"an arm. The interval is the percentile bootstrap over problems ({RESAMPLES} resamples, seed {SEED}), each drawn "
    "with all of its runs. '-' where it is undefined: all runs right, all wrong, or all resamples alike.",
)


def section_tables(section: Section, *, holm: bool = False) -> list[Table]:
    """All tables of a section that have lines, in the order of a report."""
    compared = [line for line in section.lines if line.contrast is not None]
    tables = [
        _table("Accuracy", accuracy_columns(), section.lines),
        _table("What the oracle did, and what a run cost", cost_columns(), section.lines),
        _table("Against the base alone", paired_columns(holm=holm), compared),
        *_group_tables(section, "level", lambda line: line.summary.levels),
        *_group_tables(section, "subject", lambda line: line.summary.subjects),
        _correlation_table(section),
        Table(
            "Errors by reason",
            (Head("reason", "why a run failed"), Head("runs", "how many did")),
            [(words(reason), count(runs)) for reason, runs in section.errors.items()],
        ),
        ladder_table(section.ladders),
    ]
    return [table for table in tables if table.rows]


def _table(title: str, columns: Sequence[Column], lines: Sequence[Line]) -> Table:
    rows = [[words(line.summary.name), *(column.cell(line) for column in columns)] for line in lines]
    return Table(title, (ARM, *(column.head for column in columns)), rows)


def _group_tables(section: Section, kind: str, groups: Callable[[Line], Mapping[Any, Rate]]) -> list[Table]:
    """Accuracy by level or by subject; none where all problems are of one."""
    if not section.lines or len(names := list(groups(section.lines[0]))) < 2:
        return []
    title = f"Accuracy by {kind}"
    if len(names) <= _WIDEST:
        sizes = groups(section.lines[0])
        heads = [Head(f"{kind} {group_name(name)} (n={sizes[name].n // sizes[name].samples})", "") for name in names]
        rows = [[words(line.summary.name), *(rate(groups(line)[name]) for name in names)] for line in section.lines]
        return [Table(title, (ARM, *heads), rows)]
    heads = [Head(kind, f"the problems' {kind}"), *(column.head for column in accuracy_columns()[:2])]
    rows = [
        [words(line.summary.name), words(group_name(name)), rate(groups(line)[name]), count(groups(line)[name].n)]
        for line in section.lines
        for name in names
    ]
    return [Table(title, (ARM, *heads), rows)]


def _correlation_table(section: Section) -> Table:
    rows = []
    for variable, over, (rho, interval, problems, arms) in section.correlations:
        shown = NONE if rho is None else f"{rho:+.3f} [-]"
        if rho is not None and interval is not None:
            shown = f"{rho:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
        rows.append([words(f"{variable}: {over}"), Cell(shown, rho), count(problems), count(arms)])
    heads = (
        Head(
            "score against",
            "c or k, and over which arms. Those of c take in the base alone as c=0; those of k do not, for k means "
            "nothing there. The oracle alone is in neither.",
        ),
        RHO,
        Head("problems", "problems of the correlation"),
        Head("arms", "arms of the correlation, each seed one"),
    )
    return Table("Correlation of c and of k with the score", heads, rows)
