"""lm-eval's own humaneval and mbpp tasks, for generation only."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.code.generation import Generation
from sparsepo_dist.evaluation.code.tasks import BENCHMARKS, Problem
from sparsepo_dist.evaluation.hub_mirror import reading_from
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.evaluation.vllm_lm_eval import lm_eval_model

if TYPE_CHECKING:
    from lm_eval.api.model import LM


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


class LmEval:
    """lm-eval with what it is to do, whatever the task."""

    def __init__(self, target: Target, generation: Generation, batch_size: int, mirror: Path | None) -> None:
        self._target, self._generation, self._batch_size, self._mirror = target, generation, batch_size, mirror
        self._loaded: LM | None = None

    def generate(self, task: str) -> list[Problem]:
        """Programs and tests of a task's problems.

        Raises:
            UserError: lm-eval is not installed, or the mirror lacks the dataset.
        """
        it = self._generation
        try:
            import lm_eval
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise UserError(
                f"--backend {it.backend}: lm-eval is not installed ({error}): pip install lm-eval"
            ) from None
        dataset = BENCHMARKS[task].dataset_of_lm_eval(self._mirror)
        model, arguments = self._model()
        with tempfile.TemporaryDirectory() as folder, _without_execution(), reading_from(self._mirror):
            described = Path(folder) / f"{task}.yaml"
            included = Path(lm_eval.__file__).parent / "tasks" / task / f"{task}.yaml"
            values = {"include": str(included), "task": task, "dataset_path": dataset, "repeats": it.n_samples}
            described.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
            found = lm_eval.simple_evaluate(
                model=model,
                model_args=arguments,
                tasks=[str(described)],
                batch_size=self._batch_size,
                device="cuda" if torch.cuda.is_available() else "cpu",
                limit=it.limit,
                gen_kwargs=_sampling(it),
                predict_only=True,
                log_samples=True,
                confirm_run_unsafe_code=True,  # only a word: predict_only leaves the metric out
                task_manager=TaskManager(include_defaults=False),  # all tasks' descriptions take long to read
                bootstrap_iters=0,
                random_seed=it.seed,
                numpy_random_seed=it.seed,
                torch_random_seed=it.seed,
                fewshot_random_seed=it.seed,
            )
        rows = sorted(found["samples"][task], key=lambda row: row["doc_id"])
        return [Problem([_beginning(task, row) + text for text in row["resps"][0]], row["target"]) for row in rows]

    def _model(self) -> tuple[LM | str, dict[str, Any] | None]:
        """What lm-eval is to load, with which arguments; or what vLLM has loaded, which has no room for a second."""
        target, it = self._target, self._generation
        if it.backend == "vllm":
            if self._loaded is None:
                self._loaded = lm_eval_model(target, dtype=it.dtype, batch_size="auto", seed=it.seed)
            return self._loaded, None
        adapter = {} if target.adapter is None else {"peft": target.adapter}
        return "hf", {"pretrained": target.model, "dtype": it.dtype, **adapter}


def _sampling(generation: Generation) -> dict[str, Any]:
    values: dict[str, Any] = {"do_sample": False}
    if generation.temperature:
        values = {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p}
        if generation.backend != "vllm":
            values["top_k"] = 0  # transformers' own is 50; the harness, and the paper, sample from all tokens, as vLLM
    if generation.max_length_generation is not None:
        values["max_gen_toks"] = generation.max_length_generation
    return values


def _beginning(task: str, row: dict[str, Any]) -> str:
    """HumanEval's prompt is the program's beginning; MBPP's is a text."""
    return row["doc"]["prompt"] if task == "humaneval" else ""
