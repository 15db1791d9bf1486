"""`dodona forks`: a change is what two runs from the prompt on differ in, and the shortcuts change nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import shutil
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
from dodona.engine.replay import Budget, replay
from dodona.engine.request import Request
from dodona.engine.trace import read_traces
from dodona.eval.analysis.outcomes import read_changes
from dodona.eval.arms import Arm
from dodona.eval.causal.change_rows import lines
from dodona.eval.causal.change_tables import summary, tables
from dodona.eval.causal.changes import Change, Changes, branches, measure
from dodona.eval.causal.forks import Fork, ForkLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.positions import Where, free, positions, read_at
from dodona.eval.causal.views import View


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(max_batch=32) as engine:
        yield engine


@pytest.fixture(scope="module")
def folder(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_runs(
        tmp_path_factory.mktemp("changes") / "run", engine, [BASE, GUIDED], problems=10, trace=True, oracle_tail=True
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
    found = changes(folder, engine, tmp_path / "log", GUIDED, where=Where(), k=GUIDED.k)
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
    found = changes(folder, engine, tmp_path / "log", BASE, where=Where("top", count=2), k=3)
    helped = [change for change in found.changes if change.change == 1]
    assert helped and len(found.changes) == 2 * 10
    origin = Origin(folder)
    for change in [*helped[:3], *[c for c in found.changes if c.change == 0][:3]]:
        options = {"k": 3, "trigger": f"at({change.position})"}
        assert change.right_with is right(engine, origin, change, c=1, **options)
        assert change.right_without is right(engine, origin, change, c=0)


def test_a_weak_oracle_hurts(tmp_path: Path) -> None:
    """-1 is as possible as +1: with the roles exchanged, the consults of a base that knows better spoil its texts."""
    with Engine("arith-oracle", oracle="arith-base", max_batch=32) as engine:
        folder = record_runs(tmp_path / "run", engine, [BASE], problems=12)
        found = changes(folder, engine, tmp_path / "log", BASE, where=Where("differs", most=4), k=2)
        hurt = [change for change in found.changes if change.change == -1]
        assert hurt and not any(change.change == 1 and change.right_without for change in found.changes)
        for change in hurt[:2]:
            assert right(engine, found.origin, change, c=0)
            assert not right(engine, found.origin, change, c=1, k=2, trigger=f"at({change.position})")
    (every, *_) = summary(found, resamples=200, seed=0).groups
    assert every.hurts.value == len(hurt) / len(found.changes) and every.change.value < 0


@pytest.mark.parametrize("k", [1, 4])
def test_branches_that_are_known_are_what_running_them_gives(
    engine: Engine, folder: Path, tmp_path: Path, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst that writes the base's own tokens first is a shorter burst later: every position, by both ways."""
    quick = changes(folder, engine, tmp_path / "quick", BASE, where=Where("top", count=6), k=k)
    monkeypatch.setattr("dodona.eval.causal.changes.views_of", lambda *args: {})
    plain = changes(folder, engine, tmp_path / "plain", BASE, where=Where("top", count=6), k=k)
    assert [(c.position, c.change) for c in quick.changes] == [(c.position, c.change) for c in plain.changes]
    assert len(plain.outcomes) == len(plain.changes) > 1.5 * len(quick.outcomes) > 0
    assert any(quick.changes[place].branches.with_consult is None for place in range(len(quick.changes)))


