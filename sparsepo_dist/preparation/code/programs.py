"""Programs sampled for problems and run against their tests, in portions that outlive a kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparsepo_dist.evaluation.code.execution import execute
from sparsepo_dist.evaluation.code.tasks import Problem
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.preparation.code.problems import Numbered
from sparsepo_dist.preparation.drawing import Drawing
from sparsepo_dist.preparation.work import Portion, Work

LIMITS = Limits()


@dataclass(frozen=True)
class Trial:
    """How programs are drawn and run."""

    drawing: Drawing
    workers: int
    """Programs run at once."""

    def judged(self, work: Work, name: str, problems: Sequence[Numbered]) -> Iterator[dict[str, Any]]:
        """Every program of every problem with its verdict: `task_id`, `response`, how often it was `drawn`, `outcome`
        and `detail`. Identical ones are run once. As many problems as fill a batch are done and kept together.

        Args:
            name: of the split.

        Raises:
            UserError: as `Drawing.samples`, or programs cannot be confined.
            RunError: vLLM fails.
        """
        at_once = max(1, self.drawing.batch_size // self.drawing.count)
        return work.in_portions(name, problems, at_once, lambda portion: self._portion(name, portion))

    def _portion(self, name: str, portion: Portion[Numbered]) -> list[dict[str, Any]]:
        prompts = [one.exercise.prompt for one in portion.items]
        found = iter(self.drawing.samples(portion, prompts, name, "programs"))
        drawn = [
            Counter(one.exercise.response(next(found).response) for _ in range(self.drawing.count))
            for one in portion.items
        ]
        programs = [
            Problem([one.exercise.program(response) for response in responses], one.exercise.tests)
            for one, responses in zip(portion.items, drawn, strict=True)
        ]
        verdicts = execute(programs, LIMITS, workers=self.workers, title=f"{name} tests, {portion.said}")
        return [
            {"task_id": one.task_id, "response": response, "drawn": count, **verdict._asdict()}
            for one, responses, of_one in zip(portion.items, drawn, verdicts, strict=True)
            for (response, count), verdict in zip(responses.items(), of_one, strict=True)
        ]
