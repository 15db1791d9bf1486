"""A recorded experiment that is gone on with: its models, problems and texts, as they were when it was run.

Nothing is asked of the user twice. The header says which models, options and problems there were, and the records hold
prompts, gold answers and every token id, so that a run can be continued from any of its tokens.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.arms import Arm
from dodona.eval.causal.texts import Text, read_texts
from dodona.eval.grading import Verdict, check_choice
from dodona.eval.header import differences
from dodona.eval.models import Models, Opened
from dodona.eval.placebo.arms import is_placebo
from dodona.eval.recipes.names import RECIPES
from dodona.eval.recipes.recipe import BARE, Kind
from dodona.eval.recorded import Experiment, RecordedArm, titles
from dodona.eval.regrade import Judge, judge_of, regraded
from dodona.eval.run import PER_RUN
from dodona.eval.runs import read_runs
from dodona.eval.store import Place
from dodona.eval.tasks.problem import Problem, Task


class Origin:
    """The one experiment in a file or folder of records.

    Args:
        path: as `dodona eval` wrote it.
        note: told what is passed over.

    Raises:
        DodonaError: no records there, or those of several experiments.
    """

    def __init__(self, path: str | Path, note: Callable[[str], None] | None = None) -> None:
        self.path = Path(path)
        found = read_runs([self.path], note=note)
        if len(found) > 1:
            listed = "; ".join(
                f"{title} ({', '.join(one.files[:2])})" for title, one in zip(titles(found), found, strict=True)
            )
            raise DodonaError(f"{path} holds {len(found)} experiments, and one is needed: name its files: {listed}")
        self.experiment: Experiment = found[0]
        self.config: Mapping[str, Any] = self.experiment.config
        self._texts: dict[str, dict[str, Text]] = {}
        self._files: dict[str, list[Path]] = {}  # by arm, of those whose texts were read

    # --- what it was run with ---

    @property
    def config_hash(self) -> str:
        """What stands for the configuration in every file that comes of it."""
        return self.experiment.config_hash

    @property
    def place(self) -> Place:
        """Where more records of it go."""
        return Place(self.path, folder=self.path.is_dir())

    def beside(self, ending: str) -> Path:
        """A path beside the records: ``runs/x-causal.jsonl`` of ``runs/x`` or ``runs/x.jsonl``."""
        path = self.path if self.path.name not in ("", "..") else self.path.resolve()
        return path.with_name(path.name.removesuffix(".jsonl") + ending)

    @cached_property
    def options(self) -> dict[str, Any]:
        """Fields of Request that all of its runs shared."""
        default = Request(prompt="")
        names = sorted({field.name for field in dataclasses.fields(Request)} - PER_RUN)
        found = {name: self.config.get(name, getattr(default, name)) for name in names}
        return {
            name: tuple(value) if isinstance(value, list) else math.inf if value == "inf" else value
            for name, value in found.items()
        }

    @property
    def greedy(self) -> bool:
        """Whether the base's tokens were its first choices."""
        return bool(self.options["temperature"] == 0)

    @property
    def oracle_greedy(self) -> bool:
        """Whether the oracle's were."""
        own = self.options["oracle_temperature"]
        return self.greedy if own is None else bool(own == 0)

    def models(self, options: Mapping[str, Any]) -> Models:
        """The models that it was run with, where and as it was run.

        Args:
            options: as a user gives them; ``base_model`` and ``oracle_model`` say where the models lie now, and device,
                dtype and the other options of Engine go before the recorded ones.
        """
        given = {name: value for name, value in options.items() if value is not None}
        base, oracle = (given.get(f"{n}_model") or self.config.get(f"{n}_model_id") for n in ("base", "oracle"))
        recorded = {name: self.config[name] for name in ("device", "dtype", "ops") if name in self.config}
        if "backend" in given:
            recorded.pop("ops", None)
        return Models.from_options({**recorded, **given}, base, oracle)

    def check(self, opened: Opened) -> None:
        """Refuse models that are not those of the records, by their weights, or that would run in another way.

        Raises:
            DodonaError: naming what is different.
        """
        here = {
            "weights": list(opened.identities),
            "dtype": str(opened.dtype).removeprefix("torch."),
            "device": opened.device.type,
            "ops": opened.ops,
        }
        there = {name: self.config[name] for name in here if name in self.config}
        if there != (asked := {name: here[name] for name in there}):
            raise DodonaError(
                f"{self.path} was written with other settings: {differences(there, asked)}; go on with its own"
            )

    # --- its arms ---

    def arm(self, name: str | None, option: str = "--arm", *, alone: bool = False) -> RecordedArm:
        """The arm of a name, however it is spaced; without a name the only one with records.

        Args:
            alone: of the base alone; else of those with consults, but for the oracle alone.

        Raises:
            DodonaError: no such arm, or several.
        """
        begun = [arm for arm in self.experiment.arms if self.experiment.rows.get(arm.name)]
        if name is not None:
            for arm in begun:
                if "".join(arm.name.split()) == "".join(name.split()):
                    return arm
            near = difflib.get_close_matches(name, [arm.name for arm in begun], n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}?" if near else f"there is {_listed(begun)}"
            raise DodonaError(f"{option}: {self.path} has no arm {name!r} with records: {hint}")
        fitting = [
            arm
            for arm in begun
            if arm.base_alone == alone and not self.experiment.is_oracle_alone(arm) and not is_placebo(arm.trigger)
        ]
        if len(fitting) == 1:
            return fitting[0]
        kind = "of the base alone" if alone else "with consults"
        if not fitting:
            way = "dodona eval with --c 0" if alone else "dodona eval with --c 1 or more"
            raise DodonaError(f"{self.path} has no arm {kind}: run {way} first")
        raise DodonaError(f"{self.path} has {len(fitting)} arms {kind}: name one with {option}: {_listed(fitting)}")

    @property
    def oracle_alone(self) -> RecordedArm | None:
        """The arm of the oracle alone, where it was run."""
        experiment = self.experiment
        return next((a for a in experiment.arms if experiment.is_oracle_alone(a) and experiment.rows.get(a.name)), None)

    # --- its texts ---

    def texts(self, arm: RecordedArm) -> Mapping[str, Text]:
        """What an arm wrote, by problem, in the order in which the problems were asked; failed runs are left out.

        Raises:
            DodonaError: records cannot be read, or name a problem whose prompt is no longer read as it was.
        """
        return {name: text for name, text in self._all(arm).items() if text.row.outcome != "failed"}

    def problems(self, arm: RecordedArm) -> list[Problem]:
        """The problems of an arm's records, those of failed runs included."""
        return [text.problem for text in self._all(arm).values()]

    def files(self, arm: RecordedArm) -> list[Path]:
        """The files that hold an arm's records."""
        self._all(arm)
        return self._files[arm.name]

    def whole(self, arm: RecordedArm, names: Sequence[str] | None = None) -> Mapping[str, Text]:
        """As ``texts``, of an arm that must have a record of every problem, or of those that are named.

        Raises:
            DodonaError: records are missing.
        """
        rows = self.experiment.rows[arm.name]
        wanted = [problem.problem_id for problem in self.experiment.problems] if names is None else names
        missing = sum(name not in rows for name in wanted)
        if missing:
            raise DodonaError(
                f"{missing} of {len(wanted)} runs of the arm {arm.name!r} have no record yet: let "
                "`dodona eval` do them first"
            )
        return self.texts(arm)

    def _all(self, arm: RecordedArm) -> dict[str, Text]:
        if arm.name not in self._texts:
            self._texts[arm.name], self._files[arm.name] = read_texts(self.experiment, arm)
        return self._texts[arm.name]

    # --- what continues them ---

    @cached_property
    def task(self) -> Task:
        """Its task: what judges a text. The problems are in the records.

        Raises:
            DodonaError: the records cannot be read.
        """
        judge: Judge = judge_of(Path(self.experiment.files[0]))

        def judged(completion: str, problem: Problem) -> Verdict:
            return regraded(judge, {"result": completion, "ground_truth": problem.gold, "also": problem.also})

        recipe = RECIPES.get(str(self.config.get("recipe")), BARE)
        kind: Kind = "choice" if judge is check_choice else "math"
        return Task(self.experiment.dataset, kind, recipe, lambda selection: (), judged)

    def prompt_ids(self, text: Text, tokenizer: Tokenizer) -> list[int]:
        """The ids of a run's prompt, as the engine makes them.

        Raises:
            DodonaError: they are not as many as they were.
        """
        ids = text.problem.encoded(tokenizer, raw=self.options["raw"])
        if len(ids) != text.prompt_tokens:
            raise DodonaError(
                f"{self.path}: the prompt of {text.problem_id} had {text.prompt_tokens} tokens and has {len(ids)} "
                "here: another tokenizer or chat template"
            )
        return ids

    def live(self, arm: RecordedArm) -> Arm:
        """The arm as one that can be run."""
        return Arm(arm.c, arm.k, arm.trigger, "after" if arm.when == "after" else "before", arm.seed)


def _listed(arms: Sequence[RecordedArm], most: int = 6) -> str:
    more = f" and {len(arms) - most} more" if len(arms) > most else ""
    return (", ".join(repr(arm.name) for arm in arms[:most]) or "none") + more
