"""`dodona forks`: what a consult changes is what two runs from the prompt on differ in, and the shortcuts change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import BASE, GUIDED, record_runs

from dodona.cli import main
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.recording import read_recording
from dodona.engine.records import read_records
from dodona.engine.request import Request
from dodona.eval.analysis.outcomes import read_changes
from dodona.eval.arms import Arm
from dodona.eval.causal.change_tables import groups
from dodona.eval.causal.changes import Change, Changes, branches, lines, measure
from dodona.eval.causal.forks import Fork, ForkLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.positions import positions
from dodona.eval.causal.views import View


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(max_batch=32) as engine:
        yield engine


@pytest.fixture(scope="module")
def folder(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_runs(
        tmp_path_factory.mktemp("changes") / "run", engine, [BASE, GUIDED], problems=16, trace=True, oracle_tail=True
    )


def changes(folder: Path, engine: Engine, log: Path, arm: Arm, **options: object) -> Changes:
    origin = Origin(folder)
    with ForkLog(log, origin) as forks:
        return measure(origin, origin.arm(arm.name), forks, lambda: engine, **options)  # type: ignore[arg-type]


def right(engine: Engine, origin: Origin, change: Change, **options: object) -> bool:
    problem = change.text.problem
    text = engine.generate(Request(prompt=problem.prompt, raw=problem.raw, **options)).text  # type: ignore[arg-type]
    return origin.task.judge(text, problem).correct


def test_the_changes_along_a_run_add_up_to_its_gain(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Each consult is worth the text with it less the text without it, so that all of them are worth the run less the
    base alone: a fork that keeps a later consult, or drops an earlier one, breaks the sum.
    """
    found = changes(folder, engine, tmp_path / "log", GUIDED, mode="consults", k=GUIDED.k)
    rows = found.origin.experiment.rows
    by_problem: dict[str, int] = {}
    for change in found.changes:
        by_problem[change.text.problem_id] = by_problem.get(change.text.problem_id, 0) + change.change
    assert by_problem
    gains = {
        name: (rows[GUIDED.name][name].outcome == "correct") - (rows[BASE.name][name].outcome == "correct")
        for name in rows[BASE.name]
    }
    assert {name: by_problem.get(name, 0) for name in gains} == gains
    assert sum(gains.values()) > 0
    following = {(c.text.problem_id, c.number): c for c in found.changes}
    for (name, number), change in following.items():
        if (name, number + 1) in following:
            assert change.right_with == following[name, number + 1].right_without


