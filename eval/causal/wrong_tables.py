"""What the causal tokens have in common: how uncertain the base was there, and where they stand among the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from dodona.eval.analysis.resample import Estimate, problem_weights, share
from dodona.eval.analysis.tables import percentage
from dodona.eval.causal.wrong import Search, Wrong, entropy_rank
from dodona.eval.report.table import Cell, Head, Table, count, number, rate, words
from dodona.eval.summary import Rate

Array = np.ndarray[Any, Any]
Places = Callable[[Wrong], Sequence[int]]

RANKS: Final = (1, 2, 3, 5, 10)
SURE: Final = 0.9  # of the base's probability of its own token
_QUARTILES: Final = (0.25, 0.5, 0.75)


def _causal(case: Wrong) -> Sequence[int]:
    return [] if case.found.causal is None else [case.found.causal]


# What the causal token is compared with, by the name of its line.
LINES: Final[tuple[tuple[str, Places], ...]] = (
    ("causal token", _causal),
    ("first diverging token", lambda case: [int(p) for p in case.view.diverging[:1]]),
    ("every diverging token", lambda case: [int(p) for p in case.view.diverging]),
    ("every token", lambda case: range(len(case.text.ids))),
)


def gathered(cases: Sequence[Wrong], name: str, places: Places) -> Array:
    """[M] float64: a column at some positions of every text."""
    parts = _parts(cases, name, places)
    return np.concatenate(parts) if parts else np.zeros(0)


def _parts(cases: Sequence[Wrong], name: str, places: Places) -> list[Array]:
    return [case.view.columns[name][list(places(case))].astype(np.float64) for case in cases]


def summary(found: Search, confident: float) -> dict[str, Any]:
    """Everything that the tables show; shares of tokens are Estimates, which ``plain_summary`` writes out.

    Args:
        confident: nats of entropy below which the base counts as confident.
    """
    cases = found.found
    weights = problem_weights(len(cases))
    kinds = {}
    for name, places in LINES:
        logprobs = _parts(cases, "logprob", places)
        kinds[name] = {
            "tokens": sum(map(len, logprobs)),
            **{signal: _quartiles(gathered(cases, signal, places)) for signal in ("entropy", "varentropy", "margin")},
            "probability": _quartiles(np.exp(gathered(cases, "logprob", places))),
            "confident": _clustered([e < confident for e in _parts(cases, "entropy", places)], weights),
            "sure": _clustered([np.exp(logprob) > SURE for logprob in logprobs], weights),
        }
    ranks = [entropy_rank(case.view, case.found.causal) for case in cases if case.found.causal is not None]
    gaps = [case.found.causal - int(case.view.diverging[0]) for case in cases if _diverges(case)]  # type: ignore[operator]
    exhaustive = [case for case in cases if case.found.exhaustive]
    return {
        "arm": found.arm.name,
        "config_hash": found.origin.config_hash,
        "problems": found.problems,
        "base_wrong": found.wrong,
        "base_failed": found.failed,
        "looked_at": len(found.cases) + len(found.unseen),
        "not_repeated": list(found.unseen),
        "oracle_right": _share(len(cases), len(found.cases)),
        "verified": sum(case.found.verified for case in cases),
        "contradicted": sum(not case.found.monotone for case in cases),
        "exhaustive": len(exhaustive),
        "several_fatal_tokens": sum(len(case.found.fatal) > 1 for case in exhaustive),
        "takeovers": sum(len(case.takeovers) for case in found.cases),
        "diverging_tokens": _quartiles(np.array([len(case.view.diverging) for case in cases], dtype=np.float64)),
        "causal_is_first_diverging": _share(sum(gap == 0 for gap in gaps), len(gaps)),
        "tokens_after_first_diverging": _quartiles(np.array(gaps, dtype=np.float64)),
        "confident_below": confident,
        "kinds": kinds,
        "entropy_rank": {str(rank): _share(sum(r <= rank for r in ranks), len(ranks)) for rank in RANKS},
        "relative_position": _quartiles(
            np.array([case.found.causal / len(case.text.ids) for case in cases if case.found.causal is not None])
        ),
    }


def plain_summary(found: Search, confident: float) -> dict[str, Any]:
    """The summary for JSON."""
    data = summary(found, confident)
    kinds = {
        name: {**kind, **{name: kind[name].as_dict() for name in ("confident", "sure")}}
        for name, kind in data["kinds"].items()
    }
    return {**data, "kinds": kinds}


def certainty_rows(found: Search, confident: float) -> Iterator[dict[str, Any]]:
    """How sure the base was, for CSV: a line a kind of token."""
    for name, kind in plain_summary(found, confident)["kinds"].items():
        row: dict[str, Any] = {"kind": name, "tokens": kind["tokens"]}
        for signal in ("entropy", "varentropy", "margin", "probability"):
            row |= {f"{signal}_{of}": v for of, v in zip(("q25", "q50", "q75"), kind[signal] or (), strict=False)}
        for part in ("confident", "sure"):
            value, low, high = kind[part].values()
            row |= {part: value, f"{part}_low": low, f"{part}_high": high}
        yield row


def tables(found: Search, confident: float) -> list[Table]:
    """The same as tables: what was found, the base's certainty, and where the token stands."""
    data = summary(found, confident)
    return [_counts(data), _certainty(data, confident), _standing(data)]


