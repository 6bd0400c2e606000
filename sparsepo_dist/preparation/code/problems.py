"""Problems read from rows of MBPP's schema."""

from __future__ import annotations

from typing import NamedTuple

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.code.exercises import Exercise, PromptForm, exercise
from sparsepo_dist.preparation.schema import TEXT, TEXTS, WHOLE, Kind, Schema

SET = "google-research-datasets/mbpp:full"
_SCHEMA = Schema(
    SET,
    {"task_id": WHOLE, "text": TEXT, "code": TEXT, "test_list": TEXTS},
    {"test_setup_code": Kind("text", lambda value: isinstance(value, str))},
)


class Numbered(NamedTuple):
    """A problem and its number in the set."""

    task_id: int
    title: str
    """What it asks for, shortened."""
    exercise: Exercise


def read_problems(option: str, source: str, form: PromptForm) -> list[Numbered]:
    """All problems of a source.

    Args:
        option: where the source was given, for messages.

    Raises:
        UserError: it cannot be read, a row is not of the schema or cannot be put in the form, or a number stands twice.
    """
    found: dict[int, Numbered] = {}
    for place, values in _SCHEMA.rows(source, option=option):
        number = values["task_id"]
        try:
            one = exercise(values["text"], values["code"], values["test_list"], values["test_setup_code"] or "", form)
        except ValueError as error:
            raise UserError(f"{option} {place}: {error}; --form docstring needs a text and a test alone") from None
        if number in found:
            raise UserError(f"{option} {place}: the task_id {number} stands there twice")
        found[number] = Numbered(number, shortened(values["text"], 60), one)
    return list(found.values())
