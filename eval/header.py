"""The line that says what a file of records belongs to: configuration, versions, arms and problems.

A file's first line is a header. Later headers may follow anywhere, where more arms or problems were asked for: the
configuration stays the same, arms and problems add up.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from dodona import __version__
from dodona.engine.errors import DodonaError
from dodona.eval.arms import Arm
from dodona.eval.compat.switches import in_order
from dodona.eval.tasks.problem import Level, Problem

SCHEMA: Final = 2
PACKAGES: Final = (
    *("torch", "transformers", "tokenizers", "accelerate", "triton", "flash-attn", "numpy", "safetensors", "gguf"),
    *("datasets", "math-verify", "latex2sympy2_extended", "sympy", "mpmath"),
)
# What a user would have to give another time, where that is not the entry's own name as an option.
_OPTIONS: Final[Mapping[str, str]] = {
    "base_model_id": "--base-model",
    "oracle_model_id": "--oracle-model",
    "base_tail": "--no-base-tail",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a header says of one problem."""

    problem_id: str
    level: Level | None
    subject: str | None
    digest: str | None = None  # of prompt and gold answer (``Problem.digest``)

    @classmethod
    def of(cls, problem: Problem) -> Asked:
        """The problem's entry."""
        return cls(problem.problem_id, problem.level, problem.subject, problem.digest)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in ("problem_id", "level", "subject", "digest")}


@dataclass(frozen=True, slots=True)
class Header:
    """What runs have in common, and which runs were asked for: every one of the arms on every one of the problems."""

    config: Mapping[str, Any]
    arms: Mapping[str, Arm] = field(default_factory=dict)  # by name
    problems: Mapping[str, Asked] = field(default_factory=dict)  # by id
    dodona: str = __version__
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    compat: tuple[str, ...] = ()  # the switches of the first experiments over which a ladder was asked for

    @property
    def config_hash(self) -> str:
        """Sixteen hex digits that stand for the configuration."""
        return config_hash(self.config)

    def covers(self, arms: Iterable[Arm], problems: Iterable[Problem], compat: Iterable[str] = ()) -> bool:
        """Whether nothing of these would have to be added."""
        return (
            self.arms.keys() >= {arm.name for arm in arms}
            and self.problems.keys() >= {problem.problem_id for problem in problems}
            and set(self.compat).issuperset(compat)
        )

    def line(self) -> dict[str, Any]:
        """The header as a line of its file."""
        return {
            "header": {
                "schema": SCHEMA,
                "dodona": self.dodona,
                "config": dict(self.config),
                "config_hash": self.config_hash,
                "versions": dict(self.versions),
                "git_commit": self.git_commit,
                "arms": [arm.as_dict() for arm in self.arms.values()],
                "problems": [problem.as_dict() for problem in self.problems.values()],
                **({"compat": list(self.compat)} if self.compat else {}),
            }
        }


def new_header(config: Mapping[str, Any], arms: Iterable[Arm], problems: Iterable[Problem]) -> Header:
    """The header of runs that are written now, by this version of everything."""
    return Header(
        config=config,
        arms={arm.name: arm for arm in arms},
        problems={problem.problem_id: Asked.of(problem) for problem in problems},
        versions=versions(),
        git_commit=git_commit(),
    )


def read_header(record: Mapping[str, Any], path: Path, before: Header | None = None) -> Header:
    """The header that a line holds, with what earlier headers of the file asked for.

    Raises:
        DodonaError: another version of dodona wrote it, it is damaged, or its configuration is not that of the one
            before it.
    """
    content = record["header"]
    if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
        raise DodonaError(f"{path} was written by another version of dodona")
    try:
        arms = [Arm.from_dict(arm) for arm in content["arms"]]
        problems = [
            Asked(str(entry["problem_id"]), entry["level"], entry["subject"], entry.get("digest"))
            for entry in content["problems"]
        ]
        header = Header(
            config=dict(content["config"]),
            arms={**(before.arms if before else {}), **{arm.name: arm for arm in arms}},
            problems={**(before.problems if before else {}), **{entry.problem_id: entry for entry in problems}},
            dodona=str(content["dodona"]),
            versions=dict(content["versions"]),
            git_commit=content["git_commit"],
            compat=in_order({*(before.compat if before else ()), *content.get("compat", ())}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DodonaError(f"{path} has a header that cannot be read ({type(error).__name__}: {error})") from error
    if before is not None and header.config != before.config:
        raise DodonaError(f"{path} holds runs of two configurations: {differences(before.config, header.config)}")
    return header


def config_hash(config: Mapping[str, Any]) -> str:
    """Sixteen hex digits of the SHA-256 of the configuration as canonical JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What is different, each by the option with which a user sets it; empty where nothing is."""
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if any(name.endswith("_model_id") for name in names):  # other models have other weights, which says nothing more
        names = [name for name in names if name != "weights"]
    return "; ".join(f"{_option(name)} {_shown(name, there)} there and {_shown(name, here)} here" for name in names)


def _option(name: str) -> str:
    if name == "weights":
        return "the models' weights are"
    return f"{_OPTIONS.get(name, '--' + name.replace('_', '-'))} is"


def _shown(name: str, config: Mapping[str, Any]) -> str:
    if name not in config:
        return "not known"
    value = config[name]
    if name == "weights" and isinstance(value, list):
        return ", ".join(map(str, value))
    if name == "base_tail":  # the option says the opposite
        value = not value
    if value is None:
        return "not set"
    return ("on" if value else "off") if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def versions() -> dict[str, str]:
    """Python and the packages on which results depend, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the checkout that runs, with ``-dirty`` where tracked files were changed; None: not from git."""
    root = Path(__file__).resolve().parent.parent  # of a checkout; its folder dodona links here
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where there is no git, or it refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
