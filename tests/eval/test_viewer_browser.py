"""The viewer's page in headless Chromium, opened from disk: what a user sees, clicks and types."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from viewer_runs import ALONE, GUIDED, MadeRun, make_run, read_page, write_folder

from dodona.engine.tokenizer import Tokenizer
from dodona.eval.arms import Arm
from dodona.eval.viewer.document import write_page
from dodona.eval.viewer.view import make_view

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[test])")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="needs chromium and chromedriver on PATH (apt install chromium-driver)",
)
FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "disable-quic", "window-size=1400,900"),
)
RANDOM = Arm(5, 5, "random", "before", 0)
ODD = "</script><b>x</b> <!-- &amp; \u2028 \u202egnp\u202c \u200b\t tab  two\r\nend"


class Page:
    """A page in the browser, asked with CSS selectors."""

    def __init__(self, window: Any, path: Path) -> None:
        self.window, self.path = window, path

    def open(self, **state: str) -> Page:
        """Load it anew with this state in its hash."""
        from selenium.webdriver.support.ui import WebDriverWait

        self.window.get("about:blank")
        self.window.get_log("browser")  # what earlier pages said
        self.window.get(self.path.as_uri() + (f"#{urlencode(state)}" if state else ""))
        WebDriverWait(self.window, 60).until(lambda window: self.js("return document.documentElement.dataset.ready"))
        return self

    def js(self, code: str, *arguments: Any) -> Any:
        return self.window.execute_script(code, *arguments)

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        return list(self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector))

    def count(self, selector: str) -> int:
        return int(self.js("return document.querySelectorAll(arguments[0]).length", selector))

    def element(self, selector: str) -> Any:
        return self.js("return document.querySelector(arguments[0])", selector)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.window).send_keys(key).perform()

    def click(self, selector: str) -> None:
        self.element(selector).click()

    def hover(self, selector: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.window).move_to_element(self.element(selector)).perform()

    def choose(self, selector: str, value: str) -> None:
        code = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        self.js(code + "e.dispatchEvent(new Event(e.type === 'search' ? 'input' : 'change'))", selector, value)

    def shown(self) -> str:
        return self.text("main h1")

    def tally(self) -> str:
        return self.text("#tally")

    def facts(self) -> dict[str, str]:
        """What the panel says of the token that is pointed at."""
        names, values = self.texts("#token .facts dt"), self.texts("#token .facts dd")
        return dict(zip(names, values, strict=True))

    def value(self, signal: str) -> str:
        return self.text(f'#token tr[data-signal="{signal}"] .number').replace("−", "-")

    def complaints(self) -> list[str]:
        """What the console and the policy had to say."""
        return [entry["message"] for entry in self.window.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser of its own, with an empty profile."""
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def runs(tokens: Tokenizer) -> list[MadeRun]:
    """Three arms on six problems: p0 recovered, p1 lost, p2 right in all, p3 wrong in all, p4 odd, p5 cut off."""
    correct = {"p0": (0, 1, 0), "p1": (1, 0, 1), "p2": (1, 1, 1), "p3": (0, 0, 0), "p4": (1, 1, 1), "p5": (0, 0, 1)}
    made = []
    for number, arm in enumerate((ALONE, GUIDED, RANDOM)):
        for problem, outcomes in correct.items():
            level = int(problem[1]) % 3 + 1
            fields: dict[str, Any] = {"correct": bool(outcomes[number]), "level": level, "subject": "sums"}
            if problem == "p5" and number < 2:
                fields["finish_reason"] = "length"
            text = ODD if problem == "p4" else f"So {problem} is 2 + 3 = "
            parts = [("base", text + ("9.\n" if number == 0 else ""))]
            if number:
                parts += [("oracle", "5.\n"), ("base", "Thus "), ("oracle", "it is 🙂 5.")]
            made.append(make_run(tokens, arm, problem, parts, seed=10 * number + int(problem[1]), **fields))
    return made


