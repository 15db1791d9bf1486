"""Kernels compile for GPUs that are not there, without spilling registers; docs/kernels.md lists what each needs.

Compiling runs in a process of its own: in this one, Triton's functions may have been made for the interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dodona.kernels import compile_report
from dodona.kernels.launch import signature_of

REPRESENTATIVE = (
    "uncertainty [1, 128256] bfloat16",
    "draw filtered [1, 128256] bfloat16",
    "top-p level 1 [1, 128256] bfloat16",
    "lm_head 1B [16, 2048] bfloat16, with draw and logits",
    "pair 1B and 8B",
)


def usages(root: Path, *arguments: str) -> list[dict[str, Any]]:
    """What `python -m dodona.kernels.compile_report --json` prints."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "dodona.kernels.compile_report", "--json", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def printed_by(code: str, root: Path, folder: Path) -> str:
    """What a script of its own prints: jit functions are read from their file, and not made for the interpreter."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(root)
    done = subprocess.run([sys.executable, str(script)], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_no_spills(rows: list[dict[str, Any]]) -> None:
    """No register spills, and room for a program on a multiprocessor of the smallest of these GPUs."""
    assert [row for row in rows if row["spills"] or row["stack"]] == []
    assert [row for row in rows if row["shared"] > {80: 163, 90: 227, 100: 227}[row["capability"]] * 1024] == []


def test_the_heaviest_kernels_compile_without_spills(root: Path) -> None:
    """A kernel that spills, or that one architecture refuses, is found on a machine without any of them."""
    rows = usages(root, "--jobs", "1", "--only", *REPRESENTATIVE)
    assert_no_spills(rows)
    assert {row["capability"] for row in rows} == {80, 90, 100}
    assert len(rows) == 3 * len(REPRESENTATIVE)


@pytest.mark.exhaustive
def test_every_kernel_compiles_at_every_shape_without_spills(root: Path) -> None:
    """All models, dtypes and forms of each kernel."""
    assert_no_spills(usages(root))


def test_the_page_lists_every_kernel_and_no_spill(root: Path) -> None:
    """A page that was not written again after a kernel changed says what is no longer true."""
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (root / "docs" / "kernels.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    listed = {(row[0].strip("`"), row[1], row[2]) for row in cells}
    cases = {
        (f"{module}.{case.fn.__name__}", case.name, f"{capability // 10}.{capability % 10}")
        for module in compile_report.MODULES
        for case in compile_report.cases(module)
        for capability in compile_report.CAPABILITIES
    }
    assert listed == cases
    assert {row[6] for row in cells} == {"0"}


def test_every_kernel_module_is_in_the_report(root: Path) -> None:
    """A new file of kernels that nobody compiles breaks on the first GPU."""
    with_cases = {
        path.stem
        for path in (root / "kernels").glob("*.py")
        if "\ndef compile_cases(" in path.read_text(encoding="utf-8")
    }
    assert set(compile_report.MODULES) == with_cases


def test_arguments_are_specialised_as_at_a_launch() -> None:
    """A stride of 1 or a multiple of 16 compiles to other code; a report of that code's registers must use them."""
    import torch

    assert signature_of(x=torch.bfloat16, stride=4096, rows=1, ragged=4097, large=2**31, eps=1e-5, absent=None) == {
        "x": "*bf16:16",
        "stride": "i32:16",
        "rows": "constexpr:1",
        "ragged": "i32",
        "large": "i64:16",
        "eps": "fp32",
        "absent": "constexpr:None",
    }


def test_a_spill_is_seen(root: Path, tmp_path: Path) -> None:
    """The report must be able to say that registers are spilled: a row that one warp cannot hold."""
    code = """
import triton, triton.language as tl, torch
from dodona.kernels.compile_report import assemble, compile_ptx
from dodona.kernels.launch import CompileCase, signature_of

@triton.jit
def greedy_kernel(x, y, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    total = tl.sum(value, 0)
    value = tl.load(x + at + 1) * total + value
    tl.store(y + at, value / tl.max(value, 0))

case = CompileCase("", greedy_kernel, signature_of(x=torch.float32, y=torch.float32), {"N": 8192}, 1, 1)
ptx, _ = compile_ptx(case, 90)
print(assemble(ptx, 90)["stores"])
"""
    assert int(printed_by(code, root, tmp_path)) > 0


def test_a_product_in_float32_does_not_spill(root: Path, tmp_path: Path) -> None:
    """The blocks of bfloat16 are twice as large in float32: at some widths a thread then keeps 4 KB in memory."""
    code = """
import torch
from dodona.kernels.compile_report import assemble, compile_ptx
from dodona.kernels.launch import CompileCase, signature_of
from dodona.kernels.linear import _linear_kernel
from dodona.kernels.stream import default_config, shares

f32, width = torch.float32, 256
config = default_config(4, width, width, f32.itemsize)
signature = signature_of(
    x_ptr=f32, weight_ptr=f32, norm_ptr=None, bias_ptr=None, residual_ptr=f32, y_ptr=f32, part_ptr=None,
    square_ptr=None, M=4, stride_xm=width, stride_wn=width, stride_rm=width, eps=0.0,
)
sizes = {"N": width, "K": width, "SILU_MUL": False, "SPLITS": 1, "TILES": shares(width, config["BLOCK_K"], 1)[1]}
sizes |= {"ROWS": 16, "BLOCK_N": config["BLOCK_N"], "BLOCK_K": config["BLOCK_K"]}
case = CompileCase("", _linear_kernel, signature, sizes, config["num_warps"], config["num_stages"])
print(assemble(compile_ptx(case, 90)[0], 90)["stack"])
"""
    assert int(printed_by(code, root, tmp_path)) == 0
