"""Plots and the page of `dodona report`: what they show, that they are the same each time, and that nothing can run."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sample_runs import BASE, ORACLE, SampleArm, grid, header, problem, record, rising, write_lines, write_runs

from dodona.cli import main
from dodona.eval.report.html import escaped
from dodona.eval.report.panels import FIGURES, Figure, make_canvas
from dodona.eval.report.plots import draw, write_plots
from dodona.eval.report.section import Section, make_section
from dodona.eval.runs import read_runs

SMALL = [BASE, SampleArm(1, 5), SampleArm(2, 5), ORACLE]
NAMES = ["accuracy-c", "accuracy-flops", "accuracy-k", "accuracy-ms", "accuracy-oracle-share"]
EVIL = '<script>alert("x")</script>\'"><img src=http://evil.example/x onerror=alert(1)>&amp;'


def run(*arguments: str | Path) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def section(path: Path) -> Section:
    (experiment,) = read_runs([path])
    return make_section(experiment, experiment.title)


def figure(name: str) -> Figure:
    return next(figure for figure in FIGURES if figure.name == name)


def bars(axis: Any) -> dict[str, tuple[list[float], list[float], list[tuple[float, float]]]]:
    """Of each series with bars: x, y, and the ends of the bars."""
    found = {}
    for container in axis.containers:
        line, _, (collection,) = container.lines
        ends = [(float(segment[0][1]), float(segment[1][1])) for segment in collection.get_segments()]
        found[container.get_label()] = (
            [float(x) for x in line.get_xdata()],
            [float(y) for y in line.get_ydata()],
            ends,
        )
    return found


class Reader(HTMLParser):
    """Elements, their attributes and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] in ("script", "style") else self.text).append(data)


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


# --- plots ---