@pytest.fixture(scope="module")
def page(window: Any, runs: list[MadeRun], tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of those runs."""
    folder = write_folder(tmp_path_factory.mktemp("viewer") / "run <i>&amp;", runs)
    write_page(make_view([folder]).page, folder / "view.html")
    return Page(window, folder / "view.html")


def wait_until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for what the page does after an event."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page.window, 30).until(lambda _: holds())


def made_run(runs: list[MadeRun], arm: Arm, problem: str) -> MadeRun:
    return next(run for run in runs if run.arm == arm and run.record["problem_id"] == problem)


def in_arm(guided: str = "c=5 k=5 entropy>0.5", b: str = "", **state: str) -> dict[str, str]:
    return {"a": guided, "b": b, **state}


def test_it_opens_from_disk_without_a_complaint(page: Page) -> None:
    """A wrong hash in the policy, a missing DecompressionStream or a slip of the pen shows here and nowhere else."""
    page.open()
    assert page.complaints() == []
    assert page.shown() == "p0" and page.tally() == "6 of 6 problems"
    assert page.texts("#list .id") == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert page.text("#title") == "run <i>&amp;"
    assert page.js("return performance.getEntriesByType('resource').length") == 0


def test_a_click_shows_the_problem(page: Page, runs: list[MadeRun]) -> None:
    """Text, answer and facts must be the clicked problem's."""
    page.open(**in_arm())
    page.click('.row[data-problem="3"]')
    assert page.shown() == "p3"
    run = made_run(runs, GUIDED, "p3")
    halves = "".join(page.texts(".pane .odd"))
    assert page.text(".pane .text").replace(halves, "") == run.record["result"] + "<|end|>" and halves == "F09F99"
    assert page.text(".prompt .text") == "Prompt of p3"
    assert page.text(".pane .outcome").endswith("wrong")
    assert "2 consults" in page.text(".run-facts") and "answered 42" in page.text(".run-facts")
    assert page.text(".gold code") == "42"
    assert page.count(".row.current") == 1 and page.text(".row.current .id") == "p3"


def test_j_and_k_and_arrows_walk_through_the_problems(page: Page) -> None:
    """Keys must go through what is listed, and stop at the ends."""
    from selenium.webdriver.common.keys import Keys

    page.open()
    page.press("j", "j", "k", Keys.ARROW_DOWN)
    assert page.shown() == "p2"
    page.press(*["j"] * 9)
    assert page.shown() == "p5"
    page.press(*["k"] * 9, Keys.ARROW_UP)
    assert page.shown() == "p0"
    page.choose("#filter-level", "1")
    page.press("j")
    assert page.shown() == "p3"


def test_keys_do_not_act_while_someone_types(page: Page) -> None:
    """A j in the search box is a letter."""
    from selenium.webdriver.common.keys import Keys

    page.open()
    page.press("/", "p", "3")
    assert page.js("return document.activeElement.id") == "search"
    assert page.tally() == "1 of 6 problems" and page.shown() == "p3"
    page.press(Keys.ESCAPE)
    assert page.tally() == "6 of 6 problems" and page.js("return document.activeElement === document.body")
    page.press("?")
    assert page.js("return document.getElementById('keys').open")
    page.press("j", Keys.ESCAPE)
    assert page.shown() == "p3" and not page.js("return document.getElementById('keys').open")


def test_authors_differ_in_more_than_colour(page: Page, runs: list[MadeRun]) -> None:
    """One man in twelve cannot tell the red from the blue."""
    page.open(**in_arm())
    run = made_run(runs, GUIDED, "p0")
    sources = [segment["source"] for segment in run.record["interleaved_outputs"] for _ in segment["token_ids"]]
    assert page.js("return [...document.querySelectorAll('.pane .t')].map(e => e.classList.contains('oracle'))") == [
        source == "oracle" for source in sources
    ]
    style = "return getComputedStyle(document.querySelector('.pane .t.' + arguments[0]))[arguments[1]]"
    assert page.js(style, "oracle", "textDecorationLine") == "underline"
    assert page.js(style, "base", "textDecorationLine") == "none"
    starts = page.js(
        "return [...document.querySelectorAll('.pane .t.start')].map(e => [e.dataset.i, e.dataset.consult])"
    )
    assert starts == [[str(start), str(n + 1)] for n, start in enumerate(run.record["cheat_positions"])]


def test_hover_shows_the_values_of_the_trace(page: Page, runs: list[MadeRun]) -> None:
    """The panel must show the token under the pointer and not a neighbour, a null as a dash, and the choices."""
    page.open(**in_arm(problem="p0"))
    run, data = made_run(runs, GUIDED, "p0"), read_page(page.path.read_bytes())
    start = run.record["cheat_positions"][0]
    column = run.columns["oracle_logprob"].to_pylist()
    unseen, seen = column.index(None), next(i for i, value in enumerate(column) if value is not None)
    vocabulary = dict(zip(data.tree["vocabulary"]["ids"], data.tree["vocabulary"]["texts"], strict=True))
    for position in (0, start, unseen, seen):
        page.hover(f'.pane .t[data-i="{position}"]')
        facts = page.facts()
        assert facts["position"] == f"{position} of {len(column)}"
        assert facts["token id"] == str(run.columns["token_id"][position])
        for name in ("entropy", "varentropy", "top_prob", "margin", "logprob", "u"):
            assert float(page.value(name)) == pytest.approx(float(run.columns[name][position]), abs=6e-5)
        if column[position] is None:
            assert page.value("oracle_logprob") == page.value("agree") == "–"
            assert facts["oracle’s choice"] == "not looked at"
        else:
            assert float(page.value("oracle_logprob")) == pytest.approx(column[position], abs=6e-5)
            assert page.value("oracle_rank") == str(run.columns["oracle_rank"].to_pylist()[position])
            assert page.value("agree") == ("yes" if run.columns["agree"].to_pylist()[position] else "no")
        choice = int(run.columns["base_top1"][position])
        if "\ufffd" not in vocabulary[choice] and vocabulary[choice].isprintable() and choice > 5:
            assert facts["base’s choice"].startswith(f"“{vocabulary[choice]}”")
        assert page.text(".token-line .who") == ("oracle" if position >= start and position < start + 3 else "base")
        if position == start:
            assert facts["consult"] == "1, token 1 (it begins here)"
    page.hover("h1")
    assert page.facts() == {}


def test_shading_follows_the_signal(page: Page, runs: list[MadeRun]) -> None:
    """Shades that stay when the signal changes, or that are darkest where the base is surest."""
    page.open(**in_arm(problem="p0", signal="entropy"))
    run = made_run(runs, GUIDED, "p0")
    shades = "return [...document.querySelectorAll('.pane .t')].map(e => e.style.backgroundColor)"

    def darkness() -> list[float]:
        return [float(shade.split("var(--shade)")[1].split("%")[0]) if shade else 0.0 for shade in page.js(shades)]

    by_entropy = darkness()
    entropy = [float(value) for value in run.columns["entropy"]]
    assert by_entropy[entropy.index(max(entropy))] == max(by_entropy) > 50
    assert by_entropy[entropy.index(min(entropy))] == min(by_entropy)
    page.choose("#signal", "top_prob")
    by_probability = darkness()
    probability = [float(value) for value in run.columns["top_prob"]]
    assert by_probability != by_entropy
    assert by_probability[probability.index(min(probability))] == max(by_probability)
    page.press("s")
    assert page.js("return document.getElementById('signal').value") == "margin"
    page.press("S", "S")
    assert page.js("return document.getElementById('signal').value") == "varentropy"
    page.choose("#signal", "")
    assert set(page.js(shades)) == {""} and page.js("return document.getElementById('legend').hidden")
    page.click('#token tr[data-signal="agree"] input[type=radio]')
    agree = run.columns["agree"].to_pylist()
    assert [shade > 0 for shade in darkness()] == [value is False for value in agree]


def test_the_plot_has_the_chosen_signals_and_follows_the_text(page: Page, runs: list[MadeRun]) -> None:
    """A curve of another run, consult marks at other places, a cursor that does not come along."""
    page.open(**in_arm(problem="p0", signal="entropy"))
    run = made_run(runs, GUIDED, "p0")
    page.click('#token tr[data-signal="margin"] input[type=checkbox]')
    assert page.js("return [...document.querySelectorAll('.plot .strip')].map(e => e.dataset.signal)") == [
        "entropy",
        "margin",
    ]
    assert page.count(".plot .consult") == len(run.record["cheat_positions"])
    assert page.count('.strip[data-signal="entropy"] .threshold') == 1
    assert page.count('.strip[data-signal="margin"] .threshold') == 0
    curve = page.js("return document.querySelector('.strip[data-signal=entropy] .curve').getAttribute('d')")
    points = [[float(part) for part in point.split("h")[0].split()] for point in curve[1:].split("L")]
    width, n = page.element(".plot svg").size["width"], len(run.columns["token_id"])
    assert [x for x, _ in points] == pytest.approx([58 + (i + 0.5) * (width - 72) / n for i in range(n)], abs=0.1)
    entropy = [float(value) for value in run.columns["entropy"]]
    assert sorted(range(n), key=lambda i: -points[i][1])[-3:] == sorted(range(n), key=lambda i: entropy[i])[-3:]
    page.hover('.pane .t[data-i="4"]')
    cursor = "return document.querySelector('.plot .cursor').getAttribute('visibility')"
    assert page.js(cursor) == "visible"
    assert page.texts(".cursor .value")[0].startswith("4: ")
    from selenium.webdriver.common.action_chains import ActionChains

    plot = page.element(".plot svg")
    middle = round(58 + (7 + 0.5) * (width - 58 - 14) / n - width / 2)
    ActionChains(page.window).move_to_element_with_offset(plot, middle, 0).perform()
    assert page.js("return document.querySelector('.t.current').dataset.i") == "7"
    assert page.facts()["position"] == f"7 of {n}"
    ActionChains(page.window).click().perform()
    page.hover("h1")
    assert page.facts()["position"] == f"7 of {n}" and "token=a7" in page.window.current_url
    page.click('#token tr[data-signal="entropy"] input[type=checkbox]')
    page.click('#token tr[data-signal="margin"] input[type=checkbox]')
    assert page.count(".plot") == 0


def test_tokens_and_consults_can_be_walked_by_keys(page: Page, runs: list[MadeRun]) -> None:
    """Whoever has no mouse must reach every token and its values."""
    from selenium.webdriver.common.keys import Keys

    page.open(**in_arm(problem="p0"))
    run = made_run(runs, GUIDED, "p0")
    starts = run.record["cheat_positions"]
    page.press("n")
    assert page.facts()["position"].startswith(f"{starts[0]} of")
    page.press("n", "n", "n")
    assert page.facts()["position"].startswith(f"{starts[1]} of")
    page.press("p", Keys.ARROW_RIGHT)
    assert page.facts()["position"].startswith(f"{starts[0] + 1} of")
    assert page.js("return document.activeElement.dataset.i") == str(starts[0] + 1)
    page.press(*[Keys.ARROW_LEFT] * 40)
    assert page.facts()["position"].startswith("0 of")
    assert page.count('.pane .t[tabindex="0"]') == 1
    page.press(Keys.ESCAPE)
    assert page.facts() == {}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"outcome": "correct"}, ["p0", "p2", "p4"]),
        ({"outcome": "wrong"}, ["p1", "p3", "p5"]),
        ({"outcome": "truncated"}, ["p5"]),
        ({"outcome": "missing"}, []),
        ({"compare": "flipped"}, ["p0", "p1"]),
        ({"compare": "recovered"}, ["p0"]),
        ({"compare": "lost"}, ["p1"]),
        ({"compare": "split"}, ["p0", "p1", "p5"]),
        ({"level": "2"}, ["p1", "p4"]),
        ({"finish": "length"}, ["p5"]),
        ({"level": "2", "outcome": "correct"}, ["p4"]),
    ],
)
def test_filters_list_what_they_say(page: Page, filters: dict[str, str], expected: list[str]) -> None:
    """Cut-off texts are wrong, and recovered means that the base alone was wrong and the guided arm right."""
    page.open(**in_arm(b="base alone"))
    for name, value in filters.items():
        page.choose(f"#filter-{name}", value)
    assert page.texts("#list .id") == expected
    assert page.tally() == f"{len(expected)} of 6 problems"
    assert (page.shown() == expected[0]) if expected else "No problem" in page.text("main")
    page.click("#clear")
    assert page.tally() == "6 of 6 problems"


