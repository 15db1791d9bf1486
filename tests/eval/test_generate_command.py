"""`dodona generate`: where the prompt comes from, what is printed, and what is kept."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_lines import Outcome, command, one_error_line

from dodona import Engine
from dodona.engine.records import read_records
from dodona.engine.request import Request
from dodona.eval.commands import generate
from dodona.eval.models import Models

QUESTION = "What is 23 + 48?"


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
    code, out, err = cli(
        "generate", QUESTION, "--json", "--n", "3", "--temperature", "2", "--max_new_tokens", "20", "--verbose"
    )
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["sample"] for record in records] == [0, 1, 2]
    assert len({record["result"] for record in records}) > 1
    assert err.count("ended by") == 3 and "tokens/s" in err
    for record in records:
        ids = [token for segment in record["interleaved_outputs"] for token in segment["token_ids"]]
        assert len(ids) == record["total_tokens_generated"]
        assert record["base_model_id"] and record["oracle_model_id"]
        assert "ledger" in record and "ground_truth" not in record


def test_samples_are_made_when_their_turn_comes(cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    """A billion requests in memory before the first is answered, or before a model's name is found to be wrong."""
    checked, made = Request.__post_init__, []

    def counted(request: Request) -> None:
        made.append(request.sample)
        assert len(made) < 100
        checked(request)

    monkeypatch.setattr(Request, "__post_init__", counted)
    line = one_error_line(cli("generate", QUESTION, "--n", "1000000000", "--base-model", "9B"))
    assert "no model '9B'" in line and made == [0, 999999999]


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

    monkeypatch.setattr(Models, "load", never)
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


def test_outputs_of_generate_are_no_file_of_a_study(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A trace in place of an experiment's records, or a record that its own command can no longer read."""
    grid = ("--dataset", "arith", "--device", "cpu", "--num-samples", "1", "--max-new-tokens", "2", "--c", "0")
    assert cli("eval", *grid, "--trace", "--output-file", str(tmp_path / "study.jsonl"))[0] == 0
    assert cli("generate", QUESTION, "--max-new-tokens", "2", "--output-file", str(tmp_path / "own.jsonl"))[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    for path in before:
        assert "is left as it is" in one_error_line(cli("generate", QUESTION, "--trace", str(path)))
    assert "is left as it is" in one_error_line(
        cli("generate", QUESTION, "--output-file", str(tmp_path / "study.jsonl"))
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
