"""Open LLM Leaderboard v2: a model's tasks one after the other, each kept as it ends, and the table of all."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sparsepo_dist.engines.deepspeed.distributed import rank, world_size
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.hub_mirror import check_mirror
from sparsepo_dist.evaluation.leaderboard.chat import as_setting, chat_templates
from sparsepo_dist.evaluation.leaderboard.command import LeaderboardOptions
from sparsepo_dist.evaluation.leaderboard.lm_eval_backend import (
    check_installed,
    evaluate,
    has_chat_template,
    load_model,
    load_tasks,
)
from sparsepo_dist.evaluation.leaderboard.normalisation import COLUMNS, TASKS, selected_tasks
from sparsepo_dist.evaluation.leaderboard.tables import measured_row, models_table, reported_rows, write_tables
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.target import Target, target

_PACKAGES = ("lm_eval", "accelerate", "peft", "tokenizers", "vllm")


def run_leaderboard(options: LeaderboardOptions, say: Callable[[str], None]) -> None:
    """Evaluate what is not finished yet and write the tables of all that is.

    Every rank must call this; the first one writes.

    Args:
        say: prints a line, on the first rank.

    Raises:
        UserError: an unknown task, no such model, a missing dataset or package, results of another measurement.
        RankError: a GPU's memory did not suffice.
    """
    wanted = selected_tasks(options.tasks)
    model = target(options.model, base=options.base)
    check_installed(options.backend)
    _check_launch(options.backend)
    if options.hub_mirror is not None:
        check_mirror(options.hub_mirror)
    chat = chat_templates(
        options.chat_template, lambda: has_chat_template(model, trust_remote_code=options.trust_remote_code)
    )
    if options.chat_template_kwargs and not any(chat.values()):
        raise UserError(
            "--chat_template_kwargs: prompts are no chat messages, so that no template reads it; leave it out"
        )
    settings = _settings(options, chat)
    results = Results(options.output / "leaderboard", model, settings, packages=_PACKAGES)
    found = {task: result for task in TASKS if (result := results.finished(task)) is not None}
    pending = [task for task in wanted if task not in found]
    say(
        f"{model.name}: {len(wanted) - len(pending)} of {len(wanted)} tasks were finished before, {len(pending)} to run"
    )
    if pending:
        _hint_at_idle_gpus(options, say)
        found |= _measure(pending, model, options, results, chat, say)
    if rank() == 0:
        row = measured_row(model.name, found, options.limit)
        tables = write_tables(options.output.resolve(), row, found, settings)
        say(f"\n{models_table([row, *reported_rows()])}\n\nWritten: {', '.join(map(str, tables))}")


def _measure(
    tasks: Sequence[str],
    model: Target,
    options: LeaderboardOptions,
    results: Results,
    chat: Mapping[str, bool],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Results of the tasks, written one by one; empty on all ranks but the first."""
    loaded = load_tasks(tasks, mirror=options.hub_mirror, seed=options.seed)
    lm = load_model(model, options)
    found = {}
    for number, name in enumerate(tasks, start=1):
        say(f"[{number}/{len(tasks)}] {name}")
        result = evaluate(lm, loaded.pop(name), options, chat_template=chat[name])
        if result is not None:
            results.write(name, result)
            say(f"    {_raw(name, result)} ({result['documents']} of {result['all_documents']} documents)")
            found[name] = result
    return found


def _raw(task: str, result: Mapping[str, Any]) -> str:
    metrics = [column.metric for column in COLUMNS if task in column.choices]
    return ", ".join(f"{metric.split(',')[0]} {result['metrics'][metric]:.4f}" for metric in metrics)


def _settings(options: LeaderboardOptions, chat: Mapping[str, bool]) -> dict[str, Any]:
    """All that decides a number besides the model; the size of batches only changes its rounding."""
    return {
        "suite": "Open LLM Leaderboard v2",
        "limit": options.limit,
        "seed": options.seed,
        "chat_template": as_setting(chat),
        "backend": options.backend,
        "dtype": options.dtype,
        "lm_eval": importlib.metadata.version("lm_eval"),
        # Only where it is given: results without it stay what they are.
        **({"chat_template_kwargs": options.chat_template_kwargs} if options.chat_template_kwargs else {}),
    }


def _check_launch(backend: str) -> None:
    """lm-eval spreads documents over the GPUs of one machine, and over nothing else.

    Raises:
        UserError: more processes were started than that serves.
    """
    count = world_size()
    if count == 1:
        return
    if backend == "vllm":
        raise UserError("--backend vllm is one process: start it with plain python")
    if int(os.environ.get("LOCAL_WORLD_SIZE", count)) != count:
        raise UserError("lm-eval spreads over the GPUs of one machine only: start the processes on one machine")
    if torch.cuda.device_count() < max(2, count):
        raise UserError(
            f"{count} processes were started and {torch.cuda.device_count()} GPUs are here, of which each needs one; "
            "without GPUs start one process, with plain python"
        )


def _hint_at_idle_gpus(options: LeaderboardOptions, say: Callable[[str], None]) -> None:
    gpus = torch.cuda.device_count()
    if gpus > 1 and world_size() == 1 and options.backend == "transformers":
        say(f"{gpus} GPUs are here and one is used: `accelerate launch --num_processes {gpus}` uses all")
