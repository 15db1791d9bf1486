"""The settle kernel against the step in plain torch: every number of every seat, exactly, over whole guided runs."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny

from dodona.bench.spans import uncaptured
from dodona.engine.engine import Engine
from dodona.engine.kernel_step import KernelStep
from dodona.engine.request import Request
from dodona.engine.seats import Column
from dodona.engine.step import Step
from dodona.engine.trigger_parser import parse_trigger
from dodona.kernels.launch import interpreting
from dodona.kernels.settle import NAMES
from dodona.kernels.trigger import COLUMNS, SYMBOLS, code_of

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and not interpreting(), reason="needs a CUDA device or TRITON_INTERPRET=1"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TABLES = ("numbers", "ids", "base", "oracle", "pending", "pending_lse")
TRIGGERS = (
    "every(3)", "at(1, 4, 6)", "entropy > 1 and margin < 0.5", "random(p0=0.5, step_size=2)", "always", "never",
    "not (top_prob > 0.2) or since_consult >= 3",
    "position not in (0, 1, 2) and 0.5*entropy - margin/2 > 0.1 or max(u, 0.2) < 0.3", "uniform(L=9)",
    "min(varentropy, abs(margin - 1)) >= 0.4 and consults != 1 and base_run <= 4 and -entropy < c",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    shapes = {"base": "mha-untied", "oracle": "llama3-rope"}
    return tuple(save_tiny(folder / name, shape, seed=3, layers=1) for name, shape in shapes.items())


def fragile(folder: Path, copy: Path, first: int) -> Path:
    """The model with many end tokens, and some tokens after which every logit is NaN."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"eos_token_id": list(range(first, 317, 12))}))
    weights = load_file(copy / "model.safetensors")
    weights["model.embed_tokens.weight"][first + 1 :: 60] = torch.nan  # untied: it reaches no other token's logits
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_the_kernel_knows_the_seats_columns():
    """Catches a column that was added or moved on one side only."""
    assert tuple(NAMES) == tuple(column.name for column in Column)
    assert [int(column) for column in Column] == list(range(len(NAMES)))


def with_kernel_steps(folders, **options) -> Engine:
    """The models run on torch, so that the interpreter runs nothing but the kernels that are tested here."""
    sizes = {"page_size": 16, "max_length": 64, "loop": "device"} | options
    engine = Engine(folders[0], oracle=folders[1], device=DEVICE, dtype="float32", **sizes)
    for step in engine.loop._steps.values():
        step.__class__ = KernelStep
    return engine


def requests(seed: int) -> list[Request]:
    rng = random.Random(seed)
    return [
        Request(
            prompt=[1] + [rng.randrange(3, 317) for _ in range(rng.randint(1, 6))],
            c=rng.choice([0, 1, 3, float("inf")]),
            k=rng.choice([1, 2, 4, float("inf")]),
            trigger=trigger,
            when=rng.choice(["before", "after"]),
            max_new_tokens=rng.randint(3, 9),
            max_oracle_tokens=rng.choice([None, 3]),
            temperature=rng.choice([0.0, 0.9]),
            base_tail=rng.random() < 0.7,
            oracle_tail=rng.random() < 0.3,
            ignore_eos=rng.random() < 0.5,
            seed=seed,
        )
        for trigger in TRIGGERS
    ]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NaN rows are among them
