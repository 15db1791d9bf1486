"""Predictions from planted costs: what the ledger counts comes back as the time that was planted."""

from __future__ import annotations

import pytest

from dodona.bench.predict import ModelCosts, Watched, at, calibrated, extend_cost, mean_context, predicted, steps_cost
from dodona.bench.watch import Forward
from dodona.engine.config import LlamaConfig
from dodona.engine.ledger import Ledger

CONFIG = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, tie_word_embeddings=True,
    attention_bias=False, mlp_bias=False, bos_token_id=1, eos_token_ids=(2,),
)  # fmt: skip


def planted(model: str, tokens: int, context: float, batch: int = 1, age: int = 9) -> float:
    """Ms of a forward in the world of these tests: the first after a switch is slower, and the second a little."""
    fixed, row, key = {"alone": (1.0, 0.1, 0.002), "base": (1.2, 0.1, 0.002), "oracle": (3.0, 0.2, 0.01)}[model]
    return fixed + row * tokens * batch + key * context + {0: 1.0, 1: 0.5, 2: 0.2}.get(age, 0.0)


def run_of(prompt: int, every: int, k: int, consults: int, *, batch: int = 1, outside: float = 0.7) -> Watched:
    """A run as the loop would make it: the last token of the prompt, base tokens, and bursts in between."""
    clock, context, oracle, forwards = 0.0, prompt - 1, prompt - 1, []
    asks, age, last = consults > 0, 9, "base"

    def forward(model: str, tokens: int) -> None:
        nonlocal clock, context, oracle, age, last
        age, last = (age + 1 if model == last else 0), model
        kind = model if model == "oracle" or asks else "alone"
        if model == "oracle":
            oracle += tokens
        else:
            context += tokens
        seen = oracle if model == "oracle" else context
        ms = planted(kind, tokens, seen, batch, age)
        clock += ms
        forwards.append(Forward(model, "", (tokens,) * batch, (seen,) * batch, batch, ms, clock / 1e3))

    forward("base", 1)
    for _ in range(consults):
        for _ in range(every):
            forward("base", 1)
        forward("oracle", context - oracle)
        for _ in range(k - 1):
            forward("oracle", 1)
        forward("base", k)
    for _ in range(every):
        forward("base", 1)
    return Watched(batch, asks, clock + outside, forwards)


def ledger_of(run: Watched) -> Ledger:
    """What the engine would have counted."""
    ledger = Ledger(prefill_tokens=1)
    for index, forward in enumerate(run.forwards):
        (tokens, context), first = (forward.tokens[0], forward.contexts[0]), index == 0
        ledger.consults += forward.model == "oracle" and tokens > 1
        flops = tokens * CONFIG.flops_per_token(context - (tokens - 1) / 2)
        if forward.model == "base":
            ledger.base_forwards += 1
            ledger.base_flops += flops
            ledger.base_steps += 1 if tokens == 1 and not first else 0
            ledger.catch_up_tokens += tokens if tokens > 1 else 0
        else:
            ledger.oracle_forwards += 1
            ledger.oracle_flops += flops
            burst = tokens == 1
            ledger.oracle_steps += burst
            ledger.sync_tokens += 0 if burst else tokens
    return ledger


CALIBRATION = [run_of(prompt, every, k, 3) for prompt in (10, 300) for every, k in ((2, 2), (6, 5), (20, 20))] + [
    run_of(prompt, 20, 0, 0) for prompt in (10, 300)
]


@pytest.mark.parametrize(("prompt", "every", "k", "consults"), [(10, 4, 3, 4), (120, 8, 8, 5), (280, 12, 16, 1)])
def test_planted_costs_are_recovered_for_runs_that_were_not_calibrated_with(prompt, every, k, consults):
    """A count that is multiplied by the wrong cost, or a forward that is counted twice, is off by more than this."""
    costs = calibrated([CALIBRATION] * 3)[1]
    run = run_of(prompt, every, k, consults)
    assert predicted(ledger_of(run), 0, costs, CONFIG, CONFIG) == pytest.approx(run.milliseconds, rel=0.02)


