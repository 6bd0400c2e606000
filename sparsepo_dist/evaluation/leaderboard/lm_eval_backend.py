"""lm-eval's models: loaded, and one task evaluated at a time; its record of each document, in its own files."""

from __future__ import annotations

import datetime
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.errors import RankError, RunError, UserError
from sparsepo_dist.evaluation.leaderboard.command import LeaderboardOptions
from sparsepo_dist.evaluation.leaderboard.lm_eval_tasks import UNREADABLE, draw_from, told
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.evaluation.vllm_lm_eval import lm_eval_model
from sparsepo_dist.sampling.vllm import check_vllm

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task

# lm-eval's own search for the largest batch runs the longest sequences it can, 64 at a time, which takes a CPU minutes.
CPU_BATCH_SIZE = 4


def check_installed(backend: str) -> None:
    """Refuse a backend that is not installed.

    Raises:
        UserError: says how to get it.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-eval is not installed; run `pip install 'lm-eval[ifeval,math]'`")
    if backend == "vllm":
        check_vllm()


def has_chat_template(target: Target, *, trust_remote_code: bool) -> bool:
    """Whether the model's tokenizer brings a chat template.

    Raises:
        UserError: there is no tokenizer to be had.
    """
    path = tokenizer_source(target.model, target.adapter)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except UNREADABLE as error:
        raise UserError(f"--model: the tokenizer of {path} cannot be loaded: {told(error)}") from None
    return tokenizer.chat_template is not None


def load_model(target: Target, options: LeaderboardOptions) -> LM:
    """The model as lm-eval's; under `accelerate launch`, this rank's copy.

    Raises:
        UserError: it cannot be loaded.
        RankError: the GPU's memory did not suffice.
    """
    try:
        with _memory_told(options):
            if options.backend == "vllm":
                return lm_eval_model(
                    target, dtype=options.dtype, batch_size=options.batch_size, seed=options.seed,
                    trust_remote_code=options.trust_remote_code, chat_template_args=options.chat_template_kwargs,
                )  # fmt: skip
            return _hf_model(target, options)
    except UNREADABLE as error:
        on = f" with the adapter {target.adapter}" if target.adapter else ""
        raise UserError(f"--model: {target.model}{on} cannot be loaded: {told(error)}") from None


def _hf_model(target: Target, options: LeaderboardOptions) -> LM:
    from lm_eval.models.huggingface import HFLM

    gpu = torch.cuda.is_available()
    batch_size = CPU_BATCH_SIZE if options.batch_size == "auto" and not gpu else options.batch_size
    return HFLM(
        pretrained=target.model, tokenizer=tokenizer_source(target.model, target.adapter), dtype=options.dtype,
        trust_remote_code=options.trust_remote_code, peft=target.adapter, batch_size=batch_size,
        device="cuda" if gpu else "cpu", chat_template_args=dict(options.chat_template_kwargs),
    )  # fmt: skip


def evaluate(
    model: LM, task: Task, options: LeaderboardOptions, *, chat_template: bool, samples: Path | None
) -> dict[str, Any] | None:
    """One task's result; None on all ranks but the first.

    Args:
        samples: folder in which lm-eval's record of each document is kept; None keeps none.

    Returns:
        metrics: by lm-eval's names, accuracies of 0..1 and their standard errors; documents: how many they are the mean
        of; all_documents: how many the task has; shots; task_version: lm-eval's; batch_size; revision: of a hub model;
        samples: the file of the documents' records, in its folder.

    Raises:
        RunError: the records could not be written.
        RankError: the GPU's memory did not suffice.
    """
    # Not simple_evaluate: around this call it asks git, pip and the hub about the machine, seconds for every task.
    from lm_eval import evaluate as run

    # A batch size found for one task's longest document would be kept for another's longer ones.
    found_sizes: dict[Any, int] = getattr(model, "batch_sizes", {})
    found_sizes.clear()
    draw_from(options.seed)
    with _memory_told(options):
        found = run(
            lm=model,
            task_dict={"tasks": {task.task_name: task}},
            limit=options.limit,
            log_samples=samples is not None,
            system_instruction=options.system_instruction,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    if found is None:
        return None
    name = task.task_name
    numbers = {key: value for key, value in found["results"][name].items() if "," in key}
    return {
        "metrics": {k: float(v) for k, v in numbers.items() if isinstance(v, int | float) and math.isfinite(v)},
        "documents": found["n-samples"][name]["effective"],
        "all_documents": found["n-samples"][name]["original"],
        "shots": found["n-shot"][name],
        "task_version": found["versions"][name],
        "batch_size": sorted(set(found_sizes.values())) or getattr(model, "batch_size", None),
        "revision": getattr(getattr(model, "config", None), "_commit_hash", None),
        **({"samples": write_samples(samples, name, found["samples"][name])} if samples is not None else {}),
    }


def write_samples(folder: Path, task: str, samples: Sequence[Mapping[str, Any]]) -> str:
    """Write a task's records with lm-eval's own writer; the name of its file, samples_TASK_DATE.jsonl.

    Raises:
        RunError: not all of them could be written.
    """
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(folder / "results.json"))  # of a file it takes the folder
    tracker.date_id = datetime.datetime.now().isoformat().replace(":", "-")
    path = folder / f"samples_{task}_{tracker.date_id}.jsonl"
    tracker.save_results_samples(task_name=task, samples=samples)
    written = 0
    if path.is_file():  # what goes wrong it only logs
        with path.open("rb") as file:
            written = sum(1 for _ in file)
    if written != len(samples):
        raise RunError(
            f"lm-eval wrote {written} of {len(samples)} records of {task} to {path}; leave --log_samples out, or name "
            "another --output"
        )
    return path.name


def has_samples(result: Mapping[str, Any], folder: Path) -> bool:
    """Whether the records that a result was made of are there."""
    return "samples" in result and (folder / result["samples"]).is_file()


@contextmanager
def _memory_told(options: LeaderboardOptions) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RankError(
            f"the GPU's memory did not suffice (--batch_size {options.batch_size}): {told(error)}; finished tasks are "
            "kept: start again with a smaller --batch_size"
        ) from error
