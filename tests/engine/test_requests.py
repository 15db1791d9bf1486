"""What may be asked of an engine, how it answers what may not, and how requests come and go."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError, RequestError
from dodona.engine.request import Request
from dodona.engine.trace import TraceWriter

INF = math.inf


def test_requests_out_of_range_are_refused_in_one_line(engine):
    """Bad input: each names the option or the limit."""
    for options, message in (
        ({"c": -1}, "c must be"), ({"k": -2}, "k must be"), ({"k": 1.5}, "k must be"), ({"c": True}, "c must be"),
        ({"when": "during"}, "when must be"), ({"max_new_tokens": 0}, "max_new_tokens"), ({"stop": ("",)}, "stop"),
        ({"temperature": -1}, "temperature"), ({"seed": "x"}, "seed"), ({"trigger": "entropie > 1"}, "entropy"),
        ({"step_size": 0}, "step_size"), ({"sample": -1}, "sample"), ({"max_oracle_tokens": -1}, "max_oracle_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"), ({"n": 0}, "n must be"), ({"seed": -(2**63)}, "seed must be"),
        ({"temperature": "1"}, "temperature"), ({"oracle_top_p": "1"}, "oracle_top_p"), ({"min_p": None}, "min_p"),
        ({"stop": None}, "stop"), ({"stop": 5}, "stop"), ({"ignore_eos": "no"}, "ignore_eos"), ({"raw": 1}, "raw"),
    ):  # fmt: skip
        with pytest.raises(DodonaError, match=message) as caught:
            engine.generate([1, 2], **options)
        assert caught.value.args
    with pytest.raises(TypeError, match="max_tokens"):
        engine.generate([1, 2], max_tokens=4)
    with pytest.raises(RequestError, match="prompt is empty"):
        engine.generate("")
    with pytest.raises(RequestError, match="prompt is empty"):
        engine.generate(Request(prompt=[]))
    with pytest.raises(RequestError, match="context of 512"):
        engine.generate([5] * 512)
    for token in (-1, 317):  # the vocabulary is 317
        with pytest.raises(RequestError, match="not a token id"):
            engine.generate([5, token])
    for prompt in ({"role": "user", "content": "a"}, b"a"):  # which could be iterated over
        with pytest.raises(RequestError, match="a prompt must be"):
            engine.generate(prompt)
    for options in ({"prompts": "\ud800"}, {"prompts": "a", "stop": "\ud800"}, {"prompts": "a", "key": "\ud800"}):
        with pytest.raises(RequestError, match="not valid Unicode"):
            engine.generate(**options)


def test_numbers_of_numpy_are_numbers(engine):
    """As rows of a table and arrays of ids hold them; the record must be JSON."""
    options = {"c": 2, "k": 3, "max_new_tokens": 6, "seed": 4, "sample": 1, "temperature": 0.5, "top_k": 9, "n": 1}
    ours = engine.generate([1, 5, 6], ignore_eos=True, stop=("zz",), **options)
    theirs = {name: np.int64(value) for name, value in options.items()}
    theirs |= {"c": np.float32(2), "temperature": np.float32(0.5)}
    for prompt in (np.array([1, 5, 6]), torch.tensor([1, 5, 6]), [*np.array([1, 5, 6])]):
        results = engine.generate(prompt, ignore_eos=np.True_, stop=(text for text in ("zz",)), **theirs)
        records = [json.loads(json.dumps(result.record() | {"ledger": None})) for result in (*ours, *results)]
        assert records[0] == records[1]
        assert results[0].request.stop == ("zz",)
    rows = engine.generate(torch.tensor([[1, 5], [1, 6]]), c=0, max_new_tokens=1)
    assert sorted(result.prompt_ids for result in rows) == [[1, 5], [1, 6]]


def test_a_result_shows_its_text_and_can_be_kept_in_sets(engine):
    """Catches thousands of numbers in a notebook's cell, and the comparison of arrays where results are compared."""
    results = list(engine.generate([[1, 5], [1, 5]], c=0, max_new_tokens=2))
    assert repr(results[0].text) in repr(results[0]) and "array" not in repr(results[0])
    assert len({*results}) == 2 and results[0] != results[1]


@pytest.mark.parametrize(
    "name", ["c", "k", "max_new_tokens", "max_oracle_tokens", "step_size", "sample", "top_k", "seed"]
)
def test_counts_that_no_trace_and_no_device_could_hold_are_refused(engine, name, tmp_path):
    """Catches an overflow in the middle of a run, where a tensor or a trace takes a number of so many bits."""
    most = 2**63 - 1 if name == "seed" else 2**31 - 1
    for value in (most + 1, 10**30):
        with pytest.raises(RequestError, match=f"{name} must be {most} at most"):
            engine.generate([1, 2], **{name: value})
    options = {"max_new_tokens": 3, "c": 1, "k": 1, "temperature": 1.0} | {name: most}
    with TraceWriter(tmp_path / "trace.parquet") as trace:
        trace.write(engine.generate([1, *([9] * 505)], **options))


