"""The birth certificate of a figure: machine, clocks, versions, commit, date and command."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("triton", "numpy", "transformers")
ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("bench", "engine", "kernels")

# As nvidia-smi names them; the clocks are those of the moment, so ask while the device works.
_CLOCKS = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "sm_max_mhz": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def birth_certificate(command: str, device: torch.device | None = None) -> dict[str, Any]:
    """What a figure needs to be believed. Packages are not imported for their versions.

    Args:
        command: what the user typed.
        device: where the figures come from; a CUDA device is described. The clocks are its own, else the CPU's.
    """
    certificate: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": command.strip(),
        "commit": commit(),
        "sources": source_digest(),
        "cpu": _cpuinfo("model name")[0],
        "cores": os.cpu_count(),
        "load": _load(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,  # with the version of CUDA, which its metadata does not name
        **{name: found for name in PACKAGES if (found := _version(name))},
    }
    if device is not None and device.type == "cuda":
        certificate["device"] = device_facts(device)
        certificate["clocks"] = clocks()
    else:
        certificate["clocks"] = cpu_clocks()
    return certificate


def commit() -> str:
    """The checkout's commit, with ``+changes`` where files differ from it; ``unknown`` outside a git checkout."""
    head = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+changes" if _output("git", "-C", str(ROOT), "status", "--porcelain") else "")


def source_digest() -> str:
    """Names the code that ran where git cannot: the start of a hash over our Python files and the tuning table."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix == ".py" or path.name == "tuning.json":
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def device_facts(device: torch.device) -> dict[str, Any]:
    """Name, compute capability, multiprocessors, memory and L2 cache of a CUDA device."""
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "capability": f"{facts.major}.{facts.minor}",
        "multiprocessors": facts.multi_processor_count,
        "memory_bytes": facts.total_memory,
        "l2_bytes": facts.L2_cache_size,
        "cuda": torch.version.cuda,
    }


def clocks() -> dict[str, str]:
    """Clocks, power and temperature of the first device as nvidia-smi gives them; empty where there is none."""
    answer = _output("nvidia-smi", f"--query-gpu={','.join(_CLOCKS.values())}", "--format=csv,noheader,nounits", "-i0")
    values = [value.strip() for value in answer.splitlines()[0].split(",")] if answer else []
    return dict(zip(_CLOCKS, values, strict=True)) if len(values) == len(_CLOCKS) else {}


def cpu_clocks() -> dict[str, str]:
    """The slowest and the fastest core's clock of this moment, where the system tells."""
    speeds = sorted(float(speed) for speed in _cpuinfo("cpu MHz") if speed.replace(".", "", 1).isdigit())
    return {"slowest_core_mhz": f"{speeds[0]:.0f}", "fastest_core_mhz": f"{speeds[-1]:.0f}"} if speeds else {}


def described(certificate: dict[str, Any]) -> list[str]:
    """The certificate in lines for people."""
    device = certificate.get("device")
    cores = f" ({certificate['cores']} cores, load {certificate['load']:.1f})" if certificate.get("load") else ""
    machine = f"{device['name']}, CUDA {device['cuda']}" if device else certificate["cpu"] + cores
    versions = ", ".join(
        f"{name} {certificate[name]}" for name in ("python", "torch", *PACKAGES) if name in certificate
    )
    lines = [
        f"{machine}; {versions}",
        f"commit {certificate['commit']}, sources {certificate['sources']}, {certificate['date']}",
        certificate["command"],
    ]
    if certificate.get("clocks"):
        lines.insert(1, ", ".join(f"{name} {value}" for name, value in certificate["clocks"].items()))
    return lines


def typed_command(name: str, arguments: Sequence[str]) -> str:
    """A command line as text."""
    return " ".join((name, *arguments))


def _cpuinfo(field: str) -> list[str]:
    """A field of every core in /proc/cpuinfo; the processor's name, or nothing, where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = [value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == field]
    return found or ([platform.processor()] if field == "model name" else [])


def _load() -> float | None:
    """Processes that wanted to run in the last minute, on average."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """Standard output of a program, empty where it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
