"""Signals against labels: what counts as a row, that a planted signal is found, and that noise is called noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_traces import noise, recording, table
from sklearn.metrics import roc_auc_score

from dodona.engine.errors import DodonaError
from dodona.engine.recording import Recording
from dodona.eval.analysis.disagreement import EDGES, disagreement_map
from dodona.eval.analysis.labels import Limits, base_rows, decision_rows, first_of_context, labels
from dodona.eval.analysis.outcomes import read_changes
from dodona.eval.analysis.signal_table import DIRECTIONS, SignalTable, signal_table

FEW = {"resamples": 300, "seed": 0}


def differs(read: Recording, **options) -> SignalTable:
    found = labels(read, Limits())["differs"]
    return signal_table(read, found, base_rows(read), **{**FEW, **options})


@pytest.mark.parametrize(("name", "sign"), [("entropy", 1), ("margin", -1), ("varentropy", 1), ("top_prob", -1)])
def test_a_planted_signal_is_ranked_first(name, sign, tmp_path):
    """A column that is mixed up with another, shifted by a token, or ranked the wrong way round."""
    rng = np.random.default_rng(5)
    tables = []
    for number, plain in enumerate(noise(rng, 40, 150)):
        columns = {one: plain[one].to_numpy(zero_copy_only=False) for one in ("entropy", "varentropy", "top_prob")}
        columns |= {one: plain[one].to_numpy(zero_copy_only=False) for one in ("margin", "oracle_margin", "u")}
        cause = sign * (columns[name] - columns[name].mean()) / columns[name].std()
        agree = rng.random(150) > 1 / (1 + np.exp(2.5 - 1.5 * cause))
        tables.append(table(number, 150, **columns, agree=agree))
    found = differs(recording(tmp_path / "t.parquet", tables))
    best, second = found.signals[:2]
    assert best.signal == name
    assert best.ranking.auroc.interval.low > 0.6 and best.ranking.auroc.interval.low > second.ranking.auroc.value
    assert best.over_control.interval.low > 0.1
    for row in found.signals[1:]:
        assert 0.44 < row.ranking.auroc.value < 0.56


def test_intervals_of_traces_without_a_signal_hold_one_half(tmp_path):
    """Intervals over tokens, which are too short where a problem's tokens are alike. Entropy and disagreement both vary
    by problem here, so that rows are far from independent; of 100 intervals 90 or more must hold 0.5.
    """
    rng = np.random.default_rng(11)
    read = recording(tmp_path / "t.parquet", noise(rng, 60, 40))
    held = dict.fromkeys(("entropy", "u", "position"), 0)
    for _ in range(100):
        by_problem = rng.exponential(size=60), rng.beta(2, 8, 60)
        scale, share = (np.repeat(values, 40) for values in by_problem)
        columns = {
            "entropy": (rng.exponential(size=2400) * (0.5 + scale)).astype(np.float32),
            "u": rng.random(2400).astype(np.float32),
            "agree": (rng.random(2400) > share).astype(np.float32),
        }
        for row in differs(replace(read, columns=columns)).signals:
            low, high = row.ranking.auroc.interval
            held[row.signal] += low <= 0.5 <= high
    assert min(held.values()) >= 90, held


def test_the_table_equals_scikit_learn_on_the_rows_that_count(tmp_path):
    """Rows of the oracle, rows that it has not looked at, or the wrong direction."""
    rng = np.random.default_rng(6)
    tables = []
    for number in range(10):
        entropy, margin = rng.random(50).astype(np.float32), rng.random(50).astype(np.float32)
        source = np.where(rng.random(50) < 0.3, "oracle", "base")
        agree = np.where(rng.random(50) < 0.2, np.nan, rng.random(50) < 0.7)
        consult = [0 if one == "oracle" else None for one in source]
        tables.append(
            table(number, 50, entropy=entropy, margin=margin, agree=agree, source=list(source), consult=consult)
        )
    read = recording(tmp_path / "t.parquet", tables)
    rows = [row for one in tables for row in one.to_pylist() if row["source"] == "base" and row["agree"] is not None]
    wrong = [not row["agree"] for row in rows]
    found = differs(read)
    assert (found.rows, found.positives) == (len(rows), sum(wrong))
    by_name = {row.signal: row for row in found.signals}
    assert list(by_name).index("u") >= 0 and set(by_name) == {"entropy", "margin", "u", "position"}
    for name, row in by_name.items():
        expected = roc_auc_score(wrong, [DIRECTIONS[name] * one[name] for one in rows])
        assert row.ranking.auroc.value == pytest.approx(expected)
    values = [row.ranking.auroc.value for row in found.signals]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("value", [True, False])
def test_one_class_is_undefined_and_says_so(value, tmp_path):
    """An AUROC of 0, 1 or 0.5 where nothing was there to rank, or a crash."""
    tables = noise(np.random.default_rng(7), 3, 20, agree=value)
    found = differs(recording(tmp_path / "t.parquet", tables))
    for row in found.signals:
        assert row.ranking is None and row.undefined == f"all 60 rows have the label {int(not value)}"
        assert row.as_dict()["undefined"] == row.undefined and "auroc" not in row.as_dict()


def test_a_signal_that_is_missing_in_places_is_ranked_where_it_is_there(tmp_path):
    """NaN as the highest entropy of all."""
    plain = noise(np.random.default_rng(8), 6, 30)
    tables = []
    for number, one in enumerate(plain):
        entropy = one["entropy"].to_numpy().copy()
        if number < 2:
            entropy[:] = np.nan
        tables.append(table(number, 30, entropy=entropy, agree=one["agree"].to_numpy(zero_copy_only=False)))
    found = {row.signal: row for row in differs(recording(tmp_path / "t.parquet", tables)).signals}
    assert found["entropy"].ranking.rows == 120 and found["position"].ranking.rows == 180


def test_the_labels_and_their_edges(tmp_path):
    """A near-tie of one model alone, a divergence at the threshold, or NaN taken for agreement."""
    columns = {
        "agree": np.array([1, 0, 0, 0, np.nan, 0]),
        "margin": np.array([0.5, 0.5, 0.04, 0.5, 0.5, 0.05], dtype=np.float32),
        "oracle_margin": np.array([0.5, 0.5, 0.5, 0.01, np.nan, 0.05], dtype=np.float32),
        "js": np.array([0.0, 0.1, 0.11, np.nan, 0.2, 0.3], dtype=np.float32),
    }
    read = recording(tmp_path / "t.parquet", [table(0, 6, **columns)])
    found = labels(read, Limits(near_tie=0.05, js=0.1), np.array([1, -1, 0, np.nan, 1, 0], dtype=np.float32))
    nan = np.nan
    expected = {
        "differs": [0, 1, 1, 1, nan, 1],
        "differs_clear": [0, 1, nan, nan, nan, 1],
        "js": [0, 0, 1, nan, 1, 1],
        "helps": [1, 0, 0, nan, 1, 0],
    }
    assert list(found) == list(expected)
    for name, label in found.items():
        np.testing.assert_array_equal(label.values, expected[name])


def test_without_the_oracles_look_there_is_no_label(tmp_path):
    """A table of nothing."""
    read = recording(tmp_path / "t.parquet", [table(0, 6, entropy=np.ones(6, dtype=np.float32))])
    assert labels(read, Limits()) == {} and not base_rows(read).any()


def test_decisions_are_the_bases_positions_and_the_first_of_each_burst(tmp_path):
    """Positions inside a burst, where no trigger is asked."""
    columns = {"source": ["base", *["oracle"] * 4, "base"], "consult": [None, 0, 0, 1, 1, None]}
    read = recording(tmp_path / "t.parquet", [table(0, 6, **columns)])
    assert list(decision_rows(read)) == [True, True, False, True, False, True]


def test_a_context_that_arms_share_counts_once(tmp_path):
    """A text's beginning that weighs as much as there are arms; other problems that happen to begin alike do not."""
    first, second = np.arange(10), np.array([*range(5), 99, *range(6, 10)])
    tables = [
        table(0, 10, problem_id="p", arm="a", token_id=first),
        table(1, 10, problem_id="p", arm="b", token_id=second),
        table(2, 10, problem_id="q", arm="a", token_id=first),
        table(3, 4, problem_id="p", arm="c", token_id=first[:4]),
    ]
    found = first_of_context(recording(tmp_path / "t.parquet", tables))
    # Position 5 has the same text before it in both arms; the token that differs is only read after it.
    assert list(found) == [True] * 10 + [False] * 6 + [True] * 4 + [True] * 10 + [False] * 4


