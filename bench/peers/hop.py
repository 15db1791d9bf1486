"""The HTTP design of the first experiments: text in, text out, and a hop at every consult.

``http``: the base runs here, in the engine; the oracle is behind a completions server in a process of its own
(``dodona.bench.server`` around the same engine, or, as the peer ``url``, any other). At a consult the text so far goes
over, text comes back and all of it is tokenised again; the base keeps its cache of the ids that stayed the same.
``two-servers``: the base is behind a server as well, and the client holds nothing but the text. It asks for all base
tokens up to the next consult at once, which it can because the rules here look at positions alone.
``servers-by-token``: the same for a rule that looks at the base's signals: one base token a call.

Both servers keep the cache of their last text, so nothing is computed twice. What the hop does to the ids is counted
after the clock has stopped.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from dodona.bench.peers.load import Setup
from dodona.bench.peers.work import Outcome, Work, parse_rule, timed
from dodona.bench.server.client import Answer, CompletionsClient
from dodona.bench.server.kept import common_prefix
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.sequence import Sequence
from dodona.engine.tokenizer import Tokenizer


class Crossing(NamedTuple):
    """One consult: what went over, what came back, and the ids on this side before and after."""

    before: list[int]
    text: str
    answer: Answer
    after: list[int]


class Http:
    """The base here, the oracle behind a server."""

    def __init__(self, setup: Setup) -> None:
        assert setup.base is not None
        self.engine = Engine(
            setup.base,
            device=setup.device,
            dtype=setup.dtype,
            threads=setup.threads,
            max_batch=1,
            max_length=setup.length,
            ops=setup.options.get("ops"),
        )
        self.ends = frozenset((*setup.base_ends, *setup.oracle_ends))
        self.end = next(iter(setup.oracle_ends), None)
        self.client = _client(setup, "url")
        self.crossings: list[Crossing] = []

    def run(self, work: Work, watch: bool) -> Outcome:
        """Do the work."""
        self.crossings.clear()
        outcome, forgot = Outcome(), True
        for prompt in work.prompts:
            forgot = self.client.forget()  # ours starts each text with empty caches, too
            single = timed(_alone(work, prompt), lambda ids, into: self._write(work, ids, into))
            _add(outcome, single)
        outcome.facts = _lost(self.crossings, self.engine.tokenizer)
        if not forgot:  # a text that it has seen before costs it less
            outcome.facts["prefix_kept"] = 1.0
        return outcome

    def _write(self, work: Work, prompt: tuple[int, ...], outcome: Outcome) -> list[int]:
        request = Request(prompt=prompt, c=work.c, k=work.k, trigger=work.trigger, max_new_tokens=work.tokens)
        limit = min(work.tokens, self.engine.context - len(prompt))
        sequence = Sequence(
            request, list(prompt), c=work.c, limit=limit, eos_ids=self.ends, tokenizer=self.engine.tokenizer
        )
        self.engine.scheduler.add(sequence)
        while not sequence.done:
            self.engine.loop.tick()
            if sequence.burst_left:
                fired = time.perf_counter()
                self._consult(sequence)
                taken = 1e3 * (time.perf_counter() - fired)
                outcome.first_ms.append(taken)  # the burst comes in one piece
                outcome.burst_ms.append(taken)
        if sequence.error is not None:
            raise DodonaError(sequence.error)
        return sequence.ids[len(prompt) :]

    def _consult(self, sequence: Sequence) -> None:
        tokenizer, before = self.engine.tokenizer, list(sequence.ids)
        text = tokenizer.decode(before, skip_special=False)
        answer = self.client.complete(text, sequence.burst_left)
        ended = answer.finish_reason == "stop"
        after = tokenizer.encode(text + answer.text, raw=True)
        if ended and self.end is not None:
            after.append(self.end)
        self._replace(sequence, after)
        self.crossings.append(Crossing(before, text, answer, after))

    def _replace(self, sequence: Sequence, ids: list[int]) -> None:
        """Go on from these ids; the base's cache keeps what they have in common with those it has read."""
        prompt, pool = len(sequence.prompt), self.engine.base.cache.pool
        same = common_prefix(sequence.ids, ids)
        sequence.ids[:] = ids[: prompt + sequence.limit]
        slot = sequence.base.slot
        assert slot is not None
        if pool.length(slot) > min(same, len(ids) - 1):
            pool.truncate(slot, min(same, len(ids) - 1))
        sequence.base.recorded = max(0, pool.length(slot) - prompt + 1)
        written = max(0, sequence.generated)
        kept = sequence.sources[: max(0, min(same - prompt, written))]
        sequence.sources[:] = kept + b"\1" * (written - len(kept))
        sequence.pending, sequence.burst_left, sequence.base_run = None, 0, 0
        if sequence.ids[-1] in self.ends:
            sequence.finish("eos")
        elif sequence.generated >= sequence.limit:
            sequence.finish("length")


