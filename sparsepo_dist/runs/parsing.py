"""A command line and its recipe become a RunConfig, or one message that names the field and the nearest known one."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, cast, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings  # type: ignore[attr-defined]

from sparsepo_dist.data.reading.named import SourceSpec
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.deepspeed.ranks import rank
from sparsepo_dist.errors import UserError, did_you_mean, shortened
from sparsepo_dist.files import at_home, entries, parse_yaml
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.recipes.files import RecipeFile, read_recipe
from sparsepo_dist.runs.recipes.methods import other_method

log = logging.getLogger(__name__)

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_SOURCES = ("data.train", "data.heldout")
_TEXT = "tag:yaml.org,2002:str"
_NO_TEXT = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool"))
# Of YAML 1.1: base 60, and base 8 by a leading 0.
_ODD_NUMBER = re.compile(r"[-+]?(?:0[0-9_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")
_PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    Any: "a value",
}


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One message, without the usage of every field."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise UserError(f"{_explained(message, self)}; --help lists every field") from None


class _RecipeAction(ActionConfigFile):
    """Merges a recipe's files in order; the parser itself knows no bases."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        for file in read_recipe(values):
            self.apply_config(parser, namespace, self.dest, file.argument)


def train_parser(default_recipe: Path | None = None) -> ArgumentParser:
    """Recipe, then dotted overrides: `--recipe FILE.yaml --objective.beta 0.5`."""
    parser = _Parser(
        description="Train a policy on preference pairs with DeepSpeed. Every field below can stand in a recipe "
        "(YAML) and be overridden here.",
        default_config_files=[str(default_recipe)] if default_recipe else None,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--recipe", action=_RecipeAction, help="YAML file of the fields below, over the file that its `base` names."
    )
    parser.add_class_arguments(RunConfig, as_group=True)
    parser.add_argument("--local_rank", type=int, default=-1, help="Set by launchers; not for people.")
    return parser


def parse_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[RunConfig, Any]:
    """The run's configuration, and everything that was parsed.

    Raises:
        UserError: what cannot be read.
    """
    _check_once(arguments, parser)
    arguments = [_expanded(argument) for argument in arguments]
    recipes = [checked_recipe(recipe) for recipe in _values(arguments, "recipe")]
    _check_numbers(arguments, parser)
    _check_lists(arguments)
    try:
        parsed = parser.instantiate_classes(parser.parse_args(list(arguments)))
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(f"the arguments cannot be read: {shortened(str(error), 200)}") from None
    config: RunConfig = _at_home(RunConfig(**{name: getattr(parsed, name) for name in RunConfig.__dataclass_fields__}))
    _check_values(config)
    if recipes and rank() == 0:
        given = [argument.partition("=")[0].removeprefix("--") for argument in arguments]
        sentence = other_method(recipes[-1], config.objective, given)
        if sentence is not None:
            log.warning("%s", sentence)
    return _without_idle_adapter(config, arguments), parsed


