"""An experiment on its file: which runs there are, what is written, and what a table may say about it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.engine.request import Request
from dodona.eval.arms import Arm, grid
from dodona.eval.rows import Row, row_of
from dodona.eval.run import PER_RUN, Experiment, Run, graded_record
from dodona.eval.stats.intervals import wilson
from dodona.eval.store import Place, Store
from dodona.eval.summary import errors, summarise, table_lines
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Problem, Selection

ARITH = task_named("arith")
FIXED_NAMES = {
    *("c", "k", "base_model_id", "oracle_model_id", "prompt", "result", "ground_truth", "parsed_answer"),
    *("interleaved_outputs", "cheat_positions", "total_tokens_generated", "problem_id", "seed", "trigger"),
    *("finish_reason", "correct", "ledger", "arm", "level", "subject", "grade_method", "grade_reason", "error"),
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The embedded pair."""
    return Engine(max_batch=8)


def small(problems: int = 3, arms: list[Arm] | None = None, **options: Any) -> Experiment:
    chosen = arms if arms is not None else grid([0, 1], [4], ["random", "entropy > 0.5"], ["before"], [0])
    return Experiment(ARITH, asked(problems), chosen, {"max_new_tokens": 48, **options})


def asked(count: int, start: int = 0, levels: tuple[int, ...] = ()) -> list[Problem]:
    return ARITH.load(Selection(num_samples=count, start_index=start, levels=levels))


def opened(engine: Engine, experiment: Experiment, path: Path) -> Store:
    return Store(Place(path, folder=False), experiment.config(engine), experiment.arms, experiment.problems)


def run(engine: Engine, experiment: Experiment, path: Path) -> Run:
    with opened(engine, experiment, path) as store:
        job = Run(experiment, store)
        list(job.finish(engine))
    return job


# --- arms ---


def test_the_base_alone_is_one_arm_whatever_k_and_trigger_are() -> None:
    """Run once for each k and trigger it would cost a third of the grid, and its line would be there nine times."""
    arms = grid([0, 2], [0, 5, math.inf], ["random", "entropy > 1"], ["before", "after"], [0, 1])
    names = [arm.name for arm in arms]
    assert names[:2] == ["c=0 seed=0", "c=0 seed=1"]
    assert len(names) == len(set(names)) == 2 + 2 * 2 * 2 * 2
    assert "c=2 k=inf entropy>1 after seed=1" in names


def test_an_arms_name_is_short_and_says_everything() -> None:
    """Records are found again by it: two arms of one name would share their records."""
    arm = Arm(5, 10, "entropy  >  1.0 and since_consult>=8", "before", 3)
    assert arm.name == "c=5 k=10 entropy>1.0 and since_consult>=8 before seed=3"
    changed = [Arm(6, 10, arm.trigger, "before", 3), Arm(5, 11, arm.trigger, "before", 3), Arm(5, 10, "x", "before", 3)]
    changed += [Arm(5, 10, arm.trigger, "after", 3), Arm(5, 10, arm.trigger, "before", 4)]
    assert len({arm.name, *(other.name for other in changed)}) == 6


def test_a_bad_arm_is_refused_before_anything_runs() -> None:
    """In the middle of a sweep it would be a failed run a problem."""
    for cs, ks, trigger, when in [
        ([-1], [5], "random", "before"),
        ([1], [2.5], "random", "before"),
        ([1], [5], "entrpy > 1", "before"),
        ([0], [5], "random", "sideways"),
    ]:
        with pytest.raises(DodonaError):
            grid(cs, ks, [trigger], [when], [0])  # type: ignore[list-item]
    with pytest.raises(DodonaError, match="temperature"):
        small(temperature=-1.0)


# --- problems ---


def test_a_problems_id_means_the_same_question_whichever_levels_are_asked_for() -> None:
    """Otherwise a file with --level 1,3 first and all levels later mixes up answers and questions."""
    by_id = {problem.problem_id: problem for problem in asked(50)}
    some = asked(20, levels=(3, 1))
    assert [problem.level for problem in some] == [1, 3] * 10
    assert all(by_id[problem.problem_id] == problem for problem in some)
    assert asked(5, start=7, levels=(1, 3)) == some[7:12]


def test_every_gold_answer_is_right_and_read_as_such() -> None:
    """A gold answer that its own judge refuses makes every model wrong there."""
    for problem in asked(100):
        assert ARITH.judge(f"so it is \\boxed{{{problem.gold}}}.", problem).correct


def test_two_problems_of_one_id_are_refused() -> None:
    """Their records would be taken for one run's: the second would count for nothing, or be written twice."""
    twice = [*asked(2), asked(1)[0]]
    with pytest.raises(DodonaError, match="arith has two problems with the id 'arith-0-0'"):
        Experiment(ARITH, twice, grid([0], [4], ["random"], ["before"], [0]))


# --- runs ---


