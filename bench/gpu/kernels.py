"""Part (b): every kernel against its float64 reference, at the shapes of the two models, on the device."""

from __future__ import annotations

from dodona.bench.apart import Work
from dodona.bench.gpu.options import Options
from dodona.bench.gpu.piece import FAILED, PASSED, Outcome

LAST = ("pair", "pair_of_products", "attention_signals")  # kernels of optional columns


def pieces(options: Options) -> tuple[str, ...]:
    """The cases' names, those of a guided step's kernels first."""
    from dodona.bench.ops import Options as Cases

    specs = Cases(models=_models(options), peers=(), timed=False, quick=options.quick).specs()
    return tuple(spec.key for spec in sorted(specs, key=lambda spec: spec.op in LAST))


def worker(options: Options) -> Work:
    """Gives the check of a case by its name."""
    from dodona.bench import ops, ops_report

    work = ops.worker(ops.Options(models=_models(options), peers=(), timed=False, quick=options.quick))

    def check(name: str) -> Outcome:
        row = work(name)
        passed = row["check"]["status"] == ops.PASSED
        return {"status": PASSED if passed else FAILED, "problems": ops_report.problems(row), "figures": row["check"]}

    return check


def _models(options: Options) -> tuple[str, ...]:
    """The shapes that the models' names give; those of the targets where they give none."""
    from dodona.bench.ops import MODELS

    asked = {model.rpartition(":")[2] for model in (options.base, options.oracle)}
    named = tuple(name for name in MODELS if name in asked)
    return named or ("1B", "8B")
