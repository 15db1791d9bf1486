"""Finds the recipe that a run asks for."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.eval.recipes.choice import GPQA_COT, GPQA_DIRECT
from dodona.eval.recipes.own import meta_recipe, recipe_from
from dodona.eval.recipes.recipe import BARE, Kind, Recipe
from dodona.eval.recipes.worked import GSM8K, GSM8K_8_SHOT, MATH

META: Final = "meta"
RECIPES: Final = MappingProxyType(
    {recipe.name: recipe for recipe in (BARE, MATH, GSM8K, GSM8K_8_SHOT, GPQA_COT, GPQA_DIRECT)}
)


def choose_recipe(
    kind: Kind,
    default: str,
    *,
    name: str | None = None,
    no_cot: bool = False,
    prompt_file: str | None = None,
    exact_prompts: bool = False,
    max_new_tokens: int | None = None,
) -> Recipe:
    """The recipe that the options name, else the task's own.

    Args:
        kind: of the task.
        default: the name of the task's own recipe.
        name, no_cot, prompt_file: what the user gave.
        exact_prompts: whether the problems come with their prompts; ``max_new_tokens`` is their limit.

    Raises:
        DodonaError: an unknown recipe, one for another kind of task, or options that exclude each other.
    """
    if prompt_file is not None:
        if name is not None or no_cot:
            raise DodonaError("--prompt-file is a recipe of its own: leave --recipe and --no-cot out")
        return recipe_from(prompt_file, kind)
    if no_cot:
        if kind != "choice":
            raise DodonaError("--no-cot is for multiple choice, and these problems have no choices")
        if name not in (None, GPQA_DIRECT.name):
            raise DodonaError(f"--no-cot is the recipe {GPQA_DIRECT.name}: leave --recipe {name} out")
        name = GPQA_DIRECT.name
    name = name or default
    if name == META:
        if not exact_prompts:
            raise DodonaError("--recipe meta needs a data set with exact prompts (a column input_final_prompts)")
        return meta_recipe(kind, max_new_tokens)
    if name not in RECIPES:
        raise DodonaError(f"there is no recipe {name!r}: --recipe is {', '.join([*RECIPES, META])}")
    recipe = RECIPES[name]
    if kind not in recipe.kinds:
        what = "multiple choice" if kind == "math" else "problems without choices"
        raise DodonaError(f"--recipe {name} is for {what}, which these problems are not")
    return recipe