def test_sequences_without_a_problem_have_contexts_of_their_own(tmp_path):
    """Texts of `dodona generate` that begin alike, from prompts that a trace does not have."""
    tables = [table(number, 5, problem_id=None, token_id=np.arange(5)) for number in range(2)]
    assert first_of_context(recording(tmp_path / "t.parquet", tables)).all()


def test_the_map_counts_confident_mistakes(tmp_path):
    """Shares of the wrong whole, or an edge in the wrong bin."""
    entropy = np.array([0.0, 0.005, 0.01, 0.4, 0.5, 3.0, 9.0, -1e-9], dtype=np.float32)
    agree = np.array([1, 0, 1, 0, 0, 0, 1, 1], dtype=bool)
    surprise = np.array([0, 20, 0, 2, 2, 2, 0, 0], dtype=np.float32)
    read = recording(tmp_path / "t.parquet", [table(0, 8, entropy=entropy, agree=agree, oracle_logprob=-surprise)])
    found = disagreement_map(read, labels(read, Limits())["differs"], base_rows(read), 0.5, **FEW)
    assert (found.rows, found.differ, found.confident, found.confident_differ) == (8, 4, 5, 2)
    assert found.mistakes.value == 2 / 4 and found.missed.value == 2 / 5
    counts = {one.low: (one.rows, one.differ) for one in found.bins if one.rows}
    assert counts == {0.0: (3, 1), 0.01: (1, 0), 0.3: (1, 1), 0.5: (1, 1), 2.0: (1, 1), 4.0: (1, 0)}
    assert found.grid.measure == "oracle surprise" and found.grid.counts.sum() == 8
    assert found.grid.counts[0, -1] == 1 and len(found.grid.counts) == len(EDGES) - 1
    json.dumps(found.as_dict())
    js = recording(
        tmp_path / "js.parquet",
        [table(0, 8, entropy=entropy, agree=agree, js=np.full(8, 0.02, dtype=np.float32))],
    )
    found = disagreement_map(js, labels(js, Limits())["differs"], base_rows(js), 0.5, **FEW)
    assert found.grid.measure == "js" and found.grid.counts[:, 3].sum() == 8


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_changes_are_read_by_problem_position_arm_and_sample(tmp_path):
    """A change that lands at another token, or at another arm's."""
    tables = [
        table(0, 5, problem_id="p", arm="a"),
        table(1, 5, problem_id="p", arm="b"),
        table(2, 5, problem_id="q", arm="a", sample=1),
    ]
    read = recording(tmp_path / "t.parquet", tables)
    path = lines(
        tmp_path / "changes.jsonl",
        {"header": {"anything": 1}},
        {"problem_id": "p", "position": 1, "change": 1},
        {"problem_id": "p", "position": 2, "change": -1, "arm": "b", "note": "kept out"},
        {"problem_id": "q", "position": 4, "change": 0, "sample": 1},
        {"problem_id": "q", "position": 3, "change": 0},
        {"problem_id": "p", "position": 5, "change": 0},
        {"problem_id": "r", "position": 0, "change": 0},
    )
    changes, unmatched = read_changes(path, read)
    nan = np.nan
    expected = [[nan, 1, nan, nan, nan], [nan, 1, -1, nan, nan], [nan, nan, nan, nan, 0]]
    np.testing.assert_array_equal(changes, np.concatenate(expected))
    assert unmatched == 3


@pytest.mark.parametrize(
    "line",
    [
        {"problem_id": "p", "position": 1},
        {"problem_id": "p", "position": -1, "change": 1},
        {"problem_id": "p", "position": 1.5, "change": 1},
        {"problem_id": "p", "position": 1, "change": 2},
        {"problem_id": "p", "position": 1, "change": True},
        {"problem_id": 3, "position": 1, "change": 1},
        {"problem_id": "p", "position": 1, "change": 1, "arm": 5},
        {"problem_id": "p", "position": 1, "change": 1, "sample": "0"},
    ],
)
def test_a_line_that_is_no_change_is_refused_with_its_number(line, tmp_path):
    """A wrong unit that becomes a label."""
    read = recording(tmp_path / "t.parquet", [table(0, 5)])
    path = lines(tmp_path / "c.jsonl", {"problem_id": "p0", "position": 1, "change": 0}, line)
    with pytest.raises(DodonaError, match=r'c.jsonl, line 2: a line is {"problem_id"'):
        read_changes(path, read)
