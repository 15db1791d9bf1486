"""What is known of every token of an arm's texts: from the traces beside the records, else from writing them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dodona.engine.recording import Recording, read_recording
from dodona.engine.replay import Budget, Replayer
from dodona.engine.trace_store import trace_paths
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.recorded import RecordedArm

Array = np.ndarray[Any, Any]


class TextSignals(NamedTuple):
    """One text's."""

    columns: Mapping[str, Array]  # [tokens] float32 by name, NaN where there is no value
    differs: Array  # [tokens] float32: 1 where the models' first choices differ, 0, or NaN where it is not known


@dataclass(frozen=True, slots=True)
class Recorded:
    """An arm's texts as its traces have them."""

    recording: Recording
    places: Mapping[str, int]  # by problem: the sequence of its text

    def signals(self, problem_id: str) -> TextSignals:
        """Of one text."""
        tokens = self._tokens(problem_id)
        columns = {name: values[tokens] for name, values in self.recording.columns.items()}
        agree = columns.get("agree", np.full(tokens.stop - tokens.start, np.nan, dtype=np.float32))
        return TextSignals(columns, np.where(np.isnan(agree), np.nan, agree == 0).astype(np.float32))

    def consults(self, trigger: str, k: float) -> dict[str, list[int]]:
        """Where a trigger consults on the recorded texts, by problem; bursts of k tokens, no limit on their number.

        As `dodona replay` has it: up to the first one that is what a run would do, and beyond it what the trigger says
        of the recorded text.

        Raises:
            DodonaError: the trigger cannot be read, or needs a column that was not recorded.
        """
        starts = Replayer(self.recording, Budget(np.inf, k, np.inf, "before")).consults(trigger).start
        found = {}
        for name in self.places:
            tokens = self._tokens(name)
            inside = starts[(starts >= tokens.start) & (starts < tokens.stop)]
            found[name] = [int(start) - tokens.start for start in inside]
        return found

    def _tokens(self, problem_id: str) -> slice:
        place = self.places[problem_id]
        return slice(int(self.recording.edges[place]), int(self.recording.edges[place + 1]))


def recorded(origin: Origin, arm: RecordedArm, texts: Mapping[str, Text]) -> Recorded | None:
    """The traces of these texts; None where there is none. A trace of other token ids than the record's is no trace.

    Raises:
        DodonaError: a trace cannot be read.
    """
    traces = [path for file in origin.files(arm) for path in trace_paths(file) if path.is_file()]
    if not traces:
        return None
    whole = read_recording(traces)
    chosen = np.zeros(len(whole.runs), dtype=bool)
    seen: set[str] = set()
    for place, run in enumerate(whole.runs):
        text = texts.get(run.problem_id or "") if run.arm == arm.name and run.sample == 0 else None
        if text is None or text.problem_id in seen:
            continue
        ids = whole.token_id[int(whole.edges[place]) : int(whole.edges[place + 1])]
        if tuple(map(int, ids)) == text.ids:
            chosen[place] = True
            seen.add(text.problem_id)
    if not chosen.any():
        return None
    part = whole.select(chosen)
    return Recorded(part, {str(run.problem_id): place for place, run in enumerate(part.runs)})
