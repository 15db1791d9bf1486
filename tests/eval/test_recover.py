"""A recovery study with scripted models: it finds what was planted, by the rules, and can be stopped and extended."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from recover_studies import (
    Scripted,
    copies,
    make_study,
    recovers,
    run_all,
    solution,
    solves,
    stated,
    study_of,
    wrong_answer,
)

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.eval.recover.cutting import is_answered
from dodona.eval.recover.findings import Group, read_findings
from dodona.eval.recover.rates import against, pooled
from dodona.eval.recover.rows import EDITED, OFF, ON, RIGHT, Cost, Sample
from dodona.eval.recover.settings import STRONG, WEAK, Settings
from dodona.eval.recover.solutions import cuts, donor, missing_weak, next_tries, used, wrong_ones
from dodona.eval.recover.stages import FILES, Study
from dodona.eval.recover.writer import Ask
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Selection


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of records are written here, and none of these tests takes the power away."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def rows(study: Study, name: str) -> list[dict]:
    return [record for record in read_records(study.folder / FILES[name]) if "header" not in record]


def model(study: Study, role: str) -> Scripted:
    return study.writers.writer(role)


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


# --- stopping, going on, extending ---


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    """The same command again asks no model for anything and leaves every byte as it is."""
    study = run_all(make_study(tmp_path, recovers(0.8, 0.4), solves(0.4), problems=8))
    before = {name: (tmp_path / name).read_bytes() for name in FILES.values()}
    again = run_all(make_study(tmp_path, recovers(0.8, 0.4), solves(0.4), problems=8))
    assert not model(again, STRONG).asks and not model(again, WEAK).asks
    assert {name: (tmp_path / name).read_bytes() for name in FILES.values()} == before
    assert len(model(study, STRONG).asks) + len(model(study, WEAK).asks) == sum(
        len(rows(study, name)) for name in ("appraise", "solutions", "complete")
    )


@pytest.mark.parametrize("stop_at", [1, 37, 81, 120, 163, 200])
def test_a_study_that_was_stopped_anywhere_ends_with_the_same_records(tmp_path: Path, stop_at: int) -> None:
    """Catches what depends on the order of work, or on how much of it was done at once."""

    class Stop(Exception):
        pass

    def stopping(script):
        def wrapped(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
            nonlocal count
            count += 1
            if count == stop_at:
                raise Stop
            return script(ask, given, gold, draws)

        return wrapped

    whole = run_all(make_study(tmp_path / "whole", recovers(0.6, 0.4), solves(0.4), problems=6, edited=True))
    count = 0
    part = make_study(tmp_path / "part", stopping(recovers(0.6, 0.4)), stopping(solves(0.4)), problems=6, edited=True)
    with pytest.raises(Stop):
        run_all(part)
    with (tmp_path / "part" / "appraise.jsonl").open("ab") as file:
        file.write(b'{"row_id": "arith-0-0/appr')  # and its last line is torn
    part = run_all(make_study(tmp_path / "part", recovers(0.6, 0.4), solves(0.4), problems=6, edited=True))
    for name in FILES:
        both = [sorted(json.dumps(row, sort_keys=True) for row in rows(study, name)) for study in (whole, part)]
        assert both[0] == both[1], name


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 40, -20])
def test_a_file_that_ends_anywhere_is_completed(tmp_path: Path, name: str, kept: int) -> None:
    """An empty file, half a header and half a record, each with the other stages' files whole beside it."""

    def study() -> Study:
        return run_all(make_study(tmp_path, recovers(0.6, 0.4), solves(0.4), problems=2, samples=2))

    study()
    before = {other: (tmp_path / FILES[other]).read_bytes().splitlines() for other in FILES}
    file = tmp_path / FILES[name]
    file.write_bytes(file.read_bytes()[:kept])
    study()
    for other, lines in before.items():
        found = (tmp_path / FILES[other]).read_bytes().splitlines()
        assert sorted(found[1:]) == sorted(lines[1:]) and found[0].startswith(b'{"header"')


