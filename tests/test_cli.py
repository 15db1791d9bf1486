"""The command line: what a user types, what comes out, and one clear line for every mistake."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import Outcome, command, one_error_line

from dodona import Request, __version__
from dodona.cli import COMMANDS, Parser, kebab
from dodona.eval.commands.env import memory_size
from dodona.eval.commands.options import add_request_options, request_options

# --- the command itself ---


def test_help_and_version_do_not_import_torch(root: Path) -> None:
    """`dodona --help` in three seconds instead of a tenth, because one module imports torch at its top."""
    code = (
        "import sys, contextlib\nfrom dodona.cli import main\n"
        "for flag in ('--help', '--version'):\n    with contextlib.suppress(SystemExit): main([flag])\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert f"dodona {__version__}\n" in done.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(cli: Callable[..., Outcome], name: str) -> None:
    """A per cent sign in a help text is a format directive to argparse, and crashes --help alone."""
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert f"usage: dodona {name}" in out


def test_no_command_prints_the_help_and_fails(cli: Callable[..., Outcome]) -> None:
    """A script that loses its arguments must not look successful."""
    code, out, _ = cli()
    assert code == 2 and "generate" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["genrate"], "there is no command 'genrate'; did you mean generate?"),
        (["xyzzy"], "there is no command 'xyzzy'; --help lists what there is"),
        (["--verion"], "unknown option --verion; did you mean --version?"),
        (["generate", "hi", "--temprature", "1"], "unknown option --temprature; did you mean --temperature?"),
        (["generate", "hi", "--max_new_token=3"], "unknown option --max-new-token; did you mean --max-new-tokens?"),
        (["generate", "hi", "--temp", "1"], "unknown option --temp;"),
        (["generate", "hi", "there"], "unexpected argument 'there'; put a text of several words in quotes"),
        (["generate", "hi", "--c", "few"], "argument --c: must be a whole number or inf, not 'few'"),
        (["generate", "hi", "--c", "-1"], "c must be a whole number of 0 or more, or inf, not -1"),
        (["generate", "hi", "--k", "-1"], "k must be a whole number of 0 or more, or inf, not -1"),
        (["generate", "hi", "--when", "later"], "when must be 'before' or 'after', not 'later'"),
        (["generate", "hi", "--top-p", "0"], "top_p must lie in (0, 1], not 0.0"),
        (["generate", "hi", "--max-new-tokens", "0"], "max_new_tokens must be a whole number of 1 or more, not 0"),
        (["generate", "hi", "--oracle-model", "8B"], "--oracle-model needs a --base-model beside it"),
        (["generate", "hi", "--base-model", "9B"], "no model '9B'"),
        (["generate", "hi", "--device", "abacus"], "abacus"),
        (["generate", "hi", "--dtype", "int3"], "int3"),
        (["generate", "hi", "--file", "x"], "the prompt is given more than once"),
        (["generate", "--file", "no/such/file"], "no/such/file cannot be read: No such file or directory"),
        (["generate", "hi", "--stream", "--json"], "--stream prints one text as it comes"),
        (["generate", ""], "the prompt is empty"),
        (["generate", "hi\udcff"], "the prompt is not valid"),
        (["generate", "hi", "--base-model", "arith-base", "--c", "2"], "need an oracle, and none is loaded"),
        (["eval"], "--dataset says which problems to solve: arith"),
        (["eval", "--dataset", "airth"], "there is no file or folder airth; the names are arith, math, math-500"),
        (["eval", "--dataset", "arith", "--level", "6"], "arith has no level '6': its levels are 1, 2, 3, 4, 5"),
        (["eval", "--dataset", "arith", "--num-samples", "0"], "--num-samples must be 1 or more, or all, not 0"),
        (["eval", "--dataset", "arith", "--c", "1,-2"], "c must be a whole number of 0 or more, or inf, not -2"),
        (["eval", "--dataset", "arith", "--temperature", "-1"], "temperature must be a number of 0 or more"),
        (
            ["generate", "hi", "--oracle-temperature", "nan"],
            "oracle_temperature must be a number of 0 or more, not nan",
        ),
        (["generate", "hi", "--threads", "100000"], "threads must be"),
        (["eval", "--dataset", "arith", "--output-dir", "x", "--output-file", "y"], "both say where the records go"),
        (["eval", "--dataset", "arith", "--max-batch", "0"], "max_batch must be a whole number of 1 or more, not 0"),
        (["eval", "--dataset", "arith", "--calibrate"], "--calibrate belongs to --dry-run"),
        (["eval", "--dataset", "arith", "--oracle-model", "8B"], "--oracle-model needs a --base-model beside it"),
        (["eval", "--dataset", "arith", "--base-model", "9B"], "no model '9B'"),
        (["eval", "--dataset", "arith", "--device", "abacus"], "abacus"),
        (["eval", "--dataset", "arith", "--dtype", "int3"], "int3"),
        (["eval", "--dataset", "arith", "--dry-run", "--stats-file", "x"], "--stats-file is for the table"),
        (["eval", "--dataset", "arith", "--verbose", "--json"], "--verbose prints texts"),
        (["sweep", "x.toml", "--verbose", "--json"], "--verbose prints texts"),
        (
            ["eval", "--dataset", "arith", "--base-model", "arith-base", "--trigger", "always"],
            "--trigger needs an oracle",
        ),
        (["generate", "hi", "--base-model", "arith-base", "--k", "3"], "--k needs an oracle"),
        (["generate", "hi", "--n", "0"], "argument --n: must be 1 or more, not 0"),
        (["demo", "--text", "--num-samples", "3"], "--num-samples is for the problems of arithmetic"),
        (["env", "--gpu-memory", "lots"], "must be a size such as 141GB or 80GiB, not 'lots'"),
        (["env", "--max-batch", "0"], "argument --max-batch: must be 1 or more, not 0"),
    ],
)
def test_a_mistake_is_one_clear_line(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """A traceback, or argparse's usage of forty lines, hides what was wrong; exit code 0 hides that anything was."""
    monkeypatch.chdir(tmp_path)  # where nothing may be left
    assert message in one_error_line(cli(*arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_bad_trigger_is_pointed_at(cli: Callable[..., Outcome]) -> None:
    """`entrpy > 2` that silently never fires would look like a result."""
    code, out, err = cli("generate", "hi", "--trigger", "entrpy > 2")
    assert (code, out) == (2, "")
    assert err.startswith("dodona: error: trigger, column 1:") and "entrpy" in err and "Traceback" not in err


def test_snake_case_options_are_the_same_options() -> None:
    """The first experiments' commands are full of --max_new_tokens; an underscore in a value is the user's own."""
    assert kebab("--max_new_tokens=4") == "--max-new-tokens=4"
    assert kebab("--stop=END_OF_TEXT") == "--stop=END_OF_TEXT"
    assert kebab("snake_case") == "snake_case"


def test_the_home_folder_is_read_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named ~ in the working directory is what `--trace=~/t.parquet` made."""
    monkeypatch.setenv("HOME", "/elsewhere/ada")
    parser = Parser("dodona test", "")
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("--out", metavar="FILE", type=Path)
    parser.add_argument("--stop", metavar="TEXT")
    args = parser.read(["~/a", "b/~", "--out=~/c", "--stop=~/d"])
    assert (args.runs, args.out, args.stop) == (["/elsewhere/ada/a", "b/~"], Path("/elsewhere/ada/c"), "~/d")


def test_what_follows_two_dashes_is_no_option(cli: Callable[..., Outcome]) -> None:
    """A prompt that begins with dashes must be possible, and must keep its underscores."""
    code, out, _ = cli("generate", "--json", "--max_new_tokens", "2", "--", "--my_prompt")
    assert code == 0
    assert json.loads(out)["prompt"] == "--my_prompt"


# --- options of a request ---


def parsed(*arguments: str) -> dict[str, Any]:
    parser = Parser("test", "")
    add_request_options(parser)
    return request_options(parser.read(arguments))


def test_every_field_of_a_request_is_an_option() -> None:
    """A field added to Request and forgotten on the command line can be used from Python only."""
    values = {"when": "after", "trigger": "never", "stop": "x", "key": "x", "id": "x", "top_p": "0.5", "min_p": "0.5"}
    for field in dataclasses.fields(Request):
        if field.name == "prompt":
            continue
        option = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            given = parsed(option.replace("--", "--no-") if field.default else option)
            assert given == {field.name: not field.default}
        else:
            given = parsed(option, values.get(field.name, "1"))
            assert list(given) == [field.name]
        Request(prompt="x", **given)


def test_options_that_are_not_given_are_left_to_request() -> None:
    """A default written a second time in the parser drifts away from the first."""
    assert parsed() == {}


def test_values_are_read_as_what_they_are() -> None:
    """`--c inf` as the text "inf", or `--stop` as a list of letters, fails far from here."""
    given = parsed("--c", "inf", "--k", "3", "--stop", "a", "--stop", "b,c", "--temperature", "0.5", "--seed", "-4")
    assert given == {"c": float("inf"), "k": 3, "stop": ("a", "b,c"), "temperature": 0.5, "seed": -4}


# --- env ---


def test_env_plans_for_hardware_that_is_not_there(cli: Callable[..., Outcome]) -> None:
    """The numbers of the published models: 8.03 and 70.55 billion parameters, 128 and 320 KiB of KV cache a token."""
    big = ("env", "--base-model", "8B", "--oracle-model", "70B", "--max-batch", "4", "--max-length", "4096", "--json")
    code, out, err = cli(*big, "--gpu-memory", "192GB")
    assert (code, err) == (0, "")
    report = json.loads(out)
    base, oracle = report["memory_plan"]["models"]
    assert base["weight_bytes"] == 2 * 8_030_261_248 and oracle["weight_bytes"] == 2 * 70_553_706_496
    assert (base["kv_bytes_per_token"], oracle["kv_bytes_per_token"]) == (128 * 1024, 320 * 1024)
    assert report["memory_plan"]["total"] == 192_000_000_000
    assert report["versions"]["dodona"] == __version__
    assert "do not fit into" in one_error_line(cli(*big, "--gpu-memory", "80GB"))


def test_env_prints_what_is_here(cli: Callable[..., Outcome]) -> None:
    """A report without the version of torch answers no bug report."""
    import torch

    code, out, err = cli("env")
    assert (code, err) == (0, "")
    assert torch.__version__ in out and "flash-attn" in out and "arith-oracle" in out


@pytest.mark.parametrize(
    ("text", "size"), [("141GB", 141 * 10**9), ("80 GiB", 80 * 2**30), ("0.5t", 5 * 10**11), ("100", 100)]
)
def test_sizes_are_read_in_both_systems(text: str, size: int) -> None:
    """A GPU of 141 GB has 131 GiB: taken for one another, a plan that does not fit is called fitting."""
    assert memory_size(text) == size


def test_the_module_runs_as_the_command_does(root: Path) -> None:
    """`python -m dodona` must pass the exit code on."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(command("nonsense"), cwd=root, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "dodona: error: there is no command 'nonsense'; --help lists what there is\n"
