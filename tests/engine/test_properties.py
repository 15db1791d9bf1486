"""Properties that no combination of settings may break, and every defect in docs/pitfalls that can be tested here."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dodona.engine.device_loop import DeviceLoop
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.seats import Column

INF = math.inf
BUDGETS = st.sampled_from([0, 1, 2, 5, INF])


@settings(max_examples=120, deadline=None)
@given(
    c=BUDGETS,
    k=BUDGETS,
    when=st.sampled_from(["before", "after"]),
    trigger=st.sampled_from(["always", "random", "entropy > 1.3", "every(3)", "uniform(L=10)", "margin < 0.2"]),
    stop=st.sampled_from([(), ("7",), ("1", "e"), (" the",)]),
    max_new_tokens=st.integers(1, 25),
    cap=st.sampled_from([None, 0, 3]),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 50),
)
def test_budgets_segments_and_caches_hold_for_any_settings(
    engine, c, k, when, trigger, stop, max_new_tokens, cap, temperature, seed
):
    """Catches budgets that are overrun, segments that lose a token, wrong positions, caches ahead of the ids."""
    prompt = [1, 5 + seed, 9, 200 - seed]
    checked = 0
    for runner in (engine.base, engine.oracle):
        assert runner.cache.pool.open_slots == 0
    request = Request(
        prompt=prompt, c=c, k=k, when=when, trigger=trigger, stop=stop, max_new_tokens=max_new_tokens,
        max_oracle_tokens=cap, temperature=temperature, seed=seed,
    )  # fmt: skip
    tick = engine.loop.tick

    def watched():
        nonlocal checked
        done = tick()
        if isinstance(engine.loop, DeviceLoop):
            numbers = engine.loop.seats.numbers
            for column in (Column.BASE_LENGTH, Column.ORACLE_LENGTH):
                assert (numbers[:, column] <= numbers[:, Column.LENGTH]).all()
            checked += 1
            return done
        for sequence in engine.scheduler.running:
            for view, runner in ((sequence.base, engine.base), (sequence.oracle, engine.oracle)):
                if view.slot is not None:
                    assert runner.cache.pool.length(view.slot) <= len(sequence.ids)
                    checked += 1
        return done

    engine.loop.tick = watched
    try:
        result = engine.generate(request)
    finally:
        engine.loop.tick = tick
    ids = [token for segment in result.segments for token in segment.token_ids]
    assert ids == result.ids
    assert "".join(segment.text for segment in result.segments) == result.text
    assert result.consults <= c and (k > 0 or result.consults == 0)
    bursts = [segment for segment in result.segments if segment.source == "oracle"]
    starts, at = [], 0
    for segment in result.segments:
        assert segment.token_ids
        if segment.source == "oracle":
            starts.append(at)
            assert len(segment.token_ids) <= k
        at += len(segment.token_ids)
    assert starts == result.cheat_positions and len(bursts) == result.consults
    for index, segment in enumerate(result.segments[:-1]):
        if segment.source == "oracle" and cap is None:
            assert len(segment.token_ids) == k, f"burst {index} was cut short inside the text"
    oracle_tokens = int(result.sources.sum())
    assert oracle_tokens == result.ledger.burst_tokens and (cap is None or oracle_tokens <= cap)
    assert 1 <= len(result.ids) <= max_new_tokens
    eos = 2 in result.ids
    assert result.ids.index(2) == len(result.ids) - 1 if eos else True
    assert result.finish_reason in ("eos", "stop", "length")
    assert (result.finish_reason == "eos") == eos
    if result.finish_reason == "stop":
        assert any(text in result.text for text in stop)
        shorter = engine.tokenizer.decode(result.ids[:-1])
        assert not any(text in shorter for text in stop)
    assert not np.isnan(result.signals["entropy"]).any(), "every generated position has the base's signals"
    assert not np.isnan(result.signals["logprob"]).any()
    if result.finish_reason != "length":
        assert len(result.ids) <= max_new_tokens


def test_white_space_and_token_boundaries_survive_every_hand_off(embedded):
    """Pitfall: text was stripped and re-tokenised at each hand-off. Ids pass; the text is their decoding."""
    result = embedded.generate("Work out (44 - 23) * 30 - 72.", c=INF, k=1, trigger="every(1)", max_new_tokens=120)
    assert result.consults > 20
    assert result.text == embedded.tokenizer.decode(result.ids)
    assert any(segment.text.startswith(" ") for segment in result.segments)
    fed = [token for segment in result.segments for token in segment.token_ids]
    assert fed == result.ids


def test_an_end_token_inside_a_burst_ends_the_text(embedded):
    """Pitfall: no end-token logic. The oracle's end token ends everything, with burst budget to spare."""
    result = embedded.generate("What is 2 + 3?", c=INF, k=500, trigger="always", max_new_tokens=300)
    assert result.finish_reason == "eos" and result.ids[-1] in embedded.tokenizer.eos_ids
    assert len(result.ids) < 100
    for limit, reason in ((len(result.ids), "eos"), (len(result.ids) - 1, "length")):
        cut = embedded.generate("What is 2 + 3?", c=INF, k=500, trigger="always", max_new_tokens=limit)
        assert cut.finish_reason == reason and cut.ids == result.ids[:limit]


