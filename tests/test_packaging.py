"""The wheel and the sdist hold what a user needs, once, under `dodona`, and nothing at the top level beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

LAYERS = ("engine", "kernels", "bench", "eval")
BUILD_SDIST = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"


def run(command: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(source: Path, target: Path) -> Path:
    """Build in `source` itself, which is why it is a copy: setuptools leaves build/ and an egg-info there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    run([*pip, "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target), "."], source)
    (wheel,) = target.glob("dodona-*.whl")
    return wheel


@pytest.fixture(scope="module")
def copy(root: Path, project_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files as `git archive` gives them, links as links."""
    target = tmp_path_factory.mktemp("checkout")
    for name in project_files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_symlink():
            (target / name).symlink_to((root / name).readlink())
        elif (root / name).is_file():
            (target / name).write_bytes((root / name).read_bytes())
    return target


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(copy, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(copy: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "-c", BUILD_SDIST, str(target)], copy)
    (archive,) = target.glob("dodona-*.tar.gz")
    return archive


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def packaged_names(project_files: list[Path]) -> set[str]:
    """The facade's files and those of the four folders, code or data, under the names that they have in a wheel."""
    facade = {str(name) for name in project_files if name.parts[0] == "dodona" and name.suffix in {".py", ".typed"}}
    return facade | {f"dodona/{name}" for name in project_files if name.parts[0] in LAYERS}


def is_optional(name: str) -> bool:
    """Pages for readers of the repository, and dot files."""
    return name.endswith(".md") or Path(name).name.startswith(".")


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_four_folders_once(wheel: Path, project_files: list[Path]) -> None:
    """A sub-folder without __init__.py, or weights that no pattern names, go missing without a word."""
    names = names_in(wheel)
    assert [name for name, count in Counter(names).items() if count > 1] == []
    ours = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    expected = packaged_names(project_files)
    assert sorted(name for name in expected - ours if not is_optional(name)) == []
    assert sorted(ours - expected) == []
    for model in ("base", "oracle"):
        folder = f"dodona/engine/embedded/{model}/"
        files = {name.removeprefix(folder) for name in names if name.startswith(folder)}
        assert {"config.json", "tokenizer.json"} <= files
        assert any(name.endswith(".safetensors") for name in files), f"no weights of the embedded {model}"
    assert {"dodona/py.typed", "dodona/eval/arith/problems.py"} <= ours


@pytest.mark.slow
def test_the_wheel_puts_nothing_but_dodona_at_the_top_level(wheel: Path) -> None:
    """A `kernels` in site-packages breaks `from transformers import LlamaForCausalLM` for the whole environment."""
    tops = {name.split("/")[0] for name in names_in(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dodona"}


@pytest.mark.slow
def test_a_wheel_built_from_the_sdist_is_the_same(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """An sdist that keeps the links, or leaves out the weights, builds a wheel that imports nothing."""
    with tarfile.open(sdist) as archive:
        kinds = Counter("file" if member.isreg() else "folder" if member.isdir() else "link" for member in archive)
        # Our own archive, unpacked below tmp_path; the `filter` argument is missing in early releases of Python 3.10.
        archive.extractall(tmp_path)
    assert kinds["link"] == 0
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert not (source / "tests").exists()
    assert sorted(names_in(build_wheel(source, tmp_path / "out"))) == sorted(names_in(wheel))


@pytest.mark.slow
def test_the_wheel_imports_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """The modules come from the wheel and not from the checkout, and the bare names are nobody's."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import importlib.util as u, dodona.engine.errors as e, dodona.eval.arith.problems;"
        "from transformers import LlamaForCausalLM;"
        "found = [n for n in ('engine', 'kernels', 'bench', 'eval') if (s := u.find_spec(n)) and 'dodona' in str(s)];"
        "print(e.__file__, found)"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    printed = run([sys.executable, "-c", code], elsewhere, PYTHONPATH=str(site))
    assert printed.strip() == f"{site / 'dodona' / 'engine' / 'errors.py'} []"
