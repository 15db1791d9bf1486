"""Compiles every kernel for GPUs that need not be there, and reports what each needs of one.

    python -m dodona.kernels.compile_report                         print the table
    python -m dodona.kernels.compile_report --write docs/kernels.md write it, with how it was made
    python -m dodona.kernels.compile_report --only sample --json    some of it, for a program

Triton compiles for a target without a device; registers, spills, stack and shared memory are what the ptxas of the
triton wheel says about the PTX. The exit status is 1 if a kernel spills registers.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from dodona.kernels.launch import CompileCase, interpreting

MODULES = (
    "uncertainty", "threshold", "sample", "lm_head", "pair",
    "attention", "attention_signals", "norm", "rope", "qkv", "mlp", "linear", "settle",
)  # fmt: skip
CAPABILITIES = (80, 90, 100)


class Usage(NamedTuple):
    """What one kernel needs, compiled for one compute capability."""

    kernel: str  # module and jit function
    case: str  # the shape
    capability: int  # 90 is 9.0
    num_warps: int
    num_stages: int
    registers: int  # a thread
    spills: int  # bytes of spill stores and loads a thread
    stack: int  # bytes a thread
    shared: int  # bytes a program

    @property
    def programs_per_sm(self) -> int:
        """Programs that fit on a multiprocessor by registers and shared memory, at most 32."""
        registers = -(-self.registers // 8) * 8 * 32 * self.num_warps
        shared_of_sm = {80: 164, 90: 228, 100: 228}[self.capability] * 1024
        warps_of_sm = 64
        return min(32, 65536 // registers, shared_of_sm // (self.shared + 1024), warps_of_sm // self.num_warps)


def cases(module: str) -> Iterator[CompileCase]:
    """The compile cases of a kernel module by file name."""
    yield from importlib.import_module(f"dodona.kernels.{module}").compile_cases()


def compile_ptx(case: CompileCase, capability: int) -> tuple[str, int]:
    """PTX of a case and its shared memory in bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = case.fn.arg_names
    constants: dict[str, Any] = dict(case.constexprs)
    if "USE_PDL" in names:
        constants["USE_PDL"] = capability >= 90
    types, attributes = {}, {}
    for name in names:
        if name in constants:
            types[name] = "constexpr"
            continue
        kind, _, hint = case.signature[name].partition(":")
        types[name] = kind
        if kind == "constexpr":
            constants[name] = None if hint == "None" else int(hint)
        elif hint:
            attributes[(names.index(name),)] = [["tt.divisibility", int(hint)]]
    if unknown := (case.signature.keys() | constants.keys()) - set(names):
        raise ValueError(f"{case.name}: {case.fn.__name__} has no {', '.join(sorted(unknown))}")
    source = ASTSource(case.fn, types, constants, attributes)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return compiled.asm["ptx"], compiled.metadata.shared


def assemble(ptx: str, capability: int) -> dict[str, int]:
    """Registers, spills and stack as ptxas reports them.

    Raises:
        RuntimeError: ptxas refuses the PTX, or its report has another form.
    """
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx, encoding="utf-8")
        architecture = f"--gpu-name={sm_arch_from_capability(capability)}"
        command = [get_ptxas(capability).path, "-v", architecture, str(file), "-o", str(file.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    patterns = {
        "registers": r"Used (\d+) registers",
        "stack": r"(\d+) bytes stack frame",
        "stores": r"(\d+) bytes spill stores",
        "loads": r"(\d+) bytes spill loads",
    }
    found = {name: re.search(pattern, done.stderr) for name, pattern in patterns.items()}
    if missing := [name for name, match in found.items() if match is None]:
        raise RuntimeError(f"ptxas -v says nothing of {', '.join(missing)}:\n{done.stderr}")
    return {name: int(match.group(1)) for name, match in found.items() if match}


def usage(module: str, index: int, capability: int) -> Usage:
    """Compile one case; by number, because jit functions do not travel between processes."""
    case = list(cases(module))[index]
    try:
        ptx, shared = compile_ptx(case, capability)
        counts = assemble(ptx, capability)
    except Exception as error:
        raise RuntimeError(f"{module}: {case.name} does not compile for {capability}") from error
    return Usage(
        f"{module}.{case.fn.__name__}", case.name, capability, case.num_warps, case.num_stages,
        counts["registers"], counts["stores"] + counts["loads"], counts["stack"], shared,
    )  # fmt: skip


def report(only: Sequence[str] = (), capabilities: Sequence[int] = CAPABILITIES, jobs: int = 1) -> list[Usage]:
    """Usage of every case whose module or name contains one of the texts in `only` (all of them if it is empty)."""
    work = [
        (module, index, capability)
        for module in MODULES
        for index, case in enumerate(cases(module))
        if not only or any(text in f"{module}: {case.name}" for text in only)
        for capability in capabilities
    ]
    if jobs == 1:
        return [usage(*item) for item in work]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(usage, *zip(*work, strict=True)))


def markdown(rows: Sequence[Usage]) -> str:
    """The page with the table."""
    import triton
    from triton.backends.nvidia.compiler import get_ptxas

    versions = ", ".join(
        f"{name} {get_ptxas(capability).version}" for name, capability in (("ptxas", 90), ("ptxas-blackwell", 100))
    )
    spilling = sum(row.spills > 0 for row in rows)
    lines = [
        "# What the kernels need of a GPU",
        "",
        "Written by `python -m dodona.kernels.compile_report --write docs/kernels.md`; do not edit.",
        "",
        f"Triton {triton.__version__} ({versions}), no device needed. {len(rows)} compilations, {spilling} of them",
        "with register spills. *Programs* is how many fit on a multiprocessor by registers and shared memory.",
        "",
        "| kernel | case | capability | warps | stages | registers | spills, B | stack, B | shared, B | programs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        capability = f"{row.capability // 10}.{row.capability % 10}"
        cells = (f"`{row.kernel}`", row.case, capability, *row[3:], row.programs_per_sm)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m dodona.kernels.compile_report", description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as a Markdown page")
    parser.add_argument("--only", nargs="+", default=(), metavar="TEXT", help="cases with this in 'module: name'")
    parser.add_argument(
        "--capability", nargs="+", type=int, default=CAPABILITIES, metavar="N", help="80, 90, 100 (all by default)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a processor core)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a compilation")
    options = parser.parse_args(arguments)
    if interpreting():
        parser.error("unset TRITON_INTERPRET: functions made for the interpreter cannot be compiled")
    rows = report(options.only, options.capability, options.jobs)
    if options.write:
        options.write.write_text(markdown(rows), encoding="utf-8")
    elif options.json:
        for row in rows:
            print(json.dumps(row._asdict()))
    else:
        print(markdown(rows))
    return int(any(row.spills for row in rows))


if __name__ == "__main__":
    sys.exit(main())
