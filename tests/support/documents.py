"""The commands that documents name, and whether each program understands what it is given. Nothing is run."""

from __future__ import annotations

import argparse
import functools
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jsonargparse
from accelerate.commands.launch import launch_command_parser
from deepspeed.launcher import runner
from torch.distributed.run import get_args_parser

from sparsepo_dist.commands.main import COMMANDS, command
from sparsepo_dist.evaluation.code import command as code
from sparsepo_dist.evaluation.frontier import command as frontier
from sparsepo_dist.evaluation.jobs import command as jobs
from sparsepo_dist.evaluation.leaderboard import command as leaderboard
from sparsepo_dist.evaluation.preference import command as preference
from sparsepo_dist.evaluation.summary import command as summary
from sparsepo_dist.evaluation.summary import significance
from sparsepo_dist.preparation.command import name_parser
from sparsepo_dist.preparation.registry import NAMES, preparation
from sparsepo_dist.runs.parsing import parse_arguments, parse_train, train_parser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
DEFAULT_RECIPE = ROOT / "launch" / "recipes" / "sentiment.yaml"
DRIVERS = {
    "leaderboard": leaderboard.parser, "significance": significance.parser, "code": code.parser,
    "frontier": frontier.parser, "jobs": jobs.parser, "preference": preference.parser, "summary": summary.parser,
}  # fmt: skip
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_STANDS_FOR_ANY = re.compile(r"\b[A-Z]{2,}\b")  # FILE, runs/RUN, ...


def read(document: str) -> str:
    """The text of one of DOCUMENTS."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, *languages: str) -> list[str]:
    """What stands between fences of these languages; "" is a fence without one."""
    return [body for _, language, body in _FENCE.findall(read(document)) if language in languages]


def commands(document: str) -> list[str]:
    """Every line of its shell blocks, and of its indented ones those that begin with a program or an option."""
    lines = [line.split("  #")[0].strip() for block in blocks(document, "sh", "") for line in block.splitlines()]
    indented = [
        line.strip() for block in _INDENTED.findall(_FENCE.sub("", read(document))) for line in block.split("\n")
    ]
    found = [line for line in lines if line] + [line for line in indented if _program(line) or line.startswith("--")]
    return [re.sub(r"\[(--[^\]]+)\]", r"\1", line) for line in found]  # [--gpu_memory 80]


def spans(document: str) -> list[str]:
    """What stands between backticks in its text, each once."""
    text = _INDENTED.sub("", _FENCE.sub("", read(document)))
    return list(dict.fromkeys(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)))


def is_whole(span: str) -> bool:
    """Whether a span is a command with all it takes, not a program's name or the mention of an option."""
    mentioned = len(span.split()) == 2 and _program(span) != "make"  # sparsepo plan
    return not (_program(span) is None or mentioned or "..." in span or re.search(r" --[\w.-]+$", span))


def is_mention(span: str) -> bool:
    """Whether it names a program, or options of one."""
    return (_program(span) is not None and not is_whole(span)) or span.startswith("--")


def check_mention(span: str) -> None:
    """Fail unless there are the options that it names, with the values they are given, and the subcommand."""
    if span.startswith("sparsepo "):
        assert span.split()[1] in COMMANDS
    words = [word for word in shlex.split(span) if word != "..."]
    options = [word for word in words if word.startswith("--")]
    if words[0] in _settable_options() and set(options) <= _settable_options() and words != options:
        parse_train(_with_a_recipe(words))
        return
    for word, next_one in zip(words, [*words[1:], ""], strict=True):
        if word in options:
            assert any(_takes(action, next_one) for action in _known_options().get(word, [])), f"{word} {next_one}"


def check(command: str) -> None:
    """Fail unless the program of a command exists and understands the rest of it."""
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    assert words[0] in _PROGRAMS, f"no test knows {words[0]}"
    _PROGRAMS[words[0]](words[1:])


def check_training(arguments: Sequence[str]) -> None:
    """The same for what follows launch/train.py."""
    if "--help" in arguments:
        return
    config = parse_train(_with_a_recipe(arguments), default_recipe=DEFAULT_RECIPE)
    assert (ROOT / config.ds_config).is_file()
    config.validate()


@functools.cache
def training_options() -> frozenset[str]:
    """Those of launch/train.py."""
    return frozenset(train_parser()._option_string_actions)


@functools.cache
def _settable_options() -> frozenset[str]:
    """Those that set one field, not a whole section."""
    return frozenset(option for option in training_options() if "." in option) | {"--recipe", "--ds_config", "--resume"}


@functools.cache
def _known_options() -> dict[str, list[argparse.Action]]:
    """What each option is in the programs that documents speak of."""
    parsers = [make() for make in DRIVERS.values()]
    parsers += [launch_command_parser(), get_args_parser(), _parser_of(lambda: runner.parse_args(["x"]), [])[0]]
    parsers += [_parser_of(_command(name), [])[0] for name in COMMANDS]
    parsers += [name_parser(name, preparation(name)) for name in NAMES]
    parsers += [
        _parser_of(_benchmark(path.stem), [])[0] for path in (ROOT / "benchmarks").glob("*.py") if _is_run(path)
    ]
    parsers += [inner for parser in parsers for inner in _subcommands(parser)]
    found: dict[str, list[argparse.Action]] = {}
    for parser in parsers:
        for option, action in parser._option_string_actions.items():
            found.setdefault(option, []).append(action)
    return found


def _takes(action: argparse.Action, word: str) -> bool:
    """Whether a word can follow an option; any where the option is only named, or the word stands for several."""
    return action.choices is None or not word or word.startswith("--") or "|" in word or word in action.choices


