"""Result files and the tables made of them: nothing lost, nothing invented, and pages that say what the files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kept_records import files_end_at

from dodona.bench import tables
from dodona.bench.commands.table import RESULTS
from dodona.bench.lines import ResultFile, json_text, read_results, write_json
from dodona.cli import main
from dodona.engine.errors import DodonaError

BIRTH = {
    **{"date": "2026-01-01 00:00:00 +0000", "command": "dodona bench latency", "commit": "0123456789ab"},
    **{"sources": "ba9876543210", "cpu": "A CPU", "threads": 2, "python": "3.11.7", "torch": "2.13.0"},
}
SUBJECT = {
    "base": "arith-base",
    "oracle": "arith-oracle",
    "dtype": "float32",
    "device": "cpu",
    "ceilings": {"read_gb_s": 9.5},
}


def step(part: str = "base step", ms: float = 2.0, **more: Any) -> dict[str, Any]:
    spread = {"p20": ms, "p50": ms, "p80": ms, "p99": ms, "samples": 3}
    line = {"schema": 1, "bench": "latency", "part": part, "lengths": {"prompt": 16}, "ms": spread, "gb_s": 1.234}
    return line | {"subject": SUBJECT, "birth": BIRTH} | more


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# --- files ---


def test_lines_are_appended_and_a_torn_one_does_not_take_the_next_along(tmp_path):
    """A run that was killed inside a line leaves half of it: no later line may stick to it, nor the file be refused."""
    path = tmp_path / "deep" / "out.jsonl"
    with ResultFile(path) as file:
        file.append({"a": 1})
        with pytest.raises(DodonaError, match="being written by another process"):
            ResultFile(path)
    with path.open("a") as torn:
        torn.write('{"b": ')
    assert read_results(path) == [{"a": 1}]
    with ResultFile(path) as file:
        file.append({"c": float("-inf")})
    assert read_results(path) == [{"a": 1}, {"c": None}]
    ResultFile(None).append({"nowhere": 1})


def test_numbers_that_json_does_not_know_are_written_as_it_can(tmp_path):
    """`Infinity` is no JSON, and other readers refuse the whole file."""
    assert (
        json_text({"c": float("inf"), "x": float("nan"), "l": (1.5, float("-inf"))})
        == '{"c": "inf", "x": null, "l": [1.5, null]}'
    )
    write_json(tmp_path / "x.json", {"c": float("inf")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"c": "inf"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"b"\n{"c": 3}\n', "line 2, is not JSON"),
        ("[1, 2]\n", "holds no results"),
        ("", "holds no results"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, text, message):
    """A table of half a file looks like the whole."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DodonaError, match=message):
        read_results(path)
    with pytest.raises(DodonaError, match="cannot be read"):
        read_results(tmp_path / "none.jsonl")


# --- tables ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1234567, "1234567"), (12345.6, "12346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"),
        (0.001234, "0.00123"), (0.0000001234, "0"), (2.0, "2"), ("inf", "inf"), (None, ""), (-0.5, "-0.5"),
    ],
)  # fmt: skip
def test_a_number_has_three_digits_and_no_exponent(value, text):
    """1.23e+04 tokens a second are read as 1."""
    assert tables.number(value) == text


def test_a_table_shows_the_last_line_of_each_measure(tmp_path):
    """An appended file holds the figures of every day; the table must not show the first or all of them."""
    path = written(tmp_path / "x.jsonl", step(ms=1.0), step("oracle step", ms=5.0), step(ms=3.0))
    table = tables.table(read_results(path))
    assert [line for line in table if line.startswith("| base step")] == [
        "| base step | prompt 16 | 3 | 3 | 3 | 3 | 1.23 |  |  |"
    ]
    assert sum(line.startswith("| oracle step") for line in table) == 1
    assert (
        "commit 0123456789ab" in table[-1]
        and "read ceiling 9.5 GB/s" in table[-1]
        and "dodona bench latency" in table[-1]
    )


