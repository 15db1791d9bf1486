"""Train the embedded pair from scratch: ``python -m dodona.eval.arith.train oracle`` (or ``base``, or ``tokenizer``).

The recipe of each model is a ``Recipe`` below; the committed checkpoints were made by these commands with their default
seeds. Problems are drawn afresh for every batch from the expressions that are not held out, so no problem is seen twice
but by chance. Two-dimensional weights inside the layers are optimised with Muon (Jordan et al. 2024, as in
``torch.optim.Muon``), embeddings, head and norms with AdamW; the learning rate warms up, then falls linearly to zero.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dodona.eval.arith.problems import LEVELS, Problem, draw_problem

PAIR_FOLDER = Path(__file__).resolve().parents[2] / "engine" / "embedded"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a trained checkpoint, but for the machine's rounding."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    tied: bool
    steps: int
    level_weights: tuple[float, ...]  # share of each level in training, levels 1 to 5
    batch_size: int = 64
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    seed: int = 0


RECIPES = {
    "base": Recipe(96, 3, 3, 1, 256, True, steps=450, level_weights=(0.3, 0.25, 0.2, 0.15, 0.1), seed=1),
    "oracle": Recipe(192, 4, 6, 2, 512, False, steps=900, level_weights=(0.1, 0.15, 0.15, 0.3, 0.3), seed=2),
}


def _stream(rng: random.Random, weights: tuple[float, ...]) -> Iterator[Problem]:
    while True:
        yield draw_problem(rng, rng.choices(LEVELS, weights)[0], held_out=False)


def train_tokenizer(folder: Path) -> None:
    """Byte-level BPE with single digits, trained on the solutions; any UTF-8 text can be encoded and decoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random("arith-tokenizer")
    corpus = [f"{problem.question}\n{problem.solution}" for problem in islice(_stream(rng, (1.0,) * 5), 5000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=384,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def _encode(tokenizer: Any, problem: Problem) -> tuple[list[int], int]:
    """Ids of the whole chat and the number of prompt tokens, which carry no loss."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem.question}], add_generation_prompt=True, tokenize=False
    )
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = tokenizer(problem.solution + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return head + tail, len(head)


def _batches(tokenizer: Any, recipe: Recipe, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``(ids, labels)``, both ``[batch, length]``; sixteen at a time are sorted by length to save padding."""
    rng = random.Random(f"arith-train-{recipe.seed}")
    problems = _stream(rng, recipe.level_weights)
    while True:
        drawn = islice(problems, 16 * recipe.batch_size)
        rows = sorted((_encode(tokenizer, problem) for problem in drawn), key=lambda row: len(row[0]))
        groups = [rows[i : i + recipe.batch_size] for i in range(0, len(rows), recipe.batch_size)]
        rng.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in group])
            labels = ids.clone()
            for label, (row, prompt) in zip(labels, group, strict=True):
                label[:prompt] = -100
                label[len(row) :] = -100
            yield ids.to(device), labels.to(device)


def _optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    chosen = set(map(id, inside))
    outside = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(inside, lr=recipe.muon_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(outside, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(name: str, *, device: str, folder: Path, steps: int | None = None) -> None:
    """Train one model of the pair and write its checkpoint (bf16) and recipe to ``folder/name``."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    recipe = RECIPES[name]
    total = steps or recipe.steps
    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.hidden_size // recipe.heads,
        max_position_embeddings=512,
        tie_word_embeddings=recipe.tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(device)
    optimizers = _optimizers(model, recipe)

    def shape(step: int) -> float:
        return min((step + 1) / recipe.warmup, max(0.0, (total - step) / (total - recipe.warmup)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, shape) for optimizer in optimizers]
    started, tokens, smoothed = time.perf_counter(), 0, math.nan
    for step, (ids, labels) in enumerate(_batches(tokenizer, recipe, torch.device(device))):
        if step == total:
            break
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        tokens += ids.numel()
        if step % 100 == 0 or step == total - 1:
            value = float(loss.detach())
            smoothed = value if math.isnan(smoothed) else 0.8 * smoothed + 0.2 * value
            rate = tokens / (time.perf_counter() - started)
            print(f"{name} step {step}/{total} loss {value:.4f} smoothed {smoothed:.4f} {rate:.0f} tok/s", flush=True)
    if not math.isfinite(smoothed):
        raise SystemExit(f"training of {name} diverged: the loss is {smoothed}; nothing was written")
    model.to(torch.bfloat16).save_pretrained(folder / name)
    note = {**asdict(recipe), "steps": total, "tokens": tokens, "torch": torch.__version__}
    (folder / name / "recipe.json").write_text(json.dumps(note, indent=2) + "\n")


def main() -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["tokenizer", *RECIPES])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, default=PAIR_FOLDER, help="where base/ and oracle/ lie")
    parser.add_argument("--steps", type=int, help="instead of the recipe's number of steps")
    args = parser.parse_args()
    if args.model == "tokenizer":
        for name in RECIPES:
            train_tokenizer(args.folder / name)
    else:
        train(args.model, device=args.device, folder=args.folder, steps=args.steps)


if __name__ == "__main__":
    main()
