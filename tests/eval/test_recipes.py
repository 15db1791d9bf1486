"""Prompts: what a recipe says, and what a model of Llama 3's format reads of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from dodona.engine.errors import DodonaError
from dodona.engine.tokenizer import Tokenizer, load_tokenizer
from dodona.eval.grading import check
from dodona.eval.recipes.choice import lettered, letters_of
from dodona.eval.recipes.examples import EXAMPLES
from dodona.eval.recipes.names import RECIPES, choose_recipe
from dodona.eval.recipes.recipe import Question
from dodona.eval.recipes.turns import user_turns
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.options import load_task

EMBEDDED = Path(__file__).parents[2] / "engine" / "embedded" / "base"
BOS, START, END, EOT = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
# As Llama 3.1's: a system turn with two dates whether or not there is a system message, and contents trimmed.
TEMPLATE = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: " }}
{{- date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
CHOICES = ("first", "[second]", "third", "fourth")


def llama3(template: str | None = TEMPLATE, *, adds_bos: bool = True) -> Tokenizer:
    """A byte-level tokenizer with Llama 3's special tokens, its way to add one BOS, and its template."""
    special = [BOS, START, END, EOT]
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *special]
    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, names.index(BOS))]
        )
    wrap: Any = PreTrainedTokenizerFast
    fast = wrap(tokenizer_object=backend, bos_token=BOS, eos_token=EOT, clean_up_tokenization_spaces=False)
    fast.chat_template = template
    return Tokenizer(fast, name="llama3")


LLAMA3 = llama3()


def read_by(tokenizer: Tokenizer, task: Any, problem: Any) -> str:
    """What the model reads, special tokens shown, as the engine encodes it."""
    (fitted,) = task.for_model([problem], tokenizer)
    prompt = fitted.prompt
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt, raw=fitted.raw)
    elif isinstance(prompt[0], Mapping):
        ids = tokenizer.encode_chat(list(prompt))
    else:
        ids = list(prompt)
    return tokenizer.decode(ids, skip_special=False)


@pytest.fixture
def math(tmp_path: Path) -> str:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"problem": " What is $\\frac{1}{2}$ of {2}?\n", "answer": "1"}) + "\n")
    return str(path)


@pytest.fixture
def choice(tmp_path: Path) -> str:
    path = tmp_path / "choice.jsonl"
    path.write_text(json.dumps({"question": "Which one?", "choices": CHOICES, "answer": "B"}) + "\n")
    return str(path)


# --- what the recipes say ---


def test_the_math_recipe_has_the_published_structure() -> None:
    """Catches a prompt that lost a part: short for simple problems, numbered headings for others, a box at the end."""
    recipe = RECIPES["math"]
    prompt = recipe.write(Question("What is {x}?"))
    assert isinstance(prompt, str)
    for part in ("## Step 1: ", "## Step 2: ", "$\\boxed{", "short solution"):
        assert part in prompt
    assert prompt.endswith("Problem: What is {x}?")
    assert (recipe.max_new_tokens, recipe.temperature, recipe.stop, recipe.raw) == (5120, 0.0, (), False)


def test_multiple_choice_is_asked_with_letters_and_ends_with_the_best_answer() -> None:
    """Catches choices without letters, and an ending that check_choice does not know."""
    question = Question("Which one?", CHOICES)
    for name, limit in (("gpqa-cot", 2048), ("gpqa-direct", 96)):
        recipe = RECIPES[name]
        prompt = str(recipe.write(question))
        assert "Question: Which one?\nA. first\nB. [second]\nC. third\nD. fourth\n" in prompt
        assert "The best answer is X" in prompt and "A, B, C or D" in prompt
        assert (recipe.max_new_tokens, recipe.temperature) == (limit, 0.0)
        assert ("## Step 1: " in prompt) is (name == "gpqa-cot")


@pytest.mark.parametrize(
    ("count", "letters"), [(2, "A or B"), (5, "A, B, C, D or E"), (10, "A, B, C, D, E, F, G, H, I or J")]
)
def test_any_number_of_choices_has_letters(count: int, letters: str) -> None:
    """Catches a fifth choice that is not shown, as in a zip with "ABCD"."""
    choices = tuple(f"choice {i}" for i in range(count))
    assert letters_of(choices) == letters
    assert len(lettered(choices).splitlines()) == count


def test_braces_in_a_question_are_text() -> None:
    """Catches str.format over a question in LaTeX."""
    text = "What is {0}, {problem}, {choices}, {letters} and {{x}}?"
    for recipe in RECIPES.values():
        assert text in json.dumps(recipe.write(Question(text, CHOICES))).replace("\\\\", "\\")


