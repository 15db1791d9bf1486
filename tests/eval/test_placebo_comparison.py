"""The lines of a study of placebos: what can be counted by hand, and what must be said aloud."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from dodona.engine.records import encode_record
from dodona.eval.placebo.arms import HINDSIGHT, OWN_ORACLE, TWIN
from dodona.eval.placebo.comparison import ARM, BASE, Draw, Line, Side, line, reversed_contrast
from dodona.eval.placebo.study import Study
from dodona.eval.placebo.tables import notes, study_lines, table, write_csv
from dodona.eval.report.contrast import contrast
from dodona.eval.rows import Row
from dodona.eval.stats.paired import mcnemar, sign_flip

PROBLEMS = [f"p{n}" for n in range(6)]


def draw(outcomes: str, positions: Sequence[int] = (), asked: int | None = None, name: str = "x") -> Draw:
    """A run of each problem: r is right, w wrong, f failed, and a dot has no record."""
    words = {"r": "correct", "w": "wrong", "f": "failed"}
    rows = {
        problem: Row(name, problem, 1, words[letter], consults=2, tokens=100, oracle_tokens=10)
        for problem, letter in zip(PROBLEMS, outcomes, strict=True)
        if letter != "."
    }
    return Draw(name, rows, list(positions), asked)


BASE_SIDE = Side(BASE, "base alone", [draw("rwwwww")])
ARM_SIDE = Side(ARM, "arm", [draw("rrrrww", [4, 5, 9])])


def lines(*sides: Side) -> tuple[Line, ...]:
    return tuple(line(side, PROBLEMS, BASE_SIDE, ARM_SIDE) for side in (BASE_SIDE, ARM_SIDE, *sides))


def test_what_failed_or_is_missing_counts_as_wrong() -> None:
    """A denominator that shrinks with every run that did not end well."""
    one = lines(Side(HINDSIGHT, "hindsight", [draw("rr.fww", [1], 3)]))[-1]
    assert (one.rate.correct, one.rate.n, one.failed) == (2, 6, 2)
    assert one.asked == 0.5
    assert one.consults == 2  # of those that ran
    assert one.oracle_share == pytest.approx(0.1)


def test_one_draw_is_compared_by_mcnemar() -> None:
    """A difference that is not paired, or one with the wrong sign."""
    one = lines(Side(HINDSIGHT, "hindsight", [draw("rrrrrr", [1], 3)]))[-1]
    assert one.gain is not None and one.arm_less_it is not None and one.regret is not None
    assert one.gain.difference == pytest.approx(5 / 6)
    assert one.gain.p == mcnemar(0, 5).exact
    assert one.arm_less_it.difference == pytest.approx(-2 / 6)
    assert one.arm_less_it.p == mcnemar(2, 0).exact
    assert one.regret.difference == pytest.approx(2 / 6)
    assert one.regret.interval.low == -one.arm_less_it.interval.high
    assert one.regret.pairs.only_b == 2


def test_several_draws_are_clustered_by_problem() -> None:
    """Three draws of one problem counted as three problems make every interval too narrow."""
    twins = Side(TWIN, "twin [2 draws]", [draw("rrwwww", [1], 3, "a"), draw("rwwwww", [2, 3], 3, "b")])
    one = lines(twins)[-1]
    assert (one.rate.correct, one.rate.n) == (3, 12)
    assert one.arm_less_it is not None
    assert one.arm_less_it.difference == pytest.approx(4 / 6 - 3 / 12)
    assert one.arm_less_it.p == sign_flip([0, 1, 2, 2, 0, 0])
    assert one.regret is None
    assert [single.side.name for single in one.draws] == ["a", "b"]
    assert [single.rate.correct for single in one.draws] == [2, 1]
    assert one.draws[0].arm_less_it is not None and one.draws[0].arm_less_it.p == mcnemar(0, 2).exact
    assert one.quartiles == (1.5, 2.0, 2.5)


def test_a_contrast_the_other_way_round_is_that_of_the_arms_exchanged() -> None:
    """The regret of a bound is made from the arm's lead over it."""
    a, b = [1, 0, 1, 0, 0, 1], [1, 1, 1, 0, 1, 0]
    there, back = contrast(a, b), reversed_contrast(contrast(b, a))
    assert back.pairs == there.pairs
    assert (back.difference, back.p, back.mid_p) == (there.difference, there.p, there.mid_p)
    assert back.interval.low == pytest.approx(there.interval.low)
    assert back.interval.high == pytest.approx(there.interval.high)