def test_requests_are_problem_major_and_the_arms_of_a_problem_share_their_draws() -> None:
    """With a key an arm, two arms differ by luck as well; arm-major, every arm reads every prompt anew."""
    experiment = small()
    requests = [experiment.request(arm, problem) for problem in experiment.problems for arm in experiment.arms]
    assert [request.key for request in requests] == [p.problem_id for p in experiment.problems for _ in experiment.arms]
    assert len({request.id for request in requests}) == experiment.size


def test_all_arms_go_through_one_stream_of_requests(engine: Engine, tmp_path: Path) -> None:
    """One generate call an arm leaves the batch half empty at the end of each, and shares no prompts."""
    calls: list[list[str]] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

        def generate(self, requests: Any) -> Any:
            calls.append([])

            def noted() -> Any:
                for request in requests:
                    calls[-1].append(json.loads(request.id)[1])
                    yield request

            return engine.generate(noted())

    experiment = small()
    with opened(engine, experiment, tmp_path / "r.jsonl") as store:
        list(Run(experiment, store).finish(Counting()))  # type: ignore[arg-type]
    assert calls == [[problem.problem_id for problem in experiment.problems for _ in experiment.arms]]


def test_records_have_the_fixed_names_and_the_graders_view(engine: Engine, tmp_path: Path) -> None:
    """These names are read by other programs."""
    experiment = small()
    run(engine, experiment, tmp_path / "r.jsonl")
    header, *records = read_records(tmp_path / "r.jsonl")
    assert set(header) == {"header"}
    assert len(records) == experiment.size
    problems = {problem.problem_id: problem for problem in experiment.problems}
    for record in records:
        assert set(record) >= FIXED_NAMES
        problem = problems[record["problem_id"]]
        verdict = ARITH.judge(record["result"], problem)
        assert (record["ground_truth"], record["level"], record["subject"]) == (problem.gold, problem.level, None)
        assert record["parsed_answer"] == verdict.extracted
        assert (record["grade_method"], record["grade_reason"]) == (verdict.method, verdict.reason)
        assert record["correct"] is (verdict.correct and record["finish_reason"] != "length")
        assert len(record["cheat_positions"]) <= record["c"]


def test_the_same_command_does_only_what_is_left(engine: Engine, tmp_path: Path) -> None:
    """A second run that appends everything again doubles the rows, as the first experiments' did."""
    path, experiment = tmp_path / "r.jsonl", small(4)
    with opened(engine, experiment, path) as store:
        some = Run(experiment, store).finish(engine)
        first = [next(some) for _ in range(5)]
        some.close()
    with opened(engine, experiment, path) as store:
        job = Run(experiment, store)
        assert job.left == experiment.size - 5
        rest = list(job.finish(engine))
    rows = [done.row for done in first + rest]
    assert len(rows) == len({(row.arm, row.problem_id) for row in rows}) == experiment.size
    assert run(engine, experiment, path).left == 0
    assert sum(1 for _ in read_records(path)) == 1 + experiment.size


def test_more_arms_and_more_problems_go_to_the_same_place(engine: Engine, tmp_path: Path) -> None:
    """Going from 100 to 200 problems must cost 100, and must not count another arm's rows."""
    path = tmp_path / "r.jsonl"
    run(engine, small(2), path)
    wider = small(4, grid([0, 1, 2], [4], ["random"], ["before"], [0]))
    with opened(engine, wider, path) as store:
        job = Run(wider, store)
        assert (len(job.rows), job.left) == (4, 8)
        list(job.finish(engine))
    assert len(summarise(wider.arms, wider.problems, job.rows.values())) == 3


def test_the_configuration_has_every_option_that_all_runs_share(engine: Engine) -> None:
    """An option that is left out may be changed between two halves of an experiment without anybody noticing."""
    config = small(1, temperature=0.5, stop=("x",)).config(engine)
    fields = {field.name for field in dataclasses.fields(Request)}
    assert fields - set(config) == PER_RUN
    assert (config["temperature"], config["stop"], config["recipe"], config["dataset"]) == (0.5, ["x"], "bare", "arith")
    assert config["weights"] == engine.identities and config["dtype"] == "float32" and config["device"] == "cpu"
    json.dumps(config, allow_nan=False)


def test_arms_that_need_an_oracle_are_refused_without_one(tmp_path: Path) -> None:
    """Each of their runs would fail, and the table would say 0 %."""
    alone = Engine("arith-base")
    with pytest.raises(DodonaError, match="needs an oracle"):
        run(alone, small(1), tmp_path / "r.jsonl")
    assert len(run(alone, small(1, grid([0], [4], ["random"], ["before"], [0])), tmp_path / "r.jsonl").rows) == 1


