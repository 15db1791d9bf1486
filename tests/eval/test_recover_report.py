"""The report of a recovery study: what it counts, what it writes, and that nothing in a record can run on its page."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from recover_studies import copies, make_study, recovers, run_all, solution, solves, study_of, wrong_answer

from dodona.engine.errors import DodonaError
from dodona.eval.recover.examples import examples
from dodona.eval.recover.figures import draw
from dodona.eval.recover.findings import Group, read_findings
from dodona.eval.recover.rates import pooled
from dodona.eval.recover.report import write_report
from dodona.eval.recover.rows import OFF, RIGHT
from dodona.eval.recover.settings import COMPLETE, STRONG
from dodona.eval.recover.stages import FILES
from dodona.eval.recover.writer import Ask
from dodona.eval.report.html import as_json
from dodona.eval.report.table import Table, text_lines
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Selection

EVIL = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)> &amp; \u2028 \u202e"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of records are written here, and none of these tests takes the power away."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with all kinds of prefixes at two fractions."""
    path = tmp_path_factory.mktemp("study")
    run_all(make_study(path, recovers(0.7, 0.4), solves(0.4), problems=12, fractions=(0.35, 0.7), edited=True))
    return path


def table(tables: list[Table], title: str) -> Table:
    return next(one for one in tables if one.title.startswith(title))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_are_the_counts(folder: Path) -> None:
    """Catches a rate that stands beside another group's name, and CSV and table that disagree."""
    report = write_report(folder, plots=False)
    found = report.findings
    assert [group.name for group in found.groups] == [
        f"{kind}, {percent} %" for kind in ("off-policy", "on-policy", "edited") for percent in (35, 70)
    ]
    recovery = table(report.tables, "Recovery")
    lines = {
        row["kind"] + row["fraction"]: row
        for row in read_csv(folder / "tables" / "recovery.csv")
        if row["series"] == "recovery"
    }
    for group, row in zip(found.groups, recovery.rows, strict=True):
        prefixes = found.of(group)
        right = sum(run.correct for run in found.runs(prefixes, STRONG))
        n = len(found.runs(prefixes, STRONG))
        assert n == 2 * len(prefixes)
        assert row[0].text == group.name and row[3].text == f"{right} of {n}"
        line = lines[f"{group.kind}{group.fraction}"]
        assert float(line["rate"]) == pytest.approx(right / n) and (int(line["right"]), int(line["n"])) == (right, n)
        less = float(line["strong_straight_shot_difference"])
        assert less == pytest.approx(float(line["rate"]) - float(line["strong_straight_shot_reference"]))
    outcome = table(report.tables, "What became")
    for row in outcome.rows:
        assert row[1].value == sum(cell.value for cell in row[2:9]), row[0].text
    rates = table(report.tables, "Solve rates")
    assert [sum(row[column].value for row in rates.rows) for column in (1, 2)] == [12, 12]
    titles = [one.title for one in report.tables]
    assert "By difficulty, cut at 35 %" in titles and "By level, cut at 70 %" in titles and "Costs" in titles
    weights = [row[1].value for row in table(report.tables, "By difficulty").rows]
    assert sum(weights) == pytest.approx(12)
    assert all(len(row) == len(one.heads) for one in report.tables for row in one.rows)
    assert all(text_lines(one) for one in report.tables)


def test_controls_are_all_there(folder: Path) -> None:
    """Recovery without its controls is a number without a scale."""
    series = (
        {row["series"] for row in read_csv(folder / "tables" / "bins.csv")} if (folder / "tables").exists() else set()
    )
    if not series:
        write_report(folder, plots=False)
        series = {row["series"] for row in read_csv(folder / "tables" / "bins.csv")}
    assert series >= {"strong, straight shot", "weak, straight shot", "strong, right prefix", "weak, own wrong prefix"}


def test_what_is_missing_counts_as_wrong_and_is_said(tmp_path: Path) -> None:
    """A study that is still running must not look better than it is."""
    study = run_all(make_study(tmp_path, recovers(1.0, 1.0), solves(0.0), problems=4))
    path = tmp_path / FILES[COMPLETE]
    lines = path.read_text().splitlines(keepends=True)
    dropped = [line for line in lines if '"prefix": "arith-0-0/weak-0@0.7"' in line and '"role": "strong"' in line]
    assert len(dropped) == 2
    path.write_text("".join(line for line in lines if line != dropped[0]))
    report = write_report(tmp_path, plots=False)
    prefixes = report.findings.of(Group(OFF, 0.7))
    assert pooled(report.findings.tally(prefixes, STRONG)).right == 2 * len(prefixes) - 1
    assert any(note.startswith("1 of ") and "count as wrong" in note for note in report.notes)
    assert table(report.tables, "What became").rows[0][-2].value == 1
    study.complete()
    assert not read_findings(tmp_path).missing


