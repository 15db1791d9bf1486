"""`dodona compare`: which arms and problems are paired, what the tables say, and what is refused."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import Outcome
from sample_runs import BASE, ORACLE, SampleArm, grid, header, problem, record, rising, write_lines, write_runs

from dodona.eval.stats.paired import Pairs, mcnemar, tango

ARM = SampleArm(5, 10)


def compared(cli: Callable[..., Outcome], *arguments: str | Path) -> dict[str, Any]:
    code, out, err = cli("compare", "--json", *arguments)
    assert code == 0, err
    return json.loads(out, parse_constant=pytest.fail)


def coin(seed: int, chance: float) -> Callable[[SampleArm, int], str]:
    return lambda arm, index: "correct" if random.Random(f"{seed} {index}").random() < chance else "wrong"


def test_the_pairs_are_those_of_the_problems(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Sorted differently on both sides, or zipped without looking at the ids, any two files look unrelated."""
    a = write_runs(tmp_path / "a.jsonl", [ARM], 60, coin(1, 0.4))
    b = write_runs(tmp_path / "b.jsonl", [ARM], 60, coin(2, 0.6), dtype="bfloat16")
    lines = b.read_text().splitlines()
    b.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    right = [[coin(seed, p)(ARM, i) == "correct" for i in range(60)] for seed, p in ((1, 0.4), (2, 0.6))]
    table = Pairs(*(sum(pair == cell for pair in zip(*right, strict=True))
                    for cell in ((True, True), (True, False), (False, True), (False, False))))  # fmt: skip
    found = compared(cli, a, b)
    (one,) = found["comparisons"]
    assert Pairs(one["both"], one["only_a"], one["only_b"], one["neither"]) == table
    assert one["difference"] == pytest.approx(table.difference)
    assert (one["low"], one["high"]) == pytest.approx(tango(table))
    assert (one["p"], one["mid_p"]) == pytest.approx(mcnemar(table.only_a, table.only_b))
    assert (one["a"]["correct"], one["b"]["correct"]) == (sum(right[0]), sum(right[1]))
    assert found["problems"] == 60 and found["only_a"] == found["only_b"] == found["notes"] == []
    assert [flip["problem_id"] for flip in one["flips"]] == [f"p{i}" for i in range(60) if right[0][i] != right[1][i]]
    back = compared(cli, b, a)["comparisons"][0]
    assert back["difference"] == -one["difference"] and back["p"] == one["p"]
    assert (back["low"], back["high"]) == pytest.approx((-one["high"], -one["low"]))


