"""The demonstrations: guided decoding on arithmetic with the embedded pair, and on plain language with SmolLM2."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dodona.engine.engine import Engine
from dodona.engine.records import RecordFile
from dodona.engine.request import Request
from dodona.engine.result import Result
from dodona.engine.sequence import ORACLE
from dodona.eval.arms import Arm, grid
from dodona.eval.run import Experiment, Run, graded_record
from dodona.eval.show import Marks, marked
from dodona.eval.store import Place, Store
from dodona.eval.summary import ArmSummary, Rate, aligned, percent, summarise
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Problem, Selection, Task

ENTROPY_TRIGGER = "entropy > 0.5"
TRIGGERS = ("random", ENTROPY_TRIGGER)
CS = (1, 2, 5)
KS = (1, 5, 20)
GUIDED = Arm(5, 5, ENTROPY_TRIGGER, "before", 0)  # of the transcript
BASE_ALONE = Arm(0, 0, "never", "before", 0)
ORACLE_ALONE = Arm(math.inf, math.inf, "always", "before", 0)
CANDIDATES = 40  # hard problems among which the transcript's is looked for

TEXT_BASE, TEXT_ORACLE, TEXT_DTYPE = "smollm2@drop=24,26", "smollm2", "bfloat16"
TEXT_TRIGGER, TEXT_C, TEXT_K, TEXT_LENGTH = "entropy > 1.0", 8, 5, 60
TEXT_PROMPTS = ("What is gravity?", "Explain what a computer program is to a child.")

Bar = Callable[[int, str], AbstractContextManager[Any]]  # (total, label) -> something with update()


def where(path: Path) -> str:
    """What the user should know about the records."""
    return f"The records are in {path}, one JSON object a line; each demo writes a new file unless one is named."


def records_path(name: str) -> Path:
    """A new file for each run: ``runs/demo-20260131-235959.jsonl``."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"


def demo(engine: Engine, path: Path, count: int, marks: Marks, bar: Bar) -> None:
    """One transcript, then the c x k table of ``count`` problems."""
    task = task_named("arith")
    say("Guided decoding: a small base model writes; where a trigger fires, a larger oracle writes k tokens, at most c")
    say(f"times. Base: {_parameters(engine, 0)}; oracle: {_parameters(engine, 1)}; on {engine.device}.")

    heading("1. One problem")
    problem, alone, guided = telling_problem(engine, task)
    say(f"{problem.prompt}  (held-out problem {problem.problem_id}, level {problem.level}; the answer: {problem.gold})")
    say("\nThe base alone" + _verdict(task, problem, alone) + ":")
    say(_indented(marked(alone.segments, marks)))
    title = f"With at most {GUIDED.c} consults of {GUIDED.k} tokens, where {GUIDED.trigger}"
    say(f"\n{title}{_verdict(task, problem, guided)} ({marks.legend}):")
    say(_indented(marked(guided.segments, marks)))
    say("\n" + "\n".join(consult_lines(engine, guided)))

    heading(f"2. Accuracy on {count} held-out problems")
    problems = task.load(Selection(num_samples=count))
    arms = [*grid((0, *CS), KS, TRIGGERS, ("before",), (0,)), ORACLE_ALONE]
    experiment = Experiment(task, problems, arms)
    with Store(Place(path, folder=False), experiment.config(engine), arms, problems) as store:
        job = Run(experiment, store)
        started, tokens = time.perf_counter(), 0
        with bar(job.left, "problems x arms") as progress:
            for done in job.finish(engine):
                tokens += done.row.tokens
                progress.update()
    seconds = time.perf_counter() - started
    say("\n".join(grid_lines(summarise(arms, problems, job.rows.values()))))
    say(f"\n{tokens} tokens in {seconds:.0f} s: {tokens / seconds:.0f} tokens/s")
    say(where(path))

    heading("3. Go on")
    say(f"  dodona generate '{problem.prompt}' --c 2 --k 5 --trigger '{ENTROPY_TRIGGER}' --verbose")
    say(f"  dodona eval --dataset arith --c 0,2 --k 5 --trigger random --trigger '{ENTROPY_TRIGGER}' --num-samples 500")


def demo_text(engine: Engine, file: RecordFile, marks: Marks) -> None:
    """The same prompts by the damaged model alone, guided, and by the whole model alone."""
    say(f"The oracle is SmolLM2-135M-Instruct, the base ({TEXT_BASE}) the same model without two of its layers.")
    say(f"Greedy, at most {TEXT_LENGTH} tokens, {TEXT_DTYPE}, on {engine.device}.")
    arms = (
        ("The base alone", BASE_ALONE),
        (
            f"Guided: at most {TEXT_C} consults of {TEXT_K} tokens where {TEXT_TRIGGER} ({marks.legend})",
            Arm(TEXT_C, TEXT_K, TEXT_TRIGGER, "before", 0),
        ),
        ("The oracle alone", ORACLE_ALONE),
    )
    for prompt in TEXT_PROMPTS:
        heading(prompt)
        for title, arm in arms:
            started = time.perf_counter()
            result = engine.generate(Request(prompt=prompt, max_new_tokens=TEXT_LENGTH, **arm.fields()))
            seconds = time.perf_counter() - started
            file.append({**result.record(), "arm": arm.name})
            say(f"{title}; {len(result.ids) / seconds:.0f} tokens/s")
            say(_indented(marked(result.segments, marks)) + "\n")
            if 0 < arm.c < math.inf:
                say("\n".join(consult_lines(engine, result)) + "\n")
    say(where(file.path))


