"""Sweep files: what they mean, what is wrong with them, and that every pair is run that can be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import Outcome
from kept_records import contents

from dodona.cli import main
from dodona.engine.errors import DodonaError
from dodona.eval.commands import running
from dodona.eval.sweep import GRID, OPTIONS, TOP, pairings, parse_toml, read_sweep

TASK = '[[tasks]]\ndataset = "arith"\n'


def parsed(text: str) -> list[Any]:
    return pairings(parse_toml(text))


@pytest.fixture
def sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a sweep file in this process."""

    def run(text: str, *arguments: str) -> Outcome:
        file = tmp_path / "sweep.toml"
        file.write_text(text, encoding="utf-8")
        code = main(["sweep", str(file), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


# --- what a file means ---


def test_the_shortest_file_is_the_embedded_pair_on_a_task() -> None:
    """The defaults are those of `dodona eval`."""
    (pairing,) = parsed(TASK)
    assert pairing.models.names == ("arith-base", "arith-oracle")
    assert [arm.name for arm in pairing.arms] == ["c=5 k=10 random before seed=0"]
    assert pairing.folder == Path("runs/sweep/arith-arith-base-arith-oracle")
    assert pairing.options == {}


def test_a_file_from_windows_is_read_alike(tmp_path: Path) -> None:
    """Notepad's byte order mark is no part of the first key."""
    text = 'output_dir = "x"\n\n[[tasks]]\ndataset = "arith"\n'
    file = tmp_path / "sweep.toml"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_sweep(file) == parsed(text)


def test_every_model_meets_every_task_over_the_whole_grid() -> None:
    """A missing combination is a hole in a table that nobody sees."""
    found = parsed(
        'output_dir = "out"\n[[models]]\nbase = "1B"\noracle = "8B"\n[[models]]\nbase = "3B"\noracle = "8B"\n'
        f'{TASK}num_samples = 3\n[[tasks]]\ndataset = "gsm8k"\n'
        '[grid]\nc = [0, 1, "inf"]\nk = [5, inf]\ntrigger = ["random", "entropy > 1.0"]\nwhen = ["before", "after"]\n'
        "seed = [0, 1]\n"
    )
    assert [str(pairing.folder) for pairing in found] == [
        *("out/arith-1B-8B", "out/gsm8k-1B-8B", "out/arith-3B-8B", "out/gsm8k-3B-8B")
    ]
    for pairing in found:
        names = [arm.name for arm in pairing.arms]
        assert len(names) == len(set(names)) == 2 + 2 * 2 * 2 * 2 * 2
        assert "c=inf k=inf entropy>1.0 after seed=1" in names
    assert [pairing.task.num_samples for pairing in found] == [3, None, 3, None]


def test_a_model_without_an_oracle_is_run_alone() -> None:
    """As the reference line of a plot; consults without an oracle would be refused, or fail one by one."""
    alone, guided = parsed(
        f'[[models]]\nbase = "8B"\n[[models]]\nbase = "1B"\noracle = "8B"\n{TASK}[grid]\nc = [1, 2]\nseed = [3, 4]\n'
    )
    assert [arm.name for arm in alone.arms] == ["c=0 seed=3", "c=0 seed=4"]
    assert len(guided.arms) == 4


def test_one_value_may_stand_for_a_list() -> None:
    """`c = 5` means what everybody takes it for."""
    (pairing,) = parsed(f'{TASK}[grid]\nc = 2\nk = "inf"\ntrigger = "always"\nseed = 7\n[options]\nstop = "x"\n')
    assert [arm.name for arm in pairing.arms] == ["c=2 k=inf always before seed=7"]
    assert pairing.options == {"stop": ("x",)}


def test_what_is_said_closer_to_a_model_or_task_goes_first() -> None:
    """MATH needs 5120 tokens and GPQA 2048; a large model another batch than a small one."""
    found = parsed(
        '[[models]]\nbase = "1B"\n[[models]]\nbase = "70B"\nmax_batch = 4\ndtype = "float16"\n'
        f"{TASK}max_new_tokens = 50\n"
        '[[tasks]]\ndataset = "gsm8k"\n'
        '[options]\nmax_new_tokens = 99\ntemperature = 0.5\nraw = true\n[engine]\nmax_batch = 32\ndevice = "cpu"\n'
    )
    assert [(p.options["max_new_tokens"], p.options["temperature"]) for p in found] == [(50, 0.5), (99, 0.5)] * 2
    assert [p.models.options["max_batch"] for p in found] == [32, 32, 4, 4]
    assert [(p.models.device, p.models.dtype) for p in found] == [("cpu", None)] * 2 + [("cpu", "float16")] * 2


def test_names_tell_apart_what_would_share_a_folder() -> None:
    """Two tasks of one data set in one folder would be one experiment."""
    two = f"{TASK}level = [1]\n{TASK}level = [5]\n"
    with pytest.raises(DodonaError, match=r"would share the folder runs/sweep/arith-arith-base-arith-oracle"):
        parsed(two)
    easy, hard = parsed(two.replace("level = [5]", 'level = [5]\nname = "hard"'))
    assert (easy.folder.name, hard.folder.name) == ("arith-arith-base-arith-oracle", "hard-arith-base-arith-oracle")
    models = '[[models]]\nbase = "a/x"\n[[models]]\nbase = "b/x"\nname = "other"\n'
    assert [p.folder.name for p in parsed(models + TASK)] == ["arith-x", "arith-other"]


def test_the_example_is_a_sweep_of_everything(root: Path) -> None:
    """It is what people copy: each key of a file is shown in it, and it is small enough to try."""
    path = root / "docs" / "sweep-example.toml"
    content = parse_toml(path.read_text(encoding="utf-8"))
    assert set(content) == set(TOP) and set(content["grid"]) == set(GRID)
    found = read_sweep(path)
    assert sum(len(p.arms) * p.task.num_samples for p in found) == 600


# --- what is wrong with a file ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are no [[tasks]]: each has a dataset, as in dataset ="),
        ("c = [1", "sweep.toml: not TOML: "),
        (f'outpt_dir = "x"\n{TASK}', "the file has no key 'outpt_dir': did you mean output_dir?"),
        (f"output_dir = 3\n{TASK}", "output_dir must be a text, not 3"),
        (f'[model]\nbase = "1B"\n{TASK}', "the file has no key 'model': did you mean models?"),
        (f'[models]\nbase = "1B"\n{TASK}', "[[models]] are tables, each with two brackets, not {'base': '1B'}"),
        (f'[[models]]\noracle = "8B"\n{TASK}', "[[models]] needs a base, as in base = '1B'"),
        (f'[[models]]\nbase = "1B"\norcale = "8B"\n{TASK}', "[[models]] has no key 'orcale': did you mean oracle?"),
        (f"[[models]]\nbase = 8\n{TASK}", "[[models]] base must be a text, not 8"),
        (
            f'[[models]]\nbase = "1B"\nmax_batch = "4"\n{TASK}',
            "[[models]] max_batch must be a whole number of 1 or more",
        ),
        ("[[tasks]]\nnum_samples = 3\n", "[[tasks]] needs a dataset"),
        ('tasks = "arith"', "[[tasks]] are tables, each with two brackets, not 'arith'"),
        (f"{TASK}num_sample = 3\n", "[[tasks]] has no key 'num_sample': did you mean num_samples?"),
        (f'{TASK}num_samples = "few"\n', "[[tasks]] --num-samples must be a whole number or all, not 'few'"),
        (f"{TASK}num_samples = 0\n", "[[tasks]] --num-samples must be 1 or more, or all, not 0"),
        (f"{TASK}max_new_tokens = 0\n", "max_new_tokens must be a whole number of 1 or more, not 0"),
        (f"{TASK}[grid]\nC = [1]\n", "[grid] has no key 'C': "),
        (f"{TASK}[grid]\ntriggers = ['random']\n", "[grid] has no key 'triggers': did you mean trigger?"),
        (f'{TASK}[grid]\nc = ["many"]\n', "[grid] c must be whole numbers of 0 or more, or \"inf\", not 'many'"),
        (f"{TASK}[grid]\nc = [1.5]\n", "[grid] c must be whole numbers of 0 or more"),
        (f"{TASK}[grid]\nc = [-1]\n", "[grid] c must be whole numbers of 0 or more"),
        (f"{TASK}[grid]\nc = [true]\n", '[grid] c must be whole numbers of 0 or more, or "inf", not true'),
        (f"{TASK}[grid]\nc = []\n", "[grid] c is empty: leave it out for the default, 5"),
        (f"{TASK}[grid]\ntrigger = [3]\n", "[grid] trigger must be a text, not 3"),
        (f'{TASK}[grid]\ntrigger = ["entrpy > 1"]\n', "trigger, column 1:"),
        (f'{TASK}[grid]\nwhen = ["later"]\n', "when must be 'before' or 'after', not 'later'"),
        (f'{TASK}[grid]\nseed = ["x"]\n', "[grid] seed must be a whole number, not 'x'"),
        (f"grid = 3\n{TASK}", "[grid] is a table, not 3"),
        (f"{TASK}[options]\ntemprature = 1\n", "[options] has no key 'temprature': did you mean temperature?"),
        (f'{TASK}[options]\ntemperature = "hot"\n', "[options] temperature must be a number, not 'hot'"),
        (f"{TASK}[options]\ntemperature = -1\n", "temperature must be a number of 0 or more, not -1"),
        (f"{TASK}[options]\ntop_k = 1.5\n", "[options] top_k must be a whole number, not 1.5"),
        (f"{TASK}[options]\nraw = 1\n", "[options] raw must be true or false, not 1"),
        (f"{TASK}[options]\nstop = [1]\n", "[options] stop must be a text, not 1"),
        (f"{TASK}[options]\nseed = 1\n", "[options] has no key 'seed': "),
        (f"{TASK}[engine]\nmax_batch = 0\n", "[engine] max_batch must be a whole number of 1 or more, not 0"),
        (f"{TASK}[engine]\ndevice = 3\n", "[engine] device must be a text, not 3"),
        (f"{TASK}[engine]\nbatch = 3\n", "[engine] has no key 'batch': did you mean max_batch?"),
    ],
)
def test_a_mistake_is_one_clear_line_before_anything_is_run(
    sweep: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    """An unknown key that is passed over runs a night with the default; a wrong type is a traceback in the middle."""
    monkeypatch.chdir(tmp_path)
    code, out, error = sweep(text)
    assert (code, out) == (2, "")
    assert error.startswith(f"dodona: error: {tmp_path / 'sweep.toml'}") and message in error, error
    assert error.count("\n") == 1 or "trigger, column" in error
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.toml"]


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not there, or in another encoding."""
    assert main(["sweep", str(tmp_path / "no.toml")]) == 2
    assert capsys.readouterr().err.endswith("no.toml cannot be read: No such file or directory\n")
    (tmp_path / "latin.toml").write_bytes('output_dir = "caf\xe9"'.encode("latin-1"))
    assert main(["sweep", str(tmp_path / "latin.toml")]) == 2
    assert capsys.readouterr().err.endswith("latin.toml is not valid UTF-8, as TOML must be\n")


def test_every_option_of_generation_has_a_reader() -> None:
    """A field added to Request must be usable in a sweep, with its type checked."""
    values = {"stop": '"x"', "raw": "true", "base_tail": "false", "oracle_tail": "true", "divergence": "true"}
    for name in OPTIONS:
        value = values.get(name, "0.5" if name.endswith(("_p", "temperature")) else "3")
        (pairing,) = parsed(f"{TASK}[options]\n{name} = {value}\n")
        assert list(pairing.options) == [name]
        with pytest.raises(DodonaError, match=rf"\[options\] {name} must be"):
            parsed(f"{TASK}[options]\n{name} = {{a = 1}}\n")


# --- running ---

SMALL = '[options]\nmax_new_tokens = 40\n[grid]\nc = [0, 1]\nk = [3]\n[engine]\ndevice = "cpu"\n'


def study(folder: Path) -> str:
    return (
        f'output_dir = "{folder}"\n[[models]]\nbase = "arith-base"\noracle = "arith-oracle"\n'
        '[[models]]\nbase = "arith-oracle"\n'
        f'{TASK}num_samples = 3\n{TASK}name = "hard"\nlevel = [5]\nnum_samples = 2\n{SMALL}'
    )


def test_a_sweep_runs_every_pair_in_a_folder_of_its_own(sweep: Callable[..., Outcome], tmp_path: Path) -> None:
    """The same as the evals one by one, and the same command goes on; models are loaded once for all of their tasks."""
    folder = tmp_path / "out"
    code, out, error = sweep(study(folder))
    assert code == 0, error
    sizes = {path.name: len(contents(path)) for path in folder.iterdir()}
    assert sizes == {
        "arith-arith-base-arith-oracle": 6,
        "hard-arith-base-arith-oracle": 4,
        "arith-arith-oracle": 3,
        "hard-arith-oracle": 2,
    }
    assert [f"--- {folder / name} ---" in out for name in sizes] == [True] * 4
    assert "4 of 4: " in error and out.count("accuracy [95 %]") == 4

    one = ["eval", "--dataset", "arith", "--device", "cpu", "--num-samples", "3", "--max-new-tokens", "40"]
    one += ["--c", "0,1", "--k", "3"]
    assert main([*one, "--output-dir", str(tmp_path / "one")]) == 0
    assert contents(tmp_path / "one") == contents(folder / "arith-arith-base-arith-oracle")

    code, out, _ = sweep(study(folder).replace("num_samples = 3", "num_samples = 4"))
    assert code == 0 and out.count("nothing was left to run") == 2
    assert len(contents(folder / "arith-arith-base-arith-oracle")) == 8


def test_engines_are_loaded_once_for_each_models_and_only_if_needed(
    sweep: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading 70B again for each task takes longer than some of the tasks."""
    loaded: list[tuple[str, ...]] = []
    load = running.Models.load

    def noted(models: running.Models) -> Any:
        loaded.append(models.names)
        return load(models)

    monkeypatch.setattr(running.Models, "load", noted)
    assert sweep(study(tmp_path / "out"))[0] == 0
    assert loaded == [("arith-base", "arith-oracle"), ("arith-oracle",)]
    assert sweep(study(tmp_path / "out"))[0] == 0
    assert len(loaded) == 2


def test_a_pair_that_fails_is_reported_and_the_others_are_run(sweep: Callable[..., Outcome], tmp_path: Path) -> None:
    """A model that cannot be found must cost its own pairs and not the night; and the exit code must tell."""
    folder = tmp_path / "out"
    text = study(folder).replace('[[models]]\nbase = "arith-oracle"', '[[models]]\nbase = "no/such-model@drop=1"')
    code, out, error = sweep(text.replace('name = "hard"\nlevel = [5]', 'name = "hard"\nlevel = [77]'))
    assert code == 2
    failed = re.findall(r"dodona: error: (.*?): (.*)\n", error)
    assert [Path(name).name for name, _ in failed] == [
        *("hard-arith-base-arith-oracle", "arith-such-model@drop=1", "hard-such-model@drop=1")
    ]
    assert "no level" in failed[0][1] and "no/such-model" in failed[1][1]
    assert error.endswith("3 of 4 pairs of models and task could not be run\n")
    assert out.count("accuracy [95 %]") == 1 and len(contents(folder / "arith-arith-base-arith-oracle")) == 6
    assert [path.name for path in folder.iterdir()] == ["arith-arith-base-arith-oracle"]

    code, out, _ = sweep(text, "--json", "--stats-file", str(tmp_path / "stats.json"))
    report = json.loads(out)
    assert code == 2 and report == json.loads((tmp_path / "stats.json").read_text())
    assert ["error" in pair for pair in report["pairs"]] == [False, False, True, True]
    assert [len(pair["arms"]) for pair in report["pairs"][:2]] == [2, 2]


def test_a_changed_file_is_refused_with_the_difference(sweep: Callable[..., Outcome], tmp_path: Path) -> None:
    """The user changed the file, so the way out is in the file as well."""
    assert sweep(study(tmp_path / "out"))[0] == 0
    code, _, error = sweep(study(tmp_path / "out").replace("max_new_tokens = 40", "max_new_tokens = 41"))
    assert code == 2 and error.count("--max-new-tokens is 40 there and 41 here; go on with its own, or give") == 4
    assert "give another output_dir\n" in error


def test_a_dry_run_adds_up_all_pairs(sweep: Callable[..., Outcome], tmp_path: Path) -> None:
    """How long the whole study takes is what one wants to know before it starts; nothing may be written for it."""
    folder = tmp_path / "out"
    code, out, error = sweep(study(folder), "--dry-run")
    assert (code, error) == (0, "")
    assert out.endswith("in all 15 runs, 15 left: at most 600 tokens to write, an unknown time in one process\n")
    assert not folder.exists()
    assert sweep(study(folder))[0] == 0
    code, out, _ = sweep(study(folder).replace("num_samples = 3", "num_samples = 5"), "--dry-run")
    assert code == 0 and re.search(r"in all 21 runs, 6 left: at most 240 tokens to write, about \d+ s in one", out)
    code, out, _ = sweep(study(folder), "--dry-run", "--json")
    assert [pair["left"] for pair in json.loads(out)["pairs"]] == [0, 0, 0, 0]
    code, out, _ = sweep(study(folder), "--dry-run")
    assert out.endswith("in all 15 runs, and nothing is left to run\n")


def test_ctrl_c_ends_the_whole_sweep(
    sweep: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on with the next pair is not what Ctrl-C means."""
    finish = running.Run.finish

    def interrupted(run: running.Run, engine: Any) -> Any:
        for number, done in enumerate(finish(run, engine)):
            if number == 2:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(running.Run, "finish", interrupted)
    code, out, error = sweep(study(tmp_path / "out"))
    assert (code, out) == (130, "")
    first = tmp_path / "out" / "arith-arith-base-arith-oracle"
    assert error.endswith(f"stopped: 3 records kept in {first}; the same command goes on\n")
    assert len(contents(first)) == 3 and list(first.parent.iterdir()) == [first]
    monkeypatch.undo()
    assert sweep(study(tmp_path / "out"))[0] == 0