def test_comparisons_that_make_no_sense_are_off(page: Page) -> None:
    """Flipped without B, or recovered among guided arms alone, would list nothing without a reason."""
    page.open(**in_arm(b="base alone", compare="flipped"))
    assert page.tally() == "2 of 6 problems"
    page.choose("#arm-b", "-1")
    assert page.tally() == "6 of 6 problems"
    assert page.js("return document.querySelector('#filter-compare option[value=flipped]').disabled")
    assert not page.js("return document.querySelector('#filter-compare option[value=recovered]').disabled")
    page.choose("#arm-a", "0")
    assert page.js("return document.querySelector('#filter-compare option[value=recovered]').disabled")


def test_search_finds_texts_prompts_and_ids(page: Page) -> None:
    """Search in what the models wrote, in upper and lower case."""
    page.open(**in_arm())
    for text, count in (("so P2 IS", 1), ("prompt of p", 6), ("</script>", 1), ("🙂", 6), ("sums", 6), ("zzz", 0)):
        page.choose("#search", text)
        assert page.tally() == f"{count} of 6 problems", text


def test_side_by_side_marks_where_texts_part(page: Page, runs: list[MadeRun]) -> None:
    """The first difference must be the first, and what is common behind it unmarked."""
    page.open(**in_arm("base alone", "c=5 k=5 entropy>0.5", problem="p0"))
    left, right = made_run(runs, ALONE, "p0"), made_run(runs, GUIDED, "p0")
    ids = [run.columns["token_id"] for run in (left, right)]
    first = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    panes = "return [...document.querySelectorAll('.pane')]"
    marked = panes + ".map(p => [...p.querySelectorAll(arguments[0])].map(e => Number(e.dataset.i)))"
    assert page.js(marked, ".first-difference") == [[first], [first]]
    assert page.count(".pane .split") == 2
    differs = page.js(marked, ".differs")
    assert all(positions[0] == first for positions in differs)
    kept = [[i for n, i in enumerate(side) if n not in positions] for side, positions in zip(ids, differs, strict=True)]
    assert kept[0] == kept[1] and len(kept[0]) > first
    assert f"parts at token {first}" in page.text(".run-facts")
    page.press("d")
    assert page.facts()["position"].startswith(f"{first} of") and page.text(".token-line .letter") == "A"
    page.press("x")
    assert page.texts(".pane-head strong") == ["c=5 k=5 entropy>0.5", "base alone"]
    page.press("c")
    assert page.count(".pane") == 1 and page.count(".pane .split, .pane .differs") == 0
    page.press("c")
    assert page.count(".pane") == 2


