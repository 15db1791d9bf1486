"""One tick of guided decoding: a base forward, decisions, an oracle forward. Life of a sequence: docs/design.md.

``Loop.tick`` is the whole algorithm. A forward's wanted rows come back as ``Row``s: one generated position each, either
already written (a catch-up's or a sync's opinion of a known token) or the next one to write.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Rows
from typing import NamedTuple

import torch
from torch import Tensor

from dodona.engine.attention_stats import ATTENTION_SIGNALS
from dodona.engine.cache import Feed
from dodona.engine.divergence import divergence
from dodona.engine.errors import TriggerError
from dodona.engine.runner import Runner
from dodona.engine.sampling import Sampling, choose
from dodona.engine.scheduler import Lane, Scheduler, Work
from dodona.engine.sequence import BASE, ORACLE, Sequence
from dodona.engine.signals import logprob, rank
from dodona.engine.threads import threads_set
from dodona.engine.transfer import to_host
from dodona.engine.trigger import Trigger

_GREEDY = Sampling()
_ROW_SIGNALS = {"entropy", "varentropy", "top_prob", "margin", "logprob"}  # fields of Row that a trigger may read
_LOGITS_AT_ONCE = 1 << 24  # rows x vocabulary of one block of logits


class Row(NamedTuple):
    """One model's distribution of one generated position."""

    sequence: Sequence
    position: int
    next: bool  # the position is still to be written, and ``token`` is this model's choice for it
    logits_NV: Tensor  # the distributions of all rows that came with this one, on the device
    at: int  # this row's place among them
    lse: float
    entropy: float
    varentropy: float
    top_prob: float
    margin: float
    top1: float
    token: float  # the written token, or the choice
    logprob: float  # of ``token``
    rank: float  # of ``token`` (oracle only, else NaN)
    attention: tuple[float, ...] = ()  # the base's attention signals, where they are wanted


