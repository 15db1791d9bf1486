"""The console command. A subcommand's module, and with it torch, is imported when that subcommand runs."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from dodona import __version__
from dodona.engine.errors import DodonaError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
PATHS = ("FILE", "FILE.toml", "DIR", "PATH", "RUN", "BASELINE", "NEW")  # what a command calls a path's value


class Command(NamedTuple):
    """A subcommand; its module has ``add_arguments(parser)`` and ``run(args) -> exit code``."""

    module: str
    help: str


class Group(NamedTuple):
    """A subcommand with subcommands of its own."""

    help: str
    commands: Mapping[str, Command]


COMMANDS: dict[str, Command | Group] = {
    "generate": Command("dodona.eval.commands.generate", "write one text with both models"),
    "eval": Command("dodona.eval.commands.evaluate", "measure accuracy over a grid of c, k and triggers"),
    "report": Command("dodona.eval.commands.report", "tables, plots and a page from record files"),
    "compare": Command("dodona.eval.commands.compare", "two sets of runs on the same problems, problem by problem"),
    "grade": Command("dodona.eval.commands.grade", "grade records again, or any predictions, without generating"),
    "analyze": Command("dodona.eval.commands.analyze", "which signal of the base says when to consult, from traces"),
    "replay": Command("dodona.eval.commands.replay", "what a trigger would have done on recorded traces"),
    "causal": Command("dodona.eval.commands.causal", "the token at which the base's wrong texts went wrong"),
    "forks": Command("dodona.eval.commands.forks", "what single consults change: runs on with them and without"),
    "sweep": Command("dodona.eval.commands.sweep", "run a study from a file: models x tasks x a grid"),
    "recover": Command("dodona.eval.commands.recover", "how often a strong model comes back from a wrong prefix"),
    "diversity": Command("dodona.eval.commands.diversity", "what many samples buy, and how to choose among them"),
    "placebo": Command("dodona.eval.commands.placebo", "a trigger beside random twins, its own base, and hindsight"),
    "judge": Command("dodona.eval.commands.judge", "whose answers are better: pairs judged in both orders"),
    "view": Command("dodona.eval.commands.view", "a page that shows runs token by token"),
    "demo": Command("dodona.eval.commands.demo", "show what it does, on models that come with it"),
    "env": Command("dodona.eval.commands.env", "versions, devices, and whether two models would fit"),
    "bench": Group(
        "measure speed on this machine",
        {
            "all": Command("dodona.bench.commands.all", "latency, throughput, profile, peers and scaling, one by one"),
            "ops": Command("dodona.bench.commands.ops", "check and time every kernel, or tune its block sizes"),
            "peers": Command("dodona.bench.commands.peers", "beside transformers and an HTTP server"),
            "decode": Command("dodona.bench.commands.decode", "decode throughput against transformers"),
            "check": Command("dodona.bench.commands.check", "fail when a ratio against a peer has fallen"),
            "latency": Command("dodona.bench.commands.latency", "what each part of guided decoding takes at batch 1"),
            "throughput": Command("dodona.bench.commands.throughput", "tokens a second over batch, c, k and rate"),
            "profile": Command("dodona.bench.commands.profile", "a trace, and where the time goes by phase and kernel"),
            "gpu": Command("dodona.bench.commands.gpu", "check and measure everything on a GPU, in minutes"),
            "scaling": Command("dodona.bench.commands.scaling", "cost over prompt length, batch, c and k"),
            "table": Command("dodona.bench.commands.table", "result files as tables, also inside a page"),
        },
    ),
}


class Parser(argparse.ArgumentParser):
    """argparse with one line an error, no abbreviations, and the closest name for a mistyped option."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Print the message as dodona prints all errors, and exit."""
        print_error(message)
        raise SystemExit(EXIT_ERROR)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all of the arguments; an unknown one is an error that names the closest known option."""
        arguments = [kebab(argument) for argument in until_separator(arguments)] + after_separator(arguments)
        args, unknown = self.parse_known_args(arguments)
        for argument in unknown:
            if argument.startswith("-") and argument != "-":
                option = argument.split("=")[0]
                self.error(f"unknown option {option}{closest(option, self._option_string_actions)}")
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}; put a text of several words in quotes")
        for action in self._actions:
            if action.metavar in PATHS and action.dest in args:
                setattr(args, action.dest, at_home(getattr(args, action.dest)))
        return args


def at_home(value: Any) -> Any:
    """Paths with their ``~`` read, which no shell does in ``--option=~/file``; what is no path as it is."""
    if isinstance(value, list):
        return [at_home(one) for one in value]
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value


def until_separator(arguments: Sequence[str]) -> list[str]:
    """What comes before ``--``."""
    arguments = list(arguments)
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def after_separator(arguments: Sequence[str]) -> list[str]:
    """``--`` and what comes after it."""
    return list(arguments)[len(until_separator(arguments)) :]


def kebab(argument: str) -> str:
    """``--snake_case=value_x`` as ``--snake-case=value_x``; anything but an option as it is."""
    if not argument.startswith("--"):
        return argument
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value


def closest(word: str, known: Sequence[str] | dict[str, argparse.Action]) -> str:
    """A question for the closest known word, or a pointer to the help where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else "; --help lists what there is"


def print_error(message: str) -> None:
    """Write an error the one way that dodona writes them."""
    print(f"dodona: error: {message}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        SystemExit: ``--help``, ``--version`` and mistakes in the arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Read when torch is imported: CPU threads that wait sleep instead of spinning, a factor of 20 on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _open_missing()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without the character shows its code
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except DodonaError as error:
        print_error(str(error))
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("dodona: stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        _write_no_more()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _write_no_more()
        where = "the output" if error.filename is None else error.filename
        print_error(f"{where} cannot be written: {error.strerror}")
        return EXIT_ERROR


def _open_missing() -> None:
    """Give a standard stream that was closed, as by ``>&-``, nothing to read and nowhere to write.

    Otherwise the next file that is opened gets its number, and what is printed into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _write_no_more() -> None:
    """Let what is still to be printed go nowhere, so that the exit does not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    description = "Decode with two Llama models: a small base writes, and a large oracle is consulted where it matters."
    return _run_one_of(COMMANDS, arguments, "dodona", description)


def _run_one_of(
    commands: Mapping[str, Command | Group] | Mapping[str, Command], arguments: list[str], prog: str, description: str
) -> int:
    """Run the command that the first argument names."""
    name = arguments[0] if arguments else "--help"
    if name in commands:
        command = commands[name]
        if isinstance(command, Group):
            return _run_one_of(command.commands, arguments[1:], f"{prog} {name}", command.help.capitalize() + ".")
        module = import_module(command.module)
        parser = Parser(f"{prog} {name}", module.__doc__ or command.help)
        module.add_arguments(parser)
        code: int = module.run(parser.read(arguments[1:]))
        return code
    width = max(map(len, commands))
    listed = "\n".join(f"  {name:{width}}  {command.help}" for name, command in commands.items())
    parser = Parser(prog, description, f"commands:\n{listed}\n\n`{prog} COMMAND --help` lists a command's options.")
    parser.usage = f"{prog} COMMAND [options]"
    if prog == "dodona":
        parser.add_argument("--version", action="version", version=f"dodona {__version__}")
    if not name.startswith("-"):
        parser.error(f"there is no command {name!r}{closest(name, list(commands))}")
    if not arguments:
        parser.print_help()
        return EXIT_ERROR
    parser.read(arguments)
    parser.error(f"unexpected argument {name!r}; the command comes first")
