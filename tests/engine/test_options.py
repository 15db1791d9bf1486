"""What the options of Engine come to, and that a device which is not here is one line before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from dodona.engine.errors import RequestError
from dodona.engine.options import current, device_of, dtype_of


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_devices_that_are_here_are_taken(two_devices):
    assert device_of(None) == torch.device("cuda")
    assert device_of("cuda:1") == torch.device("cuda", 1)
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:2", "there is no device cuda:2: this machine has 2"),
        ("tpu", "unknown device 'tpu'"),
        ("meta", "cpu or cuda"),
    ],
)
def test_devices_that_are_not_here_are_refused(two_devices, name, message):
    with pytest.raises(RequestError, match=message):
        device_of(name)


def test_without_cuda_the_cpu_is_taken_and_cuda_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(None) == torch.device("cpu")
    with pytest.raises(RequestError, match="no CUDA device was found"):
        device_of("cuda")


def test_the_engines_device_is_the_current_one_in_a_step(monkeypatch):
    """Triton launches on the current device: on another it would read addresses of memory that is not there."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: chosen.append(device) or current(torch.device("cpu")))
    with current(torch.device("cpu")):
        assert not chosen
    with current(torch.device("cuda", 1)):
        assert chosen == [torch.device("cuda", 1)]


def test_dtypes_follow_the_device():
    assert dtype_of(None, torch.device("cpu")) == torch.float32
    assert dtype_of(None, torch.device("cuda")) == torch.bfloat16
    assert dtype_of("bf16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(RequestError, match="dtype 'int8' is not one of"):
        dtype_of("int8", torch.device("cpu"))