class Loop:
    """Runs sequences through two models until they are done."""

    def __init__(self, base: Runner, oracle: Runner | None, scheduler: Scheduler, *, threads: int | None) -> None:
        self.base, self.oracle, self.scheduler, self.threads = base, oracle, scheduler, threads
        self.ticks = 0
        self.model_seconds = 0.0

    def tick(self) -> list[Sequence]:
        """Advance every running sequence by one base forward and one oracle forward; returns those that are done."""
        with torch.inference_mode(), threads_set(self.threads):
            return self._tick()

    def _tick(self) -> list[Sequence]:
        self.ticks += 1
        self.scheduler.admit()
        for lane, runner, settle in zip(
            self.scheduler.lanes, (self.base, self.oracle), (self._settle_base, self._settle_oracle), strict=False
        ):
            works = self.scheduler.plan(lane)
            if works and runner is not None:
                settle(self._read(lane, runner, works))
                self.scheduler.advanced(lane, works)
        done = self.scheduler.reap()
        for sequence in done:
            if sequence.request.divergence and self.oracle is not None:
                self._diverge(sequence)
        return done

    def _diverge(self, sequence: Sequence) -> None:
        """KL and JS of the positions that both models have looked at."""
        assert self.oracle is not None
        base, oracle = sequence.hidden[BASE], sequence.hidden[ORACLE]
        count = min(len(base), len(oracle), sequence.generated)
        if count:
            found = divergence(
                self.base.model, self.oracle.model, torch.stack(base[:count]), torch.stack(oracle[:count])
            )
            sequence.divergence = to_host(torch.stack(found, -1))
        sequence.hidden = {BASE: [], ORACLE: []}

    def abandon(self) -> None:
        """After an error: nothing is on its way here."""

    # --- forwards ---

    def _read(self, lane: Lane, runner: Runner, works: list[Work]) -> list[Row]:
        """Feed the works' ids in one forward; returns a Row for every position whose distribution is new."""
        started = time.perf_counter()
        feeds, positions = [], []
        for sequence, tokens in works:
            view, start = lane.view(sequence), lane.length(sequence)
            stop = start + tokens
            first = max(start, sequence.first_wanted(view))
            assert view.slot is not None
            feeds.append(Feed(view.slot, sequence.ids[start:stop], max(0, stop - first)))
            positions += [(sequence, index + 1) for index in range(first, stop)]
            _enter(lane, runner, sequence, start, stop)
        layers = [sequence.attention_layer if lane.name == BASE else None for sequence, _ in positions]
        hidden_NE = runner.forward(feeds, layers)
        attention = _listed(runner.attention, len(positions))
        for index, (sequence, _) in enumerate(positions):
            if sequence.request.divergence:
                sequence.hidden[lane.name].append(hidden_NE[index].clone())
        block = max(1, _LOGITS_AT_ONCE // runner.config.vocab_size)
        rows = [
            row
            for at in range(0, len(positions), block)
            for row in _observe(
                runner, hidden_NE[at : at + block], positions[at : at + block], attention[at : at + block]
            )
        ]
        seconds = time.perf_counter() - started
        self.model_seconds += seconds
        share = 1e3 * seconds / sum(tokens for _, tokens in works)
        for sequence, tokens in works:
            if lane.name == BASE:
                sequence.ledger.base_ms += share * tokens
            else:
                sequence.ledger.oracle_ms += share * tokens
        return rows

    # --- decisions ---

    def _settle_base(self, rows: list[Row]) -> None:
        """Record the base's signals; where a position is due, ask the trigger and commit or begin a consult."""
        due = []
        for row in rows:
            sequence = row.sequence
            if sequence.error is not None or self._broken(row, self.base):
                continue
            sequence.record_base((row.entropy, row.varentropy, row.top_prob, row.margin, row.top1), row.attention)
            if row.next:
                due.append(row)
            else:
                sequence.record_logprob(row.logprob)
        early = _fired([row for row in due if row.sequence.request.when == "before"])
        for row in due:
            sequence = row.sequence
            if sequence.finished:  # its trigger failed
                continue
            if id(sequence) in early:
                sequence.begin_consult()
                sequence.pending = row.logits_NV[row.at].clone(), row.lse
                sequence.ledger.wasted_steps += 1
            else:
                sequence.record_logprob(row.logprob)
                sequence.commit(int(row.token), BASE)
        late = [row for row in due if row.sequence.request.when == "after" and not row.sequence.finished]
        fired = _fired(late, written=1)
        for row in late:
            if id(row.sequence) in fired:
                row.sequence.begin_consult()

    def _settle_oracle(self, rows: list[Row]) -> None:
        """Record the oracle's opinion of what is written, and commit its own next tokens."""
        assert self.oracle is not None
        pending = []
        for row in rows:
            sequence = row.sequence
            if sequence.error is not None or self._broken(row, self.oracle):
                continue
            sequence.oracle.recorded += 1
            sequence.oracle_rows.append((row.logprob, row.rank, row.top1, row.entropy, row.margin))
            if row.next:
                if sequence.pending is not None:
                    pending.append((sequence, *sequence.pending, int(row.token)))
                    sequence.pending = None
                sequence.commit(int(row.token), ORACLE)
        if pending:  # what the base thought of the tokens that took its place
            sequences, logits, lses, tokens = zip(*pending, strict=True)
            scores = torch.stack([row[token] for row, token in zip(logits, tokens, strict=True)]).float()
            for sequence, score, lse in zip(sequences, to_host(scores), lses, strict=True):
                sequence.record_logprob(score - lse)

    @staticmethod
    def _broken(row: Row, runner: Runner) -> bool:
        if row.lse == row.lse:
            return False
        row.sequence.finish("error", f"NaN logits from the {runner.name} model at generated position {row.position}")
        return True


def _enter(lane: Lane, runner: Runner, sequence: Sequence, start: int, stop: int) -> None:
    """Write a feed of ids ``start:stop`` into the sequence's ledger."""
    ledger, view, tokens = sequence.ledger, lane.view(sequence), stop - start
    ledger.recomputed_tokens += max(0, min(view.high, stop) - start)
    view.high = max(view.high, stop)
    flops = tokens * (runner.flops_of_weights + runner.flops_of_a_key * (start + (tokens + 1) / 2))
    if lane.name == BASE:
        ledger.base_forwards += 1
        ledger.base_flops += flops
        prompt = max(0, min(len(sequence.prompt), stop) - start)
        ledger.prefill_tokens += prompt
        if tokens == 1:
            ledger.base_steps += tokens - prompt
        else:
            ledger.catch_up_tokens += tokens - prompt
    else:
        ledger.oracle_forwards += 1
        ledger.oracle_flops += flops
        bursting = not sequence.finished and sequence.generated > sequence.consult_starts[-1]
        if tokens == 1 and bursting:
            ledger.oracle_steps += 1
        else:
            ledger.sync_tokens += tokens


def _listed(attention: dict[int, Tensor | None], count: int) -> list[tuple[float, ...]]:
    """The attention signals of each wanted row; empty where they were not asked for."""
    found: list[tuple[float, ...]] = [()] * count
    known = {place: values for place, values in attention.items() if values is not None}
    if known:
        for place, values in zip(known, to_host(torch.stack(list(known.values()))), strict=True):
            found[place] = tuple(values)
    return found


def _observe(
    runner: Runner,
    hidden_NE: Tensor,
    positions: Rows[tuple[Sequence, int]],
    attention: Rows[tuple[float, ...]],
) -> list[Row]:
    """Statistics of each row's distribution and its token: the written one, or the model's choice where none is."""
    is_oracle = runner.name == ORACLE
    logits_NV = runner.model.logits(hidden_NE)
    stats = runner.ops.statistics(logits_NV)
    device = hidden_NE.device
    samplings, keys, places, known = [], [], [], []
    for sequence, index in positions:
        due = index == len(sequence.ids)
        samplings.append(sequence.samplings[runner.name] if due else _GREEDY)
        keys.append(sequence.key)
        places.append(index - len(sequence.prompt))
        known.append(-1 if due else sequence.ids[index])
    tokens = choose(runner.ops.draw, logits_NV, stats, samplings, keys, places)
    if max(known) >= 0:
        written = torch.tensor(known, device=device)
        tokens = torch.where(written >= 0, written, tokens)
    columns = [
        stats.lse,
        stats.entropy,
        stats.varentropy,
        stats.top_prob,
        stats.margin,
        stats.top1.float(),
        tokens.float(),
        logprob(logits_NV, stats.lse, tokens),
        rank(logits_NV, tokens).float() if is_oracle else torch.full_like(stats.lse, torch.nan),
    ]
    numbers = to_host(torch.stack(columns, -1))
    return [
        Row(sequence, place, written < 0, logits_NV, index, *(*row, attention[index]))
        for index, ((sequence, _), place, written, row) in enumerate(
            zip(positions, places, known, numbers, strict=True)
        )
    ]


def _fired(rows: list[Row], *, written: int = 0) -> set[int]:
    """Ids of the sequences whose trigger fires at these rows; ``written``: base tokens committed since the decision."""
    by_trigger: dict[Trigger, list[Row]] = {}
    for row in rows:
        if row.sequence.can_consult:
            by_trigger.setdefault(row.sequence.trigger, []).append(row)
    fired: set[int] = set()
    for trigger, members in by_trigger.items():
        try:
            decisions = to_host(trigger.ask(_trigger_columns(trigger, members, written)))
        except TriggerError as error:
            for row in members:
                row.sequence.finish("error", str(error))
            continue
        fired.update(id(row.sequence) for row, decision in zip(members, decisions, strict=True) if decision)
    return fired


def _trigger_columns(trigger: Trigger, rows: list[Row], written: int) -> dict[str, Tensor]:
    """The columns that the trigger reads, ``[rows]`` float32 each; ``position`` is always there."""
    names = {*trigger.names, "position"}
    columns: dict[str, list[float]] = {name: [getattr(row, name) for row in rows] for name in names & _ROW_SIGNALS}
    counters = [row.sequence.counters(written) for row in rows]
    columns |= {name: [values[name] for values in counters] for name in names & counters[0].keys()}
    for place, name in enumerate(ATTENTION_SIGNALS):
        if name in names and rows[0].attention:
            columns[name] = [row.attention[place] for row in rows]
    if "u" in names:
        columns["u"] = [row.sequence.draw(row.position) for row in rows]
    if trigger.emas:
        averages = [row.sequence.ema_columns() for row in rows]
        columns |= {name: [values[name] for values in averages] for name in averages[0]}
    return {name: torch.tensor(values, dtype=torch.float32, device="cpu") for name, values in columns.items()}
