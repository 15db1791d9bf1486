"""One page of all pairs with filters, and the tables above them; nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dodona import __version__
from dodona.eval.judge.log import verdict_text
from dodona.eval.judge.results import Rated
from dodona.eval.judge.study import Judged
from dodona.eval.judge.tables import judge_tables
from dodona.eval.report import html
from dodona.eval.report.html import escaped
from dodona.eval.report.table import definitions

MOST: Final = 2000  # pairs of a judge on the page

_FILTERS: Final[Mapping[str, str]] = {
    "judge": "all judges",
    "winner": "all verdicts",
    "orders": "both kinds of orders",
    "human": "with and without a person's verdict",
    "length": "either answer longer",
}


def page(
    title: str,
    names: Sequence[str],
    notes: Sequence[str],
    ratings: Sequence[Rated],
    judged: Mapping[str, Sequence[Judged]],
    facts: Mapping[str, Any],
    most: int = MOST,
) -> str:
    """The page as a text; the same verdicts give the same page.

    Args:
        judged: by judge, the pairs to show; the first ``most`` of each are.
        facts: the configuration.
    """
    tables = judge_tables(ratings)
    rows = [_row(name, one) for name, pairs in judged.items() for one in pairs[:most]]
    cut = max((len(pairs) for pairs in judged.values()), default=0) > most
    some = f" The first {most} pairs of each judge are on this page; all are in judgements.jsonl." if cut else ""
    lead = f"Report by dodona {__version__}. Intervals are 95 % intervals. The denominator is every pair asked for."
    body = [
        f"<p>A: {escaped(names[0])}<br>B: {escaped(names[1])}</p>",
        *map(html.note, notes),
        *map(html.titled_table, tables),
        html.browser("pair", "Pairs", f"Both answers to each question, and the verdict.{some}", _FILTERS, rows),
        html.meanings(definitions(tables)),
        html.folded("Configuration and versions", html.listing(facts)),
    ]
    own = Path(__file__).parent
    return html.document(title, lead, body, styles=[own / "pairs.css"], scripts=[own / "pairs.js"])


def _row(judge: str, judged: Judged) -> dict[str, Any]:
    pair, found = judged.pair, judged.judgement
    return {
        "judge": judge,
        "id": pair.pair_id,
        "question": pair.question,
        "context": pair.context,
        "reference": pair.reference,
        "a": pair.answer_a,
        "b": pair.answer_b,
        "winner": found.winner,
        "consistent": found.consistent,
        "human": found.human,
        "said": verdict_text(judged),
        "wrote": [None if verdict is None else verdict.text for verdict in judged.verdicts],
    }
