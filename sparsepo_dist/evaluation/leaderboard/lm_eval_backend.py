"""lm-eval's leaderboard tasks and models: loaded, checked, and one task evaluated at a time."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoTokenizer

from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.errors import RankError, UserError, shortened
from sparsepo_dist.evaluation.hub_mirror import check_dataset, configuration_fault, is_offline, reading_from
from sparsepo_dist.evaluation.leaderboard.command import LeaderboardOptions
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.evaluation.vllm_lm_eval import lm_eval_model
from sparsepo_dist.sampling.vllm import check_vllm

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

# lm-eval's own search for the largest batch runs the longest sequences it can, 64 at a time, which takes a CPU minutes.
CPU_BATCH_SIZE = 4
_PUNKT = "tokenizers/punkt_tab"
# What datasets, the hub's client and transformers raise over files that are damaged or not to be had.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, ImportError)


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
    except _UNREADABLE as error:
        raise UserError(f"--model: the tokenizer of {path} cannot be loaded: {_told(error)}") from None
    return tokenizer.chat_template is not None


def load_tasks(names: Sequence[str], *, mirror: Path | None, seed: int) -> dict[str, Task]:
    """lm-eval's tasks by name, with their datasets, before any model is loaded.

    Raises:
        UserError: a dataset or a package that a task needs is missing; names it, and where a mirror should have it.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    # Only the leaderboard's own: the index of all tasks is thousands of files.
    folder = Path(lm_eval.__file__).parent / "tasks" / "leaderboard"
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    if mirror is not None:
        for name in names:
            check_dataset(_dataset(manager, name)[0], mirror, needed_by=name)
    if "leaderboard_ifeval" in names:
        _check_punkt()
    tasks: dict[str, Task] = {}
    with reading_from(mirror), _fresh_transforms():
        for name in tqdm(names, desc="Datasets", unit="task", disable=rank() != 0):
            task = tasks[name] = _load_task(manager, name, mirror)
            _keep_documents(task, seed)
            task.set_fewshot_seed(seed)
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", 0)
    return tasks


def _load_task(manager: TaskManager, name: str, mirror: Path | None) -> Task:
    dataset, configuration = _dataset(manager, name)
    try:
        return manager.load([name])["tasks"][name]
    except ImportError as error:
        raise UserError(f"{name} needs a package that is not installed: {_told(error)}") from None
    except _UNREADABLE as error:
        if mirror is None:
            check_dataset(dataset, mirror, needed_by=name)  # says it better where we are offline
        of = f"{configuration} of {dataset}" if configuration else dataset
        fault = configuration_fault(dataset, configuration, mirror) if mirror is not None and configuration else None
        why = fault or _told(error) + ("" if mirror is None else f"; the mirror should have it in {mirror / dataset}")
        raise UserError(f"{name} reads {of}, which cannot be loaded: {why}") from None


def _draw_from(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _dataset(manager: TaskManager, name: str) -> tuple[str, str | None]:
    config = manager.task_index[name].cfg or {}
    return str(config["dataset_path"]), config.get("dataset_name")


def _check_punkt() -> None:
    """IFEval counts sentences with nltk's punkt, and would only notice after it has generated everything."""
    import nltk  # type: ignore[import-untyped]

    try:
        nltk.data.find(_PUNKT)
    except LookupError:
        if is_offline() or not nltk.download("punkt_tab", quiet=True):
            raise UserError(
                "leaderboard_ifeval needs nltk's punkt_tab, which is not here and cannot be downloaded; run `python -m "
                "nltk.downloader -d DIR punkt_tab` where there is a network, and set NLTK_DATA=DIR"
            ) from None


def _keep_documents(task: Task, seed: int) -> None:
    """Make a task's documents once, as this seed has them.

    lm-eval makes them whenever it looks at them, and relies on datasets' cache to find GPQA's choices in the same order
    each time: the order of the first run that this machine ever saw, whatever its seed was.
    """
    _draw_from(seed)
    documents = task.eval_docs
    setattr(task, "test_docs" if task.has_test_docs() else "validation_docs", lambda: documents)


@contextmanager
def _fresh_transforms() -> Iterator[None]:
    """Keep datasets from reusing what an earlier run made of them."""
    import datasets

    enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_caching()


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
    except _UNREADABLE as error:
        on = f" with the adapter {target.adapter}" if target.adapter else ""
        raise UserError(f"--model: {target.model}{on} cannot be loaded: {_told(error)}") from None


def _hf_model(target: Target, options: LeaderboardOptions) -> LM:
    from lm_eval.models.huggingface import HFLM

    gpu = torch.cuda.is_available()
    batch_size = CPU_BATCH_SIZE if options.batch_size == "auto" and not gpu else options.batch_size
    return HFLM(
        pretrained=target.model, tokenizer=tokenizer_source(target.model, target.adapter), dtype=options.dtype,
        trust_remote_code=options.trust_remote_code, peft=target.adapter, batch_size=batch_size,
        device="cuda" if gpu else "cpu", chat_template_args=dict(options.chat_template_kwargs),
    )  # fmt: skip


def evaluate(model: LM, task: Task, options: LeaderboardOptions, *, chat_template: bool) -> dict[str, Any] | None:
    """One task's result; None on all ranks but the first.

    Returns:
        metrics: by lm-eval's names, accuracies of 0..1 and their standard errors; documents: how many they are the mean
        of; all_documents: how many the task has; shots; task_version: lm-eval's; batch_size; revision: of a hub model.

    Raises:
        RankError: the GPU's memory did not suffice.
    """
    # Not simple_evaluate: around this call it asks git, pip and the hub about the machine, seconds for every task.
    from lm_eval import evaluate as run

    # A batch size found for one task's longest document would be kept for another's longer ones.
    found_sizes: dict[Any, int] = getattr(model, "batch_sizes", {})
    found_sizes.clear()
    _draw_from(options.seed)
    with _memory_told(options):
        found = run(
            lm=model,
            task_dict={"tasks": {task.task_name: task}},
            limit=options.limit,
            log_samples=False,
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
    }


@contextmanager
def _memory_told(options: LeaderboardOptions) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RankError(
            f"the GPU's memory did not suffice (--batch_size {options.batch_size}): {_told(error)}; finished tasks are "
            "kept: start again with a smaller --batch_size"
        ) from error


def _told(error: Exception) -> str:
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return shortened(said or type(error).__name__, 300)
