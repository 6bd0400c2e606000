"""Problems from a file, with programs by the project's own sampler: what needs neither a harness nor a hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from itertools import islice

from sparsepo_dist.data.reading.sources import Row, RowError, read_rows
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.code.exercises import FORMS, Exercise
from sparsepo_dist.evaluation.code.generation import Generation
from sparsepo_dist.evaluation.code.tasks import Problem
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.sampling.backends import load_sampler
from sparsepo_dist.sampling.responses import Nucleus

_NEW_TOKENS = 256
_FIELDS = tuple(field.name for field in fields(Exercise))


def read_exercises(source: str, limit: int | None) -> list[Exercise]:
    """Problems as `sparsepo prepare code` writes them (prompts.jsonl).

    Args:
        limit: the first ones; None: all.

    Raises:
        UserError: the source cannot be read, or a row lacks a field or is of no known form.
    """
    try:
        return list(map(_exercise, islice(read_rows(source), limit)))
    except RowError as bad:
        raise UserError(f"--problems {bad}; `sparsepo prepare code` writes such rows, prompts.jsonl") from None


def digest(exercises: list[Exercise]) -> str:
    """Tells results of these problems from those of others."""
    return hashlib.sha256(repr([astuple(one) for one in exercises]).encode()).hexdigest()[:16]


def _exercise(row: Row | RowError) -> Exercise:
    if isinstance(row, RowError):
        raise row
    found = row.fields if isinstance(row.fields, Mapping) else {}
    for name in _FIELDS:
        if not isinstance(found.get(name), str):
            raise RowError(row.place, f"{name} must be text, found {type(found.get(name)).__name__}")
    if found["form"] not in FORMS:
        raise RowError(row.place, f"form must be {' or '.join(FORMS)}, found {shortened(found['form'])}")
    return Exercise(**{name: found[name] for name in _FIELDS})


@dataclass(frozen=True)
class OwnProblems:
    """Problems with what is to be done with them."""

    target: Target
    generation: Generation
    batch_size: int
    exercises: list[Exercise]

    def generate(self, task: str) -> list[Problem]:
        """Programs and tests.

        Raises:
            UserError: the model cannot be loaded, or prompt and program exceed its positions.
            RunError: vLLM fails.
        """
        it = self.generation
        nucleus = Nucleus(it.temperature, it.top_p, it.max_length_generation or _NEW_TOKENS)
        sampler = load_sampler(it.backend, self.target.model, self.target.adapter)
        found = iter(
            sampler.sample(
                [one.prompt for one in self.exercises], it.n_samples, seed=it.seed, settings=nucleus,
                batch_size=self.batch_size, description=f"programs for {task}",
            )
        )  # fmt: skip
        return [
            Problem([one.program(one.response(next(found).response)) for _ in range(it.n_samples)], one.tests)
            for one in self.exercises
        ]
