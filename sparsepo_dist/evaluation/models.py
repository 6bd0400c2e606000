"""The models that one table compares."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.target import FINAL, Target, target
from sparsepo_dist.files import at_home


def split_name(value: str) -> tuple[str | None, str]:
    """Name and path of `NAME=PATH`; no name where the whole is a path, or holds no `=`."""
    name, equals, path = value.partition("=")
    named = equals and name and path and not Path(value).exists()
    return (name, at_home(path)) if named else (None, value)


def named_targets(values: Sequence[str], *, base: str | None) -> list[Target]:
    """What several `--model [NAME=]PATH` mean.

    Raises:
        UserError: one of them is no model, or two have one name.
    """
    found = [target(path, base=base, name=name) for name, path in map(split_name, values)]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--model: two models are called {name}; name them, --model NAME=PATH")
    return found


def results_folder(one: Target) -> str:
    """Name of the folder of a model's results: the same whatever it is compared with."""
    digest = hashlib.sha256(f"{one.model}\n{one.adapter}".encode()).hexdigest()
    place = Path(one.adapter or one.model)
    name = place.parent.name if place.name == FINAL else place.name
    return f"{re.sub('[^A-Za-z0-9_.-]+', '-', name)}-{digest[:8]}"
