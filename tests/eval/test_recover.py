"""A recovery study with scripted models: it finds what was planted, by the rules, and can be stopped and extended."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from recover_studies import (
    copies,
    make_study,
    model,
    recovers,
    rows,
    run_all,
    solution,
    solves,
    stated,
    wrong_answer,
)

from dodona.eval.recover.cutting import is_answered
from dodona.eval.recover.findings import Group, read_findings
from dodona.eval.recover.rates import against, pooled
from dodona.eval.recover.rows import EDITED, OFF, ON, RIGHT, Cost, Sample
from dodona.eval.recover.settings import STRONG, WEAK, Settings
from dodona.eval.recover.solutions import cuts, donor, missing_weak, next_tries, used, wrong_ones
from dodona.eval.recover.writer import Ask

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


# --- what was planted is found ---


@pytest.mark.parametrize("recovery", [0.15, 0.4, 0.8])
def test_a_known_rate_of_recovery_lies_in_its_interval(tmp_path: Path, recovery: float) -> None:
    """Catches counts of the wrong completions, of controls among them, and verdicts on the completion alone."""
    study = run_all(make_study(tmp_path, recovers(0.9, recovery), solves(0.3), problems=50, samples=4))
    found = read_findings(tmp_path)
    prefixes = found.of(Group(OFF, 0.7))
    rate = pooled(found.tally(prefixes, STRONG))
    assert rate.n == 2 * len(prefixes) > 200
    assert rate.interval.low <= recovery <= rate.interval.high
    assert rate.interval.high - rate.interval.low < 0.25
    shot = pooled(found.shots[STRONG])
    assert shot.interval.low <= 0.9 <= shot.interval.high
    less = against(found.tally(prefixes, STRONG), found.shots[STRONG])
    assert less.interval.low <= recovery - 0.9 <= less.interval.high
    right = found.right_of(prefixes)
    assert pooled(found.tally(right, STRONG)).rate == 1.0
    weak = pooled(found.tally(prefixes, WEAK))
    assert weak.interval.low <= 0.3 <= weak.interval.high
    assert not found.missing
    assert model(study, STRONG).asks


def test_a_model_that_repeats_the_prefixs_error_recovers_never(tmp_path: Path) -> None:
    """Catches a checker that reads the prefix's own text as right, and repeats that are counted as other errors."""
    run_all(make_study(tmp_path, copies(0.8), solves(0.4), problems=25, samples=4, fractions=(0.6, 0.9)))
    found = read_findings(tmp_path)
    assert {group.kind for group in found.groups} == {OFF, ON}
    for group in found.groups:
        prefixes = found.of(group)
        rate = pooled(found.tally(prefixes, STRONG))
        assert rate.rate == 0 and rate.n > 0
        assert rate.interval.low == 0 < rate.interval.high < 1
        assert all(run.repeats for run in found.runs(prefixes, STRONG))
        assert pooled(found.tally(found.right_of(prefixes), STRONG)).rate == 1


# --- rules of the samples ---


def test_no_draw_is_used_twice(tmp_path: Path) -> None:
    """A sample that decides a problem's bin and becomes a prefix too makes a return to the mean look like recovery."""
    study = run_all(make_study(tmp_path, recovers(0.6, 0.5), solves(0.4), problems=12, edited=True))
    asks = [*model(study, STRONG).asks, *model(study, WEAK).asks]
    assert len({(ask.key, ask.sample) for ask in asks}) == len(asks)
    assert len({ask.row_id for ask in asks}) == len(asks)
    binned = {row["row_id"] for row in rows(study, "appraise")}
    assert not binned & {row["solution"] for row in rows(study, "prefixes")}
    drawn = {row["row_id"] for row in rows(study, "solutions")}
    assert {row["solution"] for row in rows(study, "prefixes")} <= drawn