def parse_train(arguments: Sequence[str] | None = None, default_recipe: Path | None = None) -> RunConfig:
    """The configuration a command line describes; a named recipe replaces the default one, it does not add to it.

    Raises:
        UserError: what cannot be read.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    named = any(True for _ in _values(arguments, "recipe"))
    return parse_arguments(train_parser(None if named else default_recipe), arguments)[0]


def checked_recipe(path: str) -> list[RecipeFile]:
    """A recipe's files, the lowest first.

    Raises:
        UserError: one of them is no recipe; names that no field has are named with their line.
    """
    files = read_recipe(path)
    for file in files:
        try:
            _check_names(file.fields, RunConfig, "", {})
        except ValueError as error:
            raise UserError(f"recipe: {shortened(str(file.path), 200)}: {error}") from None
    return files


def check_field(name: str, line: int) -> None:
    """Raise ValueError where a dotted name is no field of runs, with the nearest one, or a section."""
    hint = _known_hint(name, RunConfig, "", line)
    if dataclasses.is_dataclass(hint):
        inner = [field.name for field in dataclasses.fields(hint)]
        raise ValueError(f"line {line}: {name} is a section; write its fields one by one, as {name}.{inner[0]}: VALUE")


def _check_names(mapping: yaml.MappingNode, kind: type, prefix: str, seen: dict[str, int]) -> None:
    """`seen`: where each field stands, filled here: `a: {b: 1}` and `a.b: 2` are one field."""
    for name, node, line in entries(mapping):
        path, hint = f"{prefix}{name}", _known_hint(name, kind, prefix, line)
        if dataclasses.is_dataclass(hint):
            if not isinstance(node, yaml.MappingNode):
                inner = ", ".join(field.name for field in dataclasses.fields(hint))
                raise ValueError(f"line {line}: {path} is a section and must hold fields of its own ({inner})")
            _check_names(node, cast("type", hint), f"{path}.", seen)
            continue
        if path in seen:
            raise ValueError(f"line {line}: {path} stands there twice (also in line {seen[path]})")
        seen[path] = line
        if path in _SOURCES:
            _check_entries(node, path)
        try:
            _check_scalars(node, hint)
        except ValueError as error:
            raise ValueError(f"line {line}: {path}: {error}") from None


def _check_entries(node: yaml.Node | None, path: str) -> None:
    """As `_check_names` for those entries of a list of sources that have fields."""
    for number, entry in enumerate(node.value if isinstance(node, yaml.SequenceNode) else (), start=1):
        if isinstance(entry, yaml.MappingNode):
            _check_names(entry, SourceSpec, f"{path}, entry {number}: ", {})


def _known_hint(name: str, kind: type, prefix: str, line: int) -> Any:
    """The type of a field, whose name may be dotted. Raises ValueError where there is none."""
    hint: Any = kind
    for part in name.split("."):
        known = [field.name for field in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else []
        if part not in known:
            near = did_you_mean(part, known) or (f"; there are {', '.join(known)}" if known else "")
            raise ValueError(f"line {line}: there is no field {prefix}{shortened(name)}{near}")
        hint = get_type_hints(hint)[part]
    return hint


def _check_scalars(node: yaml.Node, hint: Any) -> None:
    """Refuse what YAML 1.1 reads as something else than it looks like: 1:30 is 90 by base 60, 010 is 8, `on` is true.

    Raises:
        ValueError: which, and how it is meant is to be said.
    """
    if isinstance(node, yaml.MappingNode):
        for name, inner, _ in entries(node):
            _check_scalars(inner, get_args(hint)[1] if get_origin(hint) is dict else hint)
            key = next(key for key, _ in node.value if key.value == name)
            if key.tag != _TEXT:
                raise ValueError(f"the name {shortened(name)} would not be read as text; put it in quotes")
    elif isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            if isinstance(inner, yaml.ScalarNode):
                _check_scalars(inner, hint)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        _check_number(node.value, hint)
        if set(_kinds(hint)) <= {str, type(None)} and node.tag in _NO_TEXT:
            raise ValueError(f"{shortened(node.value)} would not be read as text; put it in quotes")


def _check_number(value: str, hint: Any) -> None:
    if _ODD_NUMBER.fullmatch(value) and str not in _kinds(hint):
        raise ValueError(f"{_described(hint)} is wanted, found {shortened(value)}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _check_once(arguments: Sequence[str], parser: ArgumentParser) -> None:
    """The last of an option counts, as scripts that add options rely on, but for recipes, which are merged in order; of
    sources, people mean all."""
    options = [argument.partition("=")[0] for argument in arguments]
    for option, times in Counter(option for option in options if option in parser._option_string_actions).items():
        name = option.removeprefix("--")
        if times > 1 and name in _SOURCES:
            raise UserError(f"{name} is given {times} times; several sources are one list: {option} '[A, B]'")
        if times > 1 and name != "recipe" and not name.endswith("+") and rank() == 0:
            log.warning("%s is given %d times: the last one counts", name, times)


def _check_numbers(arguments: Sequence[str], parser: ArgumentParser) -> None:
    """As `checked_recipe` for numbers, of the command line."""
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        action = parser._option_string_actions.get(option)
        hint = getattr(action, "_typehint", None) or getattr(action, "type", None)
        if hint is None or not (equals or position + 1 < len(arguments)):
            continue
        value = value if equals else arguments[position + 1]
        for number in re.split(r"[\s,\[\]()]+", value):
            try:
                _check_number(number, hint)
            except ValueError as error:
                raise UserError(f"{option.removeprefix('--')}: {error}") from None


def _check_lists(arguments: Sequence[str]) -> None:
    """As `checked_recipe` for lists of sources, of the command line; what is no YAML is one source."""
    for name in _SOURCES:
        for value in _values(arguments, name):
            try:
                node = parse_yaml(value)
            except ValueError:
                continue
            try:
                _check_entries(node, name)
            except ValueError as error:
                raise UserError(str(error)) from None


def _check_values(part: Any, prefix: str = "") -> None:
    """What the parser lets pass: null where no null can be, and characters that no path or name has."""
    hints = get_type_hints(type(part))
    for field in dataclasses.fields(part):
        name, value = f"{prefix}{field.name}", getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            _check_values(value, f"{name}.")
        elif value is None and type(None) not in get_args(hints[field.name]):
            raise UserError(f"{name}: null was given, {_described(hints[field.name])} is wanted; leave it out")
        elif isinstance(value, str) and "\0" in value:
            raise UserError(f"{name}: {value!r} holds a NUL character; remove it")
        elif isinstance(value, str) and not value.strip():
            raise UserError(f"{name}: it is empty; give it a value, or leave it out")


def _expanded(argument: str) -> str:
    """An argument with `~` expanded where it is a path, or `--FIELD=` before one."""
    option, equals, value = argument.partition("=")
    return f"{option}={at_home(value)}" if equals and option.startswith("--") else at_home(argument)


def _at_home(part: Any) -> Any:
    """The same configuration with `~` expanded in every text: no field but paths begins so."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = _at_home(value)
        elif isinstance(value, str):
            changes[field.name] = at_home(value)
    return dataclasses.replace(part, **changes)


