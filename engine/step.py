"""One step program: a forward of one model over some seats, and everything that follows from it, without the host.

A program has a fixed shape (``Shape``): which model, M seats, n tokens of each, how many of the last are scored. What
it does to a seat is decided on the device. A seat that does not wait for this model, or is done, is left exactly as it
was, so a program may be run again, or ahead of what the host knows, without harm. The rules are those of docs/design.md
("One sequence, one step") and the same as ``loop.Loop``'s, which tests hold the two to.

Shape suffixes: M seats, n tokens fed, w tokens scored (the last of those fed), N = M*w, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

import torch
from torch import Tensor

from dodona.engine.errors import TriggerError
from dodona.engine.runner import Runner
from dodona.engine.sampling import Settings
from dodona.engine.scores import Choice, Scores, last_rows
from dodona.engine.seats import Column, Finish, Phase, Seats
from dodona.engine.sequence import BASE
from dodona.engine.signals import rank
from dodona.engine.trigger import ExpressionTrigger, Trigger, ema_column, ema_step

RECORD = (Column.PHASE, Column.FINISH, Column.LENGTH, Column.BASE_LENGTH, Column.ORACLE_LENGTH, Column.BROKEN)
FED, TOKEN, CONSULT = len(RECORD), len(RECORD) + 1, len(RECORD) + 2  # further columns of a program's record
FEW_TRIGGERS = 8  # in a program, up to which it is worth being compiled and captured: of many, some soon change


class Shape(NamedTuple):
    """What a program's tensors depend on, and nothing else."""

    model: str  # base or oracle
    seats: int  # M
    tokens: int  # n, fed at most to each
    scored: int  # w
    pages: int  # of each slot, in which all live keys lie
    drawn: bool  # whether some seat is not greedy
    ordered: bool  # whether some seat has top-k or top-p
    min_p: bool


class Watch(NamedTuple):
    """A trigger in use."""

    number: int  # as in the seats' TRIGGER column
    trigger: Trigger