def test_tries_and_wrong_solutions_have_their_limits(tmp_path: Path) -> None:
    """Up to 3 wrong solutions of at most 10 tries; what a model always solves is left aside, and counted."""

    def weak(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
        number = int(ask.problem_id.rpartition("-")[2])
        return solves({0: 1.0, 1: 0.0, 2: 0.5}[number % 3])(ask, given, gold, draws)

    study = run_all(make_study(tmp_path, solves(1.0), weak, problems=30, tries=10))
    tries: dict[str, list[dict]] = {}
    for row in rows(study, "solutions"):
        if row["role"] == WEAK:
            tries.setdefault(row["problem_id"], []).append(row)
    found = read_findings(tmp_path)
    assert len(found.never_wrong()) == 10
    used_up = {pid: len(some) for pid, some in tries.items()}
    assert max(used_up.values()) == 10
    assert all(used_up[pid] == 10 for pid in found.never_wrong())
    prefixes = Counter(p.problem_id for p in found.of(Group(OFF, 0.7)))
    assert set(prefixes) == set(tries) - set(found.never_wrong())
    assert max(prefixes.values()) == 3
    assert {sorted(row["sample"] for row in some)[-1] + 1 for some in tries.values()} == set(used_up.values())


def test_only_what_the_strong_model_solves_sometimes_becomes_an_on_policy_prefix(tmp_path: Path) -> None:
    """Wrong traces of problems that it never solves are no test of recovery, and of those it always solves there are
    too few.
    """

    def strong(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
        number = int(ask.problem_id.rpartition("-")[2])
        return solves({0: 1.0, 1: 0.0, 2: 0.5}[number % 3])(ask, given, gold, draws)

    study = run_all(make_study(tmp_path, strong, solves(1.0), problems=30))
    found = read_findings(tmp_path)
    sometimes = set(found.sometimes())
    assert 8 <= len(sometimes) <= 10 and {int(pid.rpartition("-")[2]) % 3 for pid in sometimes} == {2}
    assert {p.problem_id for p in found.of(Group(ON, 0.7))} <= sometimes
    assert all(p.author == STRONG for p in found.of(Group(ON, 0.7)))
    drawn = {row["problem_id"] for row in rows(study, "solutions") if row["role"] == STRONG}
    assert drawn == sometimes, "nothing is drawn of the strong model for problems without a prefix"


def test_a_completion_reads_the_prompts_and_the_prefixs_own_ids(tmp_path: Path) -> None:
    """Text that is tokenised again may have other ids at the cut, and a closed turn starts another answer."""
    study = run_all(make_study(tmp_path, recovers(0.7, 0.5), solves(0.3), problems=10, fractions=(0.35, 0.7)))
    prefixes = {row["row_id"]: row for row in rows(study, "prefixes")}
    solutions = {row["row_id"]: row for row in rows(study, "solutions")}
    prompts = {problem.problem_id: study.prompt(problem) for problem in study.problems}
    seen = 0
    for role in (STRONG, WEAK):
        for ask in model(study, role).asks:
            if "#" not in ask.row_id:
                assert list(ask.prompt) == prompts[ask.problem_id] and ask.max_new_tokens == 256
                continue
            name = ask.row_id.partition("#")[0]
            ids = prefixes[name]["token_ids"] if name in prefixes else []
            assert list(ask.prompt) == prompts[ask.problem_id] + ids
            assert ask.max_new_tokens == 256 - len(ids)
            seen += bool(ids)
    assert seen
    for row in prefixes.values():
        body = solutions[row["solution"]]["token_ids"][:-1]
        assert row["token_ids"] == body[: row["cut"]] and 0 < row["cut"] < len(body) == row["length"]
        if row["kind"] != RIGHT:
            assert row["cut"] == int(row["fraction"] * len(body) + 1e-9)


def test_a_right_prefix_is_as_long_and_by_the_same_model_where_there_is_one(tmp_path: Path) -> None:
    """A control of another length, or of a wrong solution, is none."""
    study = run_all(make_study(tmp_path, recovers(0.9, 0.5), solves(0.4), problems=30))
    prefixes = {row["row_id"]: row for row in rows(study, "prefixes")}
    solutions = {row["row_id"]: row for row in rows(study, "solutions")}
    controls = [row for row in prefixes.values() if row["kind"] == RIGHT]
    for row in controls:
        beside = prefixes[row["control_of"]]
        assert row["cut"] == beside["cut"] and row["problem_id"] == beside["problem_id"]
        assert solutions[row["solution"]]["correct"]
    assert len(controls) == len({row["control_of"] for row in controls})
    assert sum(row["author"] == prefixes[row["control_of"]]["author"] for row in controls) > 0.8 * len(controls)


def test_a_wrong_solution_without_an_answer_is_no_prefix(tmp_path: Path) -> None:
    """What was cut off, or only lacks its box, may be right as far as it goes."""

    def weak(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
        number = int(ask.problem_id.rpartition("-")[2])
        text = solution(wrong_answer(gold, draws))
        return [text.replace("\\boxed", ""), text + " And so on." * 200, text][number % 3]

    study = run_all(make_study(tmp_path, solves(1.0), weak, problems=9, limit=120))
    found = read_findings(tmp_path)
    assert {int(p.problem_id.rpartition("-")[2]) % 3 for p in found.of(Group(OFF, 0.7))} == {2}
    outcomes = Counter(sample.outcome for sample in found.solutions[WEAK])
    assert outcomes["unparsed"] == 30 and outcomes["truncated"] == 30
    assert len(found.never_wrong()) == 6
    assert {row["role"] for row in rows(study, "solutions")} == {WEAK, STRONG}


def test_prefixes_with_an_answer_are_marked_and_can_be_left_out(tmp_path: Path) -> None:
    """A prefix that has its box tests whether a model contradicts itself, and its control is right already."""
    settings = {"problems": 10, "fractions": (0.5, 0.97)}
    study = make_study(tmp_path, copies(1.0), solves(0.0), **settings, exclude_answered=True)
    run_all(study)
    marked = {row["row_id"]: row["answered"] for row in rows(study, "prefixes")}
    assert {answered for row_id, answered in marked.items() if "@0.97" in row_id} == {True}
    assert {answered for row_id, answered in marked.items() if "@0.5" in row_id} == {False}
    assert all(not marked[row["prefix"]] for row in rows(study, "complete") if row["prefix"])
    left_out = read_findings(tmp_path)
    assert left_out.answered == 30 and not left_out.missing and left_out.fractions == [0.5]
    run_all(make_study(tmp_path, copies(1.0), solves(0.0), **settings))
    assert read_findings(tmp_path).fractions == [0.5, 0.97]
    assert read_findings(tmp_path, exclude_answered=True).fractions == [0.5]


@pytest.mark.parametrize(
    ("text", "answered"),
    [
        ("so \\boxed{4}.", True),
        ("so \\boxed{4", True),
        ("so \\fbox{ 1", True),
        ("so \\boxed{", False),
        ("so \\boxed{ ", False),
        ("the boxed answer is 4", False),
        ("", False),
    ],
)
def test_an_answer_begins_inside_its_box(text: str, answered: bool) -> None:
    """An open box with a digit in it has said its answer; an empty one has not."""
    assert is_answered(text) is answered


def test_an_edit_changes_one_number_and_nothing_else(tmp_path: Path) -> None:
    """Catches edits that shift tokens, that change nothing, or that differ from run to run."""
    study = run_all(make_study(tmp_path / "a", recovers(1.0, 0.5), solves(1.0), problems=12, samples=1, edited=True))
    prefixes = {row["row_id"]: row for row in rows(study, "prefixes")}
    edited = [row for row in prefixes.values() if row["kind"] == EDITED]
    assert len(edited) == 12
    for row in edited:
        beside = prefixes[f"{row['row_id']}/{RIGHT}"]
        pairs = zip(row["token_ids"], beside["token_ids"], strict=True)
        (place,) = [place for place, (one, other) in enumerate(pairs) if one != other]
        assert place == row["edit"]["position"]
        before, after = row["edit"]["from"], row["edit"]["to"]
        assert before != after and len(before) == len(after) and (before + after).strip().isdigit()
        assert study.tokenizer.token_text(row["token_ids"][place]) == after
    again = run_all(make_study(tmp_path / "b", recovers(1.0, 0.5), solves(1.0), problems=12, samples=1, edited=True))
    assert rows(again, "prefixes") == rows(study, "prefixes")
    other = replace(
        make_study(tmp_path / "c", recovers(1.0, 0.5), solves(1.0), problems=12, samples=1, edited=True), seed=1
    )
    assert rows(run_all(other), "prefixes") != rows(study, "prefixes")
    assert {row["kind"] for row in rows(study, "complete")} == {"shot", EDITED, RIGHT}


def test_a_text_without_numbers_is_not_edited(tmp_path: Path) -> None:
    """There is nothing to change, and an unchanged prefix would be a right one under a wrong name."""
    study = make_study(
        tmp_path,
        lambda ask, given, gold, draws: f"It is this: \\boxed{{{gold}}}.",
        solves(1.0),
        edited=True,
        problems=4,
    )
    study = replace(study, settings=replace(study.settings, fractions=(0.3,)))
    run_all(study)
    assert rows(study, "prefixes") == []
    assert len(rows(study, "complete")) == 2 * 5 * 4


# --- how many are drawn ---


def made(number: int, outcome: str, length: int = 10) -> Sample:
    ids = tuple(range(100 * number, 100 * number + length))
    return Sample(f"p/weak-{number}", "p", WEAK, number, outcome, "1", ids, False, Cost())


@pytest.mark.parametrize("seed", range(30))
def test_draws_at_once_are_those_that_one_after_another_would_have_been_made(seed: int) -> None:
    """Catches rounds that draw too much, and a restart in the middle of a round that draws something else."""
    draws = random.Random(seed)
    settings = Settings(tries=draws.choice((1, 4, 10)), wrong_solutions=draws.choice((1, 2, 3)))
    stock = [made(n, draws.choice(("wrong", "correct", "correct", "truncated"))) for n in range(settings.tries)]
    missing = missing_weak(settings)
    one_by_one: list[Sample] = []
    while len(one_by_one) < settings.tries and missing(one_by_one):
        one_by_one.append(stock[len(one_by_one)])
    done: dict[int, Sample] = {}
    while left := next_tries(done, settings.tries, missing):
        for number in draws.sample(left, draws.randint(1, len(left))):  # a kill in the middle of a round
            done[number] = stock[number]
    assert sorted(done) == [sample.number for sample in one_by_one]
    assert used(done, settings.tries, missing) == one_by_one


def test_equal_wrong_solutions_count_once() -> None:
    """Three times the same text would be one prefix that weighs three times as much."""
    same = replace(made(1, "wrong"), ids=made(0, "wrong").ids)
    assert [s.number for s in wrong_ones([made(0, "wrong"), same, made(2, "wrong")], 3)] == [0, 2]


def test_a_cut_leaves_something_on_both_sides() -> None:
    """0.7 of ten tokens is seven, whatever floating point says; a cut after nothing or everything is no prefix."""
    lengths = {f: cuts([made(0, "wrong", 10)], [f])[0].length for f in (0.01, 0.1, 0.3, 0.7, 0.9, 0.999)}
    assert lengths == {0.01: 1, 0.1: 1, 0.3: 3, 0.7: 7, 0.9: 9, 0.999: 9}
    assert [cut.length for cut in cuts([made(0, "wrong", 2)], [0.1, 0.9])] == [1, 1]
    assert wrong_ones([made(0, "wrong", 1)], 3) == []


def test_the_donor_is_long_enough_and_nearest_in_length() -> None:
    """A right solution that ends before the cut would be given whole."""
    (cut,) = cuts([made(0, "wrong", 20)], [0.5])
    right = [made(n, "correct", length) for n, length in ((1, 10), (2, 30), (3, 18), (4, 22))]
    chosen = donor(cut, right)
    assert chosen is not None and chosen.number == 3
    assert donor(cut, right[:1]) is None
    other = donor(cut, right[:1], [made(7, "correct", 11)])
    assert other is not None and other.number == 7


def test_what_the_first_number_states_is_cut_off_late() -> None:
    """The scripts above rely on it."""
    assert stated(solution("-12")) == "-12" and stated("the number is 4") is None
