"""Layers on several devices. Without several GPUs these are names of one memory, which shows every hop but its bus."""

from __future__ import annotations

import pytest
import torch
from tiny_models import save_tiny

from dodona.engine import llama, placement
from dodona.engine.config import LlamaConfig
from dodona.engine.engine import Engine
from dodona.engine.errors import OutOfMemoryError, RequestError

PROMPT = [1, *range(5, 24)]
OPTIONS = {"c": 3, "k": 4, "trigger": "every(4)", "max_new_tokens": 30}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return save_tiny(folder / "base", "gqa-tied", seed=3, layers=2), save_tiny(folder / "oracle", "mha-untied", seed=4)


def test_an_oracle_on_two_devices_writes_what_it_writes_on_one(folders, monkeypatch):
    """Catches a layer that attends with another device's cache, and hidden states that do not come back."""
    hops = []
    hop = llama.Llama._hop
    monkeypatch.setattr(llama.Llama, "_hop", lambda self, *args: (hops.append(self), hop(self, *args))[1])
    alone = Engine(folders[0], oracle=folders[1], device="cpu", page_size=8)
    spread = Engine(folders[0], oracle=folders[1], device="cpu", page_size=8, oracle_device_map="cpu,cpu:1")
    assert [str(device) for device in spread.oracle.model.placement.layers] == ["cpu", "cpu", "cpu:1"]
    assert [len(storage) for storage in spread.oracle.cache.storages] == [2, 1]
    prompts = [PROMPT, PROMPT[:6], PROMPT[:6], [1, 9]]
    found = list(spread.generate(prompts, attention_layer=-1, divergence=True, **OPTIONS))
    expected = list(alone.generate(prompts, attention_layer=-1, divergence=True, **OPTIONS))
    assert sorted(result.ids for result in found) == sorted(result.ids for result in expected)
    assert hops and set(hops) == {spread.oracle.model}
    assert spread.base.model.placement.spread is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"oracle_device_map": "auto"}, "'auto' needs CUDA devices"),
        ({"oracle_device_map": "cpu,gpu7"}, "names 'gpu7', which is no device"),
        ({"oracle_device_map": "cpu,meta"}, "which is not of the kind of cpu"),
        ({"oracle_device_map": "cpu,cpu:1", "oracle": None}, "needs an oracle"),
        ({"oracle_device_map": "cpu,cpu:1", "loop": "device"}, "belongs to the eager backend"),
    ],
)
def test_maps_that_cannot_be_are_refused_in_one_line(folders, options, message):
    """Catches a map that is silently dropped."""
    with pytest.raises(RequestError, match=message):
        Engine(folders[0], **{"oracle": folders[1], "device": "cpu"} | options)


def big() -> LlamaConfig:
    return LlamaConfig.from_hf(
        dict(
            architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=128, hidden_size=1024,
            intermediate_size=4096, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
        ),
        name="big",
    )  # fmt: skip


def test_accelerate_divides_layers_by_free_memory(monkeypatch):
    """Catches a device that is given more than its share, or layers out of order."""
    config = big()
    layer = (config.num_parameters - 2 * 128 * 1024 - 1024) // 8 * 2  # bytes in bfloat16
    free = {0: 6.5 * layer, 1: 20 * layer}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free[device.index]), 0))
    devices = [torch.device("cuda", index) for index in (0, 1)]
    found = placement.spread_layers(config, devices, devices[0], torch.bfloat16, reserved=0)
    indices = [device.index for device in found.layers]
    assert indices == sorted(indices) and 2 <= indices.count(0) <= 5 and found.first == devices[0]
    tight = placement.spread_layers(config, devices, devices[0], torch.bfloat16, reserved=int(4 * layer))
    assert [device.index for device in tight.layers].count(0) < indices.count(0)
    free[1] = 2 * layer
    with pytest.raises(OutOfMemoryError, match="name more of them"):
        placement.spread_layers(config, devices, devices[0], torch.bfloat16, reserved=0)