class TwoServers:
    """Both models behind servers; the client has a tokenizer only to take apart the texts it is given."""

    at_once = True  # base tokens come in one call

    def __init__(self, setup: Setup) -> None:
        from dodona.engine.checkpoint import open_checkpoint

        assert setup.base is not None
        self.tokenizer = open_checkpoint(setup.base).tokenizer()
        self.base, self.oracle = _client(setup, "base_url"), _client(setup, "url")

    def run(self, work: Work, watch: bool) -> Outcome:
        """Do the work."""
        outcome = Outcome()
        for prompt in work.prompts:
            self.base.forget()
            self.oracle.forget()
            single = timed(_alone(work, prompt), lambda ids, into: self._write(work, ids, into))
            _add(outcome, single)
        return outcome

    def _write(self, work: Work, prompt: tuple[int, ...], outcome: Outcome) -> list[int]:
        rule = parse_rule(work.trigger)
        text = self.tokenizer.decode(prompt, skip_special=False)
        ids: list[int] = []  # as the servers counted them
        run, consults = 0, 0
        while len(ids) < work.tokens:
            left = work.tokens - len(ids)
            if consults < work.c and work.k > 0 and rule.fires(len(ids), run):
                fired = time.perf_counter()
                answer = self.oracle.complete(text, int(min(work.k, left)))
                outcome.first_ms.append(1e3 * (time.perf_counter() - fired))
                outcome.burst_ms.append(outcome.first_ms[-1])
                consults, run = consults + 1, 0
            else:
                budget = consults < work.c and work.k > 0
                until = next((n for n in range(1, left) if budget and rule.fires(len(ids) + n, run + n)), left)
                if budget and not self.at_once:
                    until = 1
                answer = self.base.complete(text, until)
                run += until
            text += answer.text
            ids += self._ids(answer)
            if answer.finish_reason == "stop":
                break
        return ids

    def _ids(self, answer: Answer) -> list[int]:
        if answer.token_ids is not None:
            return answer.token_ids
        ids = self.tokenizer.encode(answer.text, raw=True)
        if answer.written is None or answer.written == len(ids):
            return ids
        return (ids + [0] * answer.written)[: answer.written]


class ServersByToken(TwoServers):
    """Both models behind servers, and a base token a call."""

    at_once = False


def _alone(work: Work, prompt: tuple[int, ...]) -> Work:
    return Work(prompts=(prompt,), tokens=work.tokens, c=work.c, k=work.k, trigger=work.trigger)


def _add(whole: Outcome, part: Outcome) -> None:
    whole.ids += part.ids
    whole.seconds += part.seconds
    whole.first_ms += part.first_ms
    whole.burst_ms += part.burst_ms


def _client(setup: Setup, which: str) -> CompletionsClient:
    """A connection to a server: ours, whose model has a name that is known, or the user's."""
    name, key = (setup.options.get("url_model"), None) if setup.peer == "url" else (None, "")
    return CompletionsClient(setup.options[which], model=name, ignore_eos=not setup.oracle_ends, key=key)


def _lost(crossings: list[Crossing], tokenizer: Tokenizer) -> dict[str, float]:
    """What the hops did to the ids."""
    changed = base_ids = bursts = 0
    for before, text, answer, after in crossings:
        sent = answer.prompt_ids if answer.prompt_ids is not None else tokenizer.encode(text, raw=True)
        changed += sent != before
        base_ids += len(before) - common_prefix(before, after)
        if answer.token_ids is not None:
            received = after[len(before) :] if before == after[: len(before)] else None
            bursts += received != answer.token_ids
        elif answer.written is not None:
            bursts += answer.written != len(after) - len(before)
    return {
        "consults": len(crossings),
        "prompts_changed": changed,  # what the server read is not what was written here
        "bursts_changed": bursts,  # what is read here is not what the oracle wrote
        "ids_read_again": base_ids,  # by the base, because tokenising again changed them
    }