def _program(line: str) -> str | None:
    """The program that a line begins with, after variables that are set for it."""
    found = re.match(r"(?:[A-Z_]+=\S+ )*(\S+) ", line)
    return found[1] if found and found[1] in _PROGRAMS else None


def _subcommands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [inner for action in actions for inner in action.choices.values()]


def _with_a_recipe(arguments: Sequence[str]) -> list[str]:
    """RECIPE stands for any recipe; a name in small letters has to exist."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [
        str(DEFAULT_RECIPE) if option == "--recipe" and _STANDS_FOR_ANY.search(word) else word for option, word in pairs
    ]


class _ParsingBegins(BaseException):
    """Carries the parser, and what it was to parse."""


def _parser_of(main: Callable[[], object], arguments: list[str]) -> tuple[Any, list[str]]:
    """Run an entry point up to where it parses its arguments: the parser, and those that it would parse."""

    def stop(parser: Any, args: Sequence[str] | None = None, *_: Any, **__: Any) -> None:
        raise _ParsingBegins(parser, list(sys.argv[1:] if args is None else args))

    with (
        mock.patch.object(sys, "argv", ["program", *arguments]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(jsonargparse.ArgumentParser, "parse_args", stop),
    ):
        try:
            main()
        except _ParsingBegins as begun:
            parser, remaining = begun.args
            return parser, remaining
    raise AssertionError(f"{main} parses no arguments")


def _command(name: str, arguments: Sequence[str] = ()) -> Callable[[], object]:
    return functools.partial(command(name), list(arguments))


def _check_sparsepo(words: list[str]) -> None:
    assert words[0] in COMMANDS
    if words[0] == "sample-pairs":
        words = ["prepare", "pairs", *words[1:]]
    if words[0] == "prepare":
        name_parser(words[1], preparation(words[1])).parse_args(words[2:])
        return
    parser, arguments = _parser_of(_command(words[0], _with_a_recipe(words[1:])), [])
    if not isinstance(parser, jsonargparse.ArgumentParser):
        parser.parse_args(arguments)
        return
    config, _ = parse_arguments(parser, arguments)
    assert (ROOT / config.ds_config).is_file()
    config.validate()


def _benchmark(name: str) -> Callable[[], object]:
    main: Callable[[], object] = importlib.import_module(f"benchmarks.{name}").main
    return main


def _is_run(path: Path) -> bool:
    return "ArgumentParser(" in path.read_text(encoding="utf-8")


def _check_module(name: str, arguments: list[str]) -> None:
    if name == "pytest":
        _check_pytest(arguments)
        return
    assert name.startswith("benchmarks."), name
    parser, remaining = _parser_of(_benchmark(name.removeprefix("benchmarks.")), arguments)
    parser.parse_args(remaining)


def _check_script(script: str, arguments: list[str]) -> None:
    assert (ROOT / script).is_file(), script
    if script == "launch/train.py":
        check_training(arguments)
    elif script == "launch/cache.py":
        _check_sparsepo(["cache", *arguments])
    else:
        assert script.startswith("evaluation/"), script
        DRIVERS[Path(script).stem]().parse_args(arguments)


def _check_python(words: list[str]) -> None:
    if words[0] == "-m":
        _check_module(words[1], words[2:])
    else:
        _check_script(words[0], words[1:])


def _check_deepspeed(words: list[str]) -> None:
    given = runner.parse_args(words)
    _check_script(given.user_script, given.user_args)


def _check_torchrun(words: list[str]) -> None:
    given = get_args_parser().parse_args(words)
    _check_script(given.training_script, given.training_script_args)


def _check_accelerate(words: list[str]) -> None:
    assert words[0] == "launch"
    given = launch_command_parser().parse_args(words[1:])
    _check_script(given.training_script, given.training_script_args)


def _check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for word in words:
        assert "=" in word or word in targets, word


def _check_pytest(words: list[str]) -> None:
    """Paths and marks; what -k selects is not looked up."""
    marks = re.findall(r'^    "(\w+): ', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", default="")
    parser.add_argument("-k")
    parser.add_argument("paths", nargs="*")
    given = parser.parse_args(words)
    for mark in re.findall(r"\w+", given.m):
        assert mark in (*marks, "not", "and", "or"), mark
    for path in given.paths:
        assert (ROOT / path).exists(), path


def _check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = (ROOT / "setup.py").read_text(encoding="utf-8").split("extras_require")[1]
    for extra in re.findall(r"(?:\.|sparsepo_dist)\[(\w+)\]", " ".join(words)):
        assert f'"{extra}": ' in extras, extra


def _check_sbatch(words: list[str]) -> None:
    """One of launch/slurm/, a run's folder, and options of a training."""
    script, folder, *arguments = words
    assert (ROOT / script).is_file() and not folder.startswith("-"), (script, folder)
    check_training(arguments)


def _check_python_behind(words: list[str]) -> None:
    check(shlex.join(words[words.index("python") :]))


def _check_nothing(_: list[str]) -> None:
    """Programs that are not ours, with nothing of ours among their words."""


_PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "make": _check_make, "sparsepo": _check_sparsepo, "python": _check_python, "pytest": _check_pytest,
    "deepspeed": _check_deepspeed, "torchrun": _check_torchrun, "accelerate": _check_accelerate, "pip": _check_pip,
    "compute-sanitizer": _check_python_behind, "mpirun": _check_python_behind, "sbatch": _check_sbatch,
    ".": _check_nothing, "git": _check_nothing, "pre-commit": _check_nothing,
}  # fmt: skip
