"""From the name of a data set to a task: finds the rows, tells what they mean, and asks them by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dodona.engine.errors import DodonaError
from dodona.eval.grading import Verdict, check, check_choice
from dodona.eval.recipes.names import META, choose_recipe
from dodona.eval.recipes.recipe import BARE, Question, Recipe
from dodona.eval.tasks.arith import arith_task
from dodona.eval.tasks.columns import About, Item, about_columns, cell_text
from dodona.eval.tasks.meta import meta_length
from dodona.eval.tasks.problem import Problem, Task
from dodona.eval.tasks.readers import TASKS, official_scores, reader_of
from dodona.eval.tasks.sources import read_table
from dodona.eval.tasks.spec import TaskSpec, spec_from
from dodona.eval.tasks.table import Row, Table

_OF_DATA: Final = (
    *("task", "problem_column", "answer_column", "choice_columns", "id_column", "level_column", "subject_column"),
    *("dataset_config", "split", "shuffle_seed"),
)


def task_named(name: str, **options: Any) -> Task:
    """The task of a data set: a name (arith, math, math-500, gsm8k, gpqa, ...), a hub id, or a path.

    Args:
        options: fields of TaskSpec that say how it is read and asked (``recipe="gsm8k-8-shot"``).

    Raises:
        DodonaError: it cannot be found, downloaded or read; an option that it does not go with.
    """
    return make_task(spec_from({"dataset": name, **options}))


def make_task(spec: TaskSpec) -> Task:
    """As ``task_named``; the selection is left to ``Task.load``."""
    if spec.task is not None and spec.task not in TASKS:
        raise DodonaError(f"there is no task {spec.task!r}: --task is one of {', '.join(TASKS)}")
    chosen: dict[str, Any] = {"name": spec.recipe, "no_cot": spec.no_cot, "prompt_file": spec.prompt_file}
    if spec.dataset == "arith":
        if given := [name for name in _OF_DATA if getattr(spec, name)]:
            raise DodonaError(f"--{given[0].replace('_', '-')} is for data sets with columns, and arith has none")
        return arith_task(choose_recipe("math", BARE.name, **chosen))
    table = read_table(spec)
    reader = reader_of(table, spec)
    if spec.shuffle_seed and reader.name != "gpqa":
        raise DodonaError("--shuffle-seed is for GPQA: other choices keep the order that they have")
    kind = reader.kind(table)
    is_meta = reader.name == META
    recipe = choose_recipe(
        kind, reader.recipe, **chosen, exact_prompts=is_meta, max_new_tokens=meta_length(table) if is_meta else None
    )
    problems = _problems(table, reader.read(table, spec), about_columns(table, spec), recipe)
    scores = official_scores(table, reader, spec)
    return Task(
        # Other orders of the choices are other questions under the same ids.
        f"{table.name}-shuffle-{spec.shuffle_seed}" if spec.shuffle_seed else table.name,
        kind,
        recipe,
        lambda selection: problems,
        judge_choice if kind == "choice" else judge_answer,
        source=table.source,
        official=scores.percent,
        official_source=scores.source,
    )


def judge_answer(completion: str, problem: Problem) -> Verdict:
    """Whether a completion gives the gold answer, or another that is as right."""
    verdict = check(completion, problem.gold)
    for gold in problem.also:
        if not verdict.correct and (other := check(completion, gold)).correct:
            return other
    return verdict


def judge_choice(completion: str, problem: Problem) -> Verdict:
    """Whether a completion chooses the right letter, or another that is as right."""
    verdict = check_choice(completion, problem.gold)
    return check_choice(completion, verdict.extracted) if verdict.extracted in problem.also else verdict


def _problems(table: Table, items: Sequence[Item], about: About, recipe: Recipe) -> list[Problem]:
    """Rows as problems.

    Raises:
        DodonaError: two rows of one id, or a row that lacks what the recipe needs.
    """
    problems = []
    seen: dict[str, Row] = {}
    for index, (row, item) in enumerate(zip(table.rows, items, strict=True)):
        number = index if row.key is None else row.key
        problem_id = f"{table.name}-{number}" if about.id is None else cell_text(table, row, about.id)
        if problem_id in seen:
            raise table.error(
                row,
                f"the id {problem_id!r} is that of {seen[problem_id].place} too; name another column with --id-column, "
                "or number the rows with --id-column row",
            )
        seen[problem_id] = row
        if recipe.name != META and not item.text:
            raise table.error(row, f"there is an exact prompt but no question, which the recipe {recipe.name} needs")
        if recipe.name != META and "choice" in recipe.kinds and not item.choices:
            raise table.error(row, f"there are no choices, which the recipe {recipe.name} needs")
        problems.append(
            Problem(
                problem_id=problem_id,
                question=item.text or item.given or "",
                prompt=recipe.write(Question(item.text, item.choices, item.given)),
                raw=recipe.raw,
                gold=item.gold,
                level=about.level_of(row),
                subject=about.subject_of(row),
                choices=item.choices,
                also=item.also,
            )
        )
    return problems
