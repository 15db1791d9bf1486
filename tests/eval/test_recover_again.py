"""A recovery study that is stopped, gone on with or extended, and what it refuses to go on with."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from recover_studies import (
    make_study,
    model,
    recovers,
    rows,
    run_all,
    solves,
    study_of,
)

from dodona.engine.errors import DodonaError
from dodona.eval.recover.findings import read_findings
from dodona.eval.recover.settings import STRONG, WEAK
from dodona.eval.recover.stages import FILES, Study
from dodona.eval.recover.writer import Ask
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Selection

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


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