def telling_problem(engine: Engine, task: Task) -> tuple[Problem, Result, Result]:
    """The first hard problem that the base alone gets wrong and the guided run right, with both results.

    Where there is none among the first ``CANDIDATES`` it is the first of them.
    """
    problems = task.load(Selection(num_samples=CANDIDATES, levels=(4, 5)))
    experiment = Experiment(task, problems, [BASE_ALONE, GUIDED])
    requests = [experiment.request(arm, problem) for problem in problems for arm in experiment.arms]
    results = {result.request.id: result.raise_for_error() for result in engine.generate(iter(requests))}
    ids = [(p, experiment.request(BASE_ALONE, p).id, experiment.request(GUIDED, p).id) for p in problems]
    found = [(problem, results[alone_id], results[guided_id]) for problem, alone_id, guided_id in ids]
    for problem, alone, guided in found:
        if _correct(task, problem, guided) and not _correct(task, problem, alone):
            return problem, alone, guided
    return found[0]


def consult_lines(engine: Engine, result: Result) -> list[str]:
    """A table of the consults that happened: where, how uncertain the base was, and what each model had in mind."""
    rows = [["consult", "at token", "entropy", "the base's choice", "the oracle wrote"]]
    written = [segment for segment in result.segments if segment.source == ORACLE]
    for number, (position, segment) in enumerate(zip(result.cheat_positions, written, strict=True), 1):
        choice = engine.tokenizer.token_text(int(result.signals["base_top1"][position]))
        entropy = result.signals["entropy"][position]
        rows.append([str(number), str(position), f"{entropy:.2f}", _quoted(choice), _quoted(segment.text)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def grid_lines(summaries: Sequence[ArmSummary]) -> list[str]:
    """Accuracy over c and k, the triggers side by side, and below it what the oracle did in each cell."""
    by_arm = {(s.arm.trigger, s.arm.c, s.arm.k): s for s in summaries}
    lines = ["percent correct [95 % interval]"]
    lines += _block(by_arm, lambda s: _cell(s.rate))
    alone = (("base alone", BASE_ALONE), ("oracle alone", ORACLE_ALONE))
    named = [(label, by_arm[arm.trigger, arm.c, arm.k]) for label, arm in alone]
    lines += ["", *aligned([[label, percent(s.rate)] for label, s in named])]
    lines += ["", "consults that happened a problem, and the oracle's share of the tokens"]
    lines += _block(by_arm, lambda s: f"{s.consults:.2f} {100 * s.oracle_share:3.0f} %")
    wrong = sum(s.unparsed + s.truncated + s.failed for s in summaries)
    total = sum(s.rate.n for s in summaries)
    lines += ["", f"{wrong} of {total} runs gave no answer, were cut off or failed; they count as wrong"]
    return lines


def _block(by_arm: dict[tuple[str, float, float], ArmSummary], cell: Callable[[ArmSummary], str]) -> list[str]:
    """Rows c and columns k, once for each trigger, side by side."""
    blocks = []
    for trigger in TRIGGERS:
        body = [[f"c={c}", *(cell(by_arm[trigger, c, k]) for k in KS)] for c in CS]
        lines = aligned([["", *(f"k={k}" for k in KS)], *body])
        width = max(map(len, lines))
        blocks.append([f"{trigger:^{width}}", *(f"{line:<{width}}" for line in lines)])
    return ["   |   ".join(lines).rstrip() for lines in zip(*blocks, strict=True)]


def _cell(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.accuracy:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def heading(text: str) -> None:
    """A line that is easy to find when scrolling."""
    say(f"\n=== {text} ===\n")


def say(text: str) -> None:
    """Print now, also into a pipe."""
    print(text, flush=True)


def _correct(task: Task, problem: Problem, result: Result) -> bool:
    return bool(graded_record(task, BASE_ALONE, problem, result)["correct"])


def _verdict(task: Task, problem: Problem, result: Result) -> str:
    answer = task.judge(result.text, problem).extracted
    found = "no answer" if answer is None else answer
    return f": {found}, which is {'right' if _correct(task, problem, result) else 'wrong'}"


def _parameters(engine: Engine, index: int) -> str:
    model = (engine.base, engine.oracle)[index]
    assert model is not None
    name = (engine.base_model_id, engine.oracle_model_id)[index]
    return f"{name} ({model.config.num_parameters / 1e6:.1f} million parameters)"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=not _shows(text))


def _shows(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
