"""Which device each of a model's layers lives on. One device for all is the rule; a large oracle may be spread.

Embedding, final norm and output matrix stay on the first device, where the base is: hidden states hop from layer to
layer and come back to it. accelerate decides how many layers a device takes, by its free memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from dodona.engine.config import LlamaConfig
from dodona.engine.errors import OutOfMemoryError, RequestError

_SHARE = 0.8  # of a device's free memory that layers may take; the rest is for their KV cache and activations


class Placement(NamedTuple):
    """Where a model is."""

    first: torch.device  # embedding, final norm, output matrix, and all that is not a layer
    layers: tuple[torch.device, ...]

    @property
    def spread(self) -> bool:
        """Whether more than one device is used."""
        return any(device != self.first for device in self.layers)


def on_one(config: LlamaConfig, device: torch.device) -> Placement:
    """Everything on one device."""
    return Placement(device, (device,) * config.num_layers)


def parse_device_map(text: str | Iterable[str], first: torch.device) -> tuple[torch.device, ...]:
    """The devices that an option names: ``auto`` (all CUDA devices), or a list as in ``cuda:0,cuda:1``.

    Raises:
        RequestError: a device that is not here, or none.
    """
    if text == "auto":
        if first.type != "cuda":
            raise RequestError("oracle_device_map='auto' needs CUDA devices; name devices as in 'cuda:0,cuda:1'")
        return tuple(torch.device("cuda", index) for index in range(torch.cuda.device_count()))
    names = text.split(",") if isinstance(text, str) else list(text)
    found = []
    for name in names:
        try:
            device = torch.device(name.strip())
        except RuntimeError:
            raise RequestError(f"oracle_device_map names {name.strip()!r}, which is no device") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise RequestError(f"oracle_device_map names {device}, and there are {count} CUDA devices")
        if device.type not in ("cuda", "cpu") or device.type != first.type:
            raise RequestError(f"oracle_device_map names {device}, which is not of the kind of {first}, the base's")
        found.append(torch.device("cuda", device.index or 0) if device.type == "cuda" else device)
    return tuple(found)


def spread_layers(
    config: LlamaConfig, devices: Sequence[torch.device], first: torch.device, dtype: torch.dtype, reserved: int
) -> Placement:
    """Divide a model's layers among devices in their order.

    Args:
        reserved: bytes of the first device that are spoken for (the base and its cache).

    Raises:
        OutOfMemoryError: the layers do not fit on these devices.
    """
    from accelerate import infer_auto_device_map, init_empty_weights

    from dodona.engine.llama import Llama

    if devices[0].type != "cuda":  # their memory is one: equal shares
        count = config.num_layers
        return Placement(first, tuple(devices[index * len(devices) // count] for index in range(count)))
    with init_empty_weights():
        model = Llama(config)
    free = {device: torch.cuda.mem_get_info(device)[0] for device in devices}
    if first in free:
        free[first] = max(0, free[first] - reserved)
    room = {index: int(_SHARE * free[device]) for index, device in enumerate(devices)}
    found = infer_auto_device_map(model, max_memory=room, no_split_module_classes=["Layer"], dtype=dtype)
    # Modules that are all in one place are listed once, by the name of what holds them; the model's own is empty.
    places = [
        next(found[name] for name in (f"layers.{index}", "layers", "") if name in found)
        for index in range(config.num_layers)
    ]
    if any(not isinstance(place, int) for place in places):
        listed = ", ".join(f"{device} {free[device] / 2**30:.1f} GiB" for device in devices)
        raise OutOfMemoryError(f"the oracle's layers do not fit on these devices ({listed} free): name more of them")
    return Placement(first, tuple(devices[int(place)] for place in places))
