"""The running log: each pair as a person reads it, and the totals at the end."""

from __future__ import annotations

from collections.abc import Sequence

from dodona.eval.judge.judgement import Judgement
from dodona.eval.judge.results import Rated
from dodona.eval.judge.study import Judged
from dodona.eval.judge.tables import judge_tables
from dodona.eval.judge.verdict import Verdict
from dodona.eval.report.table import plain, text_lines

_SAYS = {"a": "A", "b": "B", "tie": "tie"}


def pair_lines(judged: Judged, place: int, of: int, judge: str) -> list[str]:
    """One pair: question, true answer, both answers and the verdict."""
    pair = judged.pair
    lines = [f"[{place}/{of}] {plain(pair.pair_id)}, judged by {plain(judge)}"]
    texts = [("context", pair.context), ("question", pair.question), ("true answer", pair.reference)]
    for name, text in (*texts, ("A", pair.answer_a), ("B", pair.answer_b)):
        if text is not None:
            lines += _block(name, text)
        elif name not in ("context", "true answer"):
            lines.append(f"  {name}: (none)")
    return [*lines, f"  verdict: {verdict_text(judged)}", ""]


def verdict_text(judged: Judged) -> str:
    """A pair's verdict in one line."""
    found = judged.judgement
    if found.winner is None:
        return f"error: {plain(found.error or 'not known')}"
    said = _SAYS[found.winner]
    if found.winner == "tie" and found.consistent is False:
        said = "tie, as the two orders disagree"
    orders = [
        f"{name} first: {_order(verdict, shown)}"
        for name, verdict, shown in zip("AB", judged.verdicts, ("AB", "BA"), strict=True)
        if verdict is not None
    ]
    return f"{said} ({'; '.join(orders)}){_person(found)}" if orders else said + _person(found)


def totals(names: Sequence[str], ratings: Sequence[Rated], notes: Sequence[str]) -> list[str]:
    """The figures of all judges."""
    lines = [f"A: {plain(names[0])}", f"B: {plain(names[1])}"]
    lines += [f"note: {plain(note)}" for note in notes]
    for table in judge_tables(ratings):
        lines += ["", *text_lines(table)]
    return lines


def notes_of(ratings: Sequence[Rated]) -> list[str]:
    """What a reader should know beside the figures: errors and their reasons, and estimates that there are not."""
    notes = []
    for rated in ratings:
        f = rated.figures
        if f.errors:
            reasons = "; ".join(f"{times}: {reason}" for reason, times in rated.reasons[:3])
            more = f"; and {len(rated.reasons) - 3} more reasons" if len(rated.reasons) > 3 else ""
            low, high = (f"{100 * value:.1f} %" for value in f.bounds)
            notes.append(
                f"{rated.judge}: {f.errors} of {f.n} pairs are errors ({reasons}{more}). Had A lost or won them all, "
                f"its rate would be {low} or {high}."
            )
        if f.controlled.reason is not None and f.quarters:
            notes.append(f"{rated.judge}: no length-controlled estimate: {f.controlled.reason}.")
        if f.mass is not None and f.mass < 0.5:
            notes.append(
                f"{rated.judge}: left to itself it would seldom have written a verdict: the three have "
                f"{100 * f.mass:.1f} % of its probability on average."
            )
    return notes


def _order(verdict: Verdict, shown: str) -> str:
    if verdict.choice is None:
        return "no verdict"
    said = {"first": shown[0], "second": shown[1], "tie": "tie"}[verdict.choice]
    if verdict.probabilities is None or verdict.mass is None or not verdict.mass > 0:
        return said
    return f"{said} {verdict.probabilities[verdict.choice] / verdict.mass:.2f}"


def _person(found: Judgement) -> str:
    return "" if found.human is None else f"; a person says {_SAYS[found.human]}"


def _block(name: str, text: str) -> list[str]:
    lines = [plain(line) for line in text.strip("\n").split("\n")]
    if len(lines) == 1:
        return [f"  {name}: {lines[0]}"]
    return [f"  {name}:", *(f"    {line}".rstrip() for line in lines)]
