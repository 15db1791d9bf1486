"""What a diversity study is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from dodona.engine.errors import DodonaError
from dodona.eval.diversity.votes import TIES, Ties

STUDY: Final = "diversity"

SAMPLE: Final = "sample"
SCORE: Final = "score"
EMBED: Final = "embed"
REPORT: Final = "report"
STAGES: Final = (SAMPLE, SCORE, EMBED, REPORT)

EMBEDDINGS: Final = "embeddings"
BLEU: Final = "bleu"
PARTS: Final = (EMBEDDINGS, BLEU)  # that a report may be asked to do without


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How many samples at which temperatures.

    Args:
        samples: of each problem at each temperature.
        temperatures: above 0, or all samples of a problem are one.

    Raises:
        DodonaError: a number out of range.
    """

    samples: int = 32
    temperatures: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise DodonaError(f"--samples must be 1 or more, not {self.samples}")
        if not self.temperatures:
            raise DodonaError("--temperatures needs at least one, such as 0.7")
        for value in self.temperatures:
            if not 0 < value < math.inf:
                raise DodonaError(
                    f"--temperatures must be above 0, as in 0.3,0.7, not {value:g}: greedy samples are all the same"
                )
        # 0.7 and 0.70 are one temperature; in rising order whatever order they were given in.
        object.__setattr__(self, "temperatures", tuple(sorted({float(f"{t:g}") for t in self.temperatures})))

    def asked(self) -> dict[str, Any]:
        """What may be extended later, as the header of the samples' file has it: samples by temperature."""
        return {f"{value:g}": self.samples for value in self.temperatures}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a report looks at samples.

    Args:
        sizes: numbers of samples in the tables; empty: the powers of two up to all of them, and all of them.
        batch: samples of a batch in the bucket tables; None: half of all samples, 2 at least and 8 at most.
        batches: of each problem, temperature and size for which measures are computed.
        most: all subsets are used where there are at most so many.
        draws: subsets that the seed draws where there are more.
        ties: of a majority vote.
        buckets: of a measure's values.
        without: parts that are left out.
        resamples: of the bootstrap over problems.
        seed: of subsets and resamples.

    Raises:
        DodonaError: a value out of range.
    """

    sizes: tuple[int, ...] = ()
    batch: int | None = None
    batches: int = 8
    most: int = 2000
    draws: int = 500
    ties: Ties = "expectation"
    buckets: int = 5
    without: tuple[str, ...] = ()
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batches", "most", "draws", "buckets", "resamples"):
            if getattr(self, name) < 1:
                raise DodonaError(f"--{name} must be 1 or more, not {getattr(self, name)}")
        for size in self.sizes:
            if size < 1:
                raise DodonaError(f"--sizes must be 1 or more, not {size}")
        if self.batch is not None and self.batch < 2:
            raise DodonaError(f"--batch-size must be 2 or more, not {self.batch}: one text has no diversity")
        if self.ties not in TIES:
            raise DodonaError(f"--ties must be one of {', '.join(TIES)}, not {self.ties!r}")
        for part in self.without:
            if part not in PARTS:
                raise DodonaError(f"--without takes {' and '.join(PARTS)}, not {part!r}")

    def sizes_of(self, n: int) -> list[int]:
        """The sizes of a study with ``n`` samples.

        Raises:
            DodonaError: a size that needs more samples than there are.
        """
        if not self.sizes:
            return sorted({*(2**power for power in range(n.bit_length()) if 2**power <= n), n})
        if max(self.sizes) > n:
            raise DodonaError(f"--sizes asks for {max(self.sizes)} samples of a problem, and there are {n}")
        return sorted(set(self.sizes))

    def batch_of(self, n: int) -> int | None:
        """The size of a batch in the bucket tables; None where there are no two samples.

        Raises:
            DodonaError: it needs more samples than there are.
        """
        if self.batch is not None and self.batch > n:
            raise DodonaError(f"--batch-size asks for {self.batch} samples of a problem, and there are {n}")
        if n < 2:
            return None
        return self.batch if self.batch is not None else min(8, max(2, n // 2))
