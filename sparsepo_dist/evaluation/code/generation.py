"""Programs for every problem, one file a task: sampled by a backend, or generated elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.evaluation.code.tasks import Problem
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.sampling.backends import TRANSFORMERS

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
    problems: str | None = None
    """Digest of problems from a file."""


class Imported(NamedTuple):
    """A file of programs that were generated elsewhere."""

    file: Path
    sha256: str
    limit: int | None
    """The first problems only."""


Source = Generation | Imported


def settings_of(source: Source) -> dict[str, Any]:
    """All that decides which programs these are, besides the model."""
    if isinstance(source, Imported):
        return {"imported": source.sha256, "limit": source.limit}
    values = source._asdict()
    return values if source.problems is not None else {k: v for k, v in values.items() if k != "problems"}


def stored(task: str, source: Source) -> str:
    """The task that the programs for a task are kept as: HumanEval+'s are HumanEval's, where they are sampled here."""
    return "humaneval" if task == "humaneval+" and isinstance(source, Generation) else task


def generations(output: Path, target: Target, source: Source) -> Results:
    """Where the programs of a model are, or will be. Raises UserError where that cannot be written."""
    packages = {
        "harness": ("bigcode_eval", "accelerate", "peft"),
        "lm-eval": ("lm_eval", "peft"),
        "vllm": ("lm_eval", "vllm"),
        TRANSFORMERS: (),
    }
    needed = packages[source.backend] if isinstance(source, Generation) else ()
    return Results(output / GENERATIONS, target, settings_of(source), packages=needed)


def problems_of(result: dict[str, Any]) -> list[Problem]:
    """What a file of generations holds."""
    return [Problem(problem["programs"], problem["tests"]) for problem in result["problems"]]