def test_a_base_alone_is_predicted_without_the_trigger():
    """The trigger's time is a sixth of a step here: it must not be in a text that asks none."""
    costs = calibrated([CALIBRATION])[1]
    run = run_of(100, 30, 0, 0)
    ledger = ledger_of(run)
    found = predicted(ledger, ledger.base_steps + ledger.prefill_tokens, costs, CONFIG, None)
    assert found == pytest.approx(run.milliseconds, rel=0.01)
    assert predicted(ledger, 0, costs, CONFIG, None) > 1.1 * run.milliseconds


def test_costs_are_kept_by_batch():
    """Rows of eight sequences cost more than one's: the costs of a single one would be half of it."""
    runs = [*CALIBRATION, *(run_of(10, every, k, 3, batch=8) for every, k in ((4, 4), (8, 8)))]
    costs = calibrated([runs])
    run = run_of(10, 6, 6, 4, batch=8)
    assert predicted(ledger_of(run), 0, costs[8], CONFIG, CONFIG) == pytest.approx(run.milliseconds, rel=0.03)
    assert predicted(ledger_of(run), 0, costs[1], CONFIG, CONFIG) < 0.7 * run.milliseconds


def test_a_slow_turn_does_not_move_the_costs():
    """One turn in three met another program: means over turns would carry it into every prediction."""
    slow = [
        run._replace(
            milliseconds=5 * run.milliseconds,
            forwards=[f._replace(ended=5 * f.ended, milliseconds=5 * f.milliseconds) for f in run.forwards],
        )
        for run in CALIBRATION
    ]
    ledger = ledger_of(CALIBRATION[1])
    found, want = (
        predicted(ledger, 0, calibrated(turns)[1], CONFIG, CONFIG)
        for turns in ([CALIBRATION, slow, CALIBRATION], [CALIBRATION])
    )
    assert found == pytest.approx(want)


def test_forwards_of_sequences_out_of_step_are_no_cost():
    """A forward of one sequence while seven wait is no forward of eight."""
    run = run_of(10, 4, 4, 2, batch=2)
    odd = run.forwards[1]._replace(tokens=(1,), contexts=(11,), ended=run.forwards[1].ended)
    mixed = run._replace(forwards=[run.forwards[0], odd, *run.forwards[2:]])
    found = calibrated([[mixed]])[2].kinds["base"]
    assert found.steps[-1] == pytest.approx(planted("base", 1, 20, 2), rel=0.05)


def test_the_mean_context_is_read_from_the_operations():
    """The ledger does not store contexts; a wrong share of a token's operations would misplace every attention."""
    flops = sum(CONFIG.flops_per_token(context) for context in (10, 20, 60))
    assert mean_context(flops, 3, CONFIG) == pytest.approx(30)
    assert mean_context(0.0, 0, CONFIG) == 0.0


def test_a_table_is_read_on_straight_lines():
    """Between its entries, beyond its ends, and where it has one alone; never below zero."""
    table = ((1.0, 2.0), (3.0, 6.0), (5.0, 6.0))
    assert [at(table, place) for place in (0, 1, 2, 3, 4, 5, 9)] == [0, 2, 4, 6, 6, 6, 6]
    assert at(((1.0, 2.0),), 50) == 2.0 and at(((1.0, 1.0), (2.0, 3.0)), -5) == 0.0
    with pytest.raises(ValueError, match="nothing was measured"):
        at((), 1)
    with pytest.raises(ValueError, match="no runs"):
        calibrated([])


def test_steps_after_a_switch_have_their_own_cost():
    """Bursts of two tokens and bursts of twenty pay for as many switches, not for as many tokens."""
    costs = ModelCosts(extend=((1.0, 4.0), (3.0, 8.0)), steps=(3.0, 2.0, 1.0), slope=0.1, extend_slope=0.5)
    assert steps_cost(costs, 0, 10, 1) == 3 + 2 + 8 and steps_cost(costs, 0, 10, 4) == 4 * 3 + 4 * 2 + 2
    assert steps_cost(costs, 0, 3, 5) == 9 and steps_cost(costs, 10, 3, 5) == 9 + 3
    assert extend_cost(costs, 2, 2) == 6 + 1