def test_subjects_do_not_share_a_table(tmp_path):
    """Two models' steps in one table, without their names, cannot be told apart."""
    other = step(ms=7.0, subject=SUBJECT | {"base": "smollm2"})
    table = "\n".join(tables.table([step(), other]))
    assert table.count("| what |") == 2 and "`smollm2`" in table and "`arith-base`" in table


def test_lines_of_an_unknown_benchmark_have_a_plain_table():
    """Another benchmark's file must not need a renderer of its own before anybody can look at it."""
    line = {
        "bench": "other",
        "peer": "a|b",
        "ms": {"p50": 2.5, "p20": 1},
        "deep": {"er": 3},
        "rows": [1],
        "ok": True,
        "birth": BIRTH,
    }
    table = tables.table([line])
    assert "| peer | ms | deep er | ok |" in table and "| a\\|b | 2.5 | 3 | True |" in table


def test_a_section_that_is_not_there_is_named(tmp_path, capsys):
    """An empty place in a page says nothing of the misspelt name."""
    path = written(tmp_path / "x.jsonl", step())
    assert main(["bench", "table", str(path), "--section", "stepps"]) == 2
    assert "there is no table 'stepps' in these results: choose among steps" in capsys.readouterr().err
    assert main(["bench", "table", str(path), "--section", "steps"]) == 0
    assert capsys.readouterr().out.count("| what | of |") == 1


def test_a_page_gets_the_tables_that_it_marks_and_nothing_else_changes(tmp_path, capsys):
    """A generator that eats a page's text, or a check that never fails, is worse than none."""
    results = tmp_path / "results"
    results.mkdir()
    written(results / "cpu.jsonl", step(), {**step("share of signals"), "with_ms": 2, "without_ms": 1, "share": 0.5})
    page = tmp_path / "page.md"
    text = "# Title\n\n<!-- bench:cpu/steps -->\nold\n<!-- /bench:cpu/steps -->\n\nend `<!-- x -->`\n"
    page.write_text(text, encoding="utf-8")
    arguments = ["bench", "table", str(page), "--results", str(results)]
    assert main([*arguments, "--check"]) == 1 and page.read_text() == text
    assert main(arguments) == 0
    new = page.read_text()
    assert new.startswith("# Title\n\n<!-- bench:cpu/steps -->\n") and new.endswith(
        "<!-- /bench:cpu/steps -->\n\nend `<!-- x -->`\n"
    )
    assert "| base step |" in new and "old" not in new and "share" not in new
    assert main([*arguments, "--check"]) == 0 and "up to date" in capsys.readouterr().out
    written(results / "cpu.jsonl", step(ms=9.0))
    assert main([*arguments, "--check"]) == 1
    with files_end_at(100):  # a disk that is full
        assert main(arguments) == 2
    assert page.read_text() == new and sorted(path.name for path in tmp_path.iterdir()) == ["page.md", "results"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- bench:cpu -->\n", "<!-- bench:cpu --> stands alone"),
        ("<!-- bench:a -->\n<!-- /bench:b -->\n", "stands alone"),
        ("<!-- bench:nowhere -->\n<!-- /bench:nowhere -->\n", "no nowhere.jsonl or nowhere.json"),
    ],
)
def test_a_broken_mark_is_an_error(tmp_path, page, message):
    """A mark that nothing fills leaves last month's table standing."""
    with pytest.raises(DodonaError, match=message):
        tables.filled(page, tmp_path)


def test_a_page_that_cannot_be_read_is_one_line(tmp_path, capsys):
    """A traceback for a mistyped path."""
    assert main(["bench", "table", str(tmp_path / "none.md")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_projects_pages_say_what_the_committed_results_say(root, project_files):
    """A figure that was typed by hand, or left behind by a new measurement, is nobody's."""
    for name in project_files:
        if name.suffix == ".md" and "<!-- bench:" in (page := (root / name).read_text(encoding="utf-8")):
            assert tables.filled(page, RESULTS) == page, f"{name}: run `dodona bench table {name}`"
