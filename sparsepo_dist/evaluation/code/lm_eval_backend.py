"""lm-eval's own humaneval and mbpp tasks, for generation only."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.code.generation import Generation
from sparsepo_dist.evaluation.code.tasks import BENCHMARKS, Problem
from sparsepo_dist.evaluation.hub_mirror import reading_from
from sparsepo_dist.evaluation.target import Target


class _NeverExecutes:
    """Stands where lm-eval's tasks put `evaluate`'s code_eval, which executes programs in this process."""

    def compute(self, **_: object) -> tuple[dict[str, float], dict[str, object]]:
        """What the tasks call once when they are loaded, on an example of their own."""
        return {"pass@1": math.nan}, {}


@contextmanager
def _without_execution() -> Iterator[None]:
    """Loading the tasks would fetch code_eval from the hub and try it, whatever they are loaded for."""
    import evaluate  # type: ignore[import-untyped]

    def load(name: str, *arguments: Any, **options: Any) -> Any:
        return _NeverExecutes() if name == "code_eval" else real(name, *arguments, **options)

    real, evaluate.load = evaluate.load, load
    try:
        yield
    finally:
        evaluate.load = real


def generate(
    task: str, target: Target, generation: Generation, *, batch_size: int, mirror: Path | None
) -> list[Problem]:
    """Programs and tests of a task's problems.

    Raises:
        UserError: lm-eval is not installed, or the mirror lacks the dataset.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(f"--backend lm-eval: lm-eval is not installed ({error}): pip install lm-eval") from None
    dataset = BENCHMARKS[task].dataset_of_lm_eval(mirror)
    model = {"pretrained": target.model, "dtype": generation.dtype}
    if target.adapter is not None:
        model["peft"] = target.adapter
    with tempfile.TemporaryDirectory() as folder, _without_execution(), reading_from(mirror):
        described = Path(folder) / f"{task}.yaml"
        included = Path(lm_eval.__file__).parent / "tasks" / task / f"{task}.yaml"
        values = {"include": str(included), "task": task, "dataset_path": dataset, "repeats": generation.n_samples}
        described.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=model,
            tasks=[str(described)],
            batch_size=batch_size,
            device="cuda" if torch.cuda.is_available() else "cpu",
            limit=generation.limit,
            gen_kwargs=_sampling(generation),
            predict_only=True,
            log_samples=True,
            confirm_run_unsafe_code=True,  # only a word: predict_only leaves the metric out
            task_manager=TaskManager(include_defaults=False),  # all tasks' descriptions take long to read
            bootstrap_iters=0,
            random_seed=generation.seed,
            numpy_random_seed=generation.seed,
            torch_random_seed=generation.seed,
            fewshot_random_seed=generation.seed,
        )
    rows = sorted(found["samples"][task], key=lambda row: row["doc_id"])
    return [Problem([_beginning(task, row) + text for text in row["resps"][0]], row["target"]) for row in rows]


def _sampling(generation: Generation) -> dict[str, Any]:
    values: dict[str, Any] = {"do_sample": False}
    if generation.temperature:
        # transformers' own top_k is 50; the harness, and the paper, sample from all tokens
        values = {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
    if generation.max_length_generation is not None:
        values["max_gen_toks"] = generation.max_length_generation
    return values


def _beginning(task: str, row: dict[str, Any]) -> str:
    """HumanEval's prompt is the program's beginning; MBPP's is a text."""
    return row["doc"]["prompt"] if task == "humaneval" else ""
