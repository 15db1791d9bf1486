"""`dodona placebo` on real runs: what is spent, what is written, what is gone on with, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_records import contents, environment, missing_lock
from recorded_runs import BASE, GUIDED, ORACLE, record_runs

from dodona.cli import main
from dodona.engine.engine import Engine
from dodona.engine.records import read_records
from dodona.engine.request import Request
from dodona.eval.arms import Arm
from dodona.eval.causal.origin import Origin
from dodona.eval.models import Models
from dodona.eval.placebo.apart import read_apart
from dodona.eval.placebo.arms import HINDSIGHT, OWN_ORACLE, STEPWISE, TWIN, Placebo
from dodona.eval.placebo.hindsight import hindsight
from dodona.eval.placebo.runs import Placebos

AFTER = Arm(2, 3, "entropy > 0.6", "after", 0)
PROBLEMS = 14


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(max_batch=32) as engine:
        yield engine


@pytest.fixture(scope="module")
def recorded(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_runs(tmp_path_factory.mktemp("placebo") / "run", engine, problems=PROBLEMS)


@pytest.fixture(scope="module")
def studied(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study of the guided arm: its folder, and what JSON says."""
    folder = tmp_path_factory.mktemp("studied") / "study"
    return folder, report_of([str(recorded), "--draws", "2", "--output-dir", str(folder)])


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the records that a test may spoil."""
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def report_of(arguments: list[str]) -> dict[str, Any]:
    """What the command prints with --json, in this process."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["placebo", *arguments, "--json"]) == 0
    report: dict[str, Any] = json.loads(printed.getvalue())
    return report


