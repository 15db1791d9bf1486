"""The rules of the layout that no linter knows: where files lie, which way imports point, where the host may wait."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LAYERS = ("engine", "kernels", "bench", "eval")

# kernels <- engine <- {bench, eval} <- dodona/cli
MAY_IMPORT = {
    "kernels": {"kernels"},
    "engine": {"kernels", "engine"},
    "bench": {"kernels", "engine", "bench"},
    "eval": {"kernels", "engine", "eval"},
}
ALSO_ALLOWED = {("bench", "dodona.eval.arith")}  # bench measures on the embedded problems
FACADE_NAMES_FOR_ALL = {"__version__"}  # written into records

# Style rule 11: the device is waited for in one file. The others work on CPU tensors before any model runs.
HOST_TRANSFERS = {"engine/transfer.py"}
CPU_TENSORS_ONLY = {"engine/checkpoint.py", "engine/config.py"}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def sources(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Every Python file in these folders as (name relative to the root, syntax tree)."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), parse(path)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each imported name in full, with its line; a relative import keeps its dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def import_fault(layer: str, name: str) -> str | None:
    """What is wrong with importing `name` in a file of `layer`, or None."""
    parts = name.split(".")
    if parts[0] == "":
        return "relative"
    if parts[0] in LAYERS:
        return "bare: write dodona." + name
    if parts[0] != "dodona" or layer not in MAY_IMPORT:
        return None
    if len(parts) == 1:
        return "the facade"
    if parts[1] in FACADE_NAMES_FOR_ALL or parts[1] in MAY_IMPORT[layer]:
        return None
    if any(layer == who and f"{name}.".startswith(f"{what}.") for who, what in ALSO_ALLOWED):
        return None
    return "upwards or sideways"


def host_waits(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls that wait for the device: `.item()`, `.tolist()`, `.cpu()`, `.to("cpu")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            to_cpu = node.func.attr == "to" and any(isinstance(a, ast.Constant) and a.value == "cpu" for a in node.args)
            if node.func.attr in {"item", "tolist", "cpu"} or to_cpu:
                yield node.lineno, node.func.attr


def code_evaluations(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls of the builtins eval and exec."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
            yield node.lineno, node.func.id


def run_python(root: Path, code: str) -> str:
    """Run code in a new interpreter that starts in the root, and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_four_folders_have_no_init(root: Path) -> None:
    """An __init__.py there makes `import kernels` ours instead of Hugging Face's, and transformers fails to import."""
    found = [str(path.relative_to(root)) for layer in LAYERS for path in (root / layer).rglob("__init__.py")]
    assert found == []


def test_the_facade_links_to_the_four_folders(root: Path) -> None:
    """An absolute link works on one machine only; a link lost in a copy leaves dodona.engine empty."""
    for layer in LAYERS:
        link = root / "dodona" / layer
        assert link.is_symlink(), f"dodona/{layer} is not a link"
        assert link.readlink() == Path("..", layer)
        assert link.resolve(strict=True) == root / layer
    own_files = {path.name for path in (root / "dodona").iterdir() if not path.is_symlink()} - {"__pycache__"}
    assert own_files == {"__init__.py", "__main__.py", "cli.py", "py.typed"}


def test_imports_point_one_way(root: Path) -> None:
    """An engine that imports eval, or a bench that imports the command line, can no longer be used alone."""
    faults = [
        f"{name}:{line}: {module} ({fault})"
        for layer in LAYERS
        for name, tree in sources(root, layer)
        for line, module in imported(tree)
        if (fault := import_fault(layer, module))
    ]
    assert faults == []


def test_nobody_imports_the_folders_by_their_bare_names(root: Path) -> None:
    """`import engine` works from the root of a checkout and nowhere else."""
    files = [*sources(root, "tests", "tools"), ("setup.py", parse(root / "setup.py"))]
    files += [(f"dodona/{path.name}", parse(path)) for path in (root / "dodona").glob("*.py")]
    faults = [
        f"{name}:{line}: {module} ({fault})"
        for name, tree in files
        for line, module in imported(tree)
        if (fault := import_fault("outside", module))
    ]
    assert faults == []