def test_a_trigger_that_fires_with_the_end_token_begins_no_consult(embedded):
    """Catches a consult in the ledger although nothing follows the base's end token."""
    alone = embedded.generate("What is 2 + 3?", c=0, max_new_tokens=300)
    options = {"c": 1, "k": 3, "trigger": f"at({len(alone.ids) - 1})", "when": "after", "max_new_tokens": 300}
    result = embedded.generate("What is 2 + 3?", **options)
    assert alone.finish_reason == "eos" and result.ids == alone.ids
    assert result.consults == result.ledger.consults == 0


@pytest.mark.parametrize("c", [0, 5])
def test_ignored_end_tokens_are_written_and_the_text_goes_on(embedded, c):
    """A row of end tokens too many or too few: texts that stop nevertheless, or batch mates that do not stop."""
    requests = [
        Request(
            prompt="Work out 58 * 86.", c=c, k=5, trigger="entropy > 0.5", max_new_tokens=160, ignore_eos=i, stop=stop
        )
        for i, stop in ((False, ()), (True, ()), (True, ("The answer",)))
    ]
    results = {(r.request.ignore_eos, r.request.stop): r for r in embedded.generate(iter(requests))}
    ended, endless, stopped = (results[r.ignore_eos, r.stop] for r in requests)
    assert ended.finish_reason == "eos" and len(ended.ids) < 160
    assert endless.finish_reason == "length" and len(endless.ids) == 160
    assert endless.ids[: len(ended.ids)] == ended.ids
    assert stopped.finish_reason == "stop"


def test_a_stop_string_across_a_hand_off_is_seen(embedded):
    """A stop string whose first half the base wrote and whose second half the oracle wrote."""
    prompt = "What is 40 + 63?"
    whole = embedded.generate(prompt, c=INF, k=3, trigger="every(4)", max_new_tokens=60)
    borders = range(2, len(whole.segments))
    border = next(i for i in borders if whole.segments[i].source == "oracle" and whole.segments[i].text.strip())
    stop = whole.segments[border - 1].text[-2:] + whole.segments[border].text[:2]
    result = embedded.generate(prompt, c=INF, k=3, trigger="every(4)", max_new_tokens=60, stop=stop)
    assert result.finish_reason == "stop" and stop in result.text and len(result.ids) < len(whole.ids)


def test_step_size_and_seed_are_used(engine):
    """Pitfall: an argument was overwritten by a constant; a seed was set on one generator and drawn from another."""

    def run(**options):
        return engine.generate([1, 7, 8], c=INF, k=1, trigger="random", max_new_tokens=80, **options).cheat_positions

    assert run(step_size=3) != run(step_size=20)
    assert run(seed=1) == run(seed=1) != run(seed=2)


def test_forwards_are_timed_in_milliseconds_and_shared_out_by_tokens(engine, monkeypatch):
    """Catches seconds in a ledger, and a batch's time that is counted whole for each of its members."""
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # a second later at every look
    for module in ("loop", "transfer"):
        monkeypatch.setattr(f"dodona.engine.{module}.time", clock)
    results = engine.generate([[1, *range(5, 9)], [1, *range(5, 11)]], c=0, max_new_tokens=1)
    assert sorted(result.ledger.base_ms for result in results) == pytest.approx([1000 * 5 / 12, 1000 * 7 / 12])


def test_the_oracle_reads_only_what_it_lacks(engine):
    """Pitfall: the oracle re-prefilled at every consult. What it is fed adds up to one pass over the text."""
    result = engine.generate([1, *range(10, 40)], c=6, k=4, trigger="every(3)", max_new_tokens=60)
    assert result.consults == 6
    assert result.ledger.oracle_fed <= len(result.prompt_ids) + len(result.ids)
    assert result.ledger.base_fed <= len(result.prompt_ids) + len(result.ids)


