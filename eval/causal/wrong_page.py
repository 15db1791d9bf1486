"""First wrong tokens as one page: how sure the base was there, the tables, and every text with its tokens marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from dodona.engine.tokenizer import Tokenizer
from dodona.eval.analysis.disagreement import EDGES
from dodona.eval.causal.page import asked, framed, mark
from dodona.eval.causal.wrong import Search, Wrong
from dodona.eval.causal.wrong_tables import LINES, gathered, tables
from dodona.eval.report.html import escaped
from dodona.eval.report.picture import Picture, filled

Array = np.ndarray[Any, Any]

MOST: Final = 500  # texts shown
SPAN: Final = 10  # tokens on either side in the picture
_COLORS: Final = ("#d55e00", "#e69f00", "#0072b2", "#b8bec8")
_DEFINED: Final = (
    "The causal token of a wrong text: where the oracle takes over just before it and writes the rest, the answer is "
    "right, and where it takes over just after it, it is wrong. Taking over from the very start is right for all texts "
    "here, so the earliest takeover that helps says nothing; what is looked for is where helping comes too late."
)
_ASSUMED: Final = (
    "Bisection finds such a token in any case, and the only one if rightness changes once. The neighbours of what it "
    "found are tried, too, and texts where some takeover contradicts a single change are counted below. A takeover can "
    "only matter at a token that is not the oracle's first choice; an exhaustive search tries all of these, and then "
    "the causal token is the last of them that could still be saved."
)


def page(found: Search, tokenizer: Tokenizer, rows: Sequence[Mapping[str, Any]], confident: float) -> str:
    """The page as a text.

    Args:
        rows: the lines of what was found (``wrong_rows.lines``).
        confident: nats of entropy below which the base counts as confident.
    """
    pictures = list(_pictures(found.found)) if found.found else []
    texts = _texts(found, tokenizer, rows)
    title = f"First wrong tokens: {found.origin.experiment.title}"
    return framed(title, (_DEFINED, _ASSUMED), pictures, tables(found, confident), texts, found.origin)


def _pictures(cases: Sequence[Wrong]) -> Iterator[Picture]:
    yield filled("entropy", "Entropy of the causal and of other tokens", (6.2, 3.8), lambda f: _by_entropy(f, cases))
    yield filled("around", "Entropy around the causal token", (6.2, 3.8), lambda f: _around(f, cases))
    yield filled("place", "Where in its text the causal token stands", (6.2, 3.4), lambda f: _place(f, cases))


def _by_entropy(figure: Any, cases: Sequence[Wrong]) -> None:
    axes = figure.subplots()
    names = [f"{low:g}–{high:g}" if math.isfinite(high) else f"≥ {low:g}" for low, high in pairwise(EDGES)]
    width = 0.8 / len(LINES)
    for index, ((name, places), color) in enumerate(zip(LINES, _COLORS, strict=True)):
        values = gathered(cases, "entropy", places)
        counts = np.bincount(np.searchsorted(EDGES[1:-1], values, side="right"), minlength=len(names))
        shares = 100 * counts / max(1, len(values))
        axes.bar(np.arange(len(names)) + (index - 1.5) * width, shares, width, color=color, label=name)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_xlabel("entropy of the base, nats")
    axes.set_ylabel("% of these tokens")
    axes.legend(loc="best")


def _around(figure: Any, cases: Sequence[Wrong]) -> None:
    axes = figure.subplots()
    offsets = np.arange(-SPAN, SPAN + 1)
    values = np.full((len(cases), len(offsets)), np.nan)
    for row, case in enumerate(cases):
        assert case.found.causal is not None
        places = case.found.causal + offsets
        inside = (places >= 0) & (places < len(case.text.ids))
        values[row, inside] = case.view.columns["entropy"][places[inside]]
    known = ~np.isnan(values).all(axis=0)
    low, middle, high = np.nanquantile(values[:, known], (0.25, 0.5, 0.75), axis=0)
    axes.fill_between(offsets[known], low, high, color="#d55e00", alpha=0.2, label="quartiles", linewidth=0)
    axes.plot(offsets[known], middle, color="#d55e00", marker="o", markersize=3, label="median")
    axes.set_xticks(range(-SPAN, SPAN + 1, 2))
    axes.set_xlabel("tokens from the causal token")
    axes.set_ylabel("entropy of the base, nats")
    axes.legend(loc="best")


def _place(figure: Any, cases: Sequence[Wrong]) -> None:
    axes = figure.subplots()
    shares = [case.found.causal / len(case.text.ids) for case in cases if case.found.causal is not None]
    axes.hist(shares, bins=np.linspace(0, 1, 21), color="#d55e00")
    axes.set_xlim(0, 1)
    axes.set_xlabel("position of the causal token / tokens of the text")
    axes.set_ylabel("texts")


def _texts(found: Search, tokenizer: Tokenizer, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cases = {case.text.problem_id: case for case in found.found}
    some = f", the first {MOST} of {len(rows)}" if len(rows) > MOST else ""
    yield f"<h2>The texts{some}</h2>"
    if not rows:
        yield "<p>There is none: no wrong text that the oracle alone gets right.</p>"
        return
    yield (
        f'<p class="legend"><span>{mark("causal", "causal token", "")}</span>'
        f"<span>{mark('differs', 'not the oracle’s first choice', '')}</span>"
        f"<span>{mark('healing', 'likewise, but a takeover before it is wrong, and after it right', '')}</span>"
        "<span>grey: after the causal token</span></p>"
    )
    for row in rows[:MOST]:
        yield _text(cases[row["problem_id"]], row, tokenizer)


def _text(case: Wrong, row: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    text, causal = case.text, row["causal"]
    level = "" if row["level"] is None else f"<span>level {escaped(row['level'])}</span>"
    searched = "every diverging token tried" if row["exhaustive"] else "by bisection"
    contradicted = "" if row["monotone"] else "<span>some takeover contradicts a single change</span>"
    neighbours = sorted([*causal["neighbours"], causal], key=lambda token: token["position"])
    near = "".join(
        f"<tr><td>{escaped(repr(token['token']))}</td><td>{token['position']}</td><td>{token['probability']:.3f}</td>"
        f"<td>{token['entropy']:.3f}</td><td>{token['probability_under_oracle']:.3f}</td>"
        f"<td>{escaped(repr(token['oracle_token']))}</td></tr>"
        for token in neighbours
    )
    heads = ("token", "position", "probability", "entropy, nats", "under the oracle", "the oracle's first choice")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="text" id="{escaped(row["row_id"])}"><div class="text-head"><b>{escaped(row["problem_id"])}</b>'
        f"{level}<span>the answer: {escaped(row['ground_truth'])}</span>"
        f"<span>the base: {escaped(row['answer'] or row['outcome'])}</span><span>{searched}</span>{contradicted}</div>"
        f'<div class="asked">{escaped(asked(text, tokenizer))}</div><pre>{_marked(case, tokenizer)}</pre>'
        f"<p>Token {causal['position']} of {row['tokens']}, {escaped(repr(causal['token']))}: probability "
        f"{causal['probability']:.3f}, entropy {causal['entropy']:.3f} nats (number {causal['entropy_rank']} of the "
        f"text), margin {causal['margin']:.3f}. The oracle gives it {causal['probability_under_oracle']:.3f}, and "
        f'takes over with <span class="oracle">{escaped(causal["oracle_wrote"])}</span> '
        f"\u2192 {escaped(causal['oracle_answer'] or 'no answer')}.</p>"
        f'<details><summary>The tokens around it</summary><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{near}</tbody></table></div></details></div>"
    )


def _marked(case: Wrong, tokenizer: Tokenizer) -> str:
    """The whole text of the base with its diverging tokens marked."""
    ids, view, what = case.text.ids, case.view, case.found
    assert what.causal is not None
    marked = sorted({*(int(p) for p in view.diverging), what.causal})
    parts, end = [], 0
    for place in marked:
        parts.append(_plain(tokenizer, ids[end:place], after=end > what.causal))
        kind = "causal" if place == what.causal else "healing" if place in what.healing else "differs"
        parts.append(mark(kind, tokenizer.token_text(ids[place]), _said(case, place, tokenizer)))
        end = place + 1
    parts.append(_plain(tokenizer, ids[end:], after=True))
    return "".join(parts)


def _plain(tokenizer: Tokenizer, ids: Sequence[int], *, after: bool) -> str:
    shown = escaped(tokenizer.decode(list(ids), skip_special=False))
    return f'<span class="rest">{shown}</span>' if after and shown else shown


def _said(case: Wrong, place: int, tokenizer: Tokenizer) -> str:
    columns = case.view.columns
    tried = case.takeovers.get(place)
    took = "" if tried is None else f"; the oracle taking over here is {'right' if tried else 'wrong'}"
    return (
        f"token {place}: probability {math.exp(columns['logprob'][place]):.3f}, "
        f"entropy {columns['entropy'][place]:.3f}; "
        f"the oracle's first choice {tokenizer.token_text(int(columns['oracle_top1'][place]))!r}{took}"
    )
