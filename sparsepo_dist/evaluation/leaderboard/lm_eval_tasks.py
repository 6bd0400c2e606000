"""lm-eval's tasks: found by name, checked, loaded with their datasets before any model is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.errors import UserError, did_you_mean, shortened
from sparsepo_dist.evaluation.hub_mirror import check_dataset, configuration_fault, is_offline, reading_from

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

_PUNKT = "tokenizers/punkt_tab"
# What datasets, the hub's client and transformers raise over files that are damaged or not to be had.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, ImportError)


def load_tasks(names: Sequence[str], *, mirror: Path | None, seed: int) -> dict[str, Task]:
    """lm-eval's tasks by name, with their datasets, before any model is loaded.

    Raises:
        UserError: a dataset or a package that a task needs is missing; names it, and where a mirror should have it.
    """
    manager = leaderboard_manager()
    if mirror is not None:
        for name in names:
            check_dataset(str(_configured(manager, name)["dataset_path"]), mirror, needed_by=name)
    if "leaderboard_ifeval" in names:
        _check_punkt()
    tasks: dict[str, Task] = {}
    with reading_from(mirror), _fresh_transforms():
        for name in tqdm(names, desc="Datasets", unit="task", disable=rank() != 0):
            tasks[name] = _prepared(_load_task(manager, name, mirror), seed)
    return tasks


def leaderboard_manager() -> TaskManager:
    """Of the leaderboard's own tasks: the index of all is thousands of files."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = Path(lm_eval.__file__).parent / "tasks" / "leaderboard"
    return TaskManager(include_path=str(folder), include_defaults=False)


def every_manager() -> TaskManager:
    """Of all tasks that lm-eval has; some seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def load_named(
    manager: TaskManager, name: str, *, mirror: Path | None, seed: int
) -> tuple[dict[str, Task], dict[str, Group]]:
    """Tasks and groups that a name of a task, group or tag means, with their datasets.

    Raises:
        UserError: there is no such name; a task runs code that models write, or needs what is not there.
    """
    if name not in manager.task_index:
        raise UserError(f"--tasks: lm-eval has no task, group or tag {name}{did_you_mean(name, manager.all_tasks)}")
    leaves = list(_leaves(manager, name))
    for leaf in leaves:
        config = _configured(manager, leaf)
        if config.get("unsafe_code"):
            raise UserError(
                f"--tasks {name}: {leaf} runs what the model writes, in this process; evaluation/code.py has a sandbox "
                "for HumanEval and MBPP"
            )
        if mirror is not None and "dataset_path" in config:
            check_dataset(str(config["dataset_path"]), mirror, needed_by=leaf)
    with reading_from(mirror), _fresh_transforms():
        if leaves == [name]:
            return {name: _prepared(_load_task(manager, name, mirror), seed)}, {}
        try:
            loaded = manager.load([name])
        except ImportError as error:
            raise UserError(f"{name} needs a package that is not installed: {told(error)}") from None
        except UNREADABLE as error:
            raise UserError(f"--tasks {name}: not all of its tasks can be loaded: {told(error)}") from None
        return {each: _prepared(task, seed) for each, task in loaded["tasks"].items()}, loaded["groups"]


def _leaves(manager: TaskManager, name: str) -> Iterator[str]:
    """Tasks of the index below a name; those that a group describes itself are left out."""
    entry = manager.task_index.get(name)
    if entry is None:
        return
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        for member in (entry.cfg or {}).get("task", ()):
            if isinstance(member, str):
                yield from _leaves(manager, member)
    else:
        yield name


def set_shots(task: Task, asked: int | None, *, by_name: bool) -> int:
    """Give a task another number of few-shot examples, by lm-eval's rule; the task's own number.

    Args:
        asked: None for its own number.
        by_name: the task was named with it. A task whose own is 0 keeps that in lm-eval, which is refused here where
            somebody asked for it by name.

    Raises:
        UserError: it keeps its 0.
    """
    own = int(task.get_config("num_fewshot"))
    if asked is not None and asked != own:
        if own:
            task.set_config("num_fewshot", asked)
        elif by_name:
            raise UserError(f"--num_fewshot: {task.task_name} has 0 examples by its own definition; lm-eval keeps that")
    return own


def _prepared(task: Task, seed: int) -> Task:
    _keep_documents(task, seed)
    task.set_fewshot_seed(seed)
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    return task


def _load_task(manager: TaskManager, name: str, mirror: Path | None) -> Task:
    try:
        return manager.load([name])["tasks"][name]
    except ImportError as error:
        raise UserError(f"{name} needs a package that is not installed: {told(error)}") from None
    except UNREADABLE as error:
        config = _configured(manager, name)
        if "dataset_path" not in config:  # tasks that are Python classes do not say what they read
            raise UserError(f"{name} cannot be loaded: {told(error)}") from None
        dataset, configuration = str(config["dataset_path"]), config.get("dataset_name")
        if mirror is None:
            check_dataset(dataset, mirror, needed_by=name)  # says it better where we are offline
        of = f"{configuration} of {dataset}" if configuration else dataset
        fault = configuration_fault(dataset, configuration, mirror) if mirror is not None and configuration else None
        why = fault or told(error) + ("" if mirror is None else f"; the mirror should have it in {mirror / dataset}")
        raise UserError(f"{name} reads {of}, which cannot be loaded: {why}") from None


def draw_from(seed: int) -> None:
    """Seed all that a task may draw by."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _configured(manager: TaskManager, name: str) -> Mapping[str, Any]:
    """What a task's file says, and those that it includes."""
    return manager.task_index[name].cfg or {}


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
    draw_from(seed)
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


def told(error: Exception) -> str:
    """What an error says, on one line."""
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return shortened(said or type(error).__name__, 300)