def test_every_picture_is_written_twice(tmp_path: Path) -> None:
    """A PNG for a page and an SVG for a paper, both whole."""
    write_runs(tmp_path / "a.jsonl", SMALL, 12, rising)
    assert run("report", tmp_path / "a.jsonl", "--plots", tmp_path / "plots") == 0
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    assert files == {f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")}
    for name in NAMES:
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert ElementTree.parse(tmp_path / "plots" / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_same_records_give_the_same_bytes_whatever_the_user_has_set(tmp_path: Path) -> None:
    """matplotlib writes the date and random ids into an SVG and obeys a matplotlibrc: each run is a new file in git."""
    import matplotlib

    path = write_runs(tmp_path / "a.jsonl", SMALL, 12, rising)
    first = draw(section(path))
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        second = draw(section(path))
        assert matplotlib.rcParams["font.size"] == 30
    assert first == second
    assert not any(re.search(rb"dc:date|20\d\d-\d\d-\d\d", picture.svg) for picture in first)


def test_bars_are_the_intervals_of_the_table(tmp_path: Path) -> None:
    """matplotlib takes lengths and not ends: with the ends themselves the bars reach far beyond 100 %."""
    found = section(write_runs(tmp_path / "a.jsonl", grid(), 40, rising))
    canvas = make_canvas(found, figure("accuracy-c"))
    assert [axis.get_title() for axis in canvas.axes] == ["entropy > 0.5, before", "random, before"]
    series = bars(canvas.axes[1])
    assert list(series) == ["k=1", "k=5", "k=20"]
    lines = {(line.arm.c, line.arm.k): line for line in found.guided if line.arm.trigger == "random"}
    _, y, ends = series["k=5"]
    for c, height, end in zip((1, 2, 5), y, ends, strict=True):
        rate = lines[c, 5].summary.rate
        assert height == pytest.approx(100 * rate.accuracy)
        assert end == pytest.approx((100 * rate.interval.low, 100 * rate.interval.high))
    assert canvas.axes[0].get_ylim() == canvas.axes[1].get_ylim()


def test_each_picture_has_its_own_axis(tmp_path: Path) -> None:
    """Against k for each c, against the share, and against both costs."""
    found = section(write_runs(tmp_path / "a.jsonl", grid(), 40, rising))
    assert list(bars(make_canvas(found, figure("accuracy-k")).axes[0])) == ["c=1", "c=2", "c=5"]
    lines = [line for line in found.guided if line.arm.trigger == "random" and line.arm.k == 20]
    for name, x in (
        ("accuracy-oracle-share", [100 * line.summary.oracle_share for line in lines]),
        ("accuracy-flops", [line.summary.cost.flops for line in lines]),
        ("accuracy-ms", [line.summary.cost.ms for line in lines]),
    ):
        assert bars(make_canvas(found, figure(name)).axes[1])["k=20"][0] == pytest.approx(x)


def test_base_and_oracle_are_lines_in_every_panel(tmp_path: Path) -> None:
    """Without them nobody sees how much of the gap was closed."""
    found = section(write_runs(tmp_path / "a.jsonl", SMALL, 40, rising, dataset="math", base_model_id="1B"))
    assert found.base is not None and found.oracle is not None
    for wanted in FIGURES:
        canvas = make_canvas(found, wanted)
        (legend,) = canvas.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels[-3:] == ["base alone", "oracle alone", "published: 1B (base)"]
        for axis in canvas.axes:
            heights = {line.get_label(): line.get_ydata()[0] for line in axis.get_lines()}
            assert heights["base alone"] == pytest.approx(100 * found.base.summary.rate.accuracy)
            assert heights["oracle alone"] == pytest.approx(100 * found.oracle.summary.rate.accuracy)
            assert heights["published: 1B (base)"] == pytest.approx(30.6)


def test_infinity_has_a_place_of_its_own(tmp_path: Path) -> None:
    """c=inf at a position of infinity is an empty picture, and at 0 a wrong one."""
    arms = [BASE, *(SampleArm(c, k) for c in (1, 20, "inf") for k in (5, "inf")), ORACLE]
    found = section(write_runs(tmp_path / "a.jsonl", arms, 10, rising))
    axis = make_canvas(found, figure("accuracy-c")).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "20", "∞"]
    ticks = list(axis.get_xticks())
    assert ticks == sorted(ticks) and ticks[-1] - ticks[-2] == pytest.approx(1)
    assert list(bars(axis)) == ["k=5", "k=∞"]


def test_seeds_are_one_point_with_the_clustered_interval(tmp_path: Path) -> None:
    """Three points on top of each other look like one with three bars."""
    arms = [BASE, *(SampleArm(5, 10, seed=seed) for seed in range(3))]
    found = section(write_runs(tmp_path / "a.jsonl", arms, 40, rising))
    (line,) = found.guided
    _, y, ends = bars(make_canvas(found, figure("accuracy-c")).axes[0])["k=10"]
    low, high = line.summary.rate.interval
    assert y == pytest.approx([100 * line.summary.rate.accuracy]) and ends == [pytest.approx((100 * low, 100 * high))]


def test_an_arm_that_has_not_begun_is_no_point(tmp_path: Path) -> None:
    """While a grid runs, 0 % for what is still to come would be a curve that falls."""
    arms = [BASE, SampleArm(1, 5), SampleArm(2, 5)]
    path = write_runs(tmp_path / "a.jsonl", arms, 9, lambda arm, index: "wrong" if arm.c != 2 else None)
    assert [line.arm.c for line in section(path).guided] == [1]


def test_a_grid_without_guided_arms_has_no_pictures(tmp_path: Path) -> None:
    """There is nothing to draw; the tables are still there."""
    path = write_runs(tmp_path / "a.jsonl", [BASE, ORACLE], 5, rising)
    assert draw(section(path)) == []
    assert run("report", path, "--plots", tmp_path / "plots", "--html", tmp_path / "x.html") == 0
    assert not (tmp_path / "plots").exists() and "Accuracy" in (tmp_path / "x.html").read_text()


def test_costs_that_were_not_counted_are_not_drawn(tmp_path: Path) -> None:
    """A point at 0 FLOP on a logarithmic axis."""
    lines: list[dict[str, Any]] = [header([BASE, SampleArm(1, 5)], [problem(0)])]
    for arm in (BASE, SampleArm(1, 5)):
        made = record(arm, problem(0))
        lines.append(made | {"ledger": made["ledger"] | {"base_flops": 0, "oracle_flops": 0}})
    names = [picture.name for picture in draw(section(write_lines(tmp_path / "a.jsonl", lines)))]
    assert names == ["accuracy-c", "accuracy-k", "accuracy-oracle-share", "accuracy-ms"]


def test_many_arms_and_odd_names_can_be_drawn(tmp_path: Path) -> None:
    """Seven values of k, four rules, a dollar sign (mathematics to matplotlib), and characters that no font has."""
    rules = ["entropy > 0.5", "entropy > 1.0 and varentropy > 1.5 and position >= 3", "$x_1 < 2$ \x07 漢", "random"]
    arms = [BASE, *(SampleArm(c, k, rule) for rule in rules for c in (1, 2) for k in range(1, 8))]
    path = write_runs(tmp_path / "a.jsonl", arms, 2, rising, base_model_id="a_$b_$c\x00^{")
    for picture in draw(section(path), [figure("accuracy-c")]):
        ElementTree.fromstring(picture.svg)


def test_several_experiments_have_a_folder_each(tmp_path: Path) -> None:
    """The second one's pictures would replace the first one's."""
    write_runs(tmp_path / "a.jsonl", [BASE, SampleArm(1, 5)], 3, rising)
    write_runs(tmp_path / "b.jsonl", [BASE, SampleArm(1, 5)], 3, rising, oracle_model_id="../../up/and away")
    sections = [make_section(experiment, experiment.title) for experiment in read_runs([tmp_path])]
    write_plots(tmp_path / "plots", [(one, draw(one, [figure("accuracy-c")])) for one in sections])
    folders = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert len(folders) == 2 and all(
        re.fullmatch(r"arith-arith-base-with-[\w.-]+-[0-9a-f]{8}", name) for name in folders
    )


@pytest.mark.parametrize("option", ["--plots", "--html"])
def test_a_missing_matplotlib_is_one_line_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """It is an extra, and the tables do not need it."""
    path = write_runs(tmp_path / "a.jsonl", grid(), 3, rising)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("report", path, option, tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{option} needs matplotlib, which is in the extra `plots`: pip install -e '.[plots]'" in err
    assert run("report", path) == 0


# --- the page ---


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small grid."""
    folder = tmp_path_factory.mktemp("small")
    path = write_runs(folder / "a.jsonl", SMALL, 9, rising)
    assert run("report", path, "--holm", "--html", folder / "page.html") == 0
    return folder / "page.html"


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Reader]:
    def make(*arguments: str | Path) -> Reader:
        assert run("report", *arguments, "--html", tmp_path / "page.html") == 0
        return read_page(tmp_path / "page.html")

    return make


def test_the_page_loads_nothing_from_elsewhere(small: Path) -> None:
    """A report must open in ten years, on a machine without a network."""
    found = read_page(small)
    for tag, attributes in found.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:image/svg+xml;base64,", "#", "data:"))
    text = small.read_text()
    assert not re.search(r"url\(|@import|https?:", text)
    pictures = [attributes["src"] or "" for tag, attributes in found.elements if tag == "img"]
    assert len(pictures) == 5
    for picture in pictures:
        ElementTree.fromstring(base64.b64decode(picture.partition(",")[2]))


def test_the_page_says_what_every_column_means(small: Path) -> None:
    """Nobody who is sent a page has the manual at hand."""
    found = read_page(small)
    text = " ".join(found.text)
    heads = [attributes.get("title") for tag, attributes in found.elements if tag == "th"]
    assert len(heads) > 30
    for definition in filter(None, heads):
        assert definition in text
    for fact in ("9 problems, 4 arms, 36 records", "max_new_tokens", "0123456789abcdef", "2.13.0"):
        assert fact in text
    for title in ("Accuracy", "What the oracle did, and what a run cost", "Against the base alone", "p (Holm)"):
        assert title in text


def test_cells_sort_by_their_values(small: Path) -> None:
    """As texts, 9.5 % comes after 81.0 %."""
    found = read_page(small)
    values = [attributes.get("data-v") for tag, attributes in found.elements if tag == "td"]
    assert sum(value is not None and re.fullmatch(r"-?[\d.e+-]+", value) is not None for value in values) > 100


def test_the_same_records_give_the_same_page(small: Path, tmp_path: Path) -> None:
    """A date in it, and every report differs from the last."""
    assert run("report", small.parent, "--holm", "--html", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").read_bytes() == small.read_bytes()


def test_nothing_in_a_record_becomes_part_of_the_page(tmp_path: Path, page: Callable[..., Reader]) -> None:
    """A model writes what it likes: an error, a subject or a name that is HTML would run in the reader's browser."""
    asked = {"problem_id": EVIL, "level": EVIL, "subject": EVIL + "1"}
    other = {"problem_id": "p", "level": 1, "subject": EVIL + "2"}
    arm = SampleArm(5, 10, "entropy < 3" + EVIL)
    lines = [
        header([BASE, arm], [asked, other], base_model_id=EVIL, **{EVIL: [EVIL]}),
        record(arm, asked, "failed", error=EVIL + "\x1b[2J\x00\ud800"),
        record(BASE, other, "correct", parsed_answer=EVIL, result=EVIL, ground_truth=EVIL),
        record(arm, other, "wrong", parsed_answer=EVIL),
    ]
    lines[0]["header"] |= {"git_commit": EVIL, "dodona": EVIL, "versions": {EVIL: EVIL}}
    found = page(write_lines(tmp_path / "a.jsonl", lines))
    tags = {tag for tag, _ in found.elements}
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert [tag for tag, _ in found.elements].count("img") == 5
    assert tags <= {
        *("html", "head", "meta", "title", "style", "body", "script", "h1", "h2", "h3", "p", "div", "figure", "img"),
        *("table", "thead", "tbody", "tr", "th", "td", "details", "summary", "dl", "dt", "dd"),
    }
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert sum(EVIL in text for text in found.text) >= 8
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", (tmp_path / "page.html").read_text())


def test_the_page_forbids_itself_what_it_does_not_need(tmp_path: Path, page: Callable[..., Reader]) -> None:
    """Were something to slip through, it could neither run nor send anything. The hashes must be those of our parts."""
    found = page(write_runs(tmp_path / "a.jsonl", [BASE], 3, rising))
    (policy,) = [a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; ")
    assert len(found.scripts) == 2
    for part, kind in zip(found.scripts, ("style-src", "script-src"), strict=True):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy


def test_several_experiments_are_linked_sections(tmp_path: Path, page: Callable[..., Reader]) -> None:
    """A sweep over models is one page."""
    write_runs(tmp_path / "a.jsonl", [BASE], 3, rising)
    write_runs(tmp_path / "b.jsonl", [BASE], 3, rising, dtype="bfloat16")
    found = page(tmp_path)
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a"]
    ids = [attributes["id"] for tag, attributes in found.elements if "id" in attributes]
    assert links == [f"#{id}" for id in ids] == ["#s0", "#s1"]


def test_text_is_escaped_for_elements_and_attributes() -> None:
    """Both kinds of quotes, and what is no character at all."""
    assert escaped("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#x27;"
    assert escaped("\x00\x1b\ud800 \n∞") == "\ufffd\ufffd\ufffd \n∞"