class Step:
    """The programs of one model over one set of seats.

    Args:
        eos: ``[3, V]`` bool: the end tokens of the base, of either model, and of none.
        ema_places: column of ``Seats.emas`` of each (signal, decay) in use.
        failures: the message of each trigger that raised an error, by its number.
    """

    def __init__(
        self,
        runner: Runner,
        seats: Seats,
        eos: Tensor,
        ema_places: dict[tuple[str, float], int],
        failures: dict[int, str],
    ) -> None:
        self.runner, self.seats, self.eos = runner, seats, eos
        self.ema_places, self.failures = ema_places, failures
        self.is_base = runner.name == BASE
        self.phase = Phase.BASE if self.is_base else Phase.ORACLE
        self.cached = Column.BASE_LENGTH if self.is_base else Column.ORACLE_LENGTH
        self.prompt, self.top_k = Column.PROMPT, Column.BASE_TOP_K if self.is_base else Column.ORACLE_TOP_K
        self.slot = Column.BASE_SLOT if self.is_base else Column.ORACLE_SLOT

    def run(self, shape: Shape, rows_M: Tensor, watched: Items[Watch]) -> Tensor:
        """Advance the seats ``rows_M``; returns the record ``[M, columns of RECORD and 3 more]`` int64.

        The last three: tokens fed, the token committed or -1, and whether a consult began.
        """
        seats = self.seats
        state = _Rows(seats, rows_M)
        finished = state[Column.FINISH] != Finish.NOT
        start, length, prompt = state[self.cached], state[Column.LENGTH], state[Column.PROMPT]
        active = state[Column.PHASE] == self.phase
        target = length - finished.long()
        fed = ((target - start).clamp(0, shape.tokens)) * active
        stop = start + fed
        state[self.cached] = stop
        self._count(state, fed, start, finished)

        hidden_NE, scored_Mw = self._forward(shape, rows_M, state, start, fed)
        position_Mw = scored_Mw + (start + 1 - prompt).unsqueeze(1)  # the generated position that a row predicts
        written_Mw = seats.ids[rows_M.unsqueeze(1), (position_Mw + prompt.unsqueeze(1)).clamp(0, seats.length)]
        choice = self._choice(shape, rows_M, state, length - prompt)
        # The oracle ranks tokens, and a consult keeps the base's logits; all else comes with the product.
        want_logits = bool(watched) or not self.is_base
        scores = self.runner.model.score(hidden_NE, written_Mw, choice, want_logits=want_logits)
        due = active & ~finished & (fed > 0) & (stop == length)  # the last row predicts a position to be written
        wanted_Mw = (scored_Mw >= 0) & (fed > 0).unsqueeze(1) & (position_Mw >= 0)
        known_Mw = wanted_Mw.clone()
        known_Mw[:, -1] &= ~due
        broken_Mw = wanted_Mw & scores.stats.lse.isnan().view_as(wanted_Mw)
        broken = broken_Mw.any(1)
        first = torch.where(broken_Mw, position_Mw, seats.length).amin(1)
        state.put(Column.BROKEN, first, broken)
        state.put(Column.FINISH, Finish.NAN_BASE if self.is_base else Finish.NAN_ORACLE, broken)
        due &= ~broken

        tokens_Mw, logprob_Mw = written_Mw.clone(), scores.given_Mw.clone()
        tokens_Mw[:, -1] = torch.where(due, scores.token_M, tokens_Mw[:, -1])
        logprob_Mw[:, -1] = torch.where(due, scores.token_logprob_M, logprob_Mw[:, -1])
        rows = _Scored(position_Mw, known_Mw, due, tokens_Mw, logprob_Mw)
        if self.is_base:
            token, consult = self._settle_base(state, rows, scores, watched)
        else:
            token, consult = self._settle_oracle(state, rows, scores), torch.zeros_like(due)
        state.put(Column.PHASE, _next_phase(state), active)
        state.write()
        record = [*(state[column] for column in RECORD), fed, token, consult.long()]
        return torch.stack(record, 1)

    # --- the forward ---

    def _forward(self, shape: Shape, rows_M: Tensor, state: _Rows, start: Tensor, fed: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states ``[N, E]`` of the scored tokens, and which token of those fed each is (below 0: none)."""
        m, n, device = shape.seats, shape.tokens, rows_M.device
        offsets_n = torch.arange(n, device=device)
        places_Mn = (start.unsqueeze(1) + offsets_n).clamp(max=self.seats.length)
        ids_Mn = self.seats.ids[rows_M.unsqueeze(1), places_Mn].masked_fill(offsets_n >= fed.unsqueeze(1), 0)
        grid = self.runner.grid(state[self.slot].contiguous(), start.contiguous(), n, shape.pages)
        scored_Mw = fed.unsqueeze(1) + torch.arange(-shape.scored, 0, device=device)
        wanted_N = None
        if shape.scored != n or n > 1:
            wanted_N = (torch.arange(m, device=device).unsqueeze(1) * n + scored_Mw.clamp(min=0)).flatten()
        return self.runner.model(ids_Mn.flatten(), grid, wanted_N), scored_Mw

    def _choice(self, shape: Shape, rows_M: Tensor, state: _Rows, positions_M: Tensor) -> Choice | None:
        if not shape.drawn:
            return None
        temperature, top_p, min_p = self.seats.sampling[rows_M, 0 if self.is_base else 1].T.contiguous()
        top_k = state[Column.BASE_TOP_K if self.is_base else Column.ORACLE_TOP_K]
        settings = Settings(temperature, top_k, top_p, min_p, shape.ordered, shape.min_p)
        keys_M2 = torch.stack([state[Column.KEY_0], state[Column.KEY_1]], 1)
        return Choice(settings, keys_M2, positions_M)

    def _count(self, state: _Rows, fed: Tensor, start: Tensor, finished: Tensor) -> None:
        """The ledger's counts of this forward."""
        some, one = (fed > 0).long(), (fed == 1).long()
        if self.is_base:
            of_prompt = (torch.minimum(state[Column.PROMPT], start + fed) - start).clamp(min=0)
            state.add(Column.BASE_FORWARDS, some)
            state.add(Column.PREFILL, of_prompt)
            state.add(Column.BASE_STEPS, (fed - of_prompt) * one)
            state.add(Column.CATCH_UP, (fed - of_prompt) * (1 - one))
        else:
            generated = state[Column.LENGTH] - state[Column.PROMPT]
            step = one * (~finished & (generated > state[Column.LAST_CONSULT])).long()
            state.add(Column.ORACLE_FORWARDS, some)
            state.add(Column.ORACLE_STEPS, step)
            state.add(Column.SYNC, fed * (1 - step))

    # --- decisions ---

    def _settle_base(self, state: _Rows, rows: _Scored, scores: Scores, watched: Items[Watch]) -> tuple[Tensor, Tensor]:
        """Record the base's signals; where a position is due, ask the trigger and commit or begin a consult."""
        seats, due, stats, logprob_Mw = self.seats, rows.due, scores.stats, rows.logprob_Mw
        signals = stats.entropy, stats.varentropy, stats.top_prob, stats.margin, stats.top1.float()
        named = dict(zip(("entropy", "varentropy", "top_prob", "margin"), signals, strict=False))
        self._average(state, {name: values.view_as(logprob_Mw) for name, values in named.items()}, rows.wanted_Mw)
        self._average(state, {"logprob": logprob_Mw}, rows.known_Mw)

        columns = self._columns(state, {name: v.view_as(logprob_Mw)[:, -1] for name, v in named.items()})
        columns["logprob"] = logprob_Mw[:, -1]
        after = state[Column.AFTER] > 0
        early = due & ~after & _can_consult(state)
        consult, failed = self._fired(state, columns, early, watched)
        writes = due & ~consult & ~failed
        state.put(Column.PENDING, 1, consult)
        state.add(Column.WASTED, consult.long())
        index = state.rows_M
        if scores.logits_NV is not None:
            place_M = torch.where(consult, index, seats.spare)  # the spare seat's are nobody's
            seats.pending[place_M] = last_rows(scores.logits_NV, logprob_Mw)
            seats.pending_lse[place_M] = last_rows(stats.lse, logprob_Mw)

        table_Mw6 = torch.stack([*(values.view_as(logprob_Mw) for values in signals), logprob_Mw], -1)
        unknown = ~rows.known_Mw.clone()
        unknown[:, -1] &= ~writes
        table_Mw6[..., -1] = table_Mw6[..., -1].masked_fill(unknown, torch.nan)
        _scatter(seats.base, index, rows.position_Mw, rows.wanted_Mw, table_Mw6)
        self._average(state, {"logprob": logprob_Mw[:, -1:]}, writes.unsqueeze(1))

        self._commit(state, rows.tokens_Mw[:, -1], writes, is_base=True)
        late = writes & after & (state[Column.FINISH] == Finish.NOT) & _can_consult(state)
        columns |= self._ema_columns(state)
        fired, _ = self._fired(state, columns, late, watched)
        consult = consult | fired
        state.put(Column.LAST_CONSULT, state[Column.LENGTH] - state[Column.PROMPT], consult)
        state.put(Column.BURST_LEFT, _burst_room(state), consult)
        state.add(Column.CONSULTS, consult.long())
        return torch.where(writes, rows.tokens_Mw[:, -1], -1), consult

    def _settle_oracle(self, state: _Rows, rows: _Scored, scores: Scores) -> Tensor:
        """Record the oracle's opinion of what is written, and commit its own next token."""
        seats, index, stats = self.seats, state.rows_M, scores.stats
        assert scores.logits_NV is not None
        columns = (
            rows.logprob_Mw,
            rank(scores.logits_NV, rows.tokens_Mw.flatten()).float(),
            stats.top1.float(),
            stats.entropy,
            stats.margin,
        )
        table_Mw5 = torch.stack([column.view_as(rows.tokens_Mw) for column in columns], -1)
        _scatter(seats.oracle, index, rows.position_Mw, rows.wanted_Mw, table_Mw5)

        token = rows.tokens_Mw[:, -1]
        pending = rows.due & (state[Column.PENDING] > 0)  # what the base thought of the token that took its place
        lost = seats.pending[index, token].float() - seats.pending_lse[index]
        position = torch.where(pending, rows.position_Mw[:, -1], seats.length)
        seats.base[index, position, len(seats.base[0, 0]) - 1] = lost
        self._average(state, {"logprob": lost.unsqueeze(1)}, pending.unsqueeze(1))
        state.put(Column.PENDING, 0, pending)
        self._commit(state, token, rows.due, is_base=False)
        return torch.where(rows.due, token, -1)

    def _commit(self, state: _Rows, token: Tensor, writes: Tensor, *, is_base: bool) -> None:
        """Append one token to the ids of the rows that write, and finish where it ends the text."""
        seats, length = self.seats, state[Column.LENGTH]
        place = torch.where(writes, length, seats.length)
        seats.ids[state.rows_M, place] = token
        one = writes.long()
        state.add(Column.LENGTH, one)
        if is_base:
            state.add(Column.BASE_RUN, one)
        else:
            state.put(Column.BASE_RUN, 0, writes)
            state.add(Column.ORACLE_WRITTEN, one)
            state.add(Column.BURST_LEFT, -one)
        full = state[Column.LENGTH] - state[Column.PROMPT] >= state[Column.LIMIT]
        state.put(Column.FINISH, Finish.LENGTH, writes & full)
        state.put(Column.FINISH, Finish.EOS, writes & self.eos[state[Column.ANY_EOS], token])
        state.put(Column.BURST_LEFT, 0, state[Column.FINISH] != Finish.NOT)

    # --- triggers ---

    def _fired(
        self, state: _Rows, columns: dict[str, Tensor], asked: Tensor, watched: Items[Watch]
    ) -> tuple[Tensor, Tensor]:
        """Where the trigger of a row that is asked fires, and where it failed."""
        fired, failed = torch.zeros_like(asked), torch.zeros_like(asked)
        for number, trigger in watched:
            mine = asked & (state[Column.TRIGGER] == number)
            read = {name: columns[name] for name in columns if _read(trigger, name)}
            if not isinstance(trigger, ExpressionTrigger):  # a class may write into what it is given
                read = {name: values.clone() for name, values in read.items()}
            try:
                fired |= mine & trigger.ask(read)
            except TriggerError as error:  # only its own sequences end by it
                self.failures[number] = str(error)
                state.put(Column.FINISH, Finish.TRIGGER, mine)
                failed |= mine
        return fired, failed

    def _columns(self, state: _Rows, signals: dict[str, Tensor]) -> dict[str, Tensor]:
        """What triggers may read of the position that is due, ``[M]`` float32 each."""
        generated, last = state[Column.LENGTH] - state[Column.PROMPT], state[Column.LAST_CONSULT]
        since = torch.where(last < 0, torch.inf, (generated - last).float())
        run = state[Column.BASE_RUN]
        budget = state[Column.MAX_CONSULTS]
        draws = self.seats.draws[state.rows_M, generated.clamp(max=self.seats.length)]
        named = {
            "position": generated,
            "max_new_tokens": state[Column.MAX_NEW],
            "since_consult": since,
            "consults": state[Column.CONSULTS],
            "c": torch.where(budget >= 1 << 40, torch.inf, budget.float()),
            "boundary": run % state[Column.STEP_SIZE].clamp(min=1) == 0,
            "base_run": run,
            "u": draws,
        }
        return {name: values.float() for name, values in (signals | named).items()} | self._ema_columns(state)

    def _ema_columns(self, state: _Rows) -> dict[str, Tensor]:
        return {ema_column(*pair): state.emas[:, place] for pair, place in self.ema_places.items()}

    def _average(self, state: _Rows, values: dict[str, Tensor], valid: Tensor) -> None:
        """Move the averages on by columns ``[M, positions]``, where valid."""
        for (signal, decay), place in self.ema_places.items():
            if signal in values:
                for index in range(valid.shape[1]):
                    old = state.emas[:, place]
                    new = ema_step(old, values[signal][:, index], decay)
                    state.emas[:, place] = torch.where(valid[:, index], new, old)


class _Scored(NamedTuple):
    """What the scored rows of a forward are about."""

    position_Mw: Tensor  # generated position that each predicts
    known_Mw: Tensor  # bool: its token is written already
    due: Tensor  # [M] bool: the last row's token is still to be written
    tokens_Mw: Tensor  # the token: written, or this model's choice
    logprob_Mw: Tensor  # of that token, nats

    @property
    def wanted_Mw(self) -> Tensor:
        """Rows that say something new."""
        wanted = self.known_Mw.clone()
        wanted[:, -1] |= self.due
        return wanted


class _Rows:
    """The numbers of a program's seats while it runs; ``write`` puts them back."""

    def __init__(self, seats: Seats, rows_M: Tensor) -> None:
        self._seats, self.rows_M = seats, rows_M
        self._columns = list(seats.numbers[rows_M].unbind(1))
        self.emas = seats.emas[rows_M]  # [M, A]

    def __getitem__(self, column: Column) -> Tensor:
        return self._columns[column]

    def __setitem__(self, column: Column, values_M: Tensor) -> None:
        self._columns[column] = values_M

    def put(self, column: Column, value: Tensor | int, where_M: Tensor) -> None:
        """Set a column of some rows."""
        self._columns[column] = torch.where(where_M, value, self._columns[column])

    def add(self, column: Column, amount_M: Tensor) -> None:
        """Add to a column."""
        self._columns[column] = self._columns[column] + amount_M

    def write(self) -> None:
        """Put all of it back."""
        self._seats.numbers[self.rows_M] = torch.stack(self._columns, 1)
        self._seats.emas[self.rows_M] = self.emas


def _burst_room(state: _Rows) -> Tensor:
    """Tokens that a consult here may write."""
    left = state[Column.LIMIT] - (state[Column.LENGTH] - state[Column.PROMPT])
    own = state[Column.MAX_ORACLE] - state[Column.ORACLE_WRITTEN]
    return torch.minimum(torch.minimum(state[Column.BURST], left), own).clamp(min=0)


def _can_consult(state: _Rows) -> Tensor:
    return (state[Column.CONSULTS] < state[Column.MAX_CONSULTS]) & (_burst_room(state) > 0)


def _next_phase(state: _Rows) -> Tensor:
    """Whom a row waits for now: to write on, or once its text is finished to read the rest of it."""
    finish, length = state[Column.FINISH], state[Column.LENGTH]
    failed = finish >= Finish.NAN_BASE
    generated, prompt = length - state[Column.PROMPT], state[Column.PROMPT]
    behind_base = (state[Column.BASE_TAIL] > 0) & (_recorded(state[Column.BASE_LENGTH], prompt) < generated)
    behind_oracle = (state[Column.ORACLE_TAIL] > 0) & (_recorded(state[Column.ORACLE_LENGTH], prompt) < generated)
    tail = torch.where(behind_base, Phase.BASE, torch.where(behind_oracle, Phase.ORACLE, Phase.NOBODY))
    going = torch.where(state[Column.BURST_LEFT] > 0, Phase.ORACLE, Phase.BASE)
    phase = torch.where(finish == Finish.NOT, going, tail)
    return torch.where(failed, Phase.NOBODY, phase)


def _recorded(cached: Tensor, prompt: Tensor) -> Tensor:
    """Generated positions for which a model that has read so many ids has given its distribution."""
    return (cached - prompt + 1).clamp(min=0)


def _read(trigger: Trigger, name: str) -> bool:
    return name in trigger.names or name == "position" or name.startswith("ema(")


def _scatter(table: Tensor, rows_M: Tensor, position_Mw: Tensor, wanted_Mw: Tensor, values_MwF: Tensor) -> None:
    """Write values to their positions; what is not wanted goes to the last place of its row."""
    place_Mw = torch.where(wanted_Mw, position_Mw, table.shape[1] - 1)
    table[rows_M.unsqueeze(1), place_Mw] = values_MwF