def test_prefixes_that_hold_no_error_yet_are_told_apart(tmp_path: Path) -> None:
    """A cut before the first error makes plain solving look like recovery; and a recovery is no witness for itself."""
    run_all(make_study(tmp_path, recovers(0.8, 0.5), solves(0.3), problems=8, fractions=(0.1, 0.7)))
    report = write_report(tmp_path, plots=False)
    found = report.findings
    early = [prefix for prefix in found.prefixes.values() if prefix.kind != RIGHT and prefix.fraction == 0.1]
    assert found.harmless == {prefix.row_id for prefix in early} and len(early) > 8
    late = pooled(found.tally(found.of(Group(OFF, 0.7)), STRONG))
    assert late.right > 0, "some came back from an error"
    lines = {row[0].text: row for row in table(report.tables, "Is the error").rows}
    assert "off-policy, 10 %: no error yet" in lines and "off-policy, 70 %: no error yet" not in lines
    assert lines["off-policy, 70 %: no right solution begins so"][2].text == f"{late.right} of {late.n}"
    assert any(
        note.startswith(f"{len(early)} of {2 * len(early)} wrong prefixes hold no error yet") for note in report.notes
    )
    rows = {row["series"]: row for row in read_csv(tmp_path / "tables" / "recovery.csv") if row["fraction"] == "0.7"}
    assert rows["recovery, no error yet"]["n"] == "0"
    assert {row["no_error_yet"] for row in read_csv(tmp_path / "tables" / "prefixes.csv")} == {"True", "False", ""}


def test_a_report_can_be_made_after_every_stage(tmp_path: Path) -> None:
    """After the appraisal there are rates and no prefixes; nothing divides by zero, in no table and no plot."""
    with pytest.raises(DodonaError, match=r"holds no study of `dodona recover`: .*appraise\.jsonl is not there"):
        write_report(tmp_path)
    study = make_study(tmp_path, recovers(0.7, 0.4), solves(0.4), problems=5)
    for stage in (study.appraise, study.cut, study.complete):
        stage()
        report = write_report(tmp_path)
        assert table(report.tables, "Straight shots").rows
        assert (tmp_path / "report.html").exists() and (tmp_path / "plots" / "solve-rates.svg").exists()
    assert any("No prefix" in note for note in write_report(tmp_path).notes) is False


def test_a_strong_model_that_never_errs_has_no_on_policy_prefix(tmp_path: Path) -> None:
    """No line of a kind that is not there, and a table without lines is left out."""
    run_all(make_study(tmp_path, solves(1.0), solves(1.0), problems=3, samples=2))
    report = write_report(tmp_path)
    assert report.findings.groups == []
    assert "Recovery" not in [one.title for one in report.tables]
    aside = {row[0].text: row[1].value for row in table(report.tables, "What was used").rows}
    assert aside["problems without a wrong solution by the weak model"] == 3
    assert aside["problems that the strong model solved in every sample"] == 3


def test_the_same_records_give_the_same_bytes(folder: Path) -> None:
    """Tables that depend on a set's order, or on a date, are new files in every commit."""
    first = write_report(folder)
    before = {path: path.read_bytes() for path in first.written}
    assert {path.suffix for path in before} == {".csv", ".png", ".svg", ".html"}
    second = write_report(folder)
    assert {path: path.read_bytes() for path in second.written} == before
    assert draw(first.findings) == draw(second.findings)
    lines = (folder / FILES[COMPLETE]).read_text().splitlines(keepends=True)
    shuffled = [lines[0], *random.Random(0).sample(lines[1:], len(lines) - 1)]
    (folder / FILES[COMPLETE]).write_text("".join(shuffled))
    third = write_report(folder)
    assert {path: path.read_bytes() for path in third.written} == before, "the order of the records shows"


def test_files_of_two_studies_are_refused(tmp_path: Path) -> None:
    """Prefixes of one study and completions of another would be compared with the wrong straight shots."""
    run_all(make_study(tmp_path / "a", solves(0.5), solves(0.5), problems=3))
    run_all(make_study(tmp_path / "b", solves(0.5), solves(0.5), problems=3, tries=4))
    shutil.copy(tmp_path / "b" / "complete.jsonl", tmp_path / "a" / "complete.jsonl")
    with pytest.raises(DodonaError, match=r"complete\.jsonl and prefixes\.jsonl belong to different studies"):
        read_findings(tmp_path / "a")


# --- the page ---


