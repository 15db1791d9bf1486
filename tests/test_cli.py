"""The command line: what a user types, what comes out, and one clear line for every mistake."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dodona import Engine, Request, __version__
from dodona.cli import COMMANDS, Parser, kebab
from dodona.engine.records import read_records
from dodona.eval.commands import generate
from dodona.eval.commands.env import memory_size
from dodona.eval.commands.options import add_request_options, request_options

QUESTION = "What is 23 + 48?"
Outcome = tuple[int, str, str]  # exit code, standard output, standard error


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The embedded pair."""
    return Engine()


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Puts bytes on standard input."""

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


def one_error_line(outcome: Outcome) -> str:
    """The error of a command that failed as it should."""
    code, out, err = outcome
    assert code == 2, err
    assert out == ""
    assert err.startswith("dodona: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("dodona: error: ").strip()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dodona", *arguments]


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


# --- generate ---


def test_generate_prints_the_text_that_the_engine_writes(cli: Callable[..., Outcome], engine: Engine) -> None:
    """An option that is parsed and then dropped changes nothing, and nobody notices."""
    options: dict[str, Any] = {"c": 2, "k": 3, "trigger": "entropy > 0.1", "max_new_tokens": 60, "seed": 5}
    sampled = {"temperature": 0.8, "top_k": 20, "when": "after", "step_size": 4}
    arguments = [f"--{name}={value}" for name, value in (options | sampled).items()]
    code, out, err = cli("generate", QUESTION, *arguments)
    assert (code, err) == (0, "")
    assert out == engine.generate(QUESTION, **options, **sampled).text + "\n"


def test_the_prompt_comes_from_wherever_it_is_given(
    cli: Callable[..., Outcome], stdin: Callable[[bytes], None], tmp_path: Path
) -> None:
    """`echo` adds a line end that is no part of the question; other white space is the user's own."""
    file = tmp_path / "prompt.txt"
    file.write_bytes(f"{QUESTION}\r\n".encode())
    stdin(f"{QUESTION}\n".encode())
    ways = [(QUESTION,), (f"--prompt={QUESTION}",), ("--file", str(file)), (), ("-",)]
    for way in ways:
        if way == ("-",):
            stdin(QUESTION.encode())
        code, out, err = cli("generate", *way, "--json", "--max-new-tokens", "2")
        assert code == 0, err
        assert json.loads(out)["prompt"] == QUESTION
    stdin(b" two\n\n")
    assert generate.read_prompt(make_args()) == " two\n"
    file.write_bytes(b"\xef\xbb\xbf" + QUESTION.encode())  # an editor's byte order mark
    assert generate.read_prompt(make_args(file=str(file))) == QUESTION


def make_args(**given: Any) -> Any:
    import argparse

    return argparse.Namespace(**({"prompt": None, "prompt_option": None, "file": None} | given))


def test_no_prompt_at_a_terminal_is_an_error_and_does_not_wait(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that silently waits for input looks as if it hangs."""
    terminal = io.TextIOWrapper(io.BytesIO(b""))
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert "there is no prompt" in one_error_line(cli("generate"))


def test_a_file_that_is_not_utf8_is_refused_with_the_place(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Replacing the byte would generate from another prompt than the user's."""
    file = tmp_path / "latin1.txt"
    file.write_bytes("What is a café?".encode("latin-1"))
    message = one_error_line(cli("generate", "--file", str(file)))
    assert message.endswith("latin1.txt is not valid UTF-8: byte 0xe9 at offset 13")


def test_json_is_one_record_a_sample(cli: Callable[..., Outcome]) -> None:
    """The samples must be different draws of one request, in order, each a whole record."""
    code, out, err = cli("generate", QUESTION, "--json", "--n", "3", "--temperature", "2", "--max_new_tokens", "20")
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["sample"] for record in records] == [0, 1, 2]
    assert len({record["result"] for record in records}) > 1
    for record in records:
        ids = [token for segment in record["interleaved_outputs"] for token in segment["token_ids"]]
        assert len(ids) == record["total_tokens_generated"]
        assert record["base_model_id"] and record["oracle_model_id"]
        assert "ledger" in record and "ground_truth" not in record


