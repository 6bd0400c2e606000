"""Programs for every problem, one file a task, from either backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.evaluation.code.tasks import Problem
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.target import Target

GENERATIONS = "generations"


class Generation(NamedTuple):
    """How programs are sampled."""

    backend: str
    n_samples: int
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    max_length_generation: int | None
    """Tokens: of prompt and program with the harness, of the program with the others. None: the backend's own."""
    limit: int | None
    """The first problems only."""
    seed: int
    dtype: str


def generations(output: Path, target: Target, generation: Generation) -> Results:
    """Where the programs of a model are, or will be. Raises UserError where that cannot be written."""
    packages = {
        "harness": ("bigcode_eval", "accelerate", "peft"),
        "lm-eval": ("lm_eval", "peft"),
        "vllm": ("lm_eval", "vllm"),
    }
    return Results(output / GENERATIONS, target, generation._asdict(), packages=packages[generation.backend])


def problems_of(result: dict[str, Any]) -> list[Problem]:
    """What a file of generations holds."""
    return [Problem(problem["programs"], problem["tests"]) for problem in result["problems"]]
