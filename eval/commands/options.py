"""Options that subcommands share. Those of a request mirror the fields of ``Request``, which hold the defaults."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.engine.request import DEFAULT_CONSULTS, Request, parse_budget
from dodona.eval.models import Models


def budget(text: str) -> float:
    """A whole number or ``inf``."""
    try:
        return parse_budget(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number or inf, not {text!r}") from None


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if (value := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def listed(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A reader of several values with commas between them."""

    def read_list(text: str) -> list[Any]:
        return [read(part) for part in text.split(",")]

    return read_list


class Option(NamedTuple):
    """How a field of Request is given on the command line; a field that is true or false needs no value."""

    help: str
    metavar: str = ""
    read: Callable[[str], Any] | None = None
    repeat: bool = False


REQUEST_OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {
        "c": Option(f"consults at most; {DEFAULT_CONSULTS} where there is an oracle", "C", budget),
        "k": Option("tokens that the oracle writes at a consult", "K", budget),
        "trigger": Option("where to consult: a preset, or an expression such as 'entropy > 2.0'", "T", str),
        "when": Option("before: the oracle takes the position where the trigger fires; after: the next", "WHEN", str),
        "step_size": Option("base tokens from one boundary to the next", "N", whole),
        "max_oracle_tokens": Option("cap on the oracle's tokens, which may cut the last burst short", "N", whole),
        "max_new_tokens": Option("tokens to generate at most; a data set's recipe has its own", "N", whole),
        "ignore_eos": Option("go on to the limit: no end token ends the text"),
        "stop": Option("end with the token that completes this text; may be repeated", "TEXT", str, repeat=True),
        "seed": Option("seed of all draws", "N", whole),
        "key": Option("key of the draws in place of the prompt: equal keys draw alike", "TEXT", str),
        "sample": Option("which of several samples of this prompt", "N", whole),
        "temperature": Option("of the base, and of the oracle unless it has its own; 0 is greedy", "X", number),
        "top_k": Option("draw from the k most likely tokens; 0 is off", "N", whole),
        "top_p": Option("draw from the most likely tokens that hold this share of the probability", "X", number),
        "min_p": Option("leave out tokens below this share of the likeliest one's probability", "X", number),
        "oracle_temperature": Option("the oracle's own; likewise below", "X", number),
        "oracle_top_k": Option("", "N", whole),
        "oracle_top_p": Option("", "X", number),
        "oracle_min_p": Option("", "X", number),
        "raw": Option("take the prompt as it is, without the chat template"),
        "base_tail": Option("do not let the base read a last burst: its signals end before it"),
        "divergence": Option("also KL and JS of the two models, where both have looked"),
        "attention_layer": Option("also the attention signals of this layer of the base; -1 is the last", "N", whole),
        "oracle_tail": Option("let the oracle read the base tokens after the last consult, for its opinion of them"),
        "id": Option("a name for the record", "TEXT", str),
    }
)


def options_given(args: argparse.Namespace, declare: Callable[[argparse.ArgumentParser], None]) -> dict[str, str]:
    """The options whose values are not the defaults: as they are written, by their fields.

    Args:
        declare: the command's ``add_arguments``.
    """
    parser = argparse.ArgumentParser(add_help=False)
    declare(parser)
    return {
        action.dest: action.option_strings[0]
        for action in parser._actions
        if action.option_strings and getattr(args, action.dest, action.default) != action.default
    }


def check_oracle_options(args: argparse.Namespace, models: Models) -> None:
    """Refuse to pass over what only an oracle has a use for, unless ``--c 0`` says so.

    Raises:
        DodonaError: there is no oracle, no budget is given, and how to consult is.
    """
    if models.guided or getattr(args, "c", None) is not None:
        return
    for name in ("trigger", "k", "when"):
        if getattr(args, name, None) is not None:
            raise DodonaError(f"--{name} needs an oracle: name one with --oracle-model, or leave it out")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Which models to load, and where to."""
    group = parser.add_argument_group("models")
    group.add_argument(
        "--base-model", metavar="MODEL", help="1B, 3B, 8B, 70B, smollm2, a folder, a GGUF file, a hub id or dummy:8B"
    )
    group.add_argument(
        "--oracle-model", metavar="MODEL", help="likewise; with neither, the pair that comes with dodona"
    )
    add_placing_options(group)


def add_placing_options(group: argparse._ArgumentGroup) -> None:
    """Where models are loaded to, how large their caches are, and what runs them."""
    group.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    group.add_argument("--dtype", help="float32, bfloat16, float16 (default: bfloat16 on cuda, float32 on the CPU)")
    group.add_argument(
        "--max-batch",
        metavar="N",
        type=whole,
        default=argparse.SUPPRESS,
        help="sequences at once (default: 64; a judge's 16)",
    )
    group.add_argument(
        "--max-length",
        metavar="N",
        type=whole,
        default=argparse.SUPPRESS,
        help="tokens of a sequence to plan for (default: the context)",
    )
    group.add_argument(
        "--kv-tokens",
        metavar="N",
        type=whole,
        default=argparse.SUPPRESS,
        help="tokens of each model's KV cache (default: what fits)",
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=whole,
        default=argparse.SUPPRESS,
        help="CPU threads (default: 1 for tiny models, else torch's)",
    )
    for name, metavar, help_ in (
        ("backend", "NAME", "eager (default), or triton: kernels, state on the device, CUDA graphs"),
        ("ops", "OPS", "torch or triton, whatever the backend"),
        ("loop", "LOOP", "host or device, whatever the backend"),
        ("oracle-device-map", "MAP", "spread the oracle's layers: auto, or as in cuda:0,cuda:1; eager backend"),
        ("attention", "NAME", "own (default), or flash: flash-attn 2 or 3, with --loop device on cuda"),
    ):
        group.add_argument(f"--{name}", metavar=metavar, default=argparse.SUPPRESS, help=help_)
    group.add_argument(
        "--lookahead",
        metavar="N",
        type=whole,
        default=argparse.SUPPRESS,
        help="ticks that the device loop runs ahead (default: 2)",
    )
    group.add_argument(
        "--poll-seconds",
        metavar="S",
        type=number,
        default=argparse.SUPPRESS,
        help="how long the device loop sleeps between two looks at a result (default: 0, it looks all the time)",
    )


def add_request_options(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """An option for each field of Request but the prompt; ``request_options`` reads them."""
    group = parser.add_argument_group("generation")
    for field in dataclasses.fields(Request):
        if field.name == "prompt" or field.name in without:
            continue
        option = REQUEST_OPTIONS[field.name]
        name = "--" + field.name.replace("_", "-")
        if option.read is None:
            flag = name.replace("--", "--no-", 1) if field.default else name
            action = "store_false" if field.default else "store_true"
            group.add_argument(flag, dest=field.name, action=action, default=argparse.SUPPRESS, help=option.help)
            continue
        shown = "" if field.default in (None, ()) else f" (default: {field.default})"
        group.add_argument(
            name,
            type=option.read,
            action="append" if option.repeat else "store",
            metavar=option.metavar,
            default=argparse.SUPPRESS,
            help=(option.help + shown).replace("%", "%%").strip(),
        )


def request_options(args: argparse.Namespace, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of Request that the user gave; the others keep their defaults."""
    names = {field.name for field in dataclasses.fields(Request)}.difference(without, {"prompt"})
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if "stop" in given:
        given["stop"] = tuple(given["stop"])
    return given
