"""Options that are one value for all tasks, then TASK=VALUE for some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.leaderboard.normalisation import GROUPS, TASKS, selected_tasks

T = TypeVar("T")


def per_task(
    given: Sequence[str], others: Sequence[str], default: T, read: Callable[[str], T], *, option: str
) -> dict[str, T]:
    """Values by task of the leaderboard and by name of other tasks.

    Args:
        given: VALUE for all, TASK=VALUE for a task or group of the leaderboard or a name of `others`; later ones count.
        others: names of --tasks that are not the leaderboard's.
        default: of what is not given.
        read: a value from its text. Raises ValueError with what is wanted.

    Raises:
        UserError: no such value or task.
    """
    found = dict.fromkeys([*TASKS, *others], default)
    for word in given:
        name, equals, text = word.rpartition("=")
        try:
            value = read(text)
        except ValueError as error:
            raise UserError(f"{option} {word}: {error}") from None
        named = [name] if name in others else selected_tasks([name], option=option) if equals else list(found)
        found.update(dict.fromkeys(named, value))
    return found


def named_tasks(given: Sequence[str]) -> set[str]:
    """Tasks of the leaderboard and other names that a value was given for by name, groups as their tasks."""
    names = {word.rpartition("=")[0] for word in given if "=" in word}
    return {task for name in names for task in GROUPS.get(name, (name,))}


def by_group(values: Mapping[str, T]) -> T | dict[str, T]:
    """The leaderboard's tasks with one value where all are alike, else by group or task."""
    if len({values[task] for task in TASKS}) == 1:
        return values[TASKS[0]]
    found: dict[str, T] = {}
    for group, tasks in GROUPS.items():
        alike = {values[task] for task in tasks}
        found |= {group: alike.pop()} if len(alike) == 1 else {task: values[task] for task in tasks}
    return found