@pytest.mark.parametrize("seed", [32, 87])  # where texts end in every way
def test_every_number_of_every_seat_is_that_of_the_plain_step(folders, seed, monkeypatch, tmp_path):
    """Each program runs twice from the same state, by torch and by the kernels. Catches a rule that only one has."""
    models = [fragile(folder, tmp_path / folder.name, 3 + place) for place, folder in enumerate(folders)]
    engine = with_kernel_steps(models, max_batch=5)
    run, compared = KernelStep.run, []

    def twice(self, shape, rows_M, watched):
        if shape.tokens > 1:
            return run(self, shape, rows_M, watched)
        tables = {name: getattr(self.seats, name) for name in TABLES}
        before = {name: table.clone() for name, table in tables.items()}
        plain_record = Step.run(self, shape, rows_M, watched)
        plain = {name: table.clone() for name, table in tables.items()}
        for name, table in tables.items():
            table.copy_(before[name])
        record = run(self, shape, rows_M, watched)
        seats = rows_M != self.seats.spare
        torch.testing.assert_close(record[seats], plain_record[seats], rtol=0, atol=0)
        for name, table in tables.items():
            mine, theirs = table[:-1], plain[name][:-1]
            if name in ("ids", "base", "oracle"):  # the last place is where what nobody wants is written
                mine, theirs = mine[:, :-1], theirs[:, :-1]
            exact = name in ("numbers", "ids")
            tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(mine, theirs, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}", **tolerance)
        compared.append((shape.model, bool(record[seats][:, -1].any())))
        return record

    monkeypatch.setattr(KernelStep, "run", twice)
    with uncaptured(engine):  # a graph cannot hold a comparison
        results = list(engine.generate(iter(requests(seed))))
    ends = {(result.error or result.finish_reason).split(" model at ")[0] for result in results}
    assert ends == {"eos", "length", "NaN logits from the base", "NaN logits from the oracle"}
    assert {model for model, _ in compared} == {"base", "oracle"}
    assert any(consulted for _, consulted in compared) and sum(result.consults for result in results) > 5


RESULTS = {
    "constant": lambda a, b, argument: argument, "move": lambda a, b, _: b, "+": lambda a, b, _: a + b,
    "-": lambda a, b, _: a - b, "*": lambda a, b, _: a * b, "/": lambda a, b, _: a / b, "negative": lambda a, b, _: -a,
    "abs": lambda a, b, _: abs(a), "<": lambda a, b, _: a < b, "<=": lambda a, b, _: a <= b, ">": lambda a, b, _: a > b,
    ">=": lambda a, b, _: a >= b, "==": lambda a, b, _: a == b, "!=": lambda a, b, _: a != b,
    "and": lambda a, b, _: a * b, "or": lambda a, b, _: max(a, b), "not": lambda a, b, _: 1 - a,
    "min": lambda a, b, _: min(a, b), "max": lambda a, b, _: max(a, b),
}  # fmt: skip


def evaluated(code, columns):
    """The code by its definition, one number at a time; the numbers of triggers that fire."""
    values, fired = [0.0] * 8, []
    for operation, place, argument in zip(code[::3], code[1::3], code[2::3], strict=True):
        name, (a, b) = SYMBOLS[operation], values[place : place + 2]
        if name == "fire":
            fired += [argument] if a > 0 else []
        elif name == "column":
            values[place] = columns[COLUMNS[argument]]
        elif name in ("is", "is not"):
            hit = a == argument
            values[place + 1] = max(b, hit) if name == "is" else min(b, not hit)
        else:
            values[place] = RESULTS[name](a, b, argument)
    return fired


@pytest.mark.parametrize("text", TRIGGERS)
def test_a_triggers_code_means_what_the_trigger_means(text):
    """Catches a wrong place on the stack, above all around lists."""
    trigger = parse_trigger(text)
    code = code_of([(7, trigger.program)])
    assert code is not None
    rng = random.Random(text)
    seen = set()
    for _ in range(200):
        columns = {name: round(rng.uniform(0.01, 3), 1) for name in COLUMNS}
        columns |= {name: float(rng.randint(0, 9)) for name in ("position", "consults", "c", "base_run")}
        columns |= {"boundary": float(rng.random() < 0.5), "max_new_tokens": 20.0, "u": rng.random()}
        tensors = {name: torch.tensor([value], dtype=torch.float32) for name, value in columns.items()}
        decided = bool(trigger.decide(tensors)[0])
        rounded = {name: tensor.item() for name, tensor in tensors.items()}
        assert (evaluated(code, rounded) == [7]) == decided
        seen.add(decided)
    assert seen == {True, False} or text in ("always", "never")


@pytest.mark.parametrize("text", ["ema(entropy, 0.5) > 1", "log(entropy) > 0"])
def test_what_the_kernel_cannot_do_is_left_to_torch(folders, text):
    """Catches a trigger that is silently ignored."""
    trigger = parse_trigger(text)
    engine = with_kernel_steps(folders)
    expected = Engine(folders[0], oracle=folders[1], device="cpu", page_size=16, max_length=64)
    options = dict(prompt=[1, 9, 30], c=2, k=2, trigger=trigger, max_new_tokens=6)
    assert engine.generate(Request(**options)).ids == expected.generate(Request(**options)).ids