def records(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of a study's placebos."""
    found = [
        r for path in sorted((folder / "records").glob("*.jsonl")) for r in read_records(path) if "header" not in r
    ]
    return [r for r in found if kind is None or r.get("placebo", {}).get("kind") == kind]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error."""
    assert main(["placebo", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("dodona: error: ")


def no_engine(*_: object, **__: object) -> Engine:
    raise AssertionError("something was run that is on the disk already")


def test_twins_ask_for_what_the_arm_made_and_make_it(recorded: Path, studied: tuple[Path, dict[str, Any]]) -> None:
    """Counts or positions that are not those of the run, and consults that do not happen where they were asked for."""
    folder, report = studied
    origin = Origin(recorded)
    own = {name: text.starts for name, text in origin.texts(origin.arm(GUIDED.name)).items()}
    pooled = Counter(p for starts in own.values() for p in starts)
    assert pooled.total() > PROBLEMS  # there is something to match
    for draw in (0, 1):
        found = {r["problem_id"]: r for r in records(folder, TWIN) if r["placebo"]["draw"] == draw}
        assert found.keys() == own.keys()
        asked = {name: r["placebo"]["asked"] for name, r in found.items()}
        assert {name: len(p) for name, p in asked.items()} == {name: len(starts) for name, starts in own.items()}
        assert Counter(p for positions in asked.values() for p in positions) == pooled
        for r in found.values():
            reached = [p for p in r["placebo"]["asked"] if p < r["total_tokens_generated"]]
            assert r["cheat_positions"] == reached
            assert (r["c"], r["k"], r["when"]) == (GUIDED.c, GUIDED.k, "before")
    twins = next(line for line in report["studies"][0]["lines"] if line["kind"] == TWIN)
    assert twins["n"] == 2 * PROBLEMS
    assert report["studies"][0]["consults"]["arm"] == pooled.total()
    assert report["studies"][0]["consults"]["placebos"][TWIN]["asked"] == pooled.total()
    assert len(twins["draws"]) == 2


def test_the_base_as_its_own_oracle_writes_the_base_s_text(
    recorded: Path, studied: tuple[Path, dict[str, Any]]
) -> None:
    """A hand-off that changes the text by itself: then no difference of an arm is its oracle's alone."""
    folder, report = studied
    origin, own = Origin(recorded), Origin(folder / "own-oracle")
    base, same = origin.texts(origin.arm(None, alone=True)), own.texts(own.arm(GUIDED.name))
    assert {name: text.ids for name, text in same.items()} == {name: text.ids for name, text in base.items()}
    assert sum(len(text.starts) for text in same.values()) > PROBLEMS / 2  # it was consulted
    assert own.config["weights"] == [origin.config["weights"][0]] * 2
    assert report["studies"][0]["own_oracle"] == {"texts_that_differ": 0, "problems": []}
    line = next(line for line in report["studies"][0]["lines"] if line["kind"] == OWN_ORACLE)
    assert line["gain"]["difference"] == 0


def test_the_base_is_its_own_text_when_it_is_sampled_too(engine: Engine, tmp_path: Path) -> None:
    """Base and oracle must share their draws, or sampled arms have no control."""
    place = record_runs(tmp_path / "run", engine, (BASE, GUIDED), problems=6, temperature=0.8)
    study = report_of([str(place), "--placebos", "own-oracle"])["studies"][0]
    assert study["own_oracle"] == {"texts_that_differ": 0, "problems": []}
    assert [line["kind"] for line in study["lines"]] == ["base", "arm", OWN_ORACLE]


def test_hindsight_consults_where_the_models_are_furthest_apart(
    recorded: Path, engine: Engine, studied: tuple[Path, dict[str, Any]]
) -> None:
    """Positions of another text, of another divergence, or of the smallest."""
    folder, report = studied
    origin = Origin(recorded)
    base = origin.texts(origin.arm(None, alone=True))
    js: dict[tuple[str, int], float] = {}
    for name, text in base.items():
        request = Request(prompt=text.problem.prompt, raw=text.problem.raw, c=0, oracle_tail=True, divergence=True)
        result = engine.generate(request)
        assert tuple(result.ids) == text.ids
        js |= {(name, p): float(value) for p, value in enumerate(result.signals["js"])}
    asked = {(r["problem_id"], p) for r in records(folder, HINDSIGHT) for p in r["placebo"]["asked"]}
    assert len(asked) == report["studies"][0]["consults"]["arm"]
    per_text = Counter(name for name, _ in asked)
    assert max(per_text.values()) <= GUIDED.c
    least = min(js[place] for place in asked)
    for (name, p), value in js.items():
        near = any(other == name and abs(q - p) < GUIDED.k for other, q in asked)
        assert value <= least + 1e-6 or near or per_text[name] == GUIDED.c


def test_stepwise_consults_first_where_the_base_s_text_first_goes_another_way(
    recorded: Path, engine: Engine, studied: tuple[Path, dict[str, Any]]
) -> None:
    """A second consult that is looked for in a text that the first one has changed."""
    folder, _ = studied
    origin = Origin(recorded)
    base = origin.arm(None, alone=True)
    apart = read_apart(origin, base, origin.texts(base), lambda: engine)
    later = 0
    for r in records(folder, STEPWISE):
        asked = r["placebo"]["asked"]
        first = np.flatnonzero(apart[r["problem_id"]].differs)
        assert asked[:1] in ([], first[:1].tolist())
        assert r["cheat_positions"] == asked
        if len(asked) > 1:
            later += 1
            request = Request(
                prompt=r["prompt"], c=1, k=GUIDED.k, trigger=f"at({asked[0]})", oracle_tail=True, max_new_tokens=256
            )
            result = engine.generate(request)
            start = int(np.flatnonzero(result.sources)[-1]) + 1
            differs = result.signals["oracle_top1"][start:] != np.array(result.ids[start:])
            assert asked[1] == start + int(np.flatnonzero(differs)[0])
    assert later


def test_a_trace_gives_the_same_hindsight_as_reading_again(engine: Engine, tmp_path: Path) -> None:
    """The divergence of another run's tokens, or of rows that are shifted against the text."""
    options: dict[str, Any] = {"problems": 6, "oracle_tail": True, "divergence": True}
    traced = Origin(record_runs(tmp_path / "traced", engine, (BASE, GUIDED), trace=True, **options))
    bare = Origin(record_runs(tmp_path / "bare", engine, (BASE, GUIDED), **options))
    base = traced.arm(None, alone=True)
    found = read_apart(traced, base, traced.texts(base), no_engine)
    again = read_apart(bare, base, bare.texts(base), lambda: engine)
    assert found.keys() == again.keys() and len(found) == 6
    for name, apart in found.items():
        np.testing.assert_allclose(apart.js, again[name].js, atol=2e-5)
        assert (apart.differs == again[name].differs).all()
    assert hindsight(found, 8, 2, 4) == hindsight(again, 8, 2, 4)


@pytest.mark.parametrize("arm", [GUIDED, AFTER], ids=["before", "after"])
def test_the_arm_s_own_positions_give_the_arm_s_own_texts(engine: Engine, tmp_path: Path, arm: Arm) -> None:
    """A schedule that is carried out one token off, or with another budget, compares something else with the arm."""
    origin = Origin(record_runs(tmp_path / "run", engine, (BASE, arm), problems=8))
    recorded = origin.arm(arm.name)
    texts = origin.texts(recorded)
    placebo = Placebo(arm, HINDSIGHT)
    runs = Placebos(origin, origin.problems(recorded), [placebo], tmp_path / "study")
    own = {name: text.starts for name, text in texts.items()}
    with runs.open() as store:
        assert len(list(runs.run(store, lambda _: own, lambda: engine))) == 8
    again = Origin(tmp_path / "study")
    same = again.texts(again.arm(placebo.arm.name))
    assert {name: (text.ids, text.starts) for name, text in same.items()} == {
        name: (text.ids, text.starts) for name, text in texts.items()
    }


def test_the_same_command_again_runs_nothing(
    recorded: Path, studied: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work done twice, or other numbers the second time."""
    folder, report = studied
    monkeypatch.setattr(Models, "load", no_engine)
    assert report_of([str(recorded), "--draws", "2", "--output-dir", str(folder)]) == report


def test_all_formats_are_written(
    recorded: Path, studied: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page that needs the network, a script that comes out of a record, or a table without its check."""
    folder, _ = studied
    command = ["placebo", str(recorded), "--draws", "2", "--output-dir", str(folder)]
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for page in pages:
        assert main([*command, "--html", str(page), "--csv", str(tmp_path / "csv")]) == 0
    printed = capsys.readouterr().out
    assert "the base as its own oracle writes the base's own text on all 14 problems" in printed
    assert "regret against hindsight by divergence" in printed
    assert "twin [2 draws]" in printed
    text = pages[0].read_text(encoding="utf-8")
    assert pages[1].read_text(encoding="utf-8") == text
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    assert text.count("data:image/svg+xml;base64,") == 2
    assert "c=3 k=4 entropy&gt;0.5 before seed=0" in text
    assert "no true optimum" in text
    assert sorted(path.name for path in (tmp_path / "csv").iterdir()) == ["draws.csv", "lines.csv"]


def test_records_of_placebos_are_read_with_those_of_the_arm(
    recorded: Path, studied: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Records of another configuration, which no other command would put beside the arm's."""
    folder, _ = studied
    assert main(["report", str(recorded), str(folder / "records"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["experiments"]) == 1
    names = [arm["arm"] for arm in report["experiments"][0]["arms"]]
    assert f"c=3 k=4 {TWIN}(entropy>0.5; draw 0) before seed=0" in names
    assert GUIDED.name in names


def test_a_trigger_that_was_not_run_is_run_first(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that needs an arm in RUN although its trigger was given."""
    place = record_runs(tmp_path / "run", engine, (BASE,), problems=6)
    before = {path.name: path.read_bytes() for path in place.glob("*.jsonl")}
    command = [str(place), "--trigger", "margin < 0.4", "--c", "2", "--k", "3", "--placebos", "twin", "--draws", "1"]
    study = report_of(command)["studies"][0]
    assert study["arm"] == "c=2 k=3 margin<0.4 before seed=0"
    assert [(line["kind"], line["n"]) for line in study["lines"]] == [("base", 6), ("arm", 6), (TWIN, 6)]
    assert study["consults"]["arm"] == study["consults"]["placebos"][TWIN]["asked"] > 0
    assert {path.name: path.read_bytes() for path in place.glob("*.jsonl")} == before  # RUN is left alone
    monkeypatch.setattr(Models, "load", no_engine)
    assert report_of(command)["studies"][0] == study


def test_a_base_alone_that_was_not_run_is_run(engine: Engine, tmp_path: Path) -> None:
    """An arm without c=0 beside it has a placebo as well."""
    place = record_runs(tmp_path / "run", engine, (GUIDED,), problems=5)
    study = report_of([str(place), "--placebos", "twin,own-oracle", "--draws", "1"])["studies"][0]
    assert [line["kind"] for line in study["lines"]] == ["base", "arm", TWIN, OWN_ORACLE]
    assert study["own_oracle"]["texts_that_differ"] == 0


def test_schedules_of_other_texts_are_refused(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twins of twenty problems that are filled up from a draw over thirty match neither."""
    place = record_runs(tmp_path / "run", engine, (BASE, GUIDED), problems=4)
    command = [str(place), "--placebos", "twin", "--draws", "1"]
    report_of(command)
    record_runs(place, engine, (BASE, GUIDED), problems=6)
    said = refused(capsys, *command)
    assert "was drawn when the arm or the base alone had other texts or problems: give another --output-dir" in said
    assert report_of([*command, "--output-dir", str(tmp_path / "new")])["studies"][0]["problems"] == 6


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback, or a line that does not say what would be right."""
    run = str(folder)
    assert "there is no file or folder" in refused(capsys, str(tmp_path / "nothing"))
    assert "--placebos takes twin, own-oracle" in refused(capsys, run, "--placebos", "twins")
    assert "--seed must be 0 or more" in refused(capsys, run, "--seed=-1")
    assert "--draws and --seed are of twins" in refused(capsys, run, "--placebos", "hindsight", "--draws", "2")
    assert "give one of them" in refused(capsys, run, "--arm", "x", "--trigger", "entropy > 1")
    assert "--c belongs to --trigger" in refused(capsys, run, "--c", "2")
    assert "--when belongs to --trigger" in refused(capsys, run, "--when", "after")
    assert "--k must be 1 or more" in refused(capsys, run, "--trigger", "entropy > 1", "--k", "0")
    assert "did you mean 'c=3 k=4 entropy>0.5 before seed=0'" in refused(capsys, run, "--arm", "c=3 k=4 entropy>0.6")
    assert "has no consults, so it has no placebo" in refused(capsys, run, "--arm", BASE.name)
    assert "is the oracle alone" in refused(capsys, run, "--arm", ORACLE.name)
    assert "is in" in refused(capsys, run, "--output-dir", run)
    assert "is in" in refused(capsys, run, "--output-dir", f"{run}/deeper")
    (tmp_path / "file").write_text("x")
    assert "needs a folder" in refused(capsys, run, "--output-dir", str(tmp_path / "file"))
    assert "weights" in refused(capsys, run, "--oracle-model", "arith-base")
    assert main(["placebo", run, "--trigger", "entropi > 1"]) == 2
    assert "did you mean `entropy`?" in capsys.readouterr().err  # and where in the trigger
    assert not (tmp_path / "run-placebo" / "schedules.log").exists()


def test_an_arm_without_consults_has_no_placebo(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A division by zero in place of a sentence."""
    place = record_runs(tmp_path / "run", engine, (BASE, Arm(2, 3, "entropy > 99", "before", 0)), problems=3)
    assert "made no consult, so it has no placebo" in refused(capsys, str(place))


def test_runs_that_are_not_done_are_sent_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A twin that is drawn from half of the run."""
    file = folder / f"{GUIDED.slug}.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))
    said = refused(capsys, str(folder))
    assert (
        f"10 of {PROBLEMS} runs of the arm {GUIDED.name!r} have no record yet: let `dodona eval` do them first" in said
    )


def test_a_damaged_log_is_named_with_its_line(
    recorded: Path, studied: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A schedule that is half read."""
    folder = Path(shutil.copytree(studied[0], tmp_path / "study"))
    log = folder / "schedules.log"
    log.write_bytes(log.read_bytes() + b'{"placebo": "x", "schedule": {"p": [1]}}\n')
    said = refused(capsys, str(recorded), "--output-dir", str(folder))
    assert "schedules.log, line" in said and "another --output-dir" in said


@pytest.mark.slow
def test_six_kills_leave_the_study_of_a_command_that_was_never_killed(
    root: Path, recorded: Path, tmp_path: Path
) -> None:
    """Catches a placebo whose texts follow two draws, records written twice, and a search that finds other places."""
    script = [sys.executable, str(root / "tests/support/killed_runs.py"), "6", "1", str(tmp_path)]
    command = ["placebo", str(recorded), "--draws", "1", "--max-batch", "4", "--output-dir", "{}"]
    done = subprocess.run(
        [*script, *command], cwd=root, env=environment(root), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["kills"] == 6
    for part in ("records", "own-oracle"):
        whole = contents(tmp_path / "whole" / part)
        assert len(whole) == PROBLEMS * (3 if part == "records" else 1)
        for number in range(report["folders"]):
            assert contents(tmp_path / f"killed-{number}" / part) == whole
    assert missing_lock(tmp_path)
