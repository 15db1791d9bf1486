"""Writes records with their traces, and is killed with SIGKILL at random moments until all of them are there.

    python killed_traces.py KILLS SEED FOLDER

Texts are generated once. Then a fork of this process writes for each text that is not there yet, as `dodona eval` with
--trace does, its rows to the trace and then its record. It is killed somewhere on the way, also while it merges the
journal, and started again, KILLS times in all, in FOLDER/killed; in FOLDER/whole it is never killed. Prints one JSON
object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from dodona.engine.engine import Engine
from dodona.engine.records import RecordFile
from dodona.engine.request import Request
from dodona.engine.trace import read_traces
from dodona.engine.trace_store import TraceStore, recorded_runs

ARM = "c=2 k=3"


def main(kills: int, seed: int, root: Path) -> dict[str, object]:
    rng = random.Random(seed)
    engine = Engine(device="cpu")
    requests = [
        Request(prompt=f"Work out {number} + 5.", id=f"p{number}", c=2, k=3, trigger="every(9)", max_new_tokens=60)
        for number in range(40)
    ]
    results = sorted(engine.generate(requests), key=lambda result: int(result.request.id[1:]))

    def write(folder: Path, pause: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "a.jsonl"
        with RecordFile(path) as records:
            trace = TraceStore(path, {"config_hash": "0" * 16})
            done = {key.problem_id for key in recorded_runs(path)}
            for result in results:
                if result.request.id in done:
                    continue
                trace.append(result, arm=ARM, problem_id=result.request.id)
                time.sleep(pause)
                records.append(result.record() | {"arm": ARM})
                time.sleep(pause)
            trace.close()

    def readable(folder: Path) -> None:
        """Everything that has a record must be in the trace or in its journal, once."""
        from dodona.engine.recording import read_recording

        files = [file for file in (folder / "a.trace.parquet", folder / "a.trace.journal") if file.exists()]
        recorded = {key.problem_id for key in recorded_runs(folder / "a.jsonl")}
        runs = [run.problem_id for run in read_recording(files).runs] if files else []
        assert recorded <= set(runs), f"{recorded - set(runs)} have a record and no trace"
        assert len(runs) == len(set(runs)), "a run is there twice"
        assert len(set(runs) - recorded) <= 1, "more than the run that was being written has no record"

    write(root / "whole", 0)
    begun = time.monotonic()
    write(root / "timed", 0.001)
    length = time.monotonic() - begun
    killed, merging, folder, rounds = 0, 0, root / "killed", 0
    while killed < kills:
        child = os.fork()
        if not child:
            write(folder, 0.001)
            os._exit(0)
        time.sleep(rng.uniform(0, length / 6))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:  # it had ended by itself: begin anew
            rounds += 1
            compare(root / "whole", folder)
            shutil.rmtree(folder)
            continue
        killed += 1
        merging += bool(list(folder.glob("*.partial")))
        readable(folder)
    write(folder, 0)
    compare(root / "whole", folder)
    return {"kills": killed, "rounds": rounds, "merging": merging}


def compare(whole: Path, folder: Path) -> None:
    """The same runs with the same rows, but for their order."""
    contents = []
    for place in (whole, folder):
        assert sorted(file.name for file in place.iterdir()) == ["a.jsonl", "a.trace.parquet"]
        runs = {}
        for columns in read_traces(place / "a.trace.parquet"):
            assert columns["problem_id"][0] not in runs
            runs[columns["problem_id"][0]] = {
                name: [str(value) for value in values] for name, values in columns.items() if name != "sequence"
            }
        contents.append(runs)
    assert len(contents[0]) == 40
    assert contents[0] == contents[1]


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