class Reader(HTMLParser):
    """A page's elements and scripts; every element that is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.contents: dict[str, list[str]] = {"script": [], "style": [], "text": []}
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.contents[self.open[-1] if self.open and self.open[-1] in self.contents else "text"].append(data)


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study whose questions and texts are hostile."""
    asked = task_named("arith").load(Selection(num_samples=6))
    asked = [replace(problem, question=f"{problem.question} {EVIL}") for problem in asked]

    def strong(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
        return EVIL + recovers(0.6, 0.5)(ask, given.removeprefix(EVIL), gold, draws)

    def weak(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
        return solution(wrong_answer(gold, draws)).replace("again", EVIL)

    folder = tmp_path_factory.mktemp("evil")
    run_all(study_of(folder, strong, weak, asked))
    write_report(folder, plots=False)
    return folder / "report.html"


def test_nothing_in_a_record_becomes_part_of_the_page(evil_page: Path) -> None:
    """A model that writes a script tag must not run in its reader's browser, whatever the policy says."""
    page = evil_page.read_text(encoding="utf-8")
    reader = Reader(page)
    assert "evil.example" in page and "<img src=http" not in page and page.count("<script") == 4
    assert not [attributes for tag, attributes in reader.elements if tag == "img" and "onerror" in attributes]
    policy = next(a["content"] for tag, a in reader.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    rows, *scripts = reader.contents["script"]
    for content in (*scripts, *reader.contents["style"]):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    shown = json.loads(rows)
    assert any("<script>alert(1)</script>" in row["prefix"] + row["completion"] for row in shown)
    assert not re.search(r"https?://(?!www\.w3\.org)", page.replace("http://evil.example/x", ""))


def test_examples_say_what_was_given_what_was_written_and_the_verdict(folder: Path) -> None:
    """Catches a verdict beside another row's text, and ids that change between the stages."""
    found = read_findings(folder)
    shown = examples(found)
    assert shown.of == len(shown.rows) == sum(len(runs) for runs in found.completions.values())
    records = {}
    for name in ("prefixes", "complete"):
        for line in (folder / FILES[name]).read_text().splitlines():
            record = json.loads(line)
            records[record.get("row_id")] = record
    for row in shown.rows:
        record, prefix = records[row["id"]], records[row["id"].partition("#")[0]]
        assert row["completion"] == record["result"] and row["prefix"] == prefix["prefix"]
        assert row["correct"] == record["correct"] and row["writer"] == record["role"]
        assert (row["kind"], row["answered"]) == (prefix["kind"], prefix["answered"])
    fewer = examples(found, 10)
    assert len(fewer.rows) == 10 and fewer.of == shown.of
    assert {row["id"] for row in fewer.rows} <= {row["id"] for row in examples(found, 20).rows}
    assert examples(found, 0).rows == []
    assert "<" not in as_json([{"a": "</script>&\u2028"}])
    write_report(folder, plots=False, most_examples=0)
    page = (folder / "report.html").read_text()
    assert 'id="examples"' not in page and page.count("<script") == 1


webdriver = None
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    """A browser without a window."""
    driver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[test])")
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("needs chromium and chromedriver on PATH (apt install chromium-driver)")
    from selenium.webdriver.chrome.service import Service

    options = driver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "window-size=1300,900"):
        options.add_argument(f"--{flag}")
    window = driver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield window
    window.quit()


def test_the_page_filters_examples_by_verdict_and_finds_a_row_by_its_id(evil_page: Path, window: Any) -> None:
    """A filter that shows the other rows, a script that the policy forbids, or a text that became an element."""
    window.get(evil_page.as_uri())

    def js(code: str, *arguments: Any) -> Any:
        return window.execute_script(code, *arguments)

    rows = json.loads(js("return document.getElementById('rows').textContent"))
    assert js("return document.querySelectorAll('.example').length") == min(20, len(rows))
    verdicts = {"recovered": (True, False), "lost": (False, False), "stayed right": (True, True)}
    for verdict, (correct, control) in verdicts.items():
        js(
            "const s = document.querySelector('select[data-of=verdict]'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('change'))",
            verdict,
        )
        wanted = sum(row["correct"] is correct and (row["kind"] == RIGHT) is control for row in rows)
        assert js("return document.getElementById('example-tally').textContent").endswith(f" of {wanted}")
        heads = js("return [...document.querySelectorAll('.example .row-head strong')].map(e => e.textContent)")
        assert heads and all(head.startswith(verdict) for head in heads)
    target = rows[len(rows) // 2]
    js("location.hash = encodeURIComponent(arguments[0])", target["id"])
    window.implicitly_wait(5)
    shown = window.find_element("css selector", ".example.wanted")
    assert shown.find_element("css selector", "a").text == target["id"]
    assert shown.find_element("css selector", ".given").get_attribute("textContent") == target["prefix"]
    assert js("return document.querySelectorAll('#examples script, #examples img').length") == 0
    assert not [entry for entry in window.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_copied_answer_is_named_so(tmp_path: Path) -> None:
    """Whether a lost completion repeats the prefix's error or finds another one is the difference of two stories."""
    run_all(make_study(tmp_path, copies(1.0), solves(0.0), problems=3))
    report = write_report(tmp_path, plots=False)
    rows = {row[0].text: row for row in table(report.tables, "What became").rows}
    asked, correct, same, other = (cell.value for cell in rows["off-policy, 70 %, strong"][1:5])
    assert (asked, correct, same, other) == (18, 0, 18, 0)
