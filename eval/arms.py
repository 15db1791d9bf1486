"""The cells of an experiment: which budget, burst length, trigger and seed each run has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dodona.engine.request import Request, When
from dodona.engine.result import json_number
from dodona.eval.compat.switches import NO_END, STRIP, in_order, variant_name, variants

_LONGEST_SLUG = 100  # characters; file systems take 255 bytes, the shard's number and the ending among them


@dataclass(frozen=True, slots=True)
class Arm:
    """One cell. Two arms that must give the same text have the same name."""

    c: float
    k: float
    trigger: str
    when: When
    seed: int
    compat: tuple[str, ...] = ()  # how its texts are written as the first experiments wrote them; see eval/compat

    @property
    def alone(self) -> bool:
        """Whether no consult can happen, so that k and the trigger make no difference."""
        return self.c == 0 or self.k == 0

    @property
    def name(self) -> str:
        """Short and stable: ``c=5 k=10 entropy>1.0 before seed=0``; a label goes first where it is no valid measure."""
        if self.alone:
            return variant_name(f"c=0 seed={self.seed}", self.compat)
        trigger = re.sub(r"\s*([<>=!+*/(),-]+)\s*", r"\1", " ".join(self.trigger.split()))
        name = f"c={json_number(self.c)} k={json_number(self.k)} {trigger} {self.when} seed={self.seed}"
        return variant_name(name, self.compat)

    @property
    def slug(self) -> str:
        """The name as part of a file's name: ``c=5_k=10_random_before_seed=0``; a hash tells apart what looks alike."""
        name = self.name
        plain = re.sub(r"[^A-Za-z0-9=.-]+", "_", name).lstrip("_")
        if plain.replace("_", " ") == name and len(plain) <= _LONGEST_SLUG:
            return plain
        return f"{plain[:_LONGEST_SLUG]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    @property
    def by_text(self) -> bool:
        """Whether the models hand on text, not token ids."""
        return STRIP in self.compat

    @property
    def endless(self) -> bool:
        """Whether no end token ends its texts."""
        return NO_END in self.compat

    def fields(self) -> dict[str, Any]:
        """The arm as fields of Request."""
        fields = asdict(self)
        del fields["compat"]
        return fields | {"ignore_eos": self.endless}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: its name and its fields, an infinite budget as the text ``inf``."""
        fields = {"arm": self.name} | asdict(self) | {"c": json_number(self.c), "k": json_number(self.k)}
        del fields["compat"]
        return fields | ({"compat": list(self.compat)} if self.compat else {})

    def variants(self, switches: Sequence[str]) -> list[Arm]:
        """The arms that must run beside this one, for its ladder over these switches."""
        return [replace(self, compat=compat) for compat in variants(switches, alone=self.alone)]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Arm:
        """The arm of which ``as_dict`` made this.

        Raises:
            KeyError, ValueError, TypeError: something else made it.
        """
        c, k = (float("inf") if fields[name] == "inf" else fields[name] for name in ("c", "k"))
        compat = in_order(fields.get("compat", ()))
        return cls(c, k, str(fields["trigger"]), fields["when"], int(fields["seed"]), compat)


def grid(
    cs: Sequence[float], ks: Sequence[float], triggers: Sequence[str], whens: Sequence[When], seeds: Sequence[int]
) -> list[Arm]:
    """Every combination once, in the order of a table: trigger, when, c, k, seed; what is the base alone comes first.

    Raises:
        DodonaError: a value out of range, or a trigger that cannot be used.
    """
    arms: dict[str, Arm] = {}
    for seed in seeds:
        for c in cs:
            for k in ks:
                arm = Arm(c, k, "never", "before", seed)
                Request(prompt="", **arm.fields())
                if arm.alone:
                    arms[arm.name] = Arm(0, 0, "never", "before", seed)
    for trigger in triggers:
        for when in whens:
            for c in cs:
                for k in ks:
                    for seed in seeds:
                        arm = Arm(c, k, trigger, when, seed)
                        Request(prompt="", **arm.fields())
                        if not arm.alone:
                            arms.setdefault(arm.name, arm)
    return list(arms.values())
