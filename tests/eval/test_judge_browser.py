"""The page of pairs in headless Chromium, opened from disk: filters, search, and texts that stay texts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dodona.cli import main

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[test])")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or CHROMEDRIVER is None,
        reason="needs chromium and chromedriver on PATH (apt install chromium-driver)",
    ),
]
ODD = "</script><img src=x onerror=alert(1)>"


def test_the_page_filters_searches_and_runs_nothing_that_an_answer_holds(tmp_path: Path) -> None:
    """A filter that hides or keeps the wrong pairs, an answer that is run, and a request to a network."""
    from selenium.webdriver.chrome.service import Service

    rows = [
        {"question": f"q{n}?", "answer_a": "x" * (n + 1), "answer_b": "y" * 25, "human": "ab"[n % 2]} for n in range(50)
    ]
    rows[0]["answer_a"] = ODD
    rows.append({"question": "last", "answer_a": None, "answer_b": "y", "human": None})  # type: ignore[dict-item]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    command = ["judge", str(file), "--judge", "longer", "--judge", "first", "--output-dir", str(out), "--quiet"]
    assert main(command) == 0
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        browser.get((out / "pairs.html").as_uri())

        def js(code: str, *arguments: Any) -> Any:
            return browser.execute_script(code, *arguments)

        def choose(selector: str, value: str) -> str:
            code = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            js(code + "e.dispatchEvent(new Event(e.type === 'search' ? 'input' : 'change'))", selector, value)
            return str(js("return document.getElementById('pair-tally').textContent"))

        assert js("return document.getElementById('pair-tally').textContent") == "1 to 20 of 102"
        assert js("return document.querySelector('.pair .side .text').textContent") == ODD
        assert js("return document.images.length") == 0
        assert choose("[data-of=judge]", "longer") == "1 to 20 of 51"
        assert choose("[data-of=winner]", "A won") == "1 to 20 of 26"  # 26 to 50 characters, and the odd one
        assert choose("[data-of=length]", "B is longer") == "none"
        assert choose("[data-of=length]", "") == "1 to 20 of 26"
        assert choose("[data-of=winner]", "tie") == "1 to 1 of 1"
        assert choose("[data-of=winner]", "error") == "1 to 1 of 1"
        assert js("return document.querySelector('.pair strong').textContent") == "error: no answer a"
        assert choose("[data-of=winner]", "") == "1 to 20 of 51"
        assert choose("[data-of=human]", "no person's verdict") == "1 to 1 of 1"
        choose("[data-of=human]", "")
        assert choose("#pair-search", "Q49?") == "1 to 1 of 1"
        choose("#pair-search", "")
        assert choose("[data-of=judge]", "first") == "1 to 20 of 51"
        assert choose("[data-of=orders]", "the orders disagree") == "1 to 20 of 50"
        js("document.getElementById('pair-on').click()")
        assert js("return document.getElementById('pair-tally').textContent") == "21 to 40 of 50"
        assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    finally:
        browser.quit()