def test_equal_texts_and_prefixes_are_told_apart(window: Any, tokens: Tokenizer, tmp_path: Path) -> None:
    """A text that is the other's beginning parts where it ends; equal texts part nowhere."""
    runs = [
        make_run(tokens, ALONE, "same", [("base", "abc")]),
        make_run(tokens, GUIDED, "same", [("base", "a"), ("oracle", "bc")]),
        make_run(tokens, ALONE, "prefix", [("base", "abc")], ends=False),
        make_run(tokens, GUIDED, "prefix", [("base", "abc"), ("oracle", "d")], ends=False),
        make_run(tokens, ALONE, "alone", [("base", "abc")]),
    ]
    folder = write_folder(tmp_path / "run", runs)
    write_page(make_view([folder]).page, folder / "view.html")
    page = Page(window, folder / "view.html").open(problem="same")
    assert page.count(".pane") == 2 and page.count(".pane .split") == 0 and "same tokens" in page.text(".run-facts")
    page.open(problem="prefix")
    assert page.count(".pane:nth-child(1) .split") == page.count(".pane:nth-child(2) .split") == 1
    assert page.count(".pane:nth-child(1) .differs") == 0 and page.count(".pane:nth-child(2) .differs") == 1
    page.open(problem="alone")
    assert "no run of this problem" in page.text(".pane:nth-child(2)") and page.complaints() == []