def test_the_host_waits_for_the_device_in_one_file(root: Path) -> None:
    """One forgotten `.item()` in the loop halves the tokens per second on a GPU and no CPU test notices."""
    faults = [
        f"{name}:{line}: .{call}()"
        for name, tree in sources(root, "engine", "kernels")
        if name not in HOST_TRANSFERS | CPU_TENSORS_ONLY
        for line, call in host_waits(tree)
    ]
    assert faults == []


def test_no_text_is_ever_evaluated_as_code(root: Path) -> None:
    """A trigger is text from a user or a record; `eval` of it would run whatever it says."""
    files = [*sources(root, *LAYERS, "tools"), ("setup.py", parse(root / "setup.py"))]
    files += [(f"dodona/{path.name}", parse(path)) for path in (root / "dodona").glob("*.py")]
    assert [f"{name}:{line}: {call}()" for name, tree in files for line, call in code_evaluations(tree)] == []


def test_no_file_names_a_home_folder(root: Path, project_files: list[Path]) -> None:
    """A path of one person's machine in a script, a record or a page works for nobody else."""
    home = re.compile(rb"(?<![\w.~$}*-])/(?:home|Users|root)/\w|[A-Z]:\\Users\\")
    faults = []
    for name in project_files:
        path = root / name
        if path.is_symlink() or path.is_dir() or b"\0" in (content := path.read_bytes())[:4096]:
            continue
        faults += [f"{name}: {match.group().decode()}" for match in home.finditer(content)]
    assert faults == []


def test_importing_dodona_does_no_work(root: Path) -> None:
    """`dodona --help` in half a second: neither torch nor transformers is loaded before something asks for it."""
    code = "import sys, dodona; print(sorted({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules)))"
    assert run_python(root, code).strip() == "[]"


def test_transformers_imports_from_the_root(root: Path) -> None:
    """With our folder `kernels` in the working directory, transformers must still find Hugging Face's or none."""
    code = "from transformers import LlamaForCausalLM; import dodona.engine.errors; print(LlamaForCausalLM.__name__)"
    assert run_python(root, code).strip() == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("layer", "line", "wrong"),
    [
        ("kernels", "import dodona.kernels.softmax", False),
        ("kernels", "from dodona.engine import errors", True),
        ("engine", "from dodona import __version__", False),
        ("engine", "from dodona import Engine", True),
        ("engine", "from dodona import eval", True),
        ("engine", "import dodona.cli", True),
        ("engine", "from .errors import DodonaError", True),
        ("bench", "from dodona.eval.arith.problems import LEVELS", False),
        ("bench", "from dodona.eval import arith", False),
        ("bench", "from dodona.eval.arithmetics import x", True),
        ("eval", "from dodona.bench import latency", True),
        ("outside", "from kernels import get_kernel", True),
        ("outside", "import dodona.cli", False),
    ],
)
def test_the_import_rule_can_fail(layer: str, line: str, wrong: bool) -> None:
    """A rule that accepts everything would pass every test above."""
    assert any(import_fault(layer, name) for _, name in imported(ast.parse(line))) is wrong


@pytest.mark.parametrize(
    ("find", "bad", "good"),
    [
        (host_waits, ["x.item()", "x.tolist()", "x[0].cpu()", "x.to('cpu')"], ["d.items()", "x.to(device)", "x.item"]),
        (code_evaluations, ["eval('1')", "exec(text)"], ["model.eval()", "ast.literal_eval('1')"]),
    ],
)
def test_the_call_rules_can_fail(find: Callable[[ast.AST], Iterator[object]], bad: list[str], good: list[str]) -> None:
    """Likewise for calls."""
    assert all(list(find(ast.parse(code))) for code in bad)
    assert not any(list(find(ast.parse(code))) for code in good)