def test_every_position_costs_few_runs(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """A label for every token of every text needs as many runs as there are differing tokens, times k."""
    found = changes(folder, engine, tmp_path / "log", BASE, where=Where("all"), k=1)
    differing = sum(change.differs is True for change in found.changes)
    assert len(found.changes) == sum(len(text.ids) for text in found.origin.texts(found.arm).values())
    assert len(found.outcomes) == differing > 0
    assert all(change.change == 0 for change in found.changes if change.differs is False)


def view_of(tokens: int, diverging: list[int]) -> View:
    """A view of the text 0, 1, 2, ... with the oracle's choice another one at these positions."""
    choice = np.arange(tokens, dtype=np.float32)
    choice[diverging] += 1000
    return View(tuple(range(tokens)), {"oracle_top1": choice})


def test_branches_are_scripted(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """The rules by hand, on a text of 20 tokens where the models differ at 5 and 12."""
    origin = Origin(folder)
    own = next(iter(origin.texts(origin.arm(BASE.name)).values()))
    base = dataclasses.replace(own, ids=tuple(range(20)), sources=bytes(20), starts=())
    view, name = view_of(20, [5, 12]), own.problem_id
    assert branches(origin, base, 5, 1, view) == (Fork(name, 5, 1), None)
    assert branches(origin, base, 4, 1, view) == (None, None)
    assert branches(origin, base, 3, 4, view) == (Fork(name, 5, 2), None)
    assert branches(origin, base, 6, 6, view) == (None, None)
    assert branches(origin, base, 13, 99, view) == (None, None)
    assert branches(origin, base, 0, math.inf, view) == (Fork(name, 5, math.inf), None)
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
    command = ["forks", str(folder), "--arm", BASE.name, "--all", "--forks", str(log), "--output-file", str(output)]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["k"] == 1 and report["groups"][0]["name"] == "all"
    written = list(read_records(output))
    recording = read_recording([path for path in folder.glob("*.parquet") if path.name.startswith("c=0")])
    label, unmatched = read_changes(output, recording)
    assert unmatched == 0 and not np.isnan(label).any()
    assert (label > 0).sum() == sum(line["change"] == 1 for line in written) > 0
    assert main(["analyze", str(folder), "--arm", BASE.name, "--changes", str(output), "--resamples", "20"]) == 0
    assert "helps: a consult there turns a wrong answer into a right one" in capsys.readouterr().out


def test_a_trigger_chooses_what_its_replay_would_consult_at(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Positions of another problem, or shifted by one, would test consults that the trigger never makes."""
    for trigger, k in (("margin < 0.3", 1), ("entropy > 0.4 and since_consult >= 8", 5)):
        found = changes(folder, engine, tmp_path / "log", BASE, where=Where("trigger", trigger=trigger), k=k)
        assert found.changes
        traces = [trace for path in folder.glob("c=0*.parquet") for trace in read_traces(path)]
        wanted = {
            str(trace["problem_id"][0]): replay(trace, trigger, Budget(math.inf, k, math.inf, "before"))
            for trace in traces
        }
        chosen: dict[str, list[int]] = {name: [] for name in wanted}
        for change in found.changes:
            chosen[change.text.problem_id].append(change.position)
        assert chosen == wanted
        first = next(change for change in found.changes if change.number == 0)
        live = engine.generate(
            Request(prompt=first.text.problem.prompt, raw=first.text.problem.raw, c=1, k=k, trigger=trigger)
        )
        assert live.cheat_positions == [first.position]


def test_positions_of_a_guided_text_are_its_base_tokens_and_consults(
    engine: Engine, folder: Path, tmp_path: Path
) -> None:
    """A consult inside a burst of the oracle is one that no run could make."""
    found = changes(folder, engine, tmp_path / "log", GUIDED, where=Where("top", count=3), k=2)
    assert found.changes and found.unseen == ()
    for change in found.changes:
        text = change.text
        assert text.sources[change.position] == 0 or change.position in text.starts
        assert change.position in free(text)
    inside = [p for text in {c.text.problem_id: c.text for c in found.changes}.values() for p in text.starts]
    assert inside
    at = Where("at", everywhere=(0, 10_000, *(p + 1 for p in inside[:1])))
    again = changes(folder, engine, tmp_path / "log", GUIDED, where=at, k=2)
    asked = 3 * 10
    assert len(again.changes) + again.passed_over == asked and again.passed_over >= 11


def test_a_file_of_positions_is_taken_problem_by_problem(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """The file of `dodona causal` names a position of each problem; every mistake in one is named with its line."""
    origin = Origin(folder)
    names = list(origin.texts(origin.arm(BASE.name)))
    listed = tmp_path / "at.jsonl"
    listed.write_text("".join(json.dumps({"problem_id": name, "position": 3}) + "\n" for name in names[:2]))
    found = changes(folder, engine, tmp_path / "log", BASE, where=read_at(str(listed)), k=1)
    assert [(c.text.problem_id, c.position) for c in found.changes] == [(name, 3) for name in names[:2]]
    part = changes(folder, engine, tmp_path / "log", BASE, where=read_at(str(listed)), k=1, ids=[names[1]])
    assert [c.text.problem_id for c in part.changes] == [names[1]] and part.problems == 1 and part.passed_over == 0
    assert read_at("17,3,3").everywhere == (3, 17)
    for content, message in (
        ({"problem_id": names[0], "position": "3"}, r'at.jsonl, line 1: a line is \{"problem_id": text'),
        ({"problem_id": "arith-9", "position": 3}, "the records have no problem 'arith-9': did you mean"),
        ({"problem_id": names[0], "position": 3, "config_hash": "0"}, "is of another experiment"),
        ({"problem_id": names[0], "position": 3, "arm": GUIDED.name}, "is of the arm 'c=3"),
        ({"problem_id": names[0], "position": 5000}, f"the text of {names[0]} has .* and none at position 5000"),
    ):
        listed.write_text(json.dumps(content) + "\n")
        with pytest.raises(DodonaError, match=message):
            changes(folder, engine, tmp_path / "log", BASE, where=read_at(str(listed)), k=1)
    listed.write_text("")
    for given, message in (
        (str(listed), "there is no position in it"),
        ("a", "neither positions"),
        ("-1", "0 or more"),
    ):
        with pytest.raises(DodonaError, match=message):
            read_at(given)


def test_without_a_trace_signals_come_from_writing_again_or_are_asked_for(engine: Engine, tmp_path: Path) -> None:
    """A guided text cannot be written again from its arm's options alone, and a trigger reads what a trace records."""
    bare = record_runs(tmp_path / "run", engine, [BASE, GUIDED], problems=4)
    traced = record_runs(tmp_path / "traced", engine, [BASE], problems=4, trace=True)
    where = Where("top", count=2, signal="margin")
    found, same = (changes(run, engine, tmp_path / f"{run.name}.log", BASE, where=where, k=1) for run in (bare, traced))
    assert [(c.position, c.change) for c in found.changes] == [(c.position, c.change) for c in same.changes]
    for arm, rule, message in (
        (GUIDED, where, "--top needs a trace of 'c=3"),
        (
            BASE,
            Where("trigger", trigger="entropy > 1"),
            "--trigger needs a trace of 'c=0 seed=0': there is none beside",
        ),
    ):
        with pytest.raises(DodonaError, match=message):
            changes(bare, engine, tmp_path / "other", arm, where=rule, k=1)
    with pytest.raises(DodonaError, match="--by attn_entropy was not recorded; there is entropy"):
        changes(traced, engine, tmp_path / "other", BASE, where=Where("top", count=1, signal="attn_entropy"), k=1)


def test_groups_and_bins_count_what_the_lines_say(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """A consult in two bins or in none, or a share of the problems in place of the consults."""
    found = changes(folder, engine, tmp_path / "log", BASE, where=Where("differs"), k=1)
    made = summary(found, resamples=200, seed=0, signals=("entropy", "logprob"))
    rows = list(lines(found, engine.tokenizer))
    every = made.groups[0]
    assert (every.consults, every.problems) == (len(rows), len({row["problem_id"] for row in rows}))
    assert every.helps.value == pytest.approx(np.mean([row["change"] == 1 for row in rows]))
    assert every.change.value == pytest.approx(np.mean([row["change"] for row in rows]))
    assert every.helps.interval is not None and every.helps.interval.low < every.helps.value < every.helps.interval.high
    wrong = next(group for group in made.groups if group.name == "without it wrong")
    assert wrong.consults == sum(not row["right_without"] for row in rows)
    for bins in made.bins:
        assert sum(group.consults for group in bins.groups) == len(rows)
        total = sum(group.change.value * group.consults for group in bins.groups)
        assert total == pytest.approx(sum(row["change"] for row in rows))
    between = next(group for group in made.bins[0].groups if group.name == "1 to 2")
    assert between.consults == sum(1 <= row["signals"]["entropy"] < 2 for row in rows)
    for group in (*made.groups, *made.bins[0].groups, *made.bins[1].groups):
        for share in (group.helps, group.hurts, group.change):
            assert share.interval is not None and share.interval.low < share.interval.high
    assert len(tables(made)) == 3
    json.dumps(made.as_dict())


def test_the_command_goes_on_and_writes_the_same_file(
    engine: Engine, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that was never killed; and its defaults are the only guided arm, its consults and its k."""
    output, log = tmp_path / "changes.jsonl", tmp_path / "forks.log"
    command = ["forks", str(folder), "--output-file", str(output), "--forks", str(log)]
    assert main([*command, "--csv", str(tmp_path / "csv"), "--html", str(tmp_path / "page.html")]) == 0
    whole = output.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert {row["arm"] for row in rows} == {GUIDED.name} and {row["k"] for row in rows} == {GUIDED.k}
    assert len({row["row_id"] for row in rows}) == len(rows)
    kept = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(kept[: len(kept) // 2]) + kept[-1][:20])
    output.unlink()
    assert main(command) == 0
    assert output.read_bytes() == whole
    found = changes(folder, engine, log, GUIDED, where=Where(), k=GUIDED.k)
    assert [json.loads(json.dumps(line)) for line in lines(found, engine.tokenizer)] == rows
    table = list(csv.DictReader((tmp_path / "csv" / "changes.csv").open()))
    assert [line["row_id"] for line in table] == [row["row_id"] for row in rows]
    assert {path.name for path in (tmp_path / "csv").iterdir()} == {"changes.csv", "groups.csv", "bins.csv"}
    page = (tmp_path / "page.html").read_text()
    assert len(re.findall('<div class="text( helps)?"', page)) == sum(row["change"] != 0 for row in rows) > 0
    assert 'src="http' not in page and page.count("<img") == 2


def test_a_consult_outside_the_text_is_one_clear_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index error, from records that were edited by hand."""
    copy = tmp_path / "runs"
    shutil.copytree(folder, copy)
    for path in copy.glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line.get("cheat_positions"):
                line["cheat_positions"][0] = 999_999
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["forks", str(copy), "--output-file", str(tmp_path / "changes.jsonl")]) == 2
    assert "a consult outside the text" in capsys.readouterr().err


def test_mistakes_are_one_clear_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback, or a run with something else than what was meant."""
    output, other = tmp_path / "changes.jsonl", tmp_path / "other.txt"
    other.write_text("notes")
    records = str(next(folder.glob("c=0*.jsonl")))
    command = ["forks", str(folder), "--output-file", str(output), "--forks", str(tmp_path / "log")]
    for more, message in (
        (["--arm", BASE.name], "has no consults: name another --arm, or positions with --trigger"),
        (["--arm", "c=7"], "has no arm 'c=7' with records"),
        (["--k", "0"], "--k 0 is no consult: give 1 or more"),
        (["--by", "margin"], "--by goes with --top N"),
        (["--top", "1", "--by", "sense"], "--by is one of entropy, varentropy"),
        (["--top", "0"], "must be 1 or more"),
        (["--top", "1", "--random", "1"], "not allowed with argument"),
        (["--trigger", "entropie > 1"], "unknown word `entropie`"),
        (["--bins", "sense"], "--bins is one of entropy"),
        (["--ids", "arith-0-1,nobody"], "--ids: the records have no problem 'nobody'"),
        (["--at", "x"], "neither positions, as in 3,17,40, nor a file"),
        (["--seed", "-1"], "must be 0 or more"),
        (["--output-file", str(other)], "other.txt is another kind of file: name another one"),
        (["--output-file", records], "is a file of records that is read"),
        (["--forks", records], "is a file of records that is read"),
        (["--forks", str(other)], "other.txt"),
        (["--forks", str(output)], "are both"),
    ):
        try:
            assert main([*command, *more]) == 2
        except SystemExit as stop:
            assert stop.code == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert other.read_text() == "notes" and not output.exists()
    assert main(["forks", str(tmp_path / "nothing")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_a_run_without_an_oracle_has_none_to_consult(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another oracle than that of the records would be an experiment that nobody asked for."""
    with Engine("arith-base", max_batch=8) as alone:
        folder = record_runs(tmp_path / "run", alone, [BASE], problems=2)
    for command in (["forks", str(folder), "--all"], ["causal", str(folder)]):
        assert main(command) == 2
        assert "was run without an oracle" in capsys.readouterr().err


def test_positions_depend_on_the_problem_and_the_seed_alone(folder: Path) -> None:
    """Drawn from one stream, the positions of a problem would change with the problems before it."""
    origin = Origin(folder)
    texts = list(origin.texts(origin.arm(BASE.name)).values())
    rule = Where("random", count=5, seed=7)
    drawn = {text.problem_id: positions(rule, text, None) for text in texts}
    assert all(len(set(found)) == 5 and found == sorted(found) for found in drawn.values())
    assert len({tuple(found) for found in drawn.values()}) == len(texts)
    assert {t.problem_id: positions(rule, t, None) for t in reversed(texts)} == drawn
    other = dataclasses.replace(rule, seed=8)
    assert all(positions(other, t, None) != drawn[t.problem_id] for t in texts)
