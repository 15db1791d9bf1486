"""What a recovery study is asked to do, and which of it every record of a stage depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dodona.engine.errors import DodonaError

STRONG: Final = "strong"
WEAK: Final = "weak"
ROLES: Final = (STRONG, WEAK)

APPRAISE: Final = "appraise"
PREFIXES: Final = "prefixes"
COMPLETE: Final = "complete"
REPORT: Final = "report"
STAGES: Final = (APPRAISE, PREFIXES, COMPLETE, REPORT)

TEMPERATURE: Final = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How many samples, tries, prefixes and completions.

    Args:
        samples: straight shots of a problem by each model in the appraisal, and as many again among the controls.
        tries: solutions drawn of a problem by each model at most, in search of wrong ones.
        wrong_solutions: of a problem by each model that become prefixes, at most.
        fractions: where a solution is cut, as a share of its tokens.
        completions: of each prefix.
        edited: whether to change a number in right solutions of the strong model, too.
        exclude_answered: leave out prefixes that contain a boxed answer.

    Raises:
        DodonaError: a count or a share out of range.
    """

    samples: int = 5
    tries: int = 10
    wrong_solutions: int = 3
    fractions: tuple[float, ...] = (0.7,)
    completions: int = 2
    edited: bool = False
    exclude_answered: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "tries", "wrong_solutions", "completions"):
            if getattr(self, name) < 1:
                raise DodonaError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(self, name)}")
        if not self.fractions:
            raise DodonaError("--fraction needs at least one share of a solution, such as 0.7")
        for fraction in self.fractions:
            if not 0 < fraction < 1:
                raise DodonaError(f"--fraction must lie between 0 and 1, as in 0.1,0.5,0.9, not {fraction:g}")
        # 0.7 and 0.70 are one fraction; in rising order whatever order they were given in.
        object.__setattr__(self, "fractions", tuple(sorted({float(f"{f:g}") for f in self.fractions})))

    def config(self, stage: str) -> dict[str, Any]:
        """What all records of a stage depend on, beside models, task and sampling; by the options' names.

        Fractions, edits and the number of completions are not in it: more of them may be asked for later.
        """
        config: dict[str, Any] = {"samples": self.samples}
        if stage != APPRAISE:
            config |= {"tries": self.tries, "wrong_solutions": self.wrong_solutions}
        return config

    def asked(self, stage: str) -> dict[str, Any]:
        """What may be extended later, as the header of a stage's file has it."""
        if stage == PREFIXES:
            return {"fractions": list(self.fractions), "edited": self.edited}
        if stage == COMPLETE:
            return {"completions": self.completions, "answered": not self.exclude_answered}
        return {}
