"""What a measurement changed from the leaderboard's own rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsepo_dist.evaluation.leaderboard.normalisation import GROUPS


def changes(results: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    """In words; nothing where nothing was changed.

    Args:
        results: by task of the leaderboard.
        settings: that they were measured with.
    """
    said = []
    if "system_instruction" in settings:
        said.append(f"a system instruction, {settings['system_instruction']!r}")
    for group, tasks in GROUPS.items():
        asked = {(results[task]["own_shots"], results[task]["shots"]) for task in tasks if _changed(results.get(task))}
        said += [f"{shots} few-shot examples instead of {own} in {group}" for own, shots in sorted(asked)]
    return said


def _changed(result: Mapping[str, Any] | None) -> bool:
    return result is not None and result.get("own_shots", result["shots"]) != result["shots"]
