"""Print versions and devices, and whether two models would fit: weights, KV caches and workspace against the memory.

The plan reads the models' configurations only, so it also answers for hardware that is not there (--gpu-memory 141GB).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
from importlib import import_module, metadata
from typing import Any

import torch

from dodona import __version__
from dodona.engine.checkpoint import HUB_ALIASES, open_checkpoint
from dodona.engine.config import LlamaConfig
from dodona.engine.errors import DodonaError
from dodona.engine.memory import MemoryPlan, device_memory, plan_memory
from dodona.eval.commands.options import positive

PACKAGES = ("transformers", "triton", "flash-attn", "accelerate", "numpy", "safetensors", "pyarrow")
DTYPES = {"float32": 4, "fp32": 4, "bfloat16": 2, "bf16": 2, "float16": 2, "fp16": 2}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


def memory_size(text: str) -> int:
    """Bytes from ``141GB`` (powers of 1000) or ``80GiB`` (powers of 1024)."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a size such as 141GB or 80GiB, not {text!r}")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--base-model", metavar="MODEL", help="as for generate (default: the embedded pair)")
    parser.add_argument("--oracle-model", metavar="MODEL", help="likewise")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="(default: bfloat16 on a GPU, float32 on the CPU)")
    parser.add_argument("--max-batch", metavar="N", type=positive, default=64, help="sequences at once (default: 64)")
    parser.add_argument("--max-length", metavar="N", type=positive, help="tokens of a sequence (default: the context)")
    parser.add_argument(
        "--gpu-memory", metavar="SIZE", type=memory_size, help="plan for a GPU with so much free memory, as in 141GB"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print what is here, then the plan."""
    here = {"versions": versions(), "host": host(), "devices": devices()}
    if args.json:
        plan = memory_plan(args)
        print(json.dumps({**here, "memory_plan": {**dataclasses.asdict(plan), "used": plan.used}}))
        return 0
    for title, rows in here.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:14}{value}")
    plan = memory_plan(args)
    print("memory plan, for " + ("a GPU that you describe" if args.gpu_memory else str(_device())))
    print("\n".join("  " + line for line in plan.lines()))
    return 0


def versions() -> dict[str, str]:
    """Version of each package that matters; of flash-attn, whether it can be imported as well."""
    found = {"dodona": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if found["flash-attn"] != "not installed":
        try:
            import_module("flash_attn")
        except Exception as error:  # a build for another torch fails with whatever its loader raises
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            found["flash-attn"] += f", which cannot be imported: {reason}"
    return found


def host() -> dict[str, Any]:
    """The machine: system, cores that this process may use, threads that torch uses, free memory in bytes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "torch threads": torch.get_num_threads(),
        "free memory": device_memory(torch.device("cpu"))[0],
    }


def devices() -> dict[str, str]:
    """CUDA devices by name, or none."""
    if not torch.cuda.is_available():
        return {"cuda": "no device"}
    found = {}
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = (
            f"{facts.name}, compute capability {facts.major}.{facts.minor}, {facts.total_memory / 2**30:.1f} GiB"
        )
    return found


def memory_plan(args: argparse.Namespace) -> MemoryPlan:
    """The plan of Engine for these models, on this device or on the GPU described.

    Raises:
        DodonaError: an unknown model, or models that do not fit (the message has the numbers).
    """
    if args.oracle_model is not None and args.base_model is None:
        raise DodonaError("--oracle-model needs a --base-model beside it; with neither, the embedded pair is used")
    names = [args.base_model or "arith-base", args.oracle_model or (None if args.base_model else "arith-oracle")]
    configs = [(name, _config(name)) for name in names if name is not None]
    gpu = args.gpu_memory is not None or _device().type == "cuda"
    itemsize = DTYPES[args.dtype or ("bfloat16" if gpu else "float32")]
    total, budget = (args.gpu_memory, None) if args.gpu_memory is not None else device_memory(_device())
    return plan_memory(
        [(name, config, itemsize) for name, config in configs],
        total=total,
        cache_budget=budget,
        max_batch=args.max_batch,
        max_length=args.max_length or min(config.max_position_embeddings for _, config in configs),
        kv_tokens=None,
    )


def _config(name: str) -> LlamaConfig:
    # For an alias the architecture is known here, and nothing has to be downloaded.
    return open_checkpoint(f"dummy:{name.upper()}" if name.upper() in HUB_ALIASES else name).config


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