def test_flips_say_what_both_sides_answered(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The list is what one reads to see why: with the answers of the wrong side in the wrong column it misleads."""
    problems = [problem(index) for index in range(6)]
    made = {
        "a": ["correct", "wrong", "unparsed", "correct", "failed", None],
        "b": ["wrong", "correct", "correct", "truncated", "correct", "correct"],
    }
    for name, outcomes in made.items():
        lines = [header([ARM], problems, seed_of_file=name)]
        lines += [record(ARM, asked, what) for asked, what in zip(problems, outcomes, strict=True) if what]
        write_lines(tmp_path / f"{name}.jsonl", lines)
    found = compared(cli, tmp_path / "a.jsonl", tmp_path / "b.jsonl")["comparisons"][0]
    shown = [
        (flip["problem_id"], flip["level"], flip["solved_by"], flip["answer_a"], flip["outcome_a"], flip["answer_b"])
        for flip in found["flips"]
    ]
    assert shown == [
        ("p0", 1, "A", "4", "correct", "5"),
        ("p1", 2, "B", "5", "wrong", "4"),
        ("p2", 3, "B", None, "unparsed", "4"),
        ("p3", 1, "A", "4", "correct", "4"),
        ("p4", 2, "B", None, "failed", "4"),
        ("p5", 3, "B", None, "missing", "4"),
    ]
    assert all(flip["gold"] == "4" for flip in found["flips"])
    assert found["flips"][3]["outcome_b"] == "truncated"
    out = cli("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl")[1]
    assert "4 (truncated)" in out and "(unparsed)" in out and "(missing)" in out and "(failed)" in out
    assert "Flips: 6 problems that one side alone solved" in out
    assert ["A", "right", "0", "2"] in [line.split() for line in out.splitlines()]
    assert ["A", "wrong", "4", "0"] in [line.split() for line in out.splitlines()]


def test_problems_of_one_side_are_listed_and_left_out(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Counted as wrong for the side that was never asked, they would be a difference; dropped in silence, a riddle."""
    problems = [problem(index) for index in range(30)]
    for name, some in (("a", problems[:20]), ("b", problems[5:])):
        lines = [
            header([ARM], some, dtype=name),
            *(record(ARM, asked) for asked in some if asked["problem_id"] != "p7"),
        ]
        write_lines(tmp_path / f"{name}.jsonl", lines)
    found = compared(cli, tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert found["problems"] == 15 and found["comparisons"][0]["problems"] == 15
    assert found["only_a"] == [f"p{i}" for i in range(5)] and found["only_b"] == [f"p{i}" for i in range(20, 30)]
    assert found["comparisons"][0]["neither"] == 1  # p7 was asked of both and has no record in either
    out = cli("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl")[1]
    assert "note: 5 problems were asked of A alone and are left out: p0, p1, p2, p3, p4\n" in out
    assert "15 problems in both" in out


def test_arms_are_matched_by_their_names_and_seeds_pooled(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """One line each; five seeds of both sides once more as one test by problem."""
    arms = [BASE, *(SampleArm(5, 10, seed=seed) for seed in range(2))]
    a = write_runs(tmp_path / "a.jsonl", [*arms, SampleArm(1, 1)], 25, rising)
    b = write_runs(tmp_path / "b.jsonl", [*arms, ORACLE], 25, coin(3, 0.8), dtype="bfloat16")
    found = compared(cli, a, b)
    names = [one["arm_a"] for one in found["comparisons"]]
    pooled = "c=5 k=10 random before [2 seeds]"
    assert names == [one["arm_b"] for one in found["comparisons"]] == [*(arm.name for arm in arms), pooled]
    last = found["comparisons"][-1]
    assert last["a"]["n"] == 50 and last["problems"] == 25 and last["flips"] == [] and last["mid_p"] is None
    singles = [one["difference"] for one in found["comparisons"][1:3]]
    assert last["difference"] == pytest.approx(sum(singles) / 2)
    assert found["notes"] == [
        f"arms of A that are left out: {SampleArm(1, 1).name}",
        f"arms of B that are left out: {ORACLE.name}",
    ]
    out = cli("compare", a, b)[1]
    assert sum(line.startswith(("c=0 seed", "c=5 k=10")) for line in out.splitlines()) == 4


def test_arms_can_be_named(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Of two paths, of one, and with other spaces than in the name."""
    a = write_runs(tmp_path / "a.jsonl", grid(), 20, rising)
    b = write_runs(tmp_path / "b.jsonl", grid(), 20, coin(1, 0.5), dtype="bfloat16")
    guided = SampleArm(5, 20, "entropy > 0.5")
    found = compared(cli, a, "--arm-a", BASE.name, "--arm-b", "c=5 k=20 entropy > 0.5 before seed=0")
    (one,) = found["comparisons"]
    assert (one["arm_a"], one["arm_b"]) == (BASE.name, guided.name) and found["notes"] == []
    (one,) = compared(cli, a, b, "--arm", guided.name)["comparisons"]
    assert one["arm_a"] == one["arm_b"] == guided.name
    (one,) = compared(cli, a, b, "--arm-a", BASE.name, "--arm-b", ORACLE.name)["comparisons"]
    assert (one["arm_a"], one["arm_b"]) == (BASE.name, ORACLE.name)


def test_the_only_arms_need_no_name(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A file an arm is how `dodona eval` writes them; and a path with two arms has one pair."""
    problems = [problem(index) for index in range(8)]
    for name, arm in (("x", BASE), ("y", ARM)):
        write_lines(tmp_path / f"{name}.jsonl", [header([arm], problems), *(record(arm, asked) for asked in problems)])
    for paths in ([tmp_path / "x.jsonl", tmp_path / "y.jsonl"], [tmp_path]):
        (one,) = compared(cli, *paths)["comparisons"]
        assert (one["arm_a"], one["arm_b"]) == (BASE.name, ARM.name)


def test_levels_are_compared_one_by_one(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A gain on the hard problems may hide behind a loss on the easy ones."""
    a = write_runs(tmp_path / "a.jsonl", [ARM], 30, lambda arm, i: "correct" if i % 3 == 0 else "wrong")
    b = write_runs(tmp_path / "b.jsonl", [ARM], 30, lambda arm, i: "correct" if i % 3 == 2 else "wrong", dtype="x")
    levels = compared(cli, a, b)["comparisons"][0]["levels"]
    assert {name: part["difference"] for name, part in levels.items()} == {"1": -1, "2": 0, "3": 1}
    assert [part["problems"] for part in levels.values()] == [10, 10, 10]
    assert "By level" in cli("compare", a, b)[1]


def test_the_number_of_flips_shown_can_be_chosen(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A thousand flips push the result out of the terminal; none may be lost in the JSON."""
    a = write_runs(tmp_path / "a.jsonl", [ARM], 50, lambda arm, index: "wrong")
    b = write_runs(tmp_path / "b.jsonl", [ARM], 50, lambda arm, index: "correct", dtype="x")

    def shown(*more: str) -> int:
        out = cli("compare", a, b, *more)[1]
        return sum(line.startswith("p") and line[1].isdigit() for line in out.splitlines())

    assert (shown(), shown("--flips", "3"), shown("--flips", "0"), shown("--flips", "all")) == (20, 3, 0, 50)
    assert "and 30 more; --flips all shows them" in cli("compare", a, b)[1]
    assert len(compared(cli, a, b, "--flips", "3")["comparisons"][0]["flips"]) == 50


def test_csv_holds_every_flip(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The answers as they are, commas, quotes and line ends among them."""
    problems = [problem(index) for index in range(3)]
    odd = 'a,"b"\nc'
    for name, outcome in (("a", "wrong"), ("b", "correct")):
        lines = [header([ARM], problems, dtype=name)]
        lines += [record(ARM, asked, outcome, **({"parsed_answer": odd} if name == "a" else {})) for asked in problems]
        write_lines(tmp_path / f"{name}.jsonl", lines)
    code, _, err = cli("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--csv", tmp_path / "flips.csv")
    assert code == 0 and "written" in err
    with open(tmp_path / "flips.csv", newline="") as file:
        flips = list(csv.DictReader(file))
    assert [flip["problem_id"] for flip in flips] == ["p0", "p1", "p2"] and flips[0]["answer_a"] == odd
    cli("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--csv", tmp_path / "all")
    assert {file.name for file in (tmp_path / "all").iterdir()} == {"comparisons.csv", "levels.csv", "flips.csv"}
    with open(tmp_path / "all" / "comparisons.csv", newline="") as file:
        (one,) = csv.DictReader(file)
    assert (one["correct_a"], one["correct_b"], one["difference"]) == ("0", "3", "1.0")


def test_other_gold_answers_are_noticed(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The same ids with other questions, as after a new shuffle of the choices, are not the same problems."""
    problems = [problem(index) for index in range(3)]
    for name, gold in (("a", "4"), ("b", "5")):
        lines = [header([ARM], problems, dtype=name), *(record(ARM, asked, ground_truth=gold) for asked in problems)]
        write_lines(tmp_path / f"{name}.jsonl", lines)
    found = compared(cli, tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert found["other_gold"] == ["p0", "p1", "p2"]
    assert "the gold answers of 3 problems differ between A and B: p0, p1, p2" in found["notes"]


def test_answers_cannot_move_the_cursor(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A model may answer with an escape sequence, or with forty lines."""
    for name, outcome, answer in (("a", "wrong", "\x1b[2J\nsecond " + "x" * 90), ("b", "correct", "4")):
        line = record(ARM, problem(0), outcome, parsed_answer=answer)
        write_lines(tmp_path / f"{name}.jsonl", [header([ARM], [problem(0)], dtype=name), line])
    out = cli("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl")[1]
    assert "\x1b" not in out and "\\x1b[2J\\nsecond" in out and "x" * 50 not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: PATH"),
        (["a", "b", "c"], "compare takes two paths, A and B, or one with two arms in it, not 3"),
        (["a", "nothing"], "there is no file or folder nothing"),
        (["a", "other.jsonl"], "A measures arith and B gsm8k: only runs on the same problems can be compared"),
        (["a", "apart.jsonl"], "A and B have no problem in common"),
        (["two", "a"], "two holds 2 experiments, and a side is one"),
        (["a"], "of one path, --arm-a and --arm-b name two arms to compare; it has 'c=0 seed=0', 'c=1 k=2"),
        (["a", "--arm", "c=0 seed=0"], "with one path, --arm-a and --arm-b name the two arms to compare"),
        (["a", "b", "--arm", "x", "--arm-a", "y"], "--arm names the arm of both sides"),
        (["a", "b", "--arm", "c=5 k=11 random before seed=0"], "did you mean 'c=5 k=10 random before seed=0'?"),
        (["a", "b", "--arm", "zzz"], "A has no arm 'zzz' with records: there is 'c=0 seed=0', 'c=1"),
        (["a", "--arm-a", "c=0 seed=0"], "B has 'c=0 seed=0', 'c=1 k=2 random before seed=0'"),
        (["one.jsonl", "b"], "no arm is in both: A has 'c=9 k=9 random before seed=0'; B has 'c=0 seed=0'"),
        (["a", "b", "--flips", "many"], "argument --flips: must be a whole number or all, not 'many'"),
        (["a", "b", "--csv", "a/a.jsonl/x.csv"], "a/a.jsonl/x.csv cannot be written"),
    ],
)
def test_a_mistake_is_one_clear_line(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """Pairing what does not belong together is a number about nothing."""
    monkeypatch.chdir(tmp_path)
    arms = [BASE, ARM, SampleArm(1, 2)]
    write_runs(tmp_path / "a" / "a.jsonl", arms, 3, rising)
    write_runs(tmp_path / "b" / "b.jsonl", arms, 3, rising, dtype="bfloat16")
    write_runs(tmp_path / "two" / "x.jsonl", arms, 3, rising)
    write_runs(tmp_path / "two" / "y.jsonl", arms, 3, rising, dtype="bfloat16")
    write_runs(tmp_path / "one.jsonl", [SampleArm(9, 9)], 3, rising)
    write_runs(tmp_path / "other.jsonl", arms, 3, rising, dataset="gsm8k")
    far = {"problem_id": "far", "level": 1, "subject": None}
    write_lines(tmp_path / "apart.jsonl", [header([ARM], [far]), record(ARM, far)])
    code, out, err = cli("compare", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("dodona: error: ") and message in err and err.count("\n") == 1