def test_odd_texts_are_shown_and_harmless(page: Page) -> None:
    """Markup from a model must be text, and characters that hide or reorder must show their names."""
    page.open(**in_arm(problem="p4", token="a0"))
    assert page.js("return document.querySelectorAll('main b, main i').length") == 0
    shown = page.text(".pane .text")
    assert "</script><b>x</b> <!-- &amp; " in shown and "\t tab  two" in shown
    for hidden in ("\u2028", "\u202e", "\u202c", "\u200b", "\r"):
        assert hidden not in shown
    names = page.texts(".pane .odd")
    assert [name for name in names if not all(c in "0123456789ABCDEF " for c in name)] == [
        *("LS", "RLO", "U+202C", "ZWSP", "CR")
    ]
    assert {"E2", "80", "F0", "9F", "99"} <= set(names)
    assert page.complaints() == []


def test_white_space_and_boundaries_can_be_seen(page: Page) -> None:
    """Two spaces look like one and a line's end like nothing; both signs must go away on demand."""
    page.open(**in_arm(problem="p4"))
    before = "return getComputedStyle(document.querySelector('.pane ' + arguments[0]), '::before').content"
    assert [page.js(before, name) for name in (".sp", ".tab", ".nl")] == ['"·"', '"→"', '"↵"']
    assert page.js("return getComputedStyle(document.querySelector('.pane .text')).whiteSpace") == "pre-wrap"
    page.press("w")
    assert page.js(before, ".sp") == "none"
    shadow = "return getComputedStyle(document.querySelector('.pane .t')).boxShadow"
    without = page.js(shadow)
    page.press("b")
    assert page.js(shadow) != without and page.js("return document.getElementById('boundaries').ariaPressed") == "true"
    page.press("b")
    assert page.js(shadow) == without


