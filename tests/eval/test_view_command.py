"""`dodona view`: what it writes, what it refuses, and its server."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_lines import Outcome
from viewer_runs import (
    ALONE,
    CONFIG,
    GUIDED,
    data_of,
    make_run,
    two_arms,
    write_folder,
    write_records,
    write_trace,
)

from dodona.engine.errors import DodonaError
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.viewer.server import make_server
from dodona.eval.viewer.view import make_view


def test_the_command_writes_beside_what_it_shows(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    """The default path, its one line, and the same again over an older page."""
    folder = write_folder(tmp_path / "run", two_arms(tokens))
    code, out, err = cli("view", folder)
    assert (code, err) == (0, "") and (folder / "view.html").is_file()
    assert out.startswith(f"{folder / 'view.html'}: 2 problems, 2 arms, 4 texts, ") and "all traced" in out
    assert cli("view", folder)[0] == 0
    assert cli("view", folder / f"{GUIDED.slug}.jsonl")[0] == 0
    assert (folder / f"{GUIDED.slug}.view.html").is_file()
    target = tmp_path / "new" / "page.html"
    code, out, _ = cli("view", folder, "--output-file", target, "--json")
    report = json.loads(out)
    assert target.is_file() and report["page"] == str(target) and report["traced"] == report["runs"] == 4
    assert report["bytes"] == target.stat().st_size
    assert [file.name for file in target.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", "no file or folder"),
        ("empty folder", "neither records"),
        ("only a header", "no run is recorded"),
        ("empty file", "is empty"),
        ("other jsonl", "no interleaved_outputs"),
        ("text", "no JSON object"),
        ("bad segment", "line 2"),
        ("later line", "line 3"),
        ("other parquet", "no trace of dodona"),
        ("torn parquet", "cannot read the trace"),
        ("no parquet", "no Parquet file"),
        ("empty trace", "no run is recorded"),
        ("gap in a trace", "whole texts"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_line(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome], what: str, says: str
) -> None:
    """Never a traceback, and never a page about nothing."""
    run = make_run(tokens, ALONE, "p0", [("base", "abc")])
    path = tmp_path / ("x.parquet" if "parquet" in what or "trace" in what else "x.jsonl")
    match what:
        case "empty folder":
            path.mkdir()
        case "only a header":
            path.write_bytes(write_records(tmp_path / "y.jsonl", [run]).read_bytes().split(b"\n")[0] + b"\n")
        case "empty file":
            path.touch()
        case "other jsonl":
            path.write_text('{"question": 1}\n')
        case "text":
            path.write_text("hello\n")
        case "bad segment":
            run.record["interleaved_outputs"] = [{"source": "base", "text": 5}]
            write_records(path, [run])
        case "later line":
            write_records(path, [run])
            with path.open("a") as file:
                file.write('{"a": 1}\n')
        case "other parquet":
            pq.write_table(pa.table({"x": [1]}), path)
        case "torn parquet":
            path.write_bytes(write_trace(tmp_path / "y.parquet", [run]).read_bytes()[:200])
        case "no parquet":
            path.write_text("PAR")
        case "empty trace":
            write_trace(path, [])
        case "gap in a trace":
            run.columns["position"] = [0, *range(2, len(run.columns["token_id"]) + 1)]
            write_trace(path, [run])
    code, out, err = cli("view", path, "--output-file", tmp_path / "page.html", "--tokenizer", "arith-base")
    assert code == 2 and out == "" and says in err and "Traceback" not in err
    assert err.count("\n") == 1 and not (tmp_path / "page.html").exists()


def test_what_does_not_belong_in_a_folder_is_passed_over(tokens: Tokenizer, tmp_path: Path) -> None:
    """Graded copies, decisions of other tools and data sets lie in the same folders."""
    folder = write_folder(tmp_path / "run", two_arms(tokens))
    (folder / "other.jsonl").write_text('{"x": 1}\n')
    (folder / "x.graded.jsonl").write_text("no\n")
    pq.write_table(pa.table({"x": [1]}), folder / "data.parquet")
    (folder / "torn.parquet").write_bytes(b"")
    view = make_view([folder])
    assert view.summary.runs == 4 and len(view.notes) == 3
    assert all("passed over" in note for note in view.notes) and not any("graded" in note for note in view.notes)


@pytest.mark.parametrize("what", ["records", "page of another kind", "folder", "no folder"])
def test_no_file_of_another_kind_is_overwritten(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome], what: str
) -> None:
    """`dodona view run.jsonl --output-file run.jsonl` would destroy hours of work."""
    records = write_records(tmp_path / "r.jsonl", [make_run(tokens, ALONE, "p0", [("base", "x")])])
    before = records.read_bytes()
    target = {"records": records, "folder": tmp_path, "no folder": records / "x.html"}.get(what, tmp_path / "i.html")
    if what == "page of another kind":
        target.write_text("<!doctype html><title>mine</title>")
    code, _, err = cli("view", records, "--output-file", target)
    assert code == 2 and err.count("\n") == 1 and "--output-file" in err
    assert records.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--serve", "RUN"], "RUN comes before it"),
        (["RUN", "--serve", "70000"], "0 to 65535"),
        (["RUN", "--limit", "0"], "1 or more"),
        (["RUN", "--tokenizer", "no-such-model"], "no-such-model"),
        ([], "RUN"),
    ],
)
def test_wrong_options_are_one_clear_line(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome], arguments: list[str], says: str
) -> None:
    """A folder behind --serve is read as its port."""
    records = write_records(tmp_path / "r.jsonl", [make_run(tokens, ALONE, "p0", [("base", "x")])])
    code, _, err = cli("view", *(str(records) if argument == "RUN" else argument for argument in arguments))
    assert code == 2 and says in err and "Traceback" not in err and err.count("\n") == 1


def test_a_taken_port_is_one_clear_line() -> None:
    """Address already in use, as a traceback of socketserver."""
    with make_server(b"page", 0) as server, pytest.raises(DodonaError, match="--serve"):
        make_server(b"page", server.server_address[1])


def test_the_server_serves_the_page_alone_and_here_alone() -> None:
    """A server of the folder, or on all addresses, would show the user's files to the network."""
    with make_server(b"<p>page</p>", 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/?x=1") as answer:
                assert answer.read() == b"<p>page</p>" and answer.headers["Content-Type"] == "text/html; charset=utf-8"
            for path in ("/etc/passwd", "/..%2f", "/view.html"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(f"http://{host}:{port}{path}")
        finally:
            server.shutdown()
            thread.join()


def test_serving_ends_with_ctrl_c_and_without_an_error(tokens: Tokenizer, tmp_path: Path, root: Path) -> None:
    """The address must come out before the server waits, and Ctrl-C is its ordinary end."""
    folder = write_folder(tmp_path / "run", two_arms(tokens)[:1])
    command = [sys.executable, "-c", "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"]
    command[-1] += "from dodona.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [*command, "view", str(folder), "--serve"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        url = re.findall(r"http://127\.0\.0\.1:\d+/", lines[1])[0]
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == (folder / "view.html").read_bytes()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and err == "stopped\n"


def test_a_hub_model_is_never_downloaded_for_its_tokenizer(
    tokens: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the checkpoint would fetch 16 GB of weights to show a page."""
    import huggingface_hub

    import dodona.engine.checkpoint

    asked: list[dict[str, Any]] = []

    def snapshot(repository: str, **options: Any) -> str:
        asked.append({"repository": repository, **options})
        if options.get("local_files_only"):
            raise FileNotFoundError(repository)
        folder = tmp_path / "hub"
        folder.mkdir()
        embedded = Path(dodona.engine.checkpoint.__file__).parent / "embedded" / "base"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(embedded / name, folder / name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    run = make_run(tokens, ALONE, "p0", [("base", "x")], base_model_id="8B")
    view = make_view([write_records(tmp_path / "r.jsonl", [run], CONFIG | {"base_model_id": "8B"})])
    assert view.notes == [] and "pieces" not in data_of(view).run("p0")
    assert [call["repository"] for call in asked] == ["meta-llama/Llama-3.1-8B-Instruct"] * 2
    fits = [pattern for pattern in asked[1]["allow_patterns"] if fnmatch("model-00001-of-00004.safetensors", pattern)]
    assert fits == []
