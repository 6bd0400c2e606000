"""Raw accuracies to the Open LLM Leaderboard v2's scores: 0 at random chance, 100 at perfect.

Numbers of choices, metrics and formula are those that the leaderboard publishes
(huggingface.co/docs/leaderboards/open_llm_leaderboard: normalization, about).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sparsepo_dist.errors import UserError, did_you_mean

_BBH_CHOICES = {
    "boolean_expressions": 2,
    "causal_judgement": 2,
    "date_understanding": 6,
    "disambiguation_qa": 3,
    "formal_fallacies": 2,
    "geometric_shapes": 11,
    "hyperbaton": 2,
    "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7,
    "logical_deduction_three_objects": 3,
    "movie_recommendation": 6,
    "navigate": 2,
    "object_counting": 19,
    "penguins_in_a_table": 5,
    "reasoning_about_colored_objects": 18,
    "ruin_names": 6,
    "salient_translation_error_detection": 6,
    "snarks": 2,
    "sports_understanding": 2,
    "temporal_sequences": 4,
    "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7,
    "tracking_shuffled_objects_three_objects": 3,
    "web_of_lies": 2,
}
_MATH_SUBJECTS = (
    "algebra", "counting_and_prob", "geometry", "intermediate_algebra", "num_theory", "prealgebra", "precalculus",
)  # fmt: skip


class Column(NamedTuple):
    """One column of the table."""

    name: str
    metric: str
    """lm-eval's name, with its filter."""
    choices: Mapping[str, int]
    """By task: how many answers there are to guess among; 0 where guessing gives nothing."""
    pooled: bool = False
    """One accuracy over all documents is normalised, instead of each task's; the leaderboard sees no tasks there."""


COLUMNS = (
    Column("BBH", "acc_norm,none", {f"leaderboard_bbh_{task}": number for task, number in _BBH_CHOICES.items()}),
    Column(
        "MATH", "exact_match,none", {f"leaderboard_math_{name}_hard": 0 for name in _MATH_SUBJECTS}, pooled=True
    ),
    Column(
        "GPQA", "acc_norm,none", {f"leaderboard_gpqa_{part}": 4 for part in ("diamond", "extended", "main")},
        pooled=True,
    ),
    Column(
        "MuSR",
        "acc_norm,none",
        {
            "leaderboard_musr_murder_mysteries": 2,
            "leaderboard_musr_object_placements": 5,
            "leaderboard_musr_team_allocation": 3,
        },
    ),
    Column("MMLU-Pro", "acc,none", {"leaderboard_mmlu_pro": 10}),
    Column("IFEval instruction", "inst_level_strict_acc,none", {"leaderboard_ifeval": 0}),
    Column("IFEval prompt", "prompt_level_strict_acc,none", {"leaderboard_ifeval": 0}),
)  # fmt: skip

_BY_NAME = {column.name: tuple(column.choices) for column in COLUMNS}
GROUPS = {
    "leaderboard_bbh": _BY_NAME["BBH"],
    "leaderboard_gpqa": _BY_NAME["GPQA"],
    "leaderboard_math_hard": _BY_NAME["MATH"],
    "leaderboard_mmlu_pro": _BY_NAME["MMLU-Pro"],
    "leaderboard_musr": _BY_NAME["MuSR"],
    "leaderboard_ifeval": _BY_NAME["IFEval prompt"],
}
"""lm-eval's names of the benchmarks, and the tasks of each."""
TASKS = tuple(task for tasks in GROUPS.values() for task in tasks)


def selected_tasks(names: Iterable[str], *, option: str = "--tasks") -> list[str]:
    """The tasks that names of groups and tasks mean, each once; `option` is where they were given.

    Raises:
        UserError: a name is neither.
    """
    known = {**{task: (task,) for task in TASKS}, **GROUPS}
    for name in names:
        if name not in known:
            raise UserError(f"{option}: {name} is no task of the leaderboard{did_you_mean(name, known)}")
    return list(dict.fromkeys(task for name in names for task in known[name]))


def normalised(raw: float, choices: int) -> float:
    """A raw accuracy of 0..1 on the scale of 0..100 above chance; below chance it is 0."""
    chance = 1 / choices if choices else 0.0
    return 100 * max(0.0, raw - chance) / (1 - chance)


def column_score(column: Column, results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """A column's score from the results of its tasks; None while one is missing.

    Args:
        results: by task: `metrics` by lm-eval's names, `documents` they are the mean of.
    """
    if not column.choices.keys() <= results.keys():
        return None
    raw = {task: float(results[task]["metrics"][column.metric]) for task in column.choices}
    if column.pooled:
        documents = {task: int(results[task]["documents"]) for task in column.choices}
        accuracy = sum(raw[task] * documents[task] for task in raw) / sum(documents.values())
        return normalised(accuracy, next(iter(column.choices.values())))
    return _mean([normalised(raw[task], choices) for task, choices in column.choices.items()])


def average(scores: Mapping[str, float | None]) -> float | None:
    """The mean of all seven columns, as the paper's table has it (IFEval counts twice); None while one is missing."""
    found = [score for score in scores.values() if score is not None]
    return _mean(found) if len(found) == len(COLUMNS) else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