def test_a_prompt_that_nearly_fills_the_context_is_cut_at_its_end(engine):
    """The context is the hard limit; the request ends there as one that reached its length."""
    result = engine.generate([1, *([9] * 505)], c=1, k=2, max_new_tokens=50)
    assert len(result.ids) <= 6 and result.finish_reason in ("length", "eos")
    options = {"trigger": "position / max_new_tokens >= 0.08", "max_new_tokens": 50, "ignore_eos": True}
    result = engine.generate([1, *([9] * 505)], c=1, k=9, **options)  # a trigger reads what was asked for
    assert result.cheat_positions == [4] and len(result.ids) == 6


def test_failures_in_an_iterable_are_results_of_their_own(engine):
    """A request that is too long or malformed fails alone with its reason; the others are untouched."""
    items = [[1, 5, 6], [5] * 600, "fine", 3.5, Request(prompt=[1, 5, 6], c=0, max_new_tokens=4, id="last")]
    items += [[{"role": "user", "content": "\ud800"}], [{"role": "user", "content": "a"}, 3]]
    results = list(engine.generate(iter(items), max_new_tokens=4))
    assert len(results) == 7
    assert sorted(result.finish_reason == "error" for result in results) == [False] * 3 + [True] * 4
    errors = " ".join(result.error or "" for result in results)
    for reason in ("context", "float", "Unicode", "not a chat message"):
        assert reason in errors


def test_the_iterable_is_read_lazily(engine):
    """A generator of a million requests must not be read before the first result."""
    taken = 0

    def source():
        nonlocal taken
        while True:
            taken += 1
            yield [1, 5 + taken % 100]

    results = engine.generate(source(), c=0, max_new_tokens=3)
    for _ in range(10):
        next(results)
    results.close()
    assert taken < 300
    assert engine.scheduler.idle and engine.base.cache.pool.open_slots == 0


def test_cancelling_gives_what_was_written_and_frees_the_pages(engine):
    """Cancelled requests come out as such; the rest finish."""
    requests = [Request(prompt=[1, 5 + i], c=0, max_new_tokens=20 + 300 * (i == 1), id=str(i)) for i in range(3)]
    results = []
    for result in engine.generate(requests):
        results.append(result)
        if len(results) == 1:
            assert engine.cancel("1") <= 1
    by_id = {result.request.id: result for result in results}
    assert set(by_id) == {"0", "1", "2"}
    assert by_id["1"].finish_reason in ("cancelled", "eos")
    assert engine.scheduler.idle


def test_an_iterator_outlives_its_engine(folders, loop):
    """Catches an AttributeError for whoever still reads results when the engine is closed."""
    engine = Engine(folders[0], device="cpu", page_size=8, **loop)
    requests = [Request(prompt=[1, 5], max_new_tokens=count, ignore_eos=True) for count in (2, 30)]
    results, tokens = engine.generate(iter(requests)), engine.stream(requests[1])
    assert next(tokens).position == 0 and next(results).finish_reason == "length"
    engine.close()
    assert [result.finish_reason for result in results] == ["cancelled"]
    assert 0 < len(list(tokens)) < 29


def test_streaming_yields_the_tokens_of_generate(embedded):
    """Stream and generate are one loop; pieces concatenate to the text."""
    options = {"c": 3, "k": 4, "trigger": "every(5)", "max_new_tokens": 60}
    result = embedded.generate("What is 12 * 7?", **options)
    tokens = list(embedded.stream("What is 12 * 7?", **options))
    assert [token.id for token in tokens] == result.ids
    assert [token.source for token in tokens] == [token.source for token in result.tokens]
    assert "".join(token.text for token in tokens) == result.text
    stream = embedded.stream("What is 12 * 7?", **options)
    next(stream)
    stream.close()
    assert embedded.scheduler.idle


def test_two_engines_in_one_process_do_not_meet(folders):
    """No module-level state: both give what each gives alone, interleaved."""
    first, second = Engine(folders[0], device="cpu"), Engine(folders[1], device="cpu")
    expected = [engine.generate([1, 5, 6], c=0, max_new_tokens=12).ids for engine in (first, second)]
    streams = [engine.stream([1, 5, 6], c=0, max_new_tokens=12) for engine in (first, second)]
    mixed: list[list[int]] = [[], []]
    for a, b in zip(*streams, strict=False):
        mixed[0].append(a.id)
        mixed[1].append(b.id)
    for ids, whole in zip(mixed, expected, strict=True):
        assert ids == whole[: len(ids)]


def test_an_oracle_is_needed_to_consult(folders):
    """c > 0 without an oracle is refused, c=0 needs none."""
    engine = Engine(folders[0], device="cpu")
    assert engine.generate([1, 5], max_new_tokens=3).consults == 0
    with pytest.raises(RequestError, match="none is loaded"):
        engine.generate([1, 5], c=2)