def test_a_stream_is_the_same_text(cli: Callable[..., Outcome], engine: Engine) -> None:
    """Pieces printed with a line end each, or a lost last piece, are another text."""
    options = ("--c", "2", "--k", "4", "--max-new-tokens", "40")
    assert cli("generate", QUESTION, *options, "--stream") == cli("generate", QUESTION, *options)


def test_verbose_shows_who_wrote_what(cli: Callable[..., Outcome], engine: Engine) -> None:
    """Colours in a pipe are noise; without them the oracle's text must still be visible. The text itself stays."""
    options = ("--c", "2", "--k", "4", "--trigger", "at(0, 7)", "--max-new-tokens", "40")
    result = engine.generate(QUESTION, c=2, k=4, trigger="at(0, 7)", max_new_tokens=40)
    code, plain, err = cli("generate", QUESTION, *options, "--verbose")
    assert code == 0
    assert plain.count("⟦") == plain.count("⟧") == 2 and "\x1b" not in plain
    assert plain.replace("⟦", "").replace("⟧", "") == result.text + "\n"
    assert "2 consults at 0, 7; the oracle wrote 8" in err
    _, colored, _ = cli("generate", QUESTION, *options, "--verbose", "--color", "always")
    parts = [segment.text for segment in result.segments]
    assert colored == f"\x1b[94m{parts[0]}\x1b[0m\x1b[31m{parts[1]}\x1b[0m\x1b[94m{parts[2]}\x1b[0m" + (
        f"\x1b[31m{parts[3]}\x1b[0m\n"
    )
    _, streamed, _ = cli("generate", QUESTION, *options, "--verbose", "--stream", "--color", "always")
    assert streamed == colored


