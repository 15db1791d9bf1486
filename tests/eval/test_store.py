"""The record files of an experiment: where they lie, what their headers say, and what is refused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import resource
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_runs import SampleArm
from sample_runs import record as sample_record

import dodona
from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.eval import header as header_module
from dodona.eval.arms import Arm, grid
from dodona.eval.header import SCHEMA, config_hash, differences, git_commit, versions
from dodona.eval.lock import Lock, wait_until_free
from dodona.eval.shard import WHOLE, Shard
from dodona.eval.store import Place, Store, default_place
from dodona.eval.tasks.problem import Problem

CONFIG: dict[str, Any] = {
    "dataset": "arith",
    "recipe": "bare",
    "base_model_id": "arith-base",
    "oracle_model_id": "arith-oracle",
    "weights": ["0" * 16, "1" * 16],
    "max_new_tokens": 48,
    "temperature": 0,
    "base_tail": True,
    "max_oracle_tokens": None,
}
ARMS = grid([0, 2], [5], ["random"], ["before"], [0])
BASE, GUIDED = ARMS


def problem(index: int, **change: Any) -> Problem:
    text = f"What is {index} + 1?"
    plain = Problem(problem_id=f"p{index}", question=text, prompt=text, raw=False, gold=str(index + 1), level=1)
    return replace(plain, **change)


PROBLEMS = [problem(index, subject="sums" if index % 2 else None) for index in range(6)]


def record(arm: Arm, asked: Problem, **change: Any) -> dict[str, Any]:
    """A run's record, as far as a store looks at it."""
    sample = SampleArm(0, 0, "never") if arm.alone else SampleArm(2, 5)
    entry = {"problem_id": asked.problem_id, "level": asked.level, "subject": asked.subject}
    return sample_record(sample, entry) | {"arm": arm.name} | change


def opened(place: Place, shard: Shard = WHOLE, **change: Any) -> Store:
    given = {"config": CONFIG, "arms": ARMS, "problems": PROBLEMS} | change
    return Store(place, given["config"], given["arms"], given["problems"], shard)


def fill(store: Store) -> Store:
    """Write everything that this process has still to do, and close it."""
    with store:
        for arm in store.arms:
            for asked in store.left(arm):
                store.append(record(arm, asked))
    return store


def runs(*paths: Path) -> list[tuple[str, str]]:
    """Arm and problem of every record in some files."""
    return [(r["arm"], r["problem_id"]) for path in paths for r in read_records(path) if "header" not in r]


