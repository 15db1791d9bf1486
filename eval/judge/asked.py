"""What the options of `dodona judge` ask for: the pairs, the models that answer, and the judges; nothing is loaded."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final, NamedTuple

from dodona.engine.errors import CheckpointError, DodonaError
from dodona.engine.options import backend_of
from dodona.eval.judge.answering import TEMPLATE, Question, Side, questions_of
from dodona.eval.judge.judges import EXACT, SCRIPTS, Judge, ScriptedJudge, exact_judge
from dodona.eval.judge.local import LocalJudge
from dodona.eval.judge.pair import Pair
from dodona.eval.judge.prompt import JudgePrompt, load_answer_prompt, load_prompt
from dodona.eval.judge.reading import Columns, Input, read_pairs
from dodona.eval.judge.remote import RemoteJudge, endpoint, is_url, key_from
from dodona.eval.models import Models, Opened
from dodona.eval.tasks.options import load_task
from dodona.eval.tasks.problem import Problem, Task

_TOGETHER: Final = 16  # prompts that a local judge reads at once, unless --max-batch says


class Sides(NamedTuple):
    """What both sides are called, and the models of those that answer now with what they are asked."""

    names: tuple[str, str]
    models: Sequence[tuple[Side, Sequence[Question]]]


def inputs(args: argparse.Namespace, options: Mapping[str, Any]) -> tuple[Input, Sides]:
    """The pairs, and who answers.

    Args:
        options: fields of Request that the user gave.

    Raises:
        DodonaError: options that do not go together, or an input or a model that cannot be used.
    """
    if (args.file is None) == (args.dataset is None):
        raise DodonaError("give a file of pairs, or --dataset with --model-a and --model-b")
    names = (args.model_a, args.model_b)
    if args.dataset is not None:
        return _task_inputs(args, options)
    for option in ("recipe", "level"):
        if getattr(args, option) is not None:
            raise DodonaError(f"--{option} belongs to --dataset")
    for letter, name in zip("ab", names, strict=True):
        if name is not None and getattr(args, f"answer_{letter}_column") is not None:
            raise DodonaError(
                f"--model-{letter} answers now and --answer-{letter}-column has answers: give one of them"
            )
    unused = sorted(set(options) - {"seed"})  # a judge that draws has a seed, too
    if args.answer_prompt_file is not None:
        unused.append("answer_prompt_file")
    if names == (None, None) and unused:
        raise DodonaError(
            f"--{unused[0].replace('_', '-')} is for models that answer now: name them with --model-a, --model-b"
        )
    columns = Columns(**{name: getattr(args, f"{name}_column") for name in Columns.__dataclass_fields__})
    source = read_pairs(
        Path(args.file),
        columns,
        sides=(names[0] is None, names[1] is None),
        start=args.start_index,
        count=_count(args.num_samples),
    )
    options, raw = _without_raw(options)
    template = TEMPLATE if args.answer_prompt_file is None else load_answer_prompt(args.answer_prompt_file)
    questions = questions_of(source.pairs, template, raw=raw)
    opened = _opened(args)
    models = [(_side(args, letter, own, options), questions) for letter, own in opened.items()]
    return source, Sides(_names(args, opened, source.names), models)


def _task_inputs(args: argparse.Namespace, options: Mapping[str, Any]) -> tuple[Input, Sides]:
    if args.model_a is None or args.model_b is None:
        raise DodonaError("--dataset has problems and no answers: --model-a and --model-b name who answers them")
    named = [name for name in Columns.__dataclass_fields__ if getattr(args, f"{name}_column") is not None]
    if named:
        raise DodonaError(f"--{named[0].replace('_', '-')}-column belongs to a file of pairs, and --dataset is a task")
    if args.answer_prompt_file is not None:
        raise DodonaError("--answer-prompt-file belongs to a file of pairs: --dataset has recipes (--recipe)")
    spec = {name: getattr(args, name) for name in ("dataset", "recipe", "num_samples")}
    spec |= {"start_index": args.start_index, "level": args.level}
    task, problems = load_task(spec)
    options, raw = _without_raw(task.recipe.options() | dict(options))
    pairs = [
        Pair(problem.problem_id, _question(problem) or None, None, None, reference=problem.gold) for problem in problems
    ]
    opened = _opened(args)
    models = [
        (_side(args, letter, own, options), _task_questions(task, problems, own, raw=raw))
        for letter, own in opened.items()
    ]
    source = Input(task.source or task.name, task.name, pairs, choices=task.kind == "choice")
    return source, Sides(_names(args, opened, ("a", "b")), models)


def _question(problem: Problem) -> str:
    """What a judge is shown of a problem: its question with its choices, or the prompt where it has no more."""
    question = problem.question or (problem.prompt if isinstance(problem.prompt, str) else "")
    choices = [f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, problem.choices, strict=False)]
    return "\n\n".join([question, "\n".join(choices)]) if choices else question


def _without_raw(options: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The options of all requests, and whether prompts are taken as they are, which is each question's own."""
    others = {name: value for name, value in options.items() if name != "raw"}
    return others, bool(options.get("raw", False))


