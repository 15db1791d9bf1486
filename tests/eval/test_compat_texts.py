"""The texts of `--compat`: what is handed on, what is lost on the way, and that nothing else is different."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.result import Result
from dodona.engine.sequence import BASE, ORACLE
from dodona.engine.trigger import Trigger
from dodona.eval.compat.by_text import generate_by_text
from dodona.eval.compat.switches import read_switches, rungs, variants
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Selection

INF = float("inf")
PROMPTS = [problem.prompt for problem in task_named("arith").load(Selection(num_samples=4, start_index=3))]
RULES = [
    ("random", "before"),
    ("random", "after"),
    ("entropy > 0.5", "before"),
    ("logprob < -0.4", "after"),
    ("ema(entropy, 0.9) > 0.2 and since_consult >= 8", "before"),
    ("ema(logprob, 0.5) < -0.2 and base_run >= 3", "after"),
    ("margin < 0.3 and u < 0.7 and consults < 4", "before"),
    ("attn_entropy > 1.0", "before"),
    ("always", "before"),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The embedded pair."""
    return Engine(device="cpu", max_batch=8)


class Listener:
    """An engine that notes what each model is asked to read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.asked: list[tuple[str, Request]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        requests = list(requests)
        self.asked += [(ORACLE if request.c else BASE, request) for request in requests]
        return self._engine.generate(iter(requests))


def by_id(results: Iterable[Result]) -> dict[str, Result]:
    found = list(results)
    named = {str(result.request.id): result for result in found}
    assert len(named) == len(found)
    return named


def requests(**options: Any) -> list[Request]:
    return [Request(prompt=prompt, id=f"r{i}", key=f"p{i}", **options) for i, prompt in enumerate(PROMPTS)]


# --- nothing else is different ---


@pytest.mark.parametrize(("trigger", "when"), RULES)
def test_handed_on_as_it_is_the_text_is_the_engines(engine: Engine, trigger: str, when: str) -> None:
    """A counter, a draw, an average or a budget that is off by one would be taken for an effect of stripping."""
    for c, k, more in ((2, 1, {}), (5, 6, {"max_oracle_tokens": 17}), (INF, 9, {"step_size": 4})):
        asked = requests(c=c, k=k, trigger=trigger, when=when, max_new_tokens=80, **more)
        there, here = by_id(engine.generate(iter(asked))), by_id(generate_by_text(engine, iter(asked), str))
        assert there.keys() == here.keys()
        for name, honest in there.items():
            told = here[name]
            assert (told.ids, told.cheat_positions, told.finish_reason, told.text) == (
                *(honest.ids, honest.cheat_positions, honest.finish_reason, honest.text),
            )
            assert [(s.source, s.token_ids) for s in told.segments] == [
                (s.source, s.token_ids) for s in honest.segments
            ]
            assert (told.ledger.burst_tokens, told.ledger.consults) == (
                *(honest.ledger.burst_tokens, honest.ledger.consults),
            )


def test_ends_and_limits_are_the_engines_too(engine: Engine) -> None:
    """A stop string over a hand-off, a text that goes on after its end token, and the oracle alone."""
    kinds: list[dict[str, Any]] = [
        {"stop": ("The answer", "="), "c": 5, "k": 2, "trigger": "every(4)"},
        {"ignore_eos": True, "c": 0, "max_new_tokens": 130},
        {"ignore_eos": True, "c": 4, "k": 5, "trigger": "random", "max_new_tokens": 30},
        {"c": INF, "k": INF, "trigger": "always"},
        {"c": 0},
        {"c": 3, "k": 5, "trigger": "random", "max_new_tokens": 11},
    ]
    for kind in kinds:
        asked = requests(**kind)
        there, here = by_id(engine.generate(iter(asked))), by_id(generate_by_text(engine, iter(asked), str))
        assert {name: (r.ids, r.finish_reason) for name, r in here.items()} == {
            name: (r.ids, r.finish_reason) for name, r in there.items()
        }
    assert {r.finish_reason for r in here.values()} == {"length"}


def test_an_end_token_that_is_passed_over_is_no_text(engine: Engine) -> None:
    """It is written and read within a turn; who is handed the text after it reads on as if it had not been there."""
    listener = Listener(engine)
    options: dict[str, Any] = {"c": 2, "k": 30, "trigger": "position >= 100", "max_new_tokens": 150}
    request = Request(prompt=PROMPTS[0], id="r", ignore_eos=True, **options)
    (result,) = generate_by_text(listener, [request])  # type: ignore[arg-type]
    end = engine.tokenizer.eos_ids[0]
    assert end in result.ids[:100] and len(result.ids) == 150 and result.finish_reason == "length"
    ((_, oracle),) = [turn for turn in listener.asked if turn[0] == ORACLE][:1]
    assert end not in list(oracle.prompt)[len(result.prompt_ids) :]
    (ended,) = generate_by_text(engine, [Request(prompt=PROMPTS[0], id="r", **options)])
    assert ended.finish_reason == "eos" and result.ids[: len(ended.ids)] == ended.ids


# --- what is lost ---


def test_white_space_is_lost_where_the_writer_changes_and_nowhere_else(engine: Engine) -> None:
    """The switch must do what its name says: a strip within a turn, or of the prompt, would be another experiment."""
    listener = Listener(engine)
    options: dict[str, Any] = {"c": INF, "k": 2, "trigger": "every(3)", "max_new_tokens": 80}
    (result,) = generate_by_text(listener, [Request(prompt=PROMPTS[0], id="r", **options)])  # type: ignore[arg-type]
    prompt, tokenizer = result.prompt_ids, engine.tokenizer
    for _, request in listener.asked[1:]:
        context = list(request.prompt)
        assert context[: len(prompt)] == prompt
        read = tokenizer.decode(context[len(prompt) :])
        assert read == read.strip()  # each turn here comes from another writer than the one before
        assert context[len(prompt) :] == tokenizer.encode(read, raw=True)
    written = "".join(segment.text for segment in result.segments)
    assert [writer for writer, _ in listener.asked[:4]] == [BASE, ORACLE, BASE, ORACLE]
    assert any(segment.text != segment.text.rstrip() for segment in result.segments[:-1])
    assert written == tokenizer.decode(result.ids)
    assert len(result.text) < len(written)  # the record's text is what became of it
    assert "".join(result.text.split()) == "".join(written.split())


def test_token_boundaries_are_lost_where_the_writer_changes(tmp_path: Path) -> None:
    """Text that is cut into tokens anew is cut as the tokenizer likes it, not as the models wrote it."""
    folders = (
        save_tiny(tmp_path / "base", "gqa-tied", seed=3, layers=2),
        save_tiny(tmp_path / "o", "mha-untied", seed=4),
    )
    engine = Engine(folders[0], oracle=folders[1], device="cpu")
    listener = Listener(engine)
    request = Request(prompt=[1, *range(5, 30)], id="r", c=4, k=5, trigger="every(6)", max_new_tokens=60)
    (result,) = generate_by_text(listener, [request])  # type: ignore[arg-type]
    written = result.ids[:6]
    handed = list(listener.asked[1][1].prompt)[26:]
    assert handed == engine.tokenizer.encode(engine.tokenizer.decode(written).strip(), raw=True)
    assert handed != written
    (honest,) = engine.generate(iter([request]))
    assert honest.ids[:6] == written and honest.ids != result.ids


def test_within_a_turn_ids_pass_on_as_they_are(tmp_path: Path) -> None:
    """The base writes in several requests; text between these would strip where nobody handed anything on."""
    engine = Engine(save_tiny(tmp_path / "base", "gqa-tied", seed=3, layers=2), oracle=None, device="cpu")
    request = Request(prompt=[1, *range(5, 30)], id="r", c=0, max_new_tokens=100)
    (honest,), (told,) = engine.generate(iter([request])), generate_by_text(engine, [request])
    assert (told.ids, told.text) == (honest.ids, honest.text)
    pair = Engine(save_tiny(tmp_path / "base", "gqa-tied", seed=3, layers=2), oracle=str(tmp_path / "base"))
    late = Request(prompt=[1, *range(5, 30)], id="r", c=1, k=1, trigger="at(90)", max_new_tokens=100)
    (told,) = generate_by_text(pair, [late])
    assert told.ids[:90] == honest.ids[:90]


# --- failures ---


def test_one_run_that_cannot_be_leaves_the_others_alone(engine: Engine) -> None:
    """A prompt that is too long, or a trigger that fails, must cost its own run only."""

    class Fails(Trigger):
        def decide(self, columns: Any) -> Any:
            raise RuntimeError("no opinion")

    good = requests(c=2, k=3, trigger="random", max_new_tokens=40)[:3]
    bad = [
        Request(prompt=[5] * 600, id="long", c=1),
        Request(prompt=PROMPTS[0], id="fails", c=1, trigger=Fails()),
        Request(prompt="", id="empty", c=1),
    ]
    found = by_id(generate_by_text(engine, [bad[0], good[0], bad[1], good[1], bad[2], good[2]]))
    assert len(found) == 6
    assert "context" in str(found["long"].error) and "no opinion" in str(found["fails"].error)
    assert "empty" in str(found["empty"].error)
    alone = by_id(generate_by_text(engine, good))
    assert all(found[name].ids == result.ids and result.error is None for name, result in alone.items())


def test_a_text_at_the_end_of_the_context_ends_there(engine: Engine) -> None:
    """Asked on and on for one more token where none has room, it would never end."""
    ids = engine.tokenizer.encode(PROMPTS[0], raw=True)
    prompt = (ids * 100)[: engine.context - 20]
    request = Request(prompt=prompt, id="r", c=INF, k=3, trigger="every(4)", max_new_tokens=300, ignore_eos=True)
    (result,) = generate_by_text(engine, [request])
    assert result.finish_reason == "length" and len(result.ids) <= 20


# --- switches ---


def test_guided_inference_is_all_switches_and_lists_are_read_in_order() -> None:
    """The order is that of the ladder, whatever order was typed."""
    everything = ("strip", "no-end", "drop-unparsed", "string-match")
    assert read_switches(["guided-inference"]) == everything
    assert read_switches(["string-match, strip", "no-end,strip"]) == ("strip", "no-end", "string-match")
    assert read_switches([]) == ()


@pytest.mark.parametrize("text", ["guided", "strip;no-end", "", "strip,", "Strip"])
def test_an_unknown_switch_is_refused_with_those_there_are(text: str) -> None:
    """A switch that is passed over in silence makes a ladder without it."""
    with pytest.raises(
        DodonaError, match="--compat takes guided-inference, strip, no-end, drop-unparsed, string-match"
    ):
        read_switches([text])


def test_only_what_changes_a_text_is_run() -> None:
    """Counting needs no runs of its own, and where one model writes nothing is handed on."""
    everything = read_switches(["guided-inference"])
    assert variants(everything, alone=False) == [("strip",), ("strip", "no-end"), ("no-end",)]
    assert variants(everything, alone=True) == [("no-end",)]
    assert variants(("drop-unparsed", "string-match"), alone=False) == []
    assert variants(("strip",), alone=True) == []
    assert rungs(("no-end", "string-match")) == [
        *(((), True), (("no-end",), True), (("no-end", "string-match"), True)),
        *((("no-end",), False), (("string-match",), False)),
    ]