def _counts(data: dict[str, Any]) -> Table:
    heads = [
        Head("first wrong tokens", "what was looked for and found"),
        Head("texts", "one a problem"),
        Head("of", "the whole of which they are a part"),
    ]
    looked, right = data["looked_at"], data["oracle_right"]["part"]
    rows = [
        [words("problems"), count(data["problems"]), Cell("")],
        [words("the base is wrong"), count(data["base_wrong"]), count(data["problems"])],
        [words("looked at"), count(looked), count(data["base_wrong"])],
        [words("the oracle alone is right"), count(right), count(looked)],
        [words("found, with a takeover on either side"), count(data["verified"]), count(right)],
        [words("some takeover contradicts a single change"), count(data["contradicted"]), count(right)],
        [words("every diverging token tried"), count(data["exhaustive"]), count(right)],
        [
            words("more than one fatal token among these"),
            count(data["several_fatal_tokens"]),
            count(data["exhaustive"]),
        ],
    ]
    if data["not_repeated"]:
        rows.insert(3, [words("not repeated token for token"), count(len(data["not_repeated"])), count(looked)])
    return Table(f"{data['arm']}: the token after which the oracle can no longer save the answer", heads, rows)


def _certainty(data: dict[str, Any], confident: float) -> Table:
    heads = [
        Head("token", "of the texts that the base has wrong and the oracle right"),
        Head("n", "tokens"),
        Head("entropy [quartiles]", "of the base's distribution, nats: the median, and the first and third quartile"),
        Head("margin", "median of the largest less the second largest probability"),
        Head("probability", "median of the probability that the base gave its token"),
        Head(f"entropy < {confident:g}", "confident: the share of the tokens below it, with a bootstrap over problems"),
        Head(f"probability > {SURE:g}", "likewise, by the probability of the base's own token"),
    ]
    rows = []
    for name, kind in data["kinds"].items():
        low, middle, high = kind["entropy"] or (math.nan,) * 3
        rows.append(
            [
                words(name),
                count(kind["tokens"]),
                Cell("-" if math.isnan(middle) else f"{middle:.3f} [{low:.3f}, {high:.3f}]", middle),
                number(kind["margin"][1] if kind["margin"] else math.nan, 3),
                number(kind["probability"][1] if kind["probability"] else math.nan, 3),
                percentage(kind["confident"]),
                percentage(kind["sure"]),
            ]
        )
    return Table("how sure the base was", heads, rows)


def _standing(data: dict[str, Any]) -> Table:
    heads = [
        Head("the causal token", "where it stands in its text"),
        Head("texts", "so many"),
        Head("share [95 %]", "Wilson's interval"),
    ]
    rows: list[Sequence[Cell]] = [
        [
            words(f"is among the {rank} of largest entropy" if int(rank) > 1 else "has the largest entropy"),
            *_cells(part),
        ]
        for rank, part in data["entropy_rank"].items()
    ]
    first = data["causal_is_first_diverging"]
    rows.append([words("is the first diverging token"), *_cells(first)])
    return Table("where the causal token stands among its text's tokens", heads, rows)


def _cells(share: dict[str, Any]) -> list[Cell]:
    return [count(share["part"]), rate(Rate(share["part"], share["of"]))]


def _share(part: int, whole: int) -> dict[str, Any]:
    low, high = Rate(part, whole).interval
    return {"part": part, "of": whole, "share": part / whole if whole else None, "low": low, "high": high}


def _clustered(chosen: Sequence[Array], weights: Array) -> Estimate:
    """The share of the chosen tokens, with an interval by bootstrap over problems."""
    part, whole = (np.array([size(one) for one in chosen], dtype=np.float64) for size in (np.sum, len))
    return share(part, whole, weights)


def _quartiles(values: Array) -> list[float] | None:
    return [float(value) for value in np.quantile(values, _QUARTILES)] if len(values) else None


def _diverges(case: Wrong) -> bool:
    return case.found.causal is not None and len(case.view.diverging) > 0
