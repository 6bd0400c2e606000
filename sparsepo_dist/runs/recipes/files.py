"""A recipe and the files that it lies on: `base: FILE` at its top names the next one below, from its own folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import at_home, entries, parse_yaml, read_text

BASE = "base"
MOST_FILES = 8


@dataclass(frozen=True)
class RecipeFile:
    """One file of a recipe."""

    path: Path
    fields: yaml.MappingNode
    """What it sets, without the name of its base."""
    base: Path | None
    """The file below it."""
    base_line: int = 0
    """Where that is named."""

    @property
    def argument(self) -> str:
        """What `--recipe` of the parser takes, which knows no bases: the file, or its fields as YAML."""
        return str(self.path) if self.base is None else yaml.serialize(self.fields)


def read_recipe(path: str) -> list[RecipeFile]:
    """A recipe's files, the lowest first; of a field that several set, the last one's value counts.

    Raises:
        UserError: a file cannot be read or holds no fields, a recipe lies on itself, or on too many.
    """
    files = [_read(Path(path), f"recipe: {path}")]
    seen = [files[0].path.resolve()]
    while (base := files[-1].base) is not None:
        above = f"recipe: {_told(files[-1].path)}: line {files[-1].base_line}: base"
        if len(files) == MOST_FILES:
            raise UserError(f"{above}: {_told(path)} lies on {MOST_FILES} files and more; join some of them")
        files.append(_read(base, f"{above}: {_told(base)}"))
        if base.resolve() in seen:
            raise UserError(f"{above}: {_told(base)} lies on this file itself; no base may lead back to where it began")
        seen.append(base.resolve())
    return files[::-1]


def value_of(files: Sequence[RecipeFile], field: str) -> str | None:
    """The text of a field (`model.path`) in a recipe's files, as the last of them has it; None where none has it.

    Raises:
        UserError: a file cannot be read that far.
    """
    found = None
    for file in files:
        try:
            found = next((value for name, value in _leaves(file.fields) if name == field), found)
        except ValueError as error:
            raise UserError(f"recipe: {_told(file.path)}: {error}") from None
    return found


def _read(path: Path, name: str) -> RecipeFile:
    """`name`: what messages call it where it cannot be read."""
    text = read_text(path, name, remedy="; the project's own are in launch/recipes/")
    try:
        root = parse_yaml(text)
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("it must hold fields and their values, as launch/recipes/ shows")
        base, line = None, 0
        for entry in entries(root):
            if entry.name == BASE:
                base, line = path.parent / _file_name(entry.node, entry.line), entry.line
    except ValueError as error:
        raise UserError(f"recipe: {_told(path)}: {error}") from None
    rest = [(key, node) for key, node in root.value if key.value != BASE]
    return RecipeFile(path, yaml.MappingNode(root.tag, rest, root.start_mark, root.end_mark), base, line)


def _file_name(node: yaml.Node, line: int) -> str:
    no_name = not isinstance(node, yaml.ScalarNode) or node.tag.endswith(":null")
    if no_name or not node.value.strip() or "\0" in node.value:
        raise ValueError(f"line {line}: base must name one file, the recipe that this one lies on")
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"line {line}: base: {shortened(node.value)} holds halves of characters") from None
    return at_home(node.value)


def _told(path: Path | str) -> str:
    return shortened(str(path), 200)


def _leaves(mapping: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of the fields that hold one value."""
    for name, node, _ in entries(mapping):
        if isinstance(node, yaml.MappingNode):
            yield from _leaves(node, f"{prefix}{name}.")
        elif isinstance(node, yaml.ScalarNode):
            yield f"{prefix}{name}", node.value