def test_a_link_opens_what_it_was_copied_from(page: Page) -> None:
    """Problem, arms, signal, plots, token and filters are in the address; nonsense in it is passed over."""
    page.open(**in_arm("c=5 k=5 random", "base alone", problem="p2", signal="margin", token="a3", outcome="correct"))
    page.click('#token tr[data-signal="u"] input[type=checkbox]')
    url = page.window.current_url
    page.open()
    assert page.shown() == "p0"
    page.js("location.href = arguments[0]", url)  # in a page that is open, as a link within it
    wait_until(page, lambda: page.shown() == "p2")
    assert page.texts(".pane-head strong") == ["c=5 k=5 random", "base alone"]
    assert page.facts()["position"].startswith("3 of") and page.tally() == "4 of 6 problems"
    assert page.js("return [...document.querySelectorAll('.pane:first-child .strip')].map(e => e.dataset.signal)") == [
        "margin",
        "u",
    ]
    page.open(problem="none", a="none", signal="none", token="z9", outcome="bogus", compare="constructor", plot=",")
    assert page.shown() == "p0" and page.tally() == "6 of 6 problems" and page.complaints() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_can_be_read_on_every_shade(page: Page, theme: str) -> None:
    """Contrast of 4.5 (WCAG 2.1, 1.4.3) for both authors, on no shade and on the darkest."""
    page.open(**in_arm())
    page.js("document.documentElement.dataset.theme = arguments[0]", theme)
    code = """
        const style = getComputedStyle(document.documentElement);
        const light = (name) => {
          const hex = style.getPropertyValue(name).trim().slice(1);
          const parts = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
          const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const [a, b] = [...arguments].map(light).sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    """
    for ink in ("--base", "--oracle"):
        for ground in ("--panel", "--shade"):
            assert page.js(code, ink, ground) >= 4.5, (ink, ground)
    for ink, ground in (("--ink", "--panel"), ("--muted", "--panel"), ("--muted", "--raised"), ("--accent", "--panel")):
        assert page.js(code, ink, ground) >= 4.5, (ink, ground)


def test_the_theme_can_be_changed(page: Page) -> None:
    """Dark and light, by key and by button."""
    page.open()
    theme = "return document.documentElement.dataset.theme"
    before = page.js(theme)
    page.press("t")
    assert page.js(theme) != before
    page.click("#theme")
    assert page.js(theme) == before


def test_runs_without_traces_show_who_wrote_what(window: Any, runs: list[MadeRun], tmp_path: Path) -> None:
    """No signals, no plot, and no error."""
    folder = write_folder(tmp_path / "run", runs, traced=False)
    write_page(make_view([folder]).page, folder / "view.html")
    page = Page(window, folder / "view.html").open(**in_arm())
    assert page.complaints() == []
    assert page.count(".pane .t.oracle") > 0 and page.count(".plot") == 0
    assert "no trace" in page.text("#token") and page.js("return document.getElementById('signal').disabled")
    page.press("s", "n", "j")
    page.hover('.pane .t[data-i="1"]')
    assert page.facts()["position"].startswith("1 of") and page.complaints() == []


