"""The tables beside the recovery itself: signals, what was left aside, costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from dodona.eval.analysis.resample import NARROW
from dodona.eval.analysis.tables import estimate
from dodona.eval.recover.findings import Findings, Group, outcomes
from dodona.eval.recover.partings import AtCut, AtParting, Parting, at_cut, at_partings, partings, token_pairs
from dodona.eval.recover.rows import RIGHT
from dodona.eval.recover.settings import APPRAISE, COMPLETE, PREFIXES, ROLES, STRONG, WEAK
from dodona.eval.report.table import NONE, Cell, Head, Table, count, number, scaled, words

BAD: Final = ("wrong", "unparsed", "truncated", "failed")


def signal_tables(findings: Findings, token_text: Callable[[int], str]) -> list[Table]:
    """Signals at the cut, signals where recovered and lost completions part, and the tokens there."""
    cut_rows, part_rows = [], []
    every: list[Parting] = []
    for group in findings.groups:
        prefixes = findings.of(group)
        cut_rows += [_cut_row(group, one) for one in at_cut(findings, prefixes)]
        found = partings(findings, prefixes)
        every += found
        part_rows += [_parting_row(group, found, one) for one in at_partings(findings, found)]
    boot = f"Intervals are 95 % intervals by bootstrap over problems; {NARROW}."
    cut_heads = [
        Head("signal at the cut", "of the strong model's first distribution after the prefix; nats, nats squared, -"),
        Head("mean, recovered [95 %]", f"over the completions that recovered. {boot}"),
        Head("mean, lost [95 %]", f"over those that did not. {boot}"),
        Head("AUROC [95 %]", f"chance that a recovered completion has a higher value than a lost one. {boot}"),
    ]
    part_heads = [
        Head("signal where they part", "a recovered and a lost completion of one prefix, at their first other token"),
        Head("pairs", "pairs of a recovered and a lost completion"),
        Head("tokens in common", "tokens after the cut that a pair has in common, median"),
        Head("mean there [95 %]", f"of the distribution from which both drew. {boot}"),
        Head("mean elsewhere [95 %]", f"over all other positions of the same completions. {boot}"),
    ]
    pair_heads = [
        Head("where they part, the recovered wrote", "its token"),
        Head("the lost wrote", "its token"),
        Head("times", "pairs of completions; the most frequent tokens"),
    ]
    pairs = [[words(repr(a)), words(repr(b)), count(times)] for a, b, times in token_pairs(every, token_text)]
    return [
        Table("Signals at the cut", cut_heads, cut_rows),
        Table("Where the recovered and the lost part", part_heads, part_rows),
        Table("Tokens where they part", pair_heads, pairs),
    ]


def _cut_row(group: Group, one: AtCut) -> list[Cell]:
    area = Cell(NONE) if one.auroc is None else estimate(one.auroc)
    return [words(f"{group.name}: {one.measure}"), estimate(one.recovered), estimate(one.lost), area]


def _parting_row(group: Group, found: Sequence[Parting], one: AtParting) -> list[Cell]:
    middle = median([parting.depth for parting in found])
    name, means = words(f"{group.name}: {one.measure}"), (estimate(one.there), estimate(one.elsewhere))
    return [name, count(len(found)), number(middle, 1), *means]


def asides(findings: Findings) -> list[tuple[str, int, str]]:
    """What was left aside and how often: name, count, definition."""
    wrong = [prefix for prefix in findings.prefixes.values() if prefix.kind != RIGHT]
    strong = findings.appraised[STRONG]
    found = [
        (
            "problems without a wrong solution by the weak model",
            len(findings.never_wrong()),
            "in all the tries that are allowed; they have no off-policy prefix and are left aside",
        ),
        (
            "of these, problems that it solved in every try",
            len(findings.always_solved()),
            "the others ended without an answer, or at the token limit",
        ),
        (
            "problems that the strong model solved in every sample",
            sum(count.right == count.n for count in strong.values()),
            "of the appraisal; they have no on-policy prefix",
        ),
        (
            "problems that the strong model solved in no sample",
            sum(count.right == 0 for count in strong.values()),
            "of the appraisal; they have no on-policy prefix",
        ),
        (
            "problems that it solved only sometimes",
            len(findings.sometimes()),
            "whose wrong solutions were looked for among new draws",
        ),
        *(
            (f"solutions drawn of the {role} model", len(findings.solutions[role]), "in search of wrong ones")
            for role in (WEAK, STRONG)
        ),
        *(
            (f"of them {bad}, {role}", outcomes(findings.solutions[role])[bad], "no wrong solution, and no prefix")
            for role in (WEAK, STRONG)
            for bad in BAD[1:]
        ),
        (
            "wrong prefixes without a right one beside them",
            sum(prefix.row_id not in findings.controls for prefix in wrong),
            "no right solution was drawn that is long enough",
        ),
        (
            "right prefixes by the other model",
            sum(
                findings.prefixes[findings.controls[prefix.row_id]].author != prefix.author
                for prefix in wrong
                if prefix.row_id in findings.controls
            ),
            "where the wrong prefix's own author drew no right solution that is long enough",
        ),
        (
            "wrong prefixes with an answer in them",
            sum(prefix.answered for prefix in wrong),
            "a boxed answer, or the beginning of one",
        ),
        ("wrong prefixes left out for that", findings.answered, "as --exclude-answered asks"),
    ]
    return [entry for entry in found if entry[1] or not entry[0].startswith("of them")]


def aside_table(findings: Findings) -> Table:
    """What was used and what was left aside."""
    heads = [
        Head("what was used and what was left aside", "problems, solutions and prefixes"),
        Head("count", "how many"),
        Head("meaning", ""),
    ]
    rows = [[words(name), count(times), words(meaning)] for name, times, meaning in asides(findings)]
    return Table("What was used and what was left aside", heads, rows)


def cost_table(findings: Findings) -> Table:
    """What each stage cost."""
    heads = [
        Head("stage", "and which model wrote in it"),
        Head("runs", "runs that have a record"),
        Head("written", "tokens written"),
        Head("read", "tokens fed to the model, prompts and prefixes among them"),
        Head("shared", "tokens that were not fed because another run's pages held them"),
        Head("forwards", "forwards in which a run took part, summed over the runs"),
        Head("FLOP", "floating point operations by the ledger's formula, as if nothing had been shared"),
        Head("seconds", "of the forwards, by the ledgers; they depend on the machine"),
    ]
    rows = []
    for stage in (APPRAISE, PREFIXES, COMPLETE):
        for role in ROLES:
            cost = findings.costs[stage, role]
            if cost.runs:
                numbers = (cost.runs, cost.written, cost.read, cost.shared, cost.forwards)
                cells = [*map(count, numbers), scaled(cost.flops), number(cost.ms / 1e3, 1)]
                rows.append([words(f"{stage}, {role}"), *cells])
    return Table("Costs", heads, rows)
