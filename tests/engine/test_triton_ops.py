"""The engine on the Triton kernels (in the interpreter where there is no GPU) writes what it writes on torch."""

from __future__ import annotations

import pytest
import torch
from kernel_launches import use_large_blocks
from tiny_models import save_tiny

from dodona.engine.engine import Engine
from dodona.engine.errors import RequestError
from dodona.engine.request import Request
from dodona.kernels.launch import interpreting

needs_kernels = pytest.mark.skipif(
    not torch.cuda.is_available() and not interpreting(), reason="needs a CUDA device or TRITON_INTERPRET=1"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    base = save_tiny(folder / "base", "gqa-tied", seed=3, layers=1)
    return base, save_tiny(folder / "oracle", "biases", seed=4, layers=1)


@needs_kernels
def test_the_kernels_give_the_tokens_and_signals_of_torch(folders, monkeypatch):
    """Prefill, decode, sync, burst and catch-up, greedy and sampled, one at a time and together: the same tokens."""
    use_large_blocks(monkeypatch)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    engines = [
        Engine(folders[0], oracle=folders[1], device=device, dtype="float32", page_size=16, max_length=128, ops=ops)
        for ops in ("torch", "triton")
    ]
    requests = [
        Request(prompt=[1, *range(5, 25)], c=2, k=3, trigger="every(3)", max_new_tokens=9, id="greedy"),
        Request(prompt=[1, 7], c=1, k=2, trigger="entropy > 1", max_new_tokens=6, temperature=0.9, top_k=9, id="drawn"),
        Request(prompt=[1, 50], c=0, max_new_tokens=4, temperature=1.2, id="alone"),
    ]  # fmt: skip
    expected, found = ({result.request.id: result for result in engine.generate(requests)} for engine in engines)
    for name, result in found.items():
        assert result.error is None, result.error
        assert result.ids == expected[name].ids, name
        assert result.cheat_positions == expected[name].cheat_positions
        for signal in ("entropy", "varentropy", "margin", "logprob", "oracle_logprob"):
            assert result.signals[signal].tolist() == pytest.approx(
                expected[name].signals[signal].tolist(), rel=1e-3, abs=1e-4, nan_ok=True
            ), signal


def test_an_unknown_set_of_operations_is_refused(folders):
    """One line that names the two there are."""
    with pytest.raises(RequestError, match="'torch' or 'triton'"):
        Engine(folders[0], device="cpu", ops="cuda")