def _without_idle_adapter(config: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """Without the recipe's adapter settings where the command line, which has the last word, turns the adapter off."""
    off = list(_values(arguments, "model.adapter"))[-1:] == ["none"]
    theirs = any(argument.startswith("--lora") for argument in arguments)
    if not off or theirs or config.lora == LoraSettings():
        return config
    log.warning("ignored: lora: the recipe's settings are for an adapter, and model.adapter is none")
    return dataclasses.replace(config, lora=LoraSettings())


def _values(arguments: Sequence[str], name: str) -> Iterator[str]:
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == f"--{name}" and (equals or position + 1 < len(arguments)):
            yield value if equals else arguments[position + 1]


def _explained(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message in one line, with what the field takes."""
    unknown = re.match(r"unrecognized arguments: (\S+)", message)
    if unknown:
        name = unknown[1].split("=")[0]
        if not name.startswith("--"):
            return f"{shortened(name)!r} belongs to no field; write --FIELD VALUE or --FIELD=VALUE"
        known = [option for option in parser._option_string_actions if option.startswith("--")]
        return f"there is no field {shortened(name)}{did_you_mean(name, known)}"
    field = re.match(r'Parser key "([\w.]+)"', message)
    hint = _hint(field[1]) if field else None
    if field is None or hint is None:
        return shortened(message, 300)
    given = re.search(r"(?:Got value: |Given value: |Unable to load config ')(.*?)'?$", message, re.MULTILINE)
    found = "" if given is None else f", found {shortened(given[1])}"
    near = did_you_mean(given[1], map(str, get_args(hint))) if given and get_origin(hint) is Literal else ""
    return f"{field[1]}: {_described(hint)} is wanted{found}{near}"


def _hint(path: str) -> Any:
    """The type of the field at a dotted path; None where there is none."""
    kind: Any = RunConfig
    for name in path.split("."):
        kind = get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    return kind


def _described(hint: Any) -> str:
    if dataclasses.is_dataclass(hint):
        return f"a section's fields ({', '.join(field.name for field in dataclasses.fields(hint))})"
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ("one of " if len(inner) > 1 else "") + ", ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, inner))
    if origin is tuple:
        return f"a list of {len(inner)} numbers"
    if origin is list:
        return "a list of texts" if inner == (str,) else "a list"
    if origin is dict:
        what = "text" if inner[1] is str else "value"
        return f"a list of names and {what}s ({{name: {what}}})"
    return _PLAIN[hint]
