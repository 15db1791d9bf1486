"""Triggers that are classes: what they may do, and what their mistakes cost."""

from __future__ import annotations

import math
import re

import pytest

from dodona.engine.request import Request
from dodona.engine.trigger import Trigger

INF = math.inf


class Everywhere(Trigger):
    """A class trigger that consults at every third position."""

    def decide(self, columns):
        return columns["position"] % 3 == 0


class Broken(Trigger):
    """A class trigger that gives, or raises, something of its own."""

    names = frozenset({"entropy"})

    def __init__(self, decide):
        self.decide_by = decide

    def decide(self, columns):
        return self.decide_by(columns)


def test_a_class_trigger_decides_over_the_batch(engine):
    """Anything that is no expression is a class with one method."""
    results = list(engine.generate([[1, 5], [1, 6, 7]], c=INF, k=1, trigger=Everywhere(), max_new_tokens=9))
    for result in results:
        assert result.cheat_positions == [p for p in range(len(result.ids)) if p % 3 == 0]


def test_what_is_cancelled_in_the_middle_of_a_step_leaves_after_it(engine):
    """A stream that is collected as garbage while others run: its pages and rows are still in the forward."""
    expected = [
        engine.generate(prompt, c=2, k=2, trigger="at(2, 6)", max_new_tokens=12).ids for prompt in ([1, 5], [1, 9])
    ]
    stream = engine.stream([1, 7], c=0, max_new_tokens=40)
    next(stream)

    class Closing(Trigger):
        def decide(self, columns):
            stream.close()
            return (columns["position"] == 2) | (columns["position"] == 6)

    results = list(engine.generate([[1, 5], [1, 9]], c=2, k=2, trigger=Closing(), max_new_tokens=12))
    assert sorted(result.ids for result in results) == sorted(expected)
    pools = [runner.cache.pool for runner in (engine.base, engine.oracle)]
    assert [pool.free_pages for pool in pools] == [pool.pages for pool in pools]
    nested = Broken(lambda columns: engine.generate([1, 5], c=0, max_new_tokens=3))
    assert "a trigger may not run" in next(iter(engine.generate([[1, 5]], c=1, trigger=nested, max_new_tokens=5))).error
    assert engine.generate([1, 5], c=2, k=2, trigger="at(2, 6)", max_new_tokens=12).ids == expected[0]


def test_a_trigger_that_writes_into_its_columns_changes_no_signal(engine):
    """On the device the columns are what is recorded, too."""
    expected = engine.generate([1, 5], c=1, trigger="never", max_new_tokens=5)
    writes = Broken(lambda columns: columns["entropy"].fill_(9) < 0)
    assert engine.generate([1, 5], c=1, trigger=writes, max_new_tokens=5).signals["entropy"].tolist() == (
        expected.signals["entropy"].tolist()
    )


@pytest.mark.parametrize(
    ("decide", "reason"),
    [
        (lambda columns: 1 // 0, "ZeroDivisionError: integer division or modulo by zero"),
        (lambda columns: columns["attn_entropy"] > 1, r"TriggerError: .*`attn_entropy`, and is given only: .*entropy"),
        (lambda columns: columns["entropy"].repeat(2) > 1, r"TriggerError: it decided \[[24]\] where \[[12]\] is due"),
        (lambda columns: True, r"TriggerError: it decided \[\] where \[[12]\] is due"),
        (lambda columns: columns["entropy"], r"TriggerError: it decided torch.float32 where bool is due"),
    ],
)
def test_a_trigger_that_fails_fails_its_own_request_alone(engine, decide, reason):
    """Isolation: the reason names the trigger, the others go on. Catches an answer of another shape that ends all, or
    is taken for everyone's, and a column that is not computed whose name alone is the reason."""
    requests = [
        Request(prompt=[1, 5], c=1, trigger=Broken(decide), max_new_tokens=5, id="broken"),
        Request(prompt=[1, 6], c=1, max_new_tokens=5, id="fine"),
    ]
    results = {result.request.id: result for result in engine.generate(requests)}
    assert re.search(f"the trigger 'Broken' raised {reason}", results["broken"].error)
    assert results["fine"].error is None
