"""Programmatic dependent launch: what a kernel may touch before the one before it has ended."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Nobody writes these while kernels run. All else is another kernel's output, or memory that another kernel still reads.
WEIGHTS = {"weight_ptr", "weight"}
PREFETCHING = {"_linear_kernel", "_qkv_append_kernel", "_rms_norm_kernel", "_lm_head_kernel"}

PRINT_PTX = """
import json
from dodona.kernels import compile_report
seen = set()
for module in compile_report.MODULES:
    for case in compile_report.cases(module):
        kind = (module, case.fn.__name__, case.constexprs.get("ROWS"))
        if kind not in seen:
            seen.add(kind)
            fixed = {"USE_PDL", *case.constexprs}
            names = [n for n in case.fn.arg_names if n not in fixed and not case.signature[n].startswith("constexpr")]
            pointers = [n for n in names if case.signature[n].startswith("*")]
            ptx, _ = compile_report.compile_ptx(case, 90)
            found = {"kernel": case.fn.__name__, "case": case.name, "ptx": ptx}
            print(json.dumps(found | {"arguments": names, "pointers": pointers}))
"""


def early_accesses(ptx: str, arguments: list[str]) -> list[tuple[str, set[str]]]:
    """Global memory instructions before the wait, each with the arguments that its address is made from."""
    before = ptx[: ptx.index("griddepcontrol.wait")]
    made_from: dict[str, set[str]] = {}
    found = []
    for line in before.splitlines():
        code = line.split("//")[0]
        if parameter := re.search(r"ld\.param\S*\s+(%\w+), \[\w+_param_(\d+)\]", code):
            index = int(parameter[2])  # Triton's own two pointers come last
            made_from[parameter[1]] = {arguments[index]} if index < len(arguments) else set()
        elif access := re.search(r"((?:ld|st|red|atom|cp|prefetch)\S*\.global\S*).*\[\s*(%\w+)", code):
            found.append((access[1], made_from.get(access[2], set())))
        elif made := re.match(r"\s*(?:@!?%\w+\s+)?[\w.:]+\s+(%\w+), (.*);", code):
            sources = re.findall(r"%\w+", made[2])
            made_from[made[1]] = set().union(*(made_from.get(source, set()) for source in sources))
    return found


@pytest.fixture(scope="module")
def compiled(root: Path) -> list[dict[str, str]]:
    """PTX for compute capability 9.0 of every kernel at one shape, made where no interpreter is set."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PRINT_PTX]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_nothing_but_weights_is_touched_before_the_wait(compiled: list[dict]) -> None:
    """A consumer that reads its producer's output, or writes over what it still reads: other tokens at times."""
    assert len(compiled) >= 10
    for kernel in compiled:
        ptx, name = kernel["ptx"], kernel["case"]
        assert ptx.count("griddepcontrol.wait") == 1, name
        assert ptx.index("griddepcontrol.wait") < ptx.index("griddepcontrol.launch_dependents"), name
        accesses = early_accesses(ptx, kernel["arguments"])
        for instruction, arguments in accesses:
            pointers = arguments & set(kernel["pointers"])
            assert instruction.startswith(("ld.", "prefetch.")) and pointers and pointers <= WEIGHTS, (
                f"{name}: {instruction} {pointers}"
            )
        assert bool(accesses) == (kernel["kernel"] in PREFETCHING), f"{name}: {len(accesses)} early accesses"


def test_no_program_ends_or_branches_before_the_wait(compiled: list[dict]) -> None:
    """A kernel of which a program does not wait may end before its predecessor does, and then the wait of the next one
    says nothing about that predecessor: the chain from layer to layer is broken."""
    for kernel in compiled:
        before = kernel["ptx"][: kernel["ptx"].index("griddepcontrol.wait")]
        code = [line.split("//")[0] for line in before.splitlines()]
        assert not [line for line in code if re.search(r"\b(bra|ret|exit|brx)\b", line)], kernel["case"]


def test_a_seat_is_written_when_every_thread_has_read_it(compiled: list[dict]) -> None:
    """One thread of a program stores what all have loaded. Without a barrier a warp that is late loads the numbers of
    after the step, takes the other way where a consult begins, and its share of the base's logits is not kept."""
    kernels = [kernel for kernel in compiled if kernel["kernel"] == "_settle_kernel"]
    assert kernels
    for kernel in kernels:
        code = re.findall(r"^[^/]*?\b(ld\.global|st\.global|bar\.sync)", kernel["ptx"], re.MULTILINE)
        assert "bar.sync" in code, kernel["case"]
        last = code[len(code) - code[::-1].index("bar.sync") :]
        assert set(last) == {"st.global"} and len(last) == 11 + 9, kernel["case"]  # numbers and record


def test_the_rule_can_fail(compiled: list[dict]) -> None:
    """A parser that finds nothing would pass every kernel: with the wait at the end, it must find x and the output."""
    kernel = next(kernel for kernel in compiled if kernel["kernel"] == "_linear_kernel")
    moved = kernel["ptx"].replace("griddepcontrol.wait", "") + "griddepcontrol.wait"
    accesses = early_accesses(moved, kernel["arguments"])
    assert any("x_ptr" in arguments for _, arguments in accesses)
    assert any(instruction.startswith("st.") and "y_ptr" in arguments for instruction, arguments in accesses)