def test_the_eight_examples_are_right_and_end_as_the_recipe_asks() -> None:
    """Catches a worked example with a mistake in it: the model would copy it."""
    assert len(EXAMPLES) == 8 == len({example.problem for example in EXAMPLES})
    for example in EXAMPLES:
        equations = re.findall(r"([\d.+\-*/ ]+) = (\d+)(?![\d.]*\d)", example.solution)
        assert equations
        for left, right in equations:
            assert value_of(left) == pytest.approx(int(right)), example
        assert str(example.answer) in example.solution
    messages = RECIPES["gsm8k-8-shot"].write(Question("How many?"))
    assert [m["role"] for m in messages] == ["user", "assistant"] * 8 + ["user"]  # type: ignore[index,call-overload]
    for example, answer in zip(EXAMPLES, messages[1::2], strict=False):
        assert check(answer["content"], str(example.answer)).correct  # type: ignore[index,call-overload]
    zero_shot = RECIPES["gsm8k"].write(Question("How many?"))
    assert messages[-1]["content"] == zero_shot  # type: ignore[index,call-overload]
    json.dumps(messages)  # records hold it


def value_of(text: str) -> float:
    """A chain of + and - over products, from left to right."""
    total = 0.0
    for sign, product in re.findall(r"([+-]?)\s*([\d.]+(?:\s*[*/]\s*[\d.]+)*)", text):
        first, *rest = re.findall(r"[*/]?\s*[\d.]+", product)
        value = float(first)
        for factor in rest:
            number = float(factor[1:])
            value = value * number if factor[0] == "*" else value / number
        total += -value if sign == "-" else value
    return total


# --- which recipe ---


def test_a_task_has_its_own_recipe_and_takes_another_by_name(math: str, choice: str) -> None:
    """Catches --recipe without effect."""
    assert task_named(math).recipe.name == "math"
    assert task_named(math, recipe="gsm8k-8-shot").recipe.name == "gsm8k-8-shot"
    assert task_named(math, recipe="bare").load()[0].prompt == "What is $\\frac{1}{2}$ of {2}?"
    assert task_named(choice).recipe.name == "gpqa-cot"
    assert task_named(choice, no_cot=True).recipe == task_named(choice, recipe="gpqa-direct").recipe
    assert task_named(choice, no_cot=True).recipe.options() == {"max_new_tokens": 96, "temperature": 0.0, "stop": ()}
    assert task_named("arith", recipe="math").recipe.name == "math"


def test_a_recipe_that_cannot_be_is_one_line(math: str, choice: str, tmp_path: Path) -> None:
    """Catches a run of hours with the wrong prompt."""
    (tmp_path / "p.txt").write_text("{problem}")
    for path, options, fault in (
        (
            math,
            {"recipe": "maths"},
            "there is no recipe 'maths': --recipe is bare, math, gsm8k, gsm8k-8-shot, gpqa-cot",
        ),
        (math, {"recipe": "gpqa-cot"}, "--recipe gpqa-cot is for multiple choice, which these problems are not"),
        (choice, {"recipe": "math"}, "--recipe math is for problems without choices, which these problems are not"),
        (math, {"recipe": "meta"}, "--recipe meta needs a data set with exact prompts"),
        (math, {"no_cot": True}, "--no-cot is for multiple choice"),
        (
            choice,
            {"no_cot": True, "recipe": "gpqa-cot"},
            "--no-cot is the recipe gpqa-direct: leave --recipe gpqa-cot out",
        ),
        (math, {"prompt_file": str(tmp_path / "p.txt"), "recipe": "math"}, "--prompt-file is a recipe of its own"),
        ("arith", {"recipe": "gpqa-cot"}, "--recipe gpqa-cot is for multiple choice"),
        ("arith", {"no_cot": True}, "--no-cot is for multiple choice"),
        ("arith", {"recipe": "meta"}, "--recipe meta needs a data set with exact prompts"),
    ):
        with pytest.raises(DodonaError) as caught:
            task_named(path, **options)  # type: ignore[arg-type]
        assert fault in str(caught.value)


# --- a prompt of the user's own ---


def test_a_prompt_file_is_filled_in(math: str, choice: str, tmp_path: Path) -> None:
    """Catches LaTeX braces read as placeholders, and a question's own {choices} filled in too."""
    own = tmp_path / "own.txt"
    own.write_bytes("\ufeffAnswer {in} \\boxed{x}:\r\n{problem}\r\n".encode())
    task = task_named(math, prompt_file=str(own))
    assert task.load()[0].prompt == "Answer {in} \\boxed{x}:\nWhat is $\\frac{1}{2}$ of {2}?"
    assert re.fullmatch("own-[0-9a-f]{8}", task.recipe.name) and task.recipe.max_new_tokens == 5120
    before = task.recipe.name
    own.write_text("{choices}\n{problem}")
    task = task_named(choice, prompt_file=str(own))
    assert task.load()[0].prompt == "A. first\nB. [second]\nC. third\nD. fourth\nWhich one?"
    assert task.recipe.name != before and task.recipe.max_new_tokens == 2048
    assert choose_recipe("choice", "", prompt_file=str(own)).write(Question("{choices}", ("a", "b"))) == (
        "A. a\nB. b\n{choices}"
    )
    own.write_text("Compute: {problem}")
    arith = load_task({"dataset": "arith", "prompt-file": str(own), "num_samples": 1})[1][0]
    assert arith.prompt == f"Compute: {arith.question}"


