"""Where a text ends, token by token."""

from __future__ import annotations

import pytest

from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.request import Request
from dodona.engine.sequence import BASE, Sequence


@pytest.fixture(scope="module")
def tokenizer():
    return open_checkpoint("arith-base").tokenizer()


def written(tokenizer, ids, *stop):
    """How many of these ids are committed before the text ends, and why it ends."""
    request = Request(prompt=[1], max_new_tokens=200, stop=stop)
    sequence = Sequence(request, [1], c=0, limit=200, eos_ids=frozenset(), tokenizer=tokenizer)
    for token in ids:
        if not sequence.finished:
            sequence.commit(token, BASE)
    return sequence.generated, sequence.finish_reason


def test_tokens_without_a_text_do_not_hide_a_stop_string(tokenizer):
    """Catches a search for stop strings in the last few tokens that counts special tokens, which are no text."""
    start, end, after = (tokenizer.encode(letter, raw=True)[-1] for letter in "hix")
    silent = [tokenizer.vocabulary["<|user|>"]] * 40
    assert tokenizer.decode([start, *silent, end]) == "hi"
    assert written(tokenizer, [start, *silent, end, after], "hi") == (42, "stop")
    assert written(tokenizer, [*silent, start, end, after], "hi") == (42, "stop")
    assert written(tokenizer, [start, *silent, after, end], "hi") == (43, None)


def test_a_character_that_the_search_for_stop_strings_begins_in_is_not_read_as_broken(tokenizer):
    """Catches a stop string found in the last tokens alone: their first one is the rest of a character."""
    tick = tokenizer.encode("✓", raw=True)[-3:]
    letter = tokenizer.encode("x", raw=True)[-1]
    assert tokenizer.decode(tick) == "✓"
    assert written(tokenizer, [*tick, *[letter] * 40], "\ufffdxx") == (43, None)
    assert written(tokenizer, [tick[0], *[letter] * 40], "\ufffdxx") == (3, "stop")
