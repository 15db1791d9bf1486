"""Decode throughput on this machine, as ratios against a peer measured in turn in the same run.

    dodona bench decode [--parts base,guided,batch] [--threads N] [--out FILE]

Parts: ``base`` is SmolLM2 alone against transformers' ``generate`` (float32 and bfloat16, equal dequantised weights);
``guided`` is guided decoding against the naive loop that runs both models over the whole prefix at every token;
``batch`` is guided throughput of many sequences against one (``bench/many.py``). Greedy equality of the tokens is
asserted where it is due (float32), the token count everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dodona.bench.spread import spread
from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.engine import Engine
from dodona.engine.request import Request

BASE, ORACLE = "smollm2@drop=24,26", "smollm2"
PROMPT = "Tell me a story about a fox and a crow."


def measured(runs: dict[str, Callable[[], int]], repeats: int) -> dict[str, dict[str, float]]:
    """Tokens/s of each run: all once to warm up, then in turn ``repeats`` times (p20, p50, p80)."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            tokens = run()
            if turn:
                rates[name].append(tokens / (time.perf_counter() - started))
    table = {}
    for name, values in rates.items():
        found = spread(values)
        table[name] = {"p20": found.p20, "p50": found.p50, "p80": found.p80}
    return table


def in_transformers(name: str, folder: Path, dtype: torch.dtype) -> Any:
    """The checkpoint as a transformers model with the same weights, saved once as an ordinary folder."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    checkpoint = open_checkpoint(name)
    config = checkpoint.config
    if not folder.exists():
        folder.mkdir(parents=True)
        save_file(
            {key: tensor.contiguous() for key, tensor in checkpoint.tensors()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=config.tie_word_embeddings,
            eos_token_id=list(config.eos_token_ids),
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rope_theta=config.rope_theta,
            architectures=["LlamaForCausalLM"],
        ).save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def base_alone(folder: Path, tokens: int, repeats: int) -> dict[str, Any]:
    """SmolLM2 alone at batch 1, ours against transformers' generate."""
    table: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        engine = Engine(ORACLE, device="cpu", dtype=dtype, max_batch=4)
        model = in_transformers(ORACLE, folder / "oracle", dtype)
        ids = engine.tokenizer.encode(PROMPT, raw=False)
        request = Request(prompt=ids, c=0, max_new_tokens=tokens)
        outputs: dict[str, list[int]] = {}

        def ours(engine: Engine = engine, request: Request = request, outputs: dict[str, list[int]] = outputs) -> int:
            outputs["dodona"] = engine.generate(request).ids
            return len(outputs["dodona"])

        def peer(model: Any = model, ids: list[int] = ids, outputs: dict[str, list[int]] = outputs) -> int:
            whole = torch.tensor([ids])
            generated = model.generate(
                whole, attention_mask=torch.ones_like(whole), max_new_tokens=tokens, do_sample=False, pad_token_id=2
            )
            outputs["transformers"] = generated[0, len(ids) :].tolist()
            return len(outputs["transformers"])

        rates = measured({"dodona": ours, "transformers": peer}, repeats)
        assert len(outputs["dodona"]) == len(outputs["transformers"]), "peers must write as many tokens"
        equal = outputs["dodona"] == outputs["transformers"]
        assert equal or dtype != torch.float32, "float32 greedy tokens must be equal"
        table[str(dtype).removeprefix("torch.")] = {
            "tokens_per_second": rates,
            "ratio": rates["dodona"]["p50"] / rates["transformers"]["p50"],
            "same_tokens": equal,
        }
    return table


def guided(folder: Path, tokens: int, repeats: int) -> dict[str, Any]:
    """Guided decoding in bfloat16 against the naive loop, c=8, k=8."""
    dtype = torch.bfloat16
    engine = Engine(BASE, oracle=ORACLE, device="cpu", dtype=dtype, max_batch=4, max_length=1024)
    base, oracle = in_transformers(BASE, folder / "base", dtype), in_transformers(ORACLE, folder / "oracle", dtype)
    ids = engine.tokenizer.encode(PROMPT, raw=False)
    # In bfloat16 the two may write different texts, so that an end token would come at another place in each.
    request = Request(prompt=ids, c=8, k=8, trigger="every(12)", max_new_tokens=tokens, ignore_eos=True)

    def ours() -> int:
        written = len(engine.generate(request).ids)
        assert written == tokens, "the peer writes so many"
        return written

    def naive() -> int:
        text, run, consults = list(ids), 0, 0

        def write(model: Any) -> None:
            with torch.inference_mode():
                text.append(int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))

        def finished() -> bool:
            return len(text) - len(ids) >= tokens

        while not finished():
            if run >= 12 and consults < 8:
                run, consults = 0, consults + 1
                for _ in range(8):
                    if not finished():
                        write(oracle)
            else:
                write(base)
                run += 1
        return tokens

    rates = measured({"dodona": ours, "naive": naive}, repeats)
    return {"tokens_per_second": rates, "ratio": rates["dodona"]["p50"] / rates["naive"]["p50"]}