def test_a_run_that_fails_is_a_record_and_the_others_go_on(engine: Engine, tmp_path: Path) -> None:
    """One prompt that is too long must neither end the sweep nor leave the denominator."""
    text = "1 + " * 2000 + "1"
    huge = Problem(problem_id="huge", question=text, prompt=text, raw=False, gold="2001", level=1)
    experiment = small(2)
    mixed = Experiment(ARITH, [huge, *experiment.problems], experiment.arms, experiment.options)
    job = run(engine, mixed, tmp_path / "r.jsonl")
    assert job.left == 0
    summaries = summarise(mixed.arms, mixed.problems, job.rows.values())
    assert [(s.failed, s.rate.n) for s in summaries] == [(1, 3)] * 3
    ((reason, count),) = errors(job.rows.values()).items()
    assert count == 3 and "context" in reason
    assert run(engine, mixed, tmp_path / "r.jsonl").left == 0


def test_a_text_cut_off_by_the_limit_is_wrong_whatever_it_says(engine: Engine) -> None:
    """Truncated counts as wrong by rule; a lucky number in an unfinished text is not an answer."""
    arm, text = Arm(0, 0, "never", "before", 0), r"\boxed{4}"
    problem = question("p", "4", text="What is 2 + 2?")
    result = engine.generate(problem.prompt, c=0, max_new_tokens=3)
    assert result.finish_reason == "length"

    def grade(**change: Any) -> dict[str, Any]:
        return graded_record(ARITH, arm, problem, replace(result, text=text, **change))

    assert grade()["correct"] is False and row_of(grade()).outcome == "truncated"
    assert grade(finish_reason="eos")["correct"] is True
    assert grade(finish_reason="error", error="NaN logits")["correct"] is False


def test_a_judge_that_fails_costs_one_answer_and_not_the_run(engine: Engine) -> None:
    """A gold answer that nothing can be compared with once ended a whole night's run."""

    def judge(completion: str, problem: Problem) -> Any:
        raise DodonaError("the gold answer is empty")

    result = engine.generate("What is 2 + 2?", c=0)
    record = graded_record(replace(ARITH, judge=judge), Arm(0, 0, "never", "before", 0), question("p", ""), result)
    assert (record["correct"], record["parsed_answer"]) == (False, None)
    assert record["grade_reason"] == "the gold answer is empty"


def test_a_prompt_that_is_raw_is_not_put_into_a_template(engine: Engine) -> None:
    """A prompt with its turns and special tokens in it, wrapped in another turn, is another prompt."""
    experiment = small(1)
    plain, raw = (replace(experiment.problems[0], raw=value) for value in (False, True))
    arm = experiment.arms[0]
    assert [experiment.request(arm, problem).raw for problem in (plain, raw)] == [False, True]
    assert small(1, raw=True).request(arm, plain).raw


def question(problem_id: str, gold: str, level: int | None = 1, text: str = "?") -> Problem:
    return Problem(problem_id=problem_id, question=text, prompt=text, raw=False, gold=gold, level=level)


# --- tables ---

PROBLEMS = [question(f"p{i}", "1", 1 + i % 2) for i in range(10)]
ARM = Arm(2, 5, "random", "before", 0)


def row(index: int, outcome: str, arm: str = ARM.name) -> Row:
    return Row(arm, f"p{index}", 1 + index % 2, outcome, consults=2, tokens=20, oracle_tokens=5)


def test_the_denominator_is_every_problem_asked_for() -> None:
    """15 of the 88 that parsed were once reported for 15 of 100. What has no record is in it, too."""
    outcomes = ["correct", "correct", "wrong", "unparsed", "truncated", "failed"]
    rows = [row(i, outcome) for i, outcome in enumerate(outcomes)] + [row(99, "correct"), row(6, "correct", "other")]
    (summary,) = summarise([ARM], PROBLEMS, rows)
    assert (summary.rate.correct, summary.rate.n) == (2, 10)
    assert summary.rate.interval == wilson(2, 10)
    assert (summary.unparsed, summary.truncated, summary.failed, summary.missing) == (1, 1, 1, 4)
    assert {level: (rate.correct, rate.n) for level, rate in summary.levels.items()} == {1: (1, 5), 2: (1, 5)}
    assert (summary.consults, summary.tokens, summary.oracle_share) == (2.0, 20.0, 0.25)


def test_a_run_recorded_twice_counts_once() -> None:
    """A file that two processes wrote would give 12 correct of 10."""
    (summary,) = summarise([ARM], PROBLEMS, [row(0, "correct")] * 12)
    assert summary.rate.correct == 1


def test_the_table_shows_the_interval_and_every_kind_of_failure() -> None:
    """A rate without its interval invites reading 17 against 15 of 100 as a gain."""
    lines = table_lines(summarise([ARM], PROBLEMS, [row(i, "correct") for i in range(5)]))
    assert lines[0].split("  ")[0] == "arm"
    assert "50.0 % [23.7, 76.3]" in lines[1]
    for word in ("unparsed", "truncated", "failed", "consults", "oracle", "tokens"):
        assert word in lines[0]
    assert lines[3].split() == ["arm", "level", "1", "level", "2"]