def test_a_change_is_what_two_runs_from_the_prompt_on_differ_in(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """With and without exchanged, or graded on the fork's own tokens alone, would turn +1 into -1 or into 0."""
    found = changes(folder, engine, tmp_path / "log", BASE, mode="entropy", k=3, most=2)
    helped = [change for change in found.changes if change.change == 1]
    assert helped and len(found.changes) == 2 * 16
    origin = Origin(folder)
    for change in [*helped[:3], *[c for c in found.changes if c.change == 0][:3]]:
        options = {"k": 3, "trigger": f"at({change.position})"}
        assert change.right_with is right(engine, origin, change, c=1, **options)
        assert change.right_without is right(engine, origin, change, c=0)


def test_a_weak_oracle_hurts(tmp_path: Path) -> None:
    """-1 is as possible as +1: with the roles exchanged, the consults of a base that knows better spoil its texts."""
    with Engine("arith-oracle", oracle="arith-base", max_batch=32) as engine:
        folder = record_runs(tmp_path / "run", engine, [BASE], problems=12)
        found = changes(folder, engine, tmp_path / "log", BASE, mode="differs", k=2, most=4)
        hurt = [change for change in found.changes if change.change == -1]
        assert hurt and not any(change.change == 1 and change.right_without for change in found.changes)
        for change in hurt[:2]:
            assert right(engine, found.origin, change, c=0)
            assert not right(engine, found.origin, change, c=1, k=2, trigger=f"at({change.position})")
    (every, *_) = groups(found, resamples=200, seed=0)
    assert every.hurts.value == len(hurt) / len(found.changes) and every.change.value < 0


@pytest.mark.parametrize("k", [1, 4])
def test_branches_that_are_known_are_what_running_them_gives(
    engine: Engine, folder: Path, tmp_path: Path, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst that writes the base's own tokens first is a shorter burst later: every position, by both ways."""
    quick = changes(folder, engine, tmp_path / "quick", BASE, mode="random", k=k, most=12, seed=k)
    monkeypatch.setattr("dodona.eval.causal.changes.views_of", lambda *args: {})
    plain = changes(folder, engine, tmp_path / "plain", BASE, mode="random", k=k, most=12, seed=k)
    assert [(c.position, c.change) for c in quick.changes] == [(c.position, c.change) for c in plain.changes]
    assert plain.forks == len(plain.changes) > 4 * quick.forks
    assert any(change.differs for change in quick.changes) and all(c.differs is None for c in plain.changes)


def test_every_position_costs_few_runs(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """A label for every token of every text needs as many runs as there are differing tokens, times k."""
    found = changes(folder, engine, tmp_path / "log", BASE, mode="all", k=1)
    differing = sum(change.differs is True for change in found.changes)
    assert len(found.changes) == sum(len(text.ids) for text in found.origin.texts(found.arm).values())
    assert found.forks == differing > 0
    assert all(change.change == 0 for change in found.changes if change.differs is False)


def view_of(tokens: int, diverging: list[int]) -> View:
    """A view of the text 0, 1, 2, ... with the oracle's choice another one at these positions."""
    choice = np.arange(tokens, dtype=np.float32)
    choice[diverging] += 1000
    return View(tuple(range(tokens)), {"oracle_top1": choice})


def test_branches_are_scripted(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """The rules by hand, on a text of 20 tokens where the models differ at 5 and 12."""
    origin = Origin(folder)
    text = next(iter(origin.texts(origin.arm(BASE.name)).values()))._replace if False else None
    assert text is None
    import dataclasses

    own = next(iter(origin.texts(origin.arm(BASE.name)).values()))
    base = dataclasses.replace(own, ids=tuple(range(20)), sources=bytes(20), starts=())
    view, name = view_of(20, [5, 12]), own.problem_id
    assert branches(origin, base, 5, 1, view) == (Fork(name, 5, 1), None)
    assert branches(origin, base, 4, 1, view) == (None, None)
    assert branches(origin, base, 3, 4, view) == (Fork(name, 5, 2), None)
    assert branches(origin, base, 6, 6, view) == (None, None)
    assert branches(origin, base, 13, 99, view) == (None, None)
    assert branches(origin, base, 0, float("inf"), view) == (Fork(name, 5, float("inf")), None)
    assert branches(origin, base, 4, 1, None) == (Fork(name, 4, 1), None)
    guided = dataclasses.replace(base, sources=bytes([0] * 6 + [1] * 3 + [0] * 6 + [1] * 3 + [0] * 2), starts=(6, 15))
    assert branches(origin, guided, 6, 3, None) == (Fork(name, 6, 3), Fork(name, 6, 0))
    assert branches(origin, guided, 15, 3, None) == (None, Fork(name, 15, 0))
    assert branches(origin, guided, 15, 2, None) == (Fork(name, 15, 2), Fork(name, 15, 0))
    assert branches(origin, guided, 18, 2, None) == (Fork(name, 18, 2), None)


def test_analyze_reads_the_changes_as_a_label(
    engine: Engine, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One name of a field changed, and the label "helps" would be empty."""
    output, log = tmp_path / "changes.jsonl", tmp_path / "log"
    command = ["forks", str(folder), "--arm", BASE.name, "--positions", "all", "--forks", str(log)]
    assert main([*command, "--output-file", str(output), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["k"] == 1 and report["groups"][0]["name"] == "all"
    written = list(read_records(output))
    recording = read_recording([path for path in folder.glob("*.parquet") if path.name.startswith("c=0")])
    label, unmatched = read_changes(output, recording)
    assert unmatched == 0 and not np.isnan(label).any()
    assert (label > 0).sum() == sum(line["change"] == 1 for line in written) > 0
    assert main(["analyze", str(folder), "--arm", BASE.name, "--changes", str(output), "--resamples", "20"]) == 0
    assert "helps: a consult there turns a wrong answer into a right one" in capsys.readouterr().out


def test_the_command_goes_on_and_writes_the_same_file(
    engine: Engine, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that was never killed; and its defaults are the only guided arm, its consults and its k."""
    output, log = tmp_path / "changes.jsonl", tmp_path / "forks.log"
    command = ["forks", str(folder), "--output-file", str(output), "--forks", str(log)]
    assert main(command) == 0
    whole = output.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert {row["arm"] for row in rows} == {GUIDED.name} and {row["k"] for row in rows} == {GUIDED.k}
    kept = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(kept[: len(kept) // 2]) + kept[-1][:20])
    output.unlink()
    assert main(command) == 0
    assert output.read_bytes() == whole
    found = changes(folder, engine, log, GUIDED, mode="consults", k=GUIDED.k)
    assert [json.loads(json.dumps(line)) for line in lines(found)] == rows
    capsys.readouterr()
    for more, message in (
        (["--arm", BASE.name], "has no consults: name another --arm, or other --positions"),
        (["--positions", "entropy", "--arm", GUIDED.name], "is for texts of the base alone"),
        (["--k", "0"], "--k 0 is no consult: give 1 or more"),
        (["--positions", "some"], "invalid choice: 'some'"),
        (["--forks", str(output)], "is another kind of file: name another --forks"),
    ):
        try:
            assert main([*command[:4], *more]) == 2
        except SystemExit as stop:
            assert stop.code == 2
        assert message in capsys.readouterr().err


def test_positions_depend_on_the_problem_and_the_seed_alone(folder: Path) -> None:
    """Drawn from one stream, the positions of a problem would change with the problems before it."""
    origin = Origin(folder)
    texts = list(origin.texts(origin.arm(BASE.name)).values())
    drawn = {text.problem_id: positions("random", text, None, 5, 7) for text in texts}
    assert all(len(set(found)) == 5 and found == sorted(found) for found in drawn.values())
    assert len({tuple(found) for found in drawn.values()}) == len(texts)
    assert {t.problem_id: positions("random", t, None, 5, 7) for t in reversed(texts)} == drawn
    assert all(positions("random", t, None, 5, 8) != drawn[t.problem_id] for t in texts)
    with pytest.raises(DodonaError, match="--positions differs needs both models' view"):
        positions("differs", texts[0], None, 5, 0)