def test_stretches_stand_in_for_tokens_of_unknown_text(window: Any, tokens: Tokenizer, tmp_path: Path) -> None:
    """Without the tokenizer the record's segments are shown, with the plot by position."""
    parts = [("base", "So 2"), ("oracle", " + 3"), ("base", " = 5")]
    runs = [make_run(tokens, GUIDED, "p0", parts, base_model_id="/nowhere")]
    folder = write_folder(tmp_path / "run", runs)
    path = folder / f"{GUIDED.slug}.jsonl"
    path.write_text(path.read_text().replace("arith-base", "/nowhere"))
    write_page(make_view([folder]).page, folder / "view.html")
    page = Page(window, folder / "view.html").open()
    assert page.texts(".pane .t") == ["So 2", " + 3", " = 5"] and page.count(".plot .consult") == 1
    page.hover('.pane .t[data-i="1"]')
    start = runs[0].record["cheat_positions"][0]
    assert page.facts()["position"].startswith(f"{start}–") and page.text(".token-text") == "3 tokens"
    assert "/nowhere" in page.text("#token .notes") and page.complaints() == []
    page.press("n", "d", "s")
    assert page.complaints() == []


def test_five_hundred_problems_keep_the_document_small(window: Any, tokens: Tokenizer, tmp_path: Path) -> None:
    """A row a problem and a span a token of every text would be 300,000 elements and seconds for each step."""
    text = "1 + 2 = 3, " * 15
    parts = [("base", text), ("oracle", "4")]
    first = {ALONE: make_run(tokens, ALONE, "x", parts[:1]), GUIDED: make_run(tokens, GUIDED, "x", parts)}
    runs = []
    for arm, run in first.items():
        for i in range(500):
            names = [f"p{i}"] * len(run.columns["token_id"])
            record = run.record | {"problem_id": f"p{i}", "level": i % 5}
            runs.append(MadeRun(arm, record, run.columns | {"problem_id": names}))
    folder = write_folder(tmp_path / "run", runs)
    write_page(make_view([folder]).page, folder / "view.html")
    page = Page(window, folder / "view.html").open()
    nodes = "return document.getElementsByTagName('*').length"
    tokens_shown = sum(len(run.columns["token_id"]) for run in first.values())
    assert page.count(".pane .t") == tokens_shown
    limit = 4 * tokens_shown + 1200
    before = page.js(nodes)
    assert before < limit and page.count(".row") < 60
    page.press(*["j"] * 25)
    assert page.shown() == "p25" and page.js(nodes) < limit
    page.js("document.getElementById('list').scrollTop = 1e9")
    wait_until(page, lambda: "p499" in page.texts("#list .id"))
    assert page.js(nodes) < limit
    page.click('.row[data-problem="499"]')
    assert page.shown() == "p499"
    page.choose("#filter-level", "3")
    assert page.tally() == "100 of 500 problems" and page.js(nodes) < limit


def test_a_damaged_page_says_so(window: Any, page: Page, tmp_path: Path) -> None:
    """A file cut off in transfer must not stay at `Reading the runs` for ever."""
    from selenium.webdriver.support.ui import WebDriverWait

    content = page.path.read_text()
    start = content.index('"data": "') + 500
    (tmp_path / "torn.html").write_text(content[:start] + content[start + 400 :])
    window.get((tmp_path / "torn.html").as_uri())
    loading = "return document.getElementById('loading')?.textContent ?? ''"
    WebDriverWait(window, 30).until(lambda _: "cannot be shown" in window.execute_script(loading))


def test_copied_text_is_the_text(page: Page, runs: list[MadeRun]) -> None:
    """Signs for spaces, line ends and consults must not get into what is copied."""
    page.open(**in_arm(problem="p0"))
    page.js("getSelection().selectAllChildren(document.querySelector('.pane .text'))")
    copied = page.js("return getSelection().toString()")
    assert "So p0 is 2 + 3 = 5.\nThus it is " in copied and not {"·", "↵"} & set(copied)


def test_the_payload_in_the_browser_is_the_one_in_the_file(page: Page) -> None:
    """What the tests above read with Python is what the page's program reads."""
    page.open(**in_arm(problem="p0"))
    tree: dict[str, Any] = read_page(page.path.read_bytes()).tree
    assert json.loads(json.dumps(tree["problems"]))[0]["key"] == page.shown()
    assert page.texts("#signal option") == ["nothing", *[signal["name"] for signal in tree["signals"]]]