@pytest.fixture(params=[True, False], ids=["folder", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder, and a file."""
    return Place(tmp_path / ("runs" if request.param else "runs.jsonl"), folder=request.param)


# --- names ---


def test_every_arm_has_a_file_name_of_its_own() -> None:
    """Two arms in one file that is named after one of them; a name that a file system takes for a path; an ending that
    reads as the number of a shard.
    """
    triggers = ["entropy > 1.0", "entropy < 1.0", "entropy >= 1.0", "a_b > 1", "a b", "x/../../y", "x" * 400]
    triggers += ["x" * 400 + "y", "u < 0.3 + 0.7*position/max_new_tokens"]
    arms = [Arm(5, k, t, "before", seed) for t in triggers for k in (1, float("inf")) for seed in (1, -1)]
    slugs = [arm.slug for arm in arms]
    assert len({slug.lower() for slug in slugs}) == len({arm.name for arm in arms}) == len(arms)
    assert all(re.fullmatch(r"[A-Za-z0-9=._-]{1,120}", slug) and not re.search(r"\.\d+$", slug) for slug in slugs)
    assert Arm(5, 10, "random", "before", 0).slug == "c=5_k=10_random_before_seed=0"
    assert Arm(0, 0, "never", "before", 3).slug == "c=0_seed=3"


def test_an_arm_comes_back_from_its_header() -> None:
    """An infinite budget is no number in JSON."""
    for arm in (*ARMS, Arm(float("inf"), float("inf"), "always", "after", 7), Arm(5.0, 3, "random", "before", 0)):
        entry = json.loads(json.dumps(arm.as_dict(), allow_nan=False))
        assert Arm.from_dict(entry) == arm and entry["arm"] == arm.name
        assert set(entry) == {"arm", "c", "k", "trigger", "when", "seed"}
    assert Arm(float("inf"), 1, "x", "before", 0).as_dict()["c"] == "inf"


def test_the_default_folder_is_named_after_data_set_and_models() -> None:
    """A path separator of a hub id or a folder must not become a folder here."""
    assert default_place("arith", ["arith-base", "arith-oracle"]).path == Path("runs/arith-arith-base-arith-oracle")
    assert default_place("org/set", ["meta-llama/Llama 3", "/a/b/c.gguf"]).path == Path("runs/set-Llama-3-c.gguf")
    assert default_place("arith", ["smollm2@drop=24,26"]).path == Path("runs/arith-smollm2@drop=24,26")


# --- what is written ---


def test_a_folder_has_a_file_an_arm_and_a_file_has_all_of_them(place: Place) -> None:
    """The layout that `dodona report` and other programs read."""
    fill(opened(place))
    if place.folder:
        assert [path.name for path in place.files()] == ["c=0_seed=0.jsonl", "c=2_k=5_random_before_seed=0.jsonl"]
        assert [len(runs(path)) for path in place.files()] == [6, 6]
    else:
        assert place.files() == [place.path]
    assert sorted(runs(*place.files())) == sorted((arm.name, p.problem_id) for arm in ARMS for p in PROBLEMS)
    assert not place.lock.exists()


def test_the_header_says_what_the_runs_have_in_common(place: Place) -> None:
    """A table needs its denominator and a result its birth certificate, also where nothing has been run yet."""
    with opened(place):
        pass
    for path in place.files():
        (line,) = read_records(path)
        header = line["header"]
        assert header["schema"] == SCHEMA == 2
        assert header["dodona"] == dodona.__version__
        assert header["config"] == CONFIG
        canonical = json.dumps(CONFIG, sort_keys=True, separators=(",", ":"))
        assert header["config_hash"] == hashlib.sha256(canonical.encode()).hexdigest()[:16]
        assert header["versions"]["torch"] and header["versions"]["python"]
        listed = [arm["arm"] for arm in header["arms"]]
        assert listed in ([[BASE.name], [GUIDED.name]] if place.folder else [[BASE.name, GUIDED.name]])
        assert [(p["problem_id"], p["level"], p["subject"]) for p in header["problems"]] == [
            (p.problem_id, p.level, p.subject) for p in PROBLEMS
        ]
        assert "git_commit" in header


def test_the_commit_is_that_of_the_checkout_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git, or installed inside somebody else's checkout, it must neither fail nor name the other's commit."""
    package = tmp_path / "eval" / "header.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr(header_module, "__file__", str(package))
    assert git_commit() is None
    (tmp_path / ".git").mkdir()
    assert git_commit() is None  # no repository, whatever its name
    (tmp_path / ".git").rmdir()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert git_commit() == commit
    package.write_text("changed")
    assert git_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert git_commit() is None


def test_versions_leave_out_what_is_not_installed() -> None:
    """A package that is absent is no reason to fail, and no version."""
    assert all(isinstance(version, str) and version for version in versions().values())
    assert {"python", "torch", "transformers"} <= set(versions())


# --- going on ---


def test_going_on_writes_nothing_twice_and_leaves_nothing_out(place: Place) -> None:
    """The first experiments' second run doubled every row."""
    with opened(place) as store:
        for arm, asked in ((BASE, PROBLEMS[0]), (GUIDED, PROBLEMS[0]), (GUIDED, PROBLEMS[4])):
            store.append(record(arm, asked))
        assert store.kept() == 3
    store = opened(place)
    assert [len(store.left(arm)) for arm in ARMS] == [5, 4]
    fill(store)
    before = {path: path.read_bytes() for path in place.files()}
    assert len(runs(*before)) == len(set(runs(*before))) == 12
    fill(opened(place))
    assert {path: path.read_bytes() for path in place.files()} == before
    with opened(place) as store:
        for path in before:
            path.unlink()  # whoever does not want them any more, and then presses Ctrl-C
        assert store.kept() == 0


def test_more_arms_and_problems_add_a_header(place: Place) -> None:
    """Without it, a report of an unfinished file would not know that more was asked for."""
    fill(opened(place, arms=[BASE], problems=PROBLEMS[:2]))
    more = [*ARMS, Arm(3, 5, "random", "before", 0)]
    fill(opened(place, arms=more))
    headers = [line["header"] for line in read_records(place.file(BASE)) if "header" in line]
    assert [len(header["problems"]) for header in headers] == [2, 6]
    assert BASE.name in {arm["arm"] for arm in headers[1]["arms"]}
    assert sorted(runs(*place.files())) == sorted((arm.name, p.problem_id) for arm in more for p in PROBLEMS)
    size = sum(path.stat().st_size for path in place.files())
    with opened(place, arms=[GUIDED], problems=PROBLEMS[3:]) as store:  # less than there is: nothing to add
        assert store.left(GUIDED) == []
    assert sum(path.stat().st_size for path in place.files()) == size


def test_torn_last_lines_are_dropped_in_every_file(place: Place) -> None:
    """A record appended behind a torn line would make both unreadable; a torn header must be written again."""
    with opened(place) as store:
        for asked in PROBLEMS[:3]:
            store.append(record(GUIDED, asked))
    for path in place.files():
        with path.open("ab") as file:
            file.write(b'{"arm": "torn')
    fill(opened(place))
    assert len(runs(*place.files())) == len(set(runs(*place.files()))) == 12
    for path in place.files():
        path.write_bytes(path.read_bytes()[:40])
    fill(opened(place))
    assert len(runs(*place.files())) == 12
    assert all("header" in next(read_records(path)) for path in place.files())


def test_more_arms_than_a_process_may_open_files_are_no_problem(tmp_path: Path) -> None:
    """A grid of a thousand arms meets the usual limit of 1024 open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 64
    arms = [Arm(1, k, "random", "before", 0) for k in range(1, in_use + 100)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 50, hard))
    try:
        with opened(Place(tmp_path), arms=arms, problems=PROBLEMS[:1]) as store:
            store.append(record(arms[-1], PROBLEMS[0]))
        assert len(Place(tmp_path).files()) == len(arms)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 49}, "--max-new-tokens is 48 there and 49 here"),
        ({"temperature": 0.5}, "--temperature is 0 there and 0.5 here"),
        ({"base_tail": False}, "--no-base-tail is off there and on here"),
        ({"max_oracle_tokens": 9}, "--max-oracle-tokens is not set there and 9 here"),
        ({"recipe": "mine"}, '--recipe is "bare" there and "mine" here'),
        ({"dataset": "math"}, '--dataset is "arith" there and "math" here'),
        ({"base_model_id": "1B", "weights": ["2"]}, '--base-model is "arith-base" there and "1B" here; go on'),
        ({"weights": ["2" * 16, "1" * 16]}, f"the models' weights are {'0' * 16}, {'1' * 16} there and {'2' * 16}"),
        ({"temperature": 1, "recipe": "x"}, '--recipe is "bare" there and "x" here; --temperature is 0 there and 1'),
        ({"new_option": 1}, "--new-option is not known there and 1 here"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(
    place: Place, change: Mapping[str, Any], message: str
) -> None:
    """Rows of two configurations in one table are a number about nothing; and the user must see which option it is."""
    fill(opened(place))
    before = {path: path.read_bytes() for path in place.files()}
    with pytest.raises(DodonaError) as error:
        opened(place, config={**CONFIG, **change})
    text = str(error.value)
    assert message in text and "\n" not in text
    assert text.endswith(f"go on with its own, or give another {place.option}")
    assert {path: path.read_bytes() for path in place.files()} == before
    assert not place.lock.exists()


def test_another_arm_does_not_hide_another_configuration(tmp_path: Path) -> None:
    """With a file an arm, a new arm has no file yet; its folder has one of the old configuration nevertheless."""
    place = Place(tmp_path)
    fill(opened(place, arms=[BASE]))
    with pytest.raises(DodonaError, match="--temperature is 0 there and 1 here"):
        opened(place, arms=[GUIDED], config={**CONFIG, "temperature": 1})


def test_nothing_is_a_difference_between_equal_configurations() -> None:
    """1 and 1.0, or a tuple and a list, must not keep a user from going on."""
    assert differences(CONFIG, json.loads(json.dumps(CONFIG))) == ""
    assert config_hash(CONFIG) == config_hash(dict(reversed(CONFIG.items())))
    assert config_hash(CONFIG) != config_hash({**CONFIG, "temperature": 1})


def test_a_problem_that_was_changed_is_refused(place: Place) -> None:
    """The same id with another prompt or gold answer would be one question for some arms and another for the rest."""
    fill(opened(place))
    for changed in (problem(3, gold="5"), problem(3, prompt="What is 3+1?")):
        with pytest.raises(DodonaError, match="p3 has another prompt or gold answer there than here"):
            opened(place, problems=[*PROBLEMS[:3], changed])
    fill(opened(place, problems=[problem(0, subject=None)]))  # no more than another label


def test_files_of_others_are_refused_or_passed_over(place: Place) -> None:
    """`generate --output-file` writes records without a header; notes in a folder of records hurt nobody."""
    mine = place.file(BASE)
    mine.parent.mkdir(exist_ok=True)
    for content, message in (
        ('{"c": 0, "result": "4"}\n', "holds records that `dodona eval` did not write"),
        ('{"header": {"schema": 1, "config": {}}}\n', "was written by another version of dodona"),
        ('{"header": 3}\n', "was written by another version of dodona"),
        ('{"header": {"schema": 2, "config": {}}}\n', "has a header that cannot be read"),
        ("milk\n", "line 1: not JSON"),
        ("milk", "holds something else than records"),
    ):
        mine.write_text(content)
        with pytest.raises(DodonaError, match=message):
            opened(place)
        assert mine.read_text() == content
    if place.folder:
        mine.unlink()
        for name, content in (("other.jsonl", '{"c": 0}\n'), ("notes.jsonl", "milk\n"), ("x.graded.jsonl", "{}\n")):
            (place.path / name).write_text(content)
        (place.path / "folder.jsonl").mkdir()
        fill(opened(place))
        assert len(runs(*(place.file(arm) for arm in ARMS))) == 12


def test_a_damaged_record_is_one_clear_line(place: Place) -> None:
    """A traceback with a KeyError does not say which file to look at."""
    with opened(place) as store:
        store.append(record(BASE, PROBLEMS[0]))
    path = place.file(BASE)
    whole = path.read_text()
    for line in ('{"arm": "x"}', json.dumps(record(BASE, PROBLEMS[1]) | {"ledger": None})):
        path.write_text(whole + line + "\n")
        with pytest.raises(DodonaError, match=rf"{re.escape(str(path))} holds a record that cannot be read"):
            opened(place)


def test_places_that_cannot_be_written_are_one_clear_line(tmp_path: Path) -> None:
    """Found after the models were loaded, it would cost a quarter of an hour."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DodonaError, match="file is a file, and --output-dir needs a folder there"):
        opened(Place(tmp_path / "file"))
    with pytest.raises(DodonaError, match="cannot be written: Not a directory"):
        opened(Place(tmp_path / "file" / "deeper"))
    with pytest.raises(DodonaError, match="folder is a folder, and --output-file needs a file"):
        opened(Place(tmp_path / "folder", folder=False))


# --- several processes ---

HALVES = (Shard(0, 2), Shard(1, 2))


def test_two_processes_divide_the_runs_and_write_files_of_their_own(place: Place) -> None:
    """Both halves together are everything, and neither has a line of the other."""
    stores = [opened(place, shard) for shard in HALVES]
    assert [len(store.left(BASE)) for store in stores] == [3, 3]
    for store in stores:
        fill(store)
    assert len(place.files()) == (4 if place.folder else 2)
    assert [path.name for path in place.files() if re.search(r"\.1\.jsonl$", path.name)] == [
        place.file(arm, HALVES[1]).name for arm in (ARMS if place.folder else ARMS[:1])
    ]
    assert len(runs(*place.files())) == len(set(runs(*place.files()))) == 12
    assert all("header" in next(read_records(path)) for path in place.files())
    assert not place.lock.exists()


@pytest.mark.parametrize("later", [(WHOLE,), (Shard(0, 3), Shard(1, 3), Shard(2, 3)), HALVES[::-1]])
def test_any_number_of_processes_goes_on_with_what_others_left(place: Place, later: tuple[Shard, ...]) -> None:
    """A process that died leaves its file; whoever comes later must read it, however many they are."""
    stores = [opened(place, shard) for shard in HALVES]
    stores[1].append(record(GUIDED, PROBLEMS[3]))
    stores[0].append(record(BASE, PROBLEMS[2]))
    for store in stores:
        store.close()
    for store in [opened(place, shard) for shard in later]:
        fill(store)
    assert len(runs(*place.files())) == len(set(runs(*place.files()))) == 12


def test_a_process_with_nothing_left_to_do_makes_no_file(tmp_path: Path) -> None:
    """Eight processes for four problems would leave four empty files an arm."""
    place = Place(tmp_path)
    fill(opened(place, Shard(5, 8)))
    fill(opened(place, Shard(7, 8)))
    assert {path.name for path in place.files()} == {f"{arm.slug}.5.jsonl" for arm in ARMS}


def test_a_second_command_on_the_same_place_is_refused(place: Place) -> None:
    """Both would do the same runs, and every record would be there twice."""
    for first, second in ((WHOLE, WHOLE), (WHOLE, HALVES[1]), (HALVES[1], WHOLE), (HALVES[0], Shard(1, 3))):
        with opened(place, first), pytest.raises(DodonaError, match=f"{place.path.name} is being written by"):
            opened(place, second)
    with opened(place, HALVES[0]), pytest.raises(DodonaError, match="is being written by another process"):
        opened(place, HALVES[0])
    with opened(place, HALVES[0]), opened(place, HALVES[1]):
        pass
    assert not place.lock.exists()


def test_the_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    """Its file stays behind; the operating system takes the lock itself back."""
    path = tmp_path / ".lock"
    path.write_text("7")
    assert wait_until_free(path) and not path.exists()
    path.write_text("7")
    Lock(path, tmp_path, Shard(1, 2)).close()
    path.write_text("7")
    Lock(path, tmp_path, WHOLE).close()
    assert not path.exists()
    assert wait_until_free(path)


def test_the_first_process_waits_for_those_that_live(tmp_path: Path) -> None:
    """Its table would lack what they are still writing."""
    path = tmp_path / ".lock"
    others = [Lock(path, tmp_path, Shard(index, 3)) for index in (1, 2)]
    waiting = threading.Thread(target=wait_until_free, args=(path,))
    waiting.start()
    others[0].close()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    others[1].close()
    waiting.join(timeout=60)
    assert not waiting.is_alive() and not path.exists()


def test_a_file_system_without_locks_is_written_to_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems refuse flock; records on them are still worth having."""

    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    place = Place(tmp_path)
    for shard in HALVES:
        fill(opened(place, shard))
    fill(opened(place))
    assert len(runs(*place.files())) == 12
    assert place.lock.exists() and not wait_until_free(place.lock)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody here gives a lock up while another waits for it."""
    monkeypatch.setattr("dodona.eval.lock._PATIENCE", 0.05)
    yield