@pytest.mark.parametrize(
    ("content", "kind", "fault"),
    [
        (None, "math", "cannot be read"),
        (b"\xff{problem}", "math", "is not UTF-8"),
        (b"", "math", "has no {problem}"),
        (b"{question}", "math", "has no {problem}"),
        (b"{problem} {choices}", "math", "has {choices}, and these problems have none"),
        (b"{problem}", "choice", "has no {choices}, and these problems have choices"),
    ],
)
def test_a_prompt_file_that_cannot_be_used_is_one_line(
    content: bytes | None, kind: str, fault: str, tmp_path: Path
) -> None:
    """Catches prompts without the question, or without the choices."""
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DodonaError, match=r"^--prompt-file: ") as caught:
        choose_recipe(kind, "", prompt_file=str(path))  # type: ignore[arg-type]
    assert fault in str(caught.value)


# --- what the model reads ---


def test_a_llama_3_reads_one_bos_and_no_system_turn(math: str, choice: str) -> None:
    """Catches the system turn with its dates that the template adds by itself, and a doubled BOS."""
    for path, options in ((math, {}), (choice, {}), (math, {"recipe": "gsm8k"}), (choice, {"no_cot": True})):
        task = task_named(path, **options)  # type: ignore[arg-type]
        (problem,) = task.load()
        assert read_by(LLAMA3, task, problem) == (
            f"{BOS}{START}user{END}\n\n{problem.prompt}{EOT}{START}assistant{END}\n\n"
        )


def test_a_llama_3_reads_earlier_turns_too(math: str) -> None:
    """Catches a cut that takes a turn too many."""
    task = task_named(math, recipe="gsm8k-8-shot")
    (problem,) = task.load()
    text = read_by(LLAMA3, task, problem)
    turns = "".join(f"{START}{m['role']}{END}\n\n{m['content']}{EOT}" for m in problem.prompt)  # type: ignore[index,union-attr,call-overload]
    assert text == f"{BOS}{turns}{START}assistant{END}\n\n"


def test_the_prompt_without_a_system_turn_is_text_for_the_records(math: str) -> None:
    """Catches records whose prompt is a list of numbers."""
    task = task_named(math)
    (fitted,) = task.for_model(task.load(), LLAMA3)
    assert isinstance(fitted.prompt, str) and fitted.raw
    assert task.for_model([fitted], LLAMA3) == [fitted]
    # A tokenizer that adds no BOS of its own reads the one that is in the text.
    assert LLAMA3.encode(fitted.prompt, raw=True) == llama3(adds_bos=False).encode(fitted.prompt, raw=True)


def test_a_system_turn_that_somebody_asked_for_stays() -> None:
    """Catches a user's own system message cut out with the dates."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}]
    assert user_turns(messages, LLAMA3) is None
    assert user_turns([5, 6], LLAMA3) is None


def test_other_formats_keep_their_template(math: str) -> None:
    """Catches Llama 3's tokens in the prompt of a model that does not know them."""
    embedded = Tokenizer(load_tokenizer(EMBEDDED, "arith-base"), name="arith-base")
    user_only = llama3(
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}"
    )
    task = task_named(math)
    for tokenizer in (embedded, llama3(None), user_only):
        assert task.for_model(task.load(), tokenizer) == task.load()
    (problem,) = task.load()
    assert read_by(user_only, task, problem) == read_by(LLAMA3, task, problem)


def test_the_bare_recipe_leaves_the_template_alone() -> None:
    """Catches another prompt for arith than before, and than `dodona generate` makes."""
    task, problems = load_task({"dataset": "arith", "num_samples": 1})
    assert task.for_model(problems, LLAMA3) == problems
    assert "Today Date" in read_by(LLAMA3, task, problems[0])


@pytest.mark.parametrize("start", ["", BOS])
def test_metas_exact_prompts_get_exactly_one_bos(start: str, tmp_path: Path) -> None:
    """Catches two where the file has one already, and none where it has not."""
    body = f"{START}user{END}\n\nSolve: 1+1  {EOT}{START}assistant{END}\n\n"
    path = tmp_path / "d.json"
    row = {"input_final_prompts": [start + body], "input_correct_responses": ["2"], "task_name": "math"}
    path.write_text(json.dumps([row]))
    task = task_named(str(path))
    assert read_by(LLAMA3, task, task.load()[0]) == BOS + body