def _task_questions(task: Task, problems: Sequence[Problem], opened: Opened, *, raw: bool) -> list[Question]:
    asked = list(problems) if raw else task.for_model(problems, opened.tokenizer)
    return [Question(problem.problem_id, problem.prompt, raw or problem.raw) for problem in asked]


def _models(args: argparse.Namespace, name: str) -> Models:
    """One model alone, where the options want it."""
    if hasattr(args, "oracle_device_map"):
        raise DodonaError("--oracle-device-map is for an oracle beside a base: here one model is loaded at a time")
    return Models.from_options(vars(args), name)


def _opened(args: argparse.Namespace) -> dict[str, Opened]:
    """The models that answer, without their weights, by side."""
    names = {letter: getattr(args, f"model_{letter}") for letter in ("a", "b")}
    return {letter: _models(args, name).open() for letter, name in names.items() if name is not None}


def _side(args: argparse.Namespace, letter: str, opened: Opened, options: Mapping[str, Any]) -> Side:
    side = Side(letter, _models(args, getattr(args, f"model_{letter}")), opened, dict(options))
    _ = side.config  # checks the options
    return side


def _names(args: argparse.Namespace, opened: Mapping[str, Opened], columns: tuple[str, str]) -> tuple[str, str]:
    a, b = (
        getattr(args, f"name_{letter}") or (opened[letter].base_model_id if letter in opened else column)
        for letter, column in zip("ab", columns, strict=True)
    )
    return a, b


def _count(text: str | None) -> int | None:
    if text is None or text.strip().lower() == "all":
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise DodonaError(f"--num-samples must be a whole number of 1 or more, or all, not {text!r}")
    return int(text)


def judges_of(args: argparse.Namespace, source: Input) -> list[Judge]:
    """The judges; models are opened and not loaded.

    Raises:
        DodonaError: none where one is needed, one that there is not, or options that it has no use for.
    """
    names = args.judge or []
    if not names and args.preference_column is None:
        raise DodonaError(
            f"--judge says who judges: a model, an address, {EXACT}, {', '.join(SCRIPTS)}; or --preference-column "
            "names verdicts that are there"
        )
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DodonaError(f"--judge names {twice[0]} twice")
    reads = [name for name in names if name not in SCRIPTS and name != EXACT]
    # Also where only the scripted judge needs true answers, there must be some.
    prompt = load_prompt(args.prompt, args.prompt_file, reference=source.has_references) if reads else None
    judges = [_judge(args, name, source, prompt) for name in names]
    labels = [judge.name for judge in judges]
    if doubled := [label for label in labels if labels.count(label) > 1]:
        raise DodonaError(f"--judge names {doubled[0]} twice")
    return judges


def _judge(args: argparse.Namespace, name: str, source: Input, prompt: JudgePrompt | None) -> Judge:
    if name in SCRIPTS:
        return ScriptedJudge(name, SCRIPTS[name], getattr(args, "seed", 0))
    if name == EXACT:
        if not source.has_references:
            raise DodonaError("--judge exact compares with the true answer, and there is none: name --reference-column")
        return exact_judge(_grader(choices=source.choices))
    assert prompt is not None
    if is_url(name):
        if args.judge_model is None:
            raise DodonaError("--judge-model says which model of the server judges")
        return RemoteJudge(
            endpoint(name),
            args.judge_model,
            prompt,
            key_from(args.judge_key_env),
            think=args.judge_tokens,
            logprobs=not args.no_judge_logprobs,
            timeout=args.judge_timeout,
            wait=args.judge_wait,
            workers=args.judge_workers,
        )
    models = _host_loop(_models(args, name))
    try:
        opened = models.open()
    except CheckpointError as error:
        raise DodonaError(
            f"--judge {name!r} is neither {EXACT}, {', '.join(SCRIPTS)}, nor an address; and as a model: {error}"
        ) from error
    batch = models.options["max_batch"]
    return LocalJudge(models, opened, prompt, args.judge_tokens, args.judge_text, args.judge_raw, batch)


def _host_loop(models: Models) -> Models:
    """The same model in the host's loop: a judge reads single distributions, and captured graphs are of no use."""
    left_out = ("backend", "loop", "attention", "lookahead")
    options = {name: value for name, value in models.options.items() if name not in left_out}
    options.setdefault("max_batch", _TOGETHER)  # the caches are planned for it
    return replace(models, options=options | {"ops": backend_of(models.options).ops, "loop": "host"})


def _grader(*, choices: bool) -> Callable[[str, str], bool]:
    """What tells the exact judge whether an answer is right."""
    from dodona.eval.grading import check, check_choice

    grade = check_choice if choices else check
    return lambda answer, gold: grade(answer, gold).correct
