"""The per-consult statistics of the first experiments: what the base's signals were where the oracle took over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from dodona.engine.recording import Recording
from dodona.engine.records import read_records

# The names of the first experiments, and the trace's columns.
FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "entropy": "entropy",
        "varentropy": "varentropy",
        "top_prob": "top_prob",
        "prob_top2_diff": "margin",
        "attn_entropy": "attn_entropy",
        "attn_varentropy": "attn_varentropy",
        "agreement": "agreement",
        "interaction_strength": "interaction_strength",
    }
)


class ConsultAnalysis:
    """Adds ``analysis_result`` and ``acc`` to records whose traces are in a recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._places: dict[tuple[str | None, str | None, int, int], list[int]] = {}
        for place, run in enumerate(recording.runs):
            self._places.setdefault((run.arm, run.problem_id, run.sample, run.seed), []).append(place)

    def lines(self, paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
        """Every line of these files: headers as they are, records with the two fields.

        Raises:
            DodonaError: a file cannot be read.
        """
        for path in paths:
            for line in read_records(path):
                yield line if "header" in line else self.analysed(line)

    def analysed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record with its consults' signals, null where no trace has them, and whether its answer is right (1 or 0).

        ``acc`` is null in a record that was not graded.
        """
        place = self._place(record)
        positions = [int(position) for position in record.get("cheat_positions") or ()]
        correct = record.get("correct")
        return {
            **record,
            "analysis_result": [self._consult(place, position) for position in positions],
            "acc": None if correct is None else int(correct is True),
        }

    def has_trace(self, record: Mapping[str, Any]) -> bool:
        """Whether there is a trace of this record's run."""
        return self._place(record) is not None

    def _place(self, record: Mapping[str, Any]) -> int | None:
        """The sequence of the same run: the same names and the same tokens."""
        key = (
            record.get("arm"),
            record.get("problem_id"),
            int(record.get("sample") or 0),
            int(record.get("seed") or 0),
        )
        ids = [int(i) for piece in record.get("interleaved_outputs") or () for i in piece["token_ids"]]
        for place in self._places.get(key, ()):
            start, stop = self._recording.edges[place : place + 2]
            if [int(i) for i in self._recording.token_id[start:stop]] == ids:
                return place
        return None

    def _consult(self, place: int | None, position: int) -> dict[str, float | int | None]:
        values: dict[str, float | int | None] = {"position": position}
        for field, column in FIELDS.items():
            values[field] = None
            if place is not None and column in self._recording.columns:
                value = float(self._recording.columns[column][self._recording.edges[place] + position])
                values[field] = None if math.isnan(value) else value
        return values