def test_more_may_be_asked_for_later(tmp_path: Path) -> None:
    """More problems, fractions and completions go to the same files, and what was there stays as it was."""
    run_all(make_study(tmp_path / "a", recovers(0.6, 0.4), solves(0.4), problems=5, completions=1))
    more = {"problems": 8, "fractions": (0.4, 0.7), "completions": 3, "edited": True}
    grown = run_all(make_study(tmp_path / "a", recovers(0.6, 0.4), solves(0.4), **more))
    at_once = run_all(make_study(tmp_path / "b", recovers(0.6, 0.4), solves(0.4), **more))
    for name in ("appraise", "complete"):
        ids = [{row["row_id"] for row in rows(study, name)} for study in (grown, at_once)]
        assert ids[0] >= ids[1]
    found = read_findings(tmp_path / "a")
    assert found.completions_asked == 3 and found.fractions == [0.4, 0.7] and len(found.problems) == 8
    assert not found.missing


def test_a_stage_asks_for_the_one_before(tmp_path: Path) -> None:
    """Prefixes of problems that were not appraised would have no bin, and completions of nothing no meaning."""
    study = make_study(tmp_path, recovers(0.6, 0.4), solves(0.4), problems=5)
    with pytest.raises(DodonaError, match="5 of 5 problems are not appraised yet: run the stage appraise first"):
        study.cut()
    study.appraise()
    with pytest.raises(DodonaError, match="the prefixes of 5 of 5 problems are not made yet: run the stage prefixes"):
        study.complete()
    assert not (tmp_path / "complete.jsonl").exists()
    study.cut()
    study.complete()
    with pytest.raises(DodonaError, match="2 of 7 problems are not appraised yet"):
        make_study(tmp_path, recovers(0.6, 0.4), solves(0.4), problems=7).complete()


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    """Records of two settings in one file would be one study of nothing; the error says what is different."""
    make_study(tmp_path, solves(0.5), solves(0.4), problems=3).appraise()
    other = make_study(tmp_path, solves(0.5), solves(0.4), problems=3, samples=7)
    with pytest.raises(DodonaError, match=r"--samples is 5 there and 7 here; .* another --output-dir"):
        other.appraise()
    warmer = replace(make_study(tmp_path, solves(0.5), solves(0.4), problems=3))
    warmer = replace(warmer, config={**warmer.config, "temperature": 0.9})
    with pytest.raises(DodonaError, match=r"--temperature is 0\.7 there and 0\.9 here"):
        warmer.appraise()
    study = make_study(tmp_path, solves(0.5), solves(0.4), problems=3, tries=4)
    study.cut()
    with pytest.raises(DodonaError, match=r"solutions\.jsonl .*--tries is 4 there and 10 here"):
        make_study(tmp_path, solves(0.5), solves(0.4), problems=3).cut()
    asked = task_named("arith").load(Selection(num_samples=3))
    changed = study_of(tmp_path, solves(0.5), solves(0.4), [replace(asked[0], gold="0"), *asked[1:]])
    with pytest.raises(DodonaError, match="arith-0-0 has another prompt or gold answer there"):
        changed.appraise()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1}', "is no file of `dodona recover`"),
        ('{"header": {"schema": 2, "arms": []}}', "holds records of something else"),
        ('{"header": {"schema": 1, "study": "recover"}}', "written by another version"),
        ('{"header": {"schema": 2, "study": "recover", "stage": "complete"}}', "of the stage 'complete'"),
        ('{"header": {"schema": 2, "study": "recover", "stage": "appraise"}}', "a header that cannot be read"),
        ("[1, 2]", "JSON object"),
        ("hello", "not JSON"),
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, line: str, message: str) -> None:
    """One line that says what is there, and not a byte of it changed."""
    path = tmp_path / "appraise.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DodonaError, match=message):
        make_study(tmp_path, solves(0.5), solves(0.4), problems=3).appraise()
    assert path.read_text() == line + "\n"


def test_a_damaged_record_is_one_clear_line(tmp_path: Path) -> None:
    """A record of another program under our header must not end in a traceback, in a stage or in the report."""
    study = make_study(tmp_path, solves(0.5), solves(0.4), problems=3)
    study.appraise()
    with (tmp_path / "appraise.jsonl").open("a") as file:
        file.write('{"row_id": "x", "problem_id": 4}\n')
    for again in (study.appraise, lambda: read_findings(tmp_path)):
        with pytest.raises(DodonaError, match=r"appraise\.jsonl holds a record that cannot be read"):
            again()


def test_what_the_first_number_states_is_cut_off_late() -> None:
    """The scripts above rely on it."""
    assert stated(solution("-12")) == "-12" and stated("the number is 4") is None
