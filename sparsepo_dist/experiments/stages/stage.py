"""A stage: one command of an experiment, what it needs of others, and what of its output is only for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OUTPUT = "output"
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Stage:
    """One command. In its texts `{NAME}` stands for the folder of a stage that it needs, `{output}` for its own."""

    name: str
    """Unique in an experiment: `prepare`, `sft`, a run's name, RUN/SUITE."""
    kind: str
    """prepare, cache, train or evaluate: the folder of its results."""
    command: tuple[str, ...]
    """Words after the Python interpreter."""
    configuration: Mapping[str, Any]
    """All that decides its results besides code and other stages."""
    code: tuple[str, ...]
    """Modules of the package, without its name, at which the code that decides its results begins."""
    needs: tuple[str, ...] = ()
    """Names of stages."""
    temporary: tuple[str, ...] = ()
    """Names in its output that are removed when no stage needs them any more; the first is always written."""
    nodes: int = 1
    """Of Slurm."""


def filled(value: Any, folders: Mapping[str, str]) -> Any:
    """A text, or texts within lists and mappings, with `{NAME}` replaced for every name there is."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda found: folders.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {name: filled(inner, folders) for name, inner in value.items()}
    return [filled(inner, folders) for inner in value] if isinstance(value, list | tuple) else value


def placeholders(value: Any) -> set[str]:
    """Names in braces in a text, or in texts within lists and mappings."""
    if isinstance(value, str):
        return set(_PLACEHOLDER.findall(value))
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return {name for part in inner for name in placeholders(part)}