def a_study(*sides: Side, differs: tuple[str, ...] | None = ()) -> Study:
    return Study("0123", "arm", len(PROBLEMS), lines(*sides), differs)


TWINS = Side(TWIN, "twin [2 draws]", [draw("rrwwww", [1, 2], 3, "a"), draw("rwwwww", [2, 3, 4], 3, "b")])


def test_consult_counts_are_compared_and_reported() -> None:
    """A placebo that asks for less than the arm made would look worse for that alone."""
    study = a_study(TWINS, Side(HINDSIGHT, "hindsight", [draw("rrrrrw", [1, 2], 2)]))
    said = "\n".join(notes(study))
    assert "the arm makes 3; twin [2 draws] asks for 3 and makes 83.3 % of them" in said
    assert "hindsight asks for 2, fewer than that" in said
    counts = study.as_dict()["consults"]
    assert counts["arm"] == 3
    assert counts["placebos"][TWIN] == {"asked": 3, "equal": True, "happened": pytest.approx(5 / 6)}
    assert counts["placebos"][HINDSIGHT]["equal"] is False
    assert study.as_dict()["regret"][HINDSIGHT]["difference"] == pytest.approx(1 / 6)


def test_a_base_that_its_own_oracle_changes_is_named() -> None:
    """A hand-off that changes the text by itself must not pass for the oracle's merit."""
    own = Side(OWN_ORACLE, "the base as its own oracle", [draw("rwwwww")])
    assert "writes the base's own text on all 6 problems" in "\n".join(notes(a_study(own)))
    said = "\n".join(notes(a_study(own, differs=("p0", "p1", "p2", "p3", "p4"))))
    assert "another text than the base alone on 5 of 6 problems (p0, p1, p2, ...)" in said
    assert "own oracle" not in "\n".join(notes(a_study(TWINS, differs=None)))


def test_failed_runs_are_named() -> None:
    """A placebo that is worse because its runs failed."""
    failing = Side(HINDSIGHT, "hindsight", [draw("rf.www", [1], 3)])
    assert "hindsight: 2 runs failed or are missing, and count as wrong" in list(notes(a_study(failing)))


def test_every_format_says_the_same(tmp_path: Path) -> None:
    """A column that is shifted in one of them, or a NaN that JSON cannot hold."""
    study = a_study(TWINS, Side(HINDSIGHT, "hindsight", [draw("......", [], 3)]))
    own = table(study)
    assert all(len(row) == len(own.heads) for row in own.rows)
    assert len(study_lines(study)) > len(own.rows)
    text = encode_record(study.as_dict(), ascii_only=True).decode()
    assert "NaN" not in text
    loaded = json.loads(text)
    assert [one["kind"] for one in loaded["lines"]] == [BASE, ARM, TWIN, HINDSIGHT]
    assert len(loaded["lines"][2]["draws"]) == 2
    write_csv(tmp_path / "csv", [study])
    with open(tmp_path / "csv" / "lines.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["base alone", "arm", "twin [2 draws]", "hindsight"]
    assert float(rows[2]["arm_less_it_difference"]) == pytest.approx(4 / 6 - 3 / 12)
    assert rows[1]["arm_less_it_difference"] == rows[0]["gain_p"] == ""
    assert float(rows[3]["regret_difference"]) == pytest.approx(-4 / 6)
    with open(tmp_path / "csv" / "draws.csv", encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["base alone", "arm", "a", "b", "hindsight"]
    write_csv(tmp_path / "one.csv", [study])
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "csv" / "lines.csv").read_text()
    assert math.isnan(study.lines[3].consults)