@pytest.mark.parametrize(
    "setting",
    [
        lambda: torch.device("meta"),
        lambda: set_default_dtype(torch.float64),
        lambda: torch.inference_mode(),
    ],
    ids=["device", "dtype", "inference"],
)
def test_what_a_program_has_set_in_torch_changes_nothing(folders, loop, engine, setting):
    """Catches a tensor without a device or dtype of its own, and one that only the mode of its making may change."""
    options = {"c": 2, "k": 3, "trigger": "entropy > 1 and u < 0.8", "temperature": 0.8, "max_new_tokens": 16}
    expected = engine.generate([1, 5, 6], **options)
    with setting():
        made = Engine(folders[0], oracle=folders[1], device="cpu", page_size=8, **loop)
        assert made.generate([1, 5, 6], **options).ids == expected.ids
    stream = made.stream([1, 5, 6], **options)
    next(stream)
    stream.close()  # between two ticks, and out of the mode
    assert made.generate([1, 5, 6], **options).ids == expected.ids


@contextmanager
def set_default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def test_an_end_token_that_the_model_has_no_row_for_is_never_written(folders, loop, tmp_path):
    """Catches an index past the vocabulary: a configuration may name tokens that a larger model of the family has."""
    folder = shutil.copytree(folders[0], tmp_path / "ends")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [2, 400]}))
    engine = Engine(folder, device="cpu", **loop)
    assert len(engine.generate([1, 5], max_new_tokens=4).ids) >= 1


@pytest.mark.parametrize(("broken", "trigger"), [("base", "at(11)"), ("oracle", "at(0)")])
def test_nan_logits_name_model_and_position(folders, loop, tmp_path, broken, trigger):
    """A token whose row is NaN is written, and the distribution after it is the first that is none."""
    options = {"c": 1, "k": INF, "trigger": trigger, "max_new_tokens": 12, "ignore_eos": True}
    sound = folders[1]  # untied: a NaN embedding row does not reach everyone's logits
    ids = Engine(sound, oracle=sound, device="cpu", page_size=8, **loop).generate([1, 7], **options).ids
    position = next(i for i in range(2, 10) if ids[i] not in (1, 7, *ids[:i]))
    folder = shutil.copytree(sound, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][ids[position]] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    pair = {"base": sound, "oracle": sound} | {broken: folder}
    engine = Engine(pair["base"], oracle=pair["oracle"], device="cpu", page_size=8, **loop)
    with pytest.raises(DodonaError, match=f"NaN logits from the {broken} model at generated position {position + 1}$"):
        engine.generate([1, 7], **options)


def test_nan_in_one_request_of_a_batch_leaves_the_others_as_they_are(folders, loop, tmp_path):
    """The NaN stays in its own rows, pages and result."""
    folder = tmp_path / "nan"
    shutil.copytree(folders[1], folder)  # untied: a NaN embedding row does not reach everyone's logits
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.embed_tokens.weight"][300] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    engine = Engine(folder, device="cpu", page_size=8, max_batch=3, kv_tokens=96, **loop)
    good = Engine(folders[1], device="cpu", page_size=8)
    prompts = [[1, 10 + i, 300 if i % 3 == 0 else 20, 30] for i in range(12)]
    requests = [Request(prompt=prompt, c=0, max_new_tokens=12, id=str(i)) for i, prompt in enumerate(prompts)]
    results = {int(result.request.id): result for result in engine.generate(requests)}
    for index, prompt in enumerate(prompts):
        if index % 3 == 0:
            assert "NaN" in results[index].error and results[index].finish_reason == "error"
        elif 300 not in (expected := good.generate(prompt, c=0, max_new_tokens=12).ids):
            assert results[index].ids == expected
    assert engine.base.cache.pool.free_pages == engine.base.cache.pool.pages


def test_the_embedded_pair_gains_from_its_oracle(embedded):
    """The project's purpose on twenty problems: consults at uncertain tokens make the weak base solve more."""
    from dodona.eval.arith.problems import held_out_problems

    problems = held_out_problems(20)

    def solved(**options):
        results = embedded.generate(
            [Request(prompt=p.question, id=p.problem_id, max_new_tokens=256, **options) for p in problems]
        )
        gold = {p.problem_id: p.answer for p in problems}
        return sum(f"\\boxed{{{gold[result.request.id]}}}" in result.text for result in results)

    alone, guided = solved(c=0), solved(c=5, k=5, trigger="entropy > 0.5")
    assert alone <= 14 and guided >= alone + 4
