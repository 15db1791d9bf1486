"""The tables of a study for people. Each column is defined here, once, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from dodona.eval.recover.findings import ERROR, NO_ERROR, Findings, outcomes
from dodona.eval.recover.rates import Count, Difference, Pooled, Weights, against, beside, pooled
from dodona.eval.recover.rows import CORRECT, OFF, RIGHT, Completion, Prefix
from dodona.eval.recover.series import prefix_series, straight_series
from dodona.eval.recover.settings import ROLES, STRONG, WEAK
from dodona.eval.recover.side_tables import BAD, aside_table, cost_table, signal_tables
from dodona.eval.report.table import NONE, Cell, Head, Table, count, number, points, share, words
from dodona.eval.summary import group_name, grouped

_RATE: Final = (
    "The interval is a 95 % interval, clustered by problem: Wilson's with the effective number of runs that the "
    "cluster-robust standard error gives."
)
_PREFIXES: Final = Head(
    "prefixes",
    "off-policy: from wrong solutions of the weak model; on-policy: from wrong solutions of the strong model itself, "
    "of problems that it solves only sometimes; edited: from right solutions of the strong model, with a number "
    "changed. The percentage says after how much of the solution's tokens it was cut.",
)
_COMPLETED: Final = Head("recovered", "completions of the wrong prefixes that end on the right answer, of how many")
_RECOVERED: Final = Head(
    "recovered [95 %]", f"completions of the wrong prefixes by the strong model that end on the right answer. {_RATE}"
)
_STRAIGHT: Final = Head(
    "strong straight shot [95 %]",
    "the strong model's rate from the bare prompt on the same problems, each weighted by its completions; of samples "
    f"drawn anew, not of those that decided bins and prefixes. {_RATE}",
)
_LESS_STRAIGHT: Final = Head(
    "less strong straight shot [95 %]",
    "recovered less strong straight shot in percentage points, problem by problem; the interval is Student's over the "
    "problems' own differences, with Agresti and Min's added pairs",
)
_RIGHT: Final = Head(
    "right prefix [95 %]",
    "completions by the strong model of a right prefix of as many tokens: of a right solution of the same problem by "
    "the same model where it drew one that is long enough, else by the other; of edited prefixes the unedited one. "
    f"{_RATE}",
)
_LESS_RIGHT: Final = Head("less right prefix [95 %]", "recovered less right prefix, likewise")
_WEAK_STRAIGHT: Final = Head("weak straight shot [95 %]", "the weak model's rate from the bare prompt, likewise")
_WEAK_OWN: Final = Head(
    "weak, own wrong prefix [95 %]", f"completions by the weak model of its own wrong prefixes. {_RATE}"
)


def study_tables(findings: Findings, token_text: Callable[[int], str]) -> list[Table]:
    """All tables that have lines, in the order of a report."""
    done = bool(findings.prefixes and findings.completions_asked)
    tables = [_recovery(findings), _by_error(findings)] if done else []
    tables += [_straight(findings), _solve_rates(findings)]
    if done:
        tables += [_outcomes(findings), _answered(findings)]
        for fraction in findings.fractions:
            tables += [_by_bin(findings, fraction), _by_level(findings, fraction)]
        tables += signal_tables(findings, token_text)
    tables += [aside_table(findings), cost_table(findings)]
    return [table for table in tables if table.rows]


def rate(value: Pooled) -> Cell:
    """A rate with its interval."""
    if math.isnan(value.rate):
        return Cell(NONE)
    low, high = value.interval
    return Cell(f"{100 * value.rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]", value.rate)


def _less(value: Difference) -> Cell:
    return points(value.difference, value.interval)


def _straight(findings: Findings) -> Table:
    """Both models from the bare prompt."""
    heads = [
        Head("straight shots", "samples from the bare prompt"),
        Head("solved [95 %]", f"runs whose answer is right, of all that were asked for. {_RATE}"),
        Head("asked for", "runs asked for; all rates are of these"),
        *(Head(name, _OUTCOMES[name]) for name in BAD),
        *_level_heads(findings),
    ]
    rows = []
    for name, tallies, runs in (
        ("appraisal", findings.appraised, findings.appraisal),
        ("controls", findings.shots, findings.shot_rows),
    ):
        for role in ROLES:
            if not (tally := tallies[role]):
                continue
            ended = outcomes([*runs[role]])
            levels = [rate(pooled(tally, weights)) for weights in _levels(findings).values()]
            whole = pooled(tally)
            rows.append(
                [
                    words(f"{role}, {name}"),
                    rate(whole),
                    count(whole.n),
                    *(count(ended[bad]) for bad in BAD),
                    *(levels if len(levels) > 1 else []),
                ]
            )
    return Table("Straight shots", heads, rows)


def _solve_rates(findings: Findings) -> Table:
    """The histogram."""
    heads = [
        Head("problems solved in", "so many of a problem's samples in the appraisal"),
        *(Head(role, f"problems that the {role} model solved so often") for role in ROLES),
    ]
    rows = []
    for right in range(findings.samples + 1):
        solved = [sum(c.right == right for c in findings.appraised[role].values()) for role in ROLES]
        rows.append([Cell(f"{right} of {findings.samples}", right), *map(count, solved)])
    return Table("Solve rates of the appraisal", heads, rows)


def _recovery(findings: Findings) -> Table:
    heads = [
        _PREFIXES,
        Head("wrong prefixes", "how many there are"),
        Head("problems", "problems that they are of"),
        _COMPLETED,
        _RECOVERED,
        _STRAIGHT,
        _LESS_STRAIGHT,
        Head("relative", "recovered as a share of strong straight shot, beside the rates and in place of none of them"),
        _RIGHT,
        _LESS_RIGHT,
        _WEAK_STRAIGHT,
        _WEAK_OWN,
    ]
    rows = []
    for group in findings.groups:
        prefixes = findings.of(group)
        tally, right = findings.tally(prefixes, STRONG), findings.right_of(prefixes)
        value, shot = pooled(tally), beside(tally, findings.shots[STRONG])
        control = findings.tally(right, STRONG)
        relative = value.rate / shot.rate if shot.rate > 0 else math.nan
        rows.append(
            [
                words(group.name),
                count(len(prefixes)),
                count(value.problems),
                _completed(value),
                rate(value),
                rate(shot),
                _less(against(tally, findings.shots[STRONG])),
                share(relative),
                rate(pooled(control)),
                _less(against(_with_control(findings, prefixes), control)),
                rate(beside(tally, findings.shots[WEAK])),
                rate(pooled(findings.tally(prefixes, WEAK))) if group.kind == OFF else Cell(NONE),
            ]
        )
    return Table("Recovery", heads, rows)


def _with_control(findings: Findings, prefixes: Sequence[Prefix]) -> dict[str, Count]:
    """The counts of those wrong prefixes alone that have a right one beside them."""
    return findings.tally([prefix for prefix in prefixes if prefix.row_id in findings.controls], STRONG)


_OUTCOMES: Final[Mapping[str, str]] = {
    "wrong": "runs that ended on an answer that is not right",
    "unparsed": "runs that ended by themselves without an answer that could be read; they count as wrong",
    "truncated": "runs that the token limit cut off; they count as wrong, whatever they say",
    "failed": "runs that ended with an error; they count as wrong",
}


def _outcomes(findings: Findings) -> Table:
    """What became of the completions."""
    heads = [
        Head("completions", "of which prefixes, and by which model"),
        Head("asked for", "runs asked for; all rates are of these"),
        Head(CORRECT, "runs that end on the right answer"),
        Head("same wrong answer", "completions that end on the answer of the wrong solution that was cut"),
        Head("other wrong answer", "completions that end on another wrong answer"),
        *(Head(name, _OUTCOMES[name]) for name in BAD[1:]),
        Head("missing", "completions that have no record yet; they count as wrong"),
        Head("tokens", "tokens of a completion, mean"),
    ]
    rows = []
    for group in findings.groups:
        wrong = findings.of(group)
        lines = [(f"{group.name}, strong", wrong, STRONG)]
        lines.append((f"{group.name}: right prefix, strong", findings.right_of(wrong), STRONG))
        lines += [(f"{group.name}, weak", wrong, WEAK)] if group.kind == OFF else []
        for name, prefixes, role in lines:
            if prefixes:
                runs = findings.runs(prefixes, role)
                rows.append(_outcome_row(name, runs, len(prefixes) * findings.completions_asked))
    return Table("What became of the completions", heads, rows)


def _outcome_row(name: str, runs: Sequence[Completion], asked: int) -> list[Cell]:
    ended = outcomes(runs)
    repeats = sum(run.outcome == "wrong" and run.repeats for run in runs)
    tokens = sum(len(run.ids) for run in runs)
    return [
        words(name),
        count(asked),
        count(ended[CORRECT]),
        count(repeats),
        count(ended["wrong"] - repeats),
        *(count(ended[bad]) for bad in BAD[1:]),
        count(asked - len(runs)),
        number(tokens / len(runs) if runs else math.nan, 1),
    ]


def _by_error(findings: Findings) -> Table:
    """Recovery from prefixes that hold no error yet, and from the others."""
    head = Head(
        "error in the prefix",
        f"{NO_ERROR}: token for token the beginning of a right solution, too, that one of the models drew from the "
        f"bare prompt, so that to go on rightly is no recovery. {ERROR}: of those that were drawn, which says the more "
        "the fewer ways there are to write a solution.",
    )
    parts: list[tuple[str, Callable[[Prefix], bool]]] = [
        (NO_ERROR, lambda prefix: prefix.row_id in findings.harmless),
        (ERROR, lambda prefix: prefix.row_id not in findings.harmless),
    ]
    return _divided(findings, "Is the error in the prefix yet?", head, parts)


def _answered(findings: Findings) -> Table:
    """Recovery from prefixes with and without an answer in them."""
    head = Head("answer in the prefix", "a boxed one, or the beginning of one")
    parts: list[tuple[str, Callable[[Prefix], bool]]] = [
        ("without an answer", lambda prefix: not prefix.answered),
        ("with an answer", lambda prefix: prefix.answered),
    ]
    table = _divided(findings, "Prefixes with an answer in them", head, parts)
    # Where there are none, all lines would repeat the table above.
    some = any(prefix.answered for prefix in findings.prefixes.values() if prefix.kind != RIGHT)
    return table if some else table._replace(rows=[])


def _divided(
    findings: Findings, title: str, head: Head, parts: Sequence[tuple[str, Callable[[Prefix], bool]]]
) -> Table:
    """Recovery from the wrong prefixes for which something holds, kind by kind."""
    heads = [
        head,
        Head("wrong prefixes", "how many there are"),
        _COMPLETED,
        _RECOVERED,
        _STRAIGHT,
        _LESS_STRAIGHT,
        _WEAK_OWN,
    ]
    rows = []
    for group in findings.groups:
        for name, holds in parts:
            if chosen := [prefix for prefix in findings.of(group) if holds(prefix)]:
                tally, shots = findings.tally(chosen, STRONG), findings.shots[STRONG]
                value = pooled(tally)
                own = rate(pooled(findings.tally(chosen, WEAK))) if group.kind == OFF else Cell(NONE)
                cells = [rate(value), rate(beside(tally, shots)), _less(against(tally, shots)), own]
                rows.append([words(f"{group.name}: {name}"), count(len(chosen)), _completed(value), *cells])
    return Table(title, heads, rows)


def _completed(value: Pooled) -> Cell:
    return Cell(f"{value.right} of {value.n}", value.right)


def _by_bin(findings: Findings, fraction: float) -> Table:
    edges = findings.edges
    names = [f"{100 * low:g}–{100 * high:g} %" for low, high in pairwise(edges)]
    head = Head(
        "straight-shot rate",
        "difficulty bin by the strong model's solve rate in the appraisal. A problem belongs to every bin that its "
        "Wilson interval overlaps, by the share of the interval that lies there.",
    )
    return _split(findings, f"By difficulty, cut at {100 * fraction:g} %", head, names, findings.bins, fraction)


def _by_level(findings: Findings, fraction: float) -> Table:
    levels = _levels(findings)
    names = [f"level {name}" for name in levels] if len(levels) > 1 else []
    title = f"By level, cut at {100 * fraction:g} %"
    return _split(
        findings, title, Head("level", "as the data set has it"), names, list(levels.values())[: len(names)], fraction
    )


def _split(
    findings: Findings, title: str, head: Head, names: Sequence[str], groups: Sequence[Weights], fraction: float
) -> Table:
    """Every series in every group of problems."""
    series = [*straight_series(findings), *prefix_series(findings, fraction)]
    heads = [head, Head("problems (weight)", "problems of the line, each by the share of it that is there")]
    heads += [Head(one.short, f"{one.name}: runs that end on the right answer. {_RATE}") for one in series]
    rows = []
    for name, weights in zip(names, groups, strict=True):
        cells = [rate(pooled(one.tally, weights)) for one in series]
        rows.append([words(name), number(sum(weights.values()), 1), *cells])
    return Table(title, heads, rows)


def _levels(findings: Findings) -> dict[str, Weights]:
    """The problems of each level."""
    groups = grouped([problem.level for problem in findings.problems])
    return {
        group_name(level): {findings.problems[index].problem_id: 1.0 for index in places}
        for level, places in groups.items()
    }


def _level_heads(findings: Findings) -> list[Head]:
    names = list(_levels(findings))
    return [Head(f"level {name}", "solved, of the problems of this level") for name in names] if len(names) > 1 else []