def test_records_are_appended_and_the_trace_has_a_row_a_token(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A second command that overwrites the first one's record loses it."""
    records, trace = tmp_path / "r.jsonl", tmp_path / "t.parquet"
    files = ("--output-file", str(records), "--trace", str(trace))
    for seed in ("1", "2"):
        assert cli("generate", QUESTION, "--seed", seed, "--max-new-tokens", "12", *files)[0] == 0
    assert [record["seed"] for record in read_records(records)] == [1, 2]
    last = list(read_records(records))[-1]
    assert pq.read_table(trace).num_rows == last["total_tokens_generated"]


@pytest.mark.parametrize("option", ["--output-file", "--trace"])
def test_an_unwritable_output_is_found_before_anything_is_generated(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """After an hour of generating it would be too late."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(generate, "make_engine", never)
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "out")
    assert path in one_error_line(cli("generate", QUESTION, option, path))


def test_one_model_alone_needs_no_oracle(cli: Callable[..., Outcome]) -> None:
    """c=5 by default would refuse every run without an oracle."""
    code, out, err = cli("generate", QUESTION, "--base_model", "arith-base", "--json", "--max-new-tokens", "5")
    assert code == 0, err
    record = json.loads(out)
    assert (record["c"], record["oracle_model_id"]) == (0, None)


def test_invalid_utf8_on_standard_input_is_one_line(root: Path) -> None:
    """The decoder of sys.stdin raises a traceback, or lets the byte through as a surrogate."""
    done = subprocess.run(command("generate"), cwd=root, input=b"caf\xe9?", capture_output=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.decode() == "dodona: error: standard input is not valid UTF-8: byte 0xe9 at offset 3\n"
    assert done.stdout == b""


def test_a_reader_that_goes_away_is_no_traceback(root: Path) -> None:
    """`dodona generate ... | head -1`: Python reports the closed pipe twice, once while it exits."""
    arguments = command("generate", QUESTION, "--json", "--max-new-tokens", "3")
    with subprocess.Popen(arguments, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        error = process.stderr.read().decode()
        assert process.wait(timeout=120) == 1
    assert error == ""


def test_a_full_disk_behind_standard_output_is_one_line(root: Path) -> None:
    """`dodona generate ... > FILE` where nothing more fits: Python would report it while it exits."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with full.open("w") as out:
        arguments = command("generate", QUESTION, "--json", "--max-new-tokens", "3")
        done = subprocess.run(arguments, cwd=root, stdout=out, stderr=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.decode() == "dodona: error: the output cannot be written: No space left on device\n"


def test_closed_standard_streams_are_no_traceback(root: Path, tmp_path: Path) -> None:
    """`dodona generate ... <&- >&-`, as some schedulers start jobs: sys.stdin is None, and the next file that is
    opened gets the number of standard output, so that the text is printed into the records.
    """
    closed = ["sh", "-c", 'exec "$@" <&- >&-', "sh"]
    done = subprocess.run([*closed, *command("generate")], cwd=root, stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr.decode()) == (2, "dodona: error: the prompt is empty\n")
    records = tmp_path / "r.jsonl"
    arguments = command("generate", QUESTION, "--max-new-tokens", "3", "--output-file", str(records))
    done = subprocess.run([*closed, *arguments], cwd=root, stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert [record["prompt"] for record in read_records(records)] == [QUESTION]


def test_outputs_of_generate_are_not_the_prompt_or_each_other(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The trace replaces the records, or the file with the prompt."""
    prompt, output = tmp_path / "prompt.txt", str(tmp_path / "out")
    prompt.write_text(QUESTION)
    for options in (
        ("--file", str(prompt), "--trace", str(prompt)),
        ("--file", str(prompt), "--output-file", str(prompt)),
    ):
        assert "are both" in one_error_line(cli("generate", *options))
        assert prompt.read_text() == QUESTION
    message = one_error_line(cli("generate", QUESTION, "--trace", output, "--output-file", output))
    assert message == f"--output-file and --trace are both {output}: name two files"
    assert not Path(output).exists()


# --- eval ---

GRID = ("--c", "0,1", "--k", "3,5", "--trigger", "random", "--trigger", "entropy > 0.5", "--max_new_tokens", "48")


def test_eval_prints_a_table_and_writes_records(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The c=0 arm is the same for every k and trigger: run once and shown once. The default folder is in runs/."""
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("eval", "--dataset", "arith", "--num-samples", "6", *GRID)
    assert code == 0, err
    folder = Path("runs/arith-arith-base-arith-oracle")
    assert f"5 arms x 6 problems = 30 runs; records: {folder}" in err
    headers, records = recorded(folder)
    assert [header["config"]["max_new_tokens"] for header in headers] == [48] * 5
    assert len(records) == 30
    arms = {record["arm"] for record in records}
    assert arms == {"c=0 seed=0"} | {
        f"c=1 k={k} {trigger} before seed=0" for k in (3, 5) for trigger in ("random", "entropy>0.5")
    }
    for arm in arms:
        assert out.count(f"\n{arm} ") + out.startswith(f"{arm} ") == 2  # in the table, and in that by level
    assert "level 5" in out and "tokens/s" in out

    code, again, err = cli("eval", "--dataset", "arith", "--num-samples", "6", *GRID)
    assert code == 0 and "30 of them there already" in err and "nothing was left to run" in again
    assert again.split("\n\n")[:2] == out.split("\n\n")[:2]
    assert [len(lines) for lines in recorded(folder)] == [5, 30]

    code, _, err = cli("eval", "--dataset", "arith", "--num-samples", "6", *GRID[:-1], "50")
    difference = "--max-new-tokens is 48 there and 50 here; go on with its own, or give another --output-dir\n"
    assert code == 2 and err.endswith(difference)
    assert [len(lines) for lines in recorded(folder)] == [5, 30]


def recorded(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The headers and the runs in the files of a folder."""
    found = [record for file in sorted(folder.glob("*.jsonl")) for record in read_records(file)]
    return [line["header"] for line in found if "header" in line], [line for line in found if "header" not in line]


def test_eval_as_json_is_json_alone(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A progress bar or a remark in the output breaks every script behind it; --stats-file holds the same."""
    stats, records = tmp_path / "deep" / "stats.json", tmp_path / "r.jsonl"
    code, out, err = cli(
        *("eval", "--dataset", "arith", "--num_samples", "4", "--level", "1,3", "--c", "inf", "--k", "inf"),
        *("--trigger", "always", "--max-new-tokens", "40", "--json"),
        *("--output_file", str(records), "--stats_file", str(stats)),
    )
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert json.loads(stats.read_text()) == report
    (arm,) = report["arms"]
    assert (arm["c"], arm["k"], arm["n"]) == ("inf", "inf", 4)
    assert set(arm["levels"]) == {"1", "3"}
    assert arm["low"] <= arm["accuracy"] <= arm["high"]
    assert arm["oracle_share"] == 1.0 and arm["consults"] == 1.0
    assert arm["correct"] + arm["unparsed"] + arm["truncated"] + arm["failed"] <= 4


def test_eval_shows_every_text_where_asked(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The first experiments' command had --verbose too; the texts stand before the table, each under its run."""
    grid = (
        "eval",
        "--dataset",
        "arith",
        "--num-samples",
        "2",
        "--c",
        "2",
        "--trigger",
        "at(0)",
        "--max-new-tokens",
        "20",
    )
    code, out, _ = cli(*grid, "--verbose", "--output-file", str(tmp_path / "r.jsonl"))
    assert code == 0
    assert out.count("c=2 k=10 at(0) before seed=0, arith-0-") == 2
    assert out.count("⟦") == 2


def test_eval_without_an_oracle_measures_the_base(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Asking for consults without an oracle must be refused before 400 runs have failed one by one."""
    file = ("--output-file", str(tmp_path / "r.jsonl"))
    base = ("eval", "--dataset", "arith", "--num-samples", "2", "--base-model", "arith-base", *file)
    assert "needs an oracle" in cli(*base, "--c", "0,3")[2]
    code, out, _ = cli(*base, "--json", "--max-new-tokens", "30")
    assert code == 0
    assert [arm["arm"] for arm in json.loads(out)["arms"]] == ["c=0 seed=0"]


STABLE = ("arm", "problem_id", "result", "interleaved_outputs", "cheat_positions", "parsed_answer", "correct")


def contents(file: Path) -> dict[str, dict[str, Any]]:
    """The records by run, without what depends on the clock and on batch mates."""
    records = [record for record in read_records(file) if "header" not in record]
    found = {f"{r['arm']} {r['problem_id']}": {key: r[key] for key in STABLE} for r in records}
    assert len(found) == len(records), "a run was recorded twice"
    return found


def stop_in_the_middle(arguments: list[str], file: Path, root: Path, number: int, least: int) -> tuple[int, str]:
    """Start the command, send a signal once the file has so many lines, and return exit code and standard error.

    A shell starts background jobs with SIGINT ignored, and children inherit that: the command gets it as a terminal
    would give it, however the tests were started.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=root, **pipes, preexec_fn=_listen_to_ctrl_c) as process:
        for _ in lines_of(file, process):
            if file.exists() and file.read_bytes().count(b"\n") > least:
                process.send_signal(number)
                break
        _, error = process.communicate(timeout=120)
        return process.returncode, error.decode()


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lines_of(file: Path, process: subprocess.Popen[bytes]) -> Iterator[None]:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        yield


@pytest.mark.slow
def test_a_stopped_eval_goes_on_where_it_was(cli: Callable[..., Outcome], root: Path, tmp_path: Path) -> None:
    """Ctrl-C, then kill -9 while it goes on, then the same command again: the same records as a run never stopped.

    Catches a lost record, a record written twice, and draws that depend on order or on batch mates.
    """
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    grid = ("eval", "--dataset", "arith", "--num-samples", "40", "--c", "0,2", "--k", "3", "--seed", "0,1")
    grid += ("--temperature", "0.7", "--max-batch", "8")
    assert cli(*grid, "--output-file", str(whole))[0] == 0

    arguments = command(*grid, "--output-file", str(stopped))
    code, error = stop_in_the_middle(arguments, stopped, root, signal.SIGINT, least=10)
    kept = sum(1 for _ in read_records(stopped)) - 1
    assert code == 130, error
    assert error.endswith(f"stopped: {kept} records kept in {stopped}; the same command goes on\n")
    assert "Traceback" not in error and 10 <= kept < 160

    code, _ = stop_in_the_middle(arguments, stopped, root, signal.SIGKILL, least=kept + 10)
    assert code == -signal.SIGKILL
    with stopped.open("ab") as file:
        file.write(b'{"arm": "torn')

    code, _, error = cli(*grid, "--output-file", str(stopped))
    assert code == 0 and "of them there already" in error
    assert contents(stopped) == contents(whole)


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
