"""lm-eval's tasks, groups and tags besides the leaderboard's: what of them is finished, and what groups come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sparsepo_dist.evaluation.leaderboard.lm_eval_backend import has_samples
from sparsepo_dist.evaluation.results import Results

if TYPE_CHECKING:
    from lm_eval.api.group import Group

FOLDER = "tasks"


class Other(NamedTuple):
    """A name of --tasks that is not the leaderboard's."""

    name: str
    results: Results
    """Of its tasks, and of itself where it is a group or a tag."""
    chat: bool
    shots: int | None
    """Asked for; None for each task's own."""
    samples: bool
    """Whether documents' records are wanted."""

    def finished(self) -> bool:
        """Whether all of it was measured before. Raises as `Results.finished`."""
        found = self.results.finished(self.name)
        if found is None:
            return False
        return all(self.has(task) for task in found.get("tasks", [self.name]))

    def has(self, task: str) -> bool:
        """Whether one of its tasks was measured before, and its records kept if they are wanted."""
        found = self.results.finished(task)
        return found is not None and (not self.samples or has_samples(found, self.results.folder))

    def close(self, tasks: Sequence[str], groups: Mapping[str, Group]) -> None:
        """Keep what a group comes to by lm-eval's own rule, and which tasks a name means, once all are measured."""
        if list(tasks) == [self.name]:
            return
        found = {task: self.results.finished(task) for task in tasks}
        for name in {self.name, *groups}:
            members = [task.task_name for task in groups[name].get_all_tasks()] if name in groups else list(tasks)
            metrics = _together(groups[name], found) if name in groups else {}
            self.results.write(name, {"tasks": members, "metrics": metrics})


def _together(group: Group, results: Mapping[str, Any]) -> dict[str, float]:
    metrics: Mapping[str, Any] = group.aggregate(
        {task: {**result["metrics"], "sample_len": result["documents"]} for task, result in results.items()}
    )
    return {key: float(value) for key, value in metrics.items() if "," in key and _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
