"""Open LLM Leaderboard v2: a model's tasks one after the other, each kept as it ends, and the table of all."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sparsepo_dist.engines.deepspeed.distributed import rank, world_size
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.hub_mirror import check_mirror
from sparsepo_dist.evaluation.leaderboard.chat import chat_templates
from sparsepo_dist.evaluation.leaderboard.command import LeaderboardOptions
from sparsepo_dist.evaluation.leaderboard.lm_eval_backend import (
    check_installed,
    evaluate,
    has_chat_template,
    has_samples,
    load_model,
)
from sparsepo_dist.evaluation.leaderboard.lm_eval_tasks import every_manager, load_named, load_tasks, set_shots
from sparsepo_dist.evaluation.leaderboard.normalisation import COLUMNS, TASKS, selected_tasks
from sparsepo_dist.evaluation.leaderboard.other_tables import other_section, other_tasks
from sparsepo_dist.evaluation.leaderboard.others import FOLDER, Other
from sparsepo_dist.evaluation.leaderboard.per_task import by_group, named_tasks, per_task
from sparsepo_dist.evaluation.leaderboard.tables import measured_row, models_table, reported_rows, write_tables
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.target import Target, target

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task

_PACKAGES = ("lm_eval", "accelerate", "peft", "tokenizers", "vllm")


class _Piece(NamedTuple):
    """A task that is to be measured."""

    name: str
    task: Task
    own_shots: int
    chat: bool
    results: Results


def run_leaderboard(options: LeaderboardOptions, say: Callable[[str], None]) -> None:
    """Evaluate what is not finished yet and write the tables of all that is.

    Every rank must call this; the first one writes.

    Args:
        say: prints a line, on the first rank.

    Raises:
        UserError: an unknown task, no such model, a missing dataset or package, results of another measurement.
        RunError: documents' records could not be written.
        RankError: a GPU's memory did not suffice.
    """
    own = [name for name in options.tasks if name.startswith("leaderboard")]
    named = [name for name in dict.fromkeys(options.tasks) if name not in own]
    wanted = selected_tasks(own)
    model = target(options.model, base=options.base)
    check_installed(options.backend)
    _check_launch(options.backend)
    if options.hub_mirror is not None:
        check_mirror(options.hub_mirror)
    shots = per_task(options.num_fewshot, named, None, _number, option="--num_fewshot")
    chat = chat_templates(
        options.chat_template, lambda: has_chat_template(model, trust_remote_code=options.trust_remote_code), named
    )
    if options.chat_template_kwargs and not any(chat.values()):
        raise UserError(
            "--chat_template_kwargs: prompts are no chat messages, so that no template reads it; leave it out"
        )
    settings = {"suite": "Open LLM Leaderboard v2", **_settings(options, by_group(chat), by_group(shots))}
    results = Results(options.output / "leaderboard", model, settings, packages=_PACKAGES)
    found = {task: result for task in TASKS if (result := results.finished(task)) is not None}
    pending = [task for task in wanted if task not in found or not _complete(found[task], results, options)]
    others = [_other(name, model, options, chat[name], shots[name]) for name in named]
    pending_others = [other for other in others if not other.finished()]
    done = len(wanted) + len(others) - len(pending) - len(pending_others)
    say(
        f"{model.name}: {done} of {len(wanted) + len(others)} tasks were finished before, "
        f"{len(pending) + len(pending_others)} to run"
    )
    if pending or pending_others:
        _hint_at_idle_gpus(options, say)
        by_name = named_tasks(options.num_fewshot)
        loaded = load_tasks(pending, mirror=options.hub_mirror, seed=options.seed) if pending else {}
        pieces = [
            _Piece(name, task, set_shots(task, shots[name], by_name=name in by_name), chat[name], results)
            for name, task in loaded.items()
        ]
        sets = _load_others(pending_others, options, by_name, pieces)
        found |= _measure(pieces, load_model(model, options), options, say)
        if rank() == 0:
            for other, tasks, groups in sets:
                other.close(tasks, groups)
    if rank() == 0:
        _show(model, options, found, settings, say)


def _show(
    model: Target,
    options: LeaderboardOptions,
    found: Mapping[str, Any],
    settings: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Write the tables and say the first of them."""
    row, folder = measured_row(model.name, found, settings), options.output / FOLDER
    others = other_tasks(Results(folder, model, {}).kept()) if folder.is_dir() else {}
    tables = write_tables(options.output.resolve(), row, found, settings, others)
    shown = models_table([row, *reported_rows()]) if found or not others else other_section(others)
    say(f"\n{shown}\n\nWritten: {', '.join(map(str, tables))}")


def _other(name: str, model: Target, options: LeaderboardOptions, chat: bool, shots: int | None) -> Other:
    settings = {"suite": "lm-eval", **_settings(options, chat, shots)}
    results = Results(options.output / FOLDER, model, settings, packages=_PACKAGES)
    return Other(name, results, chat, shots, options.log_samples)


def _load_others(
    others: Sequence[Other], options: LeaderboardOptions, by_name: Set[str], pieces: list[_Piece]
) -> list[tuple[Other, list[str], dict[str, Group]]]:
    """Add what is to be measured of other tasks to `pieces`; the tasks and groups of each."""
    manager = every_manager() if others else None
    loaded = []
    for other in others:
        assert manager is not None
        tasks, groups = load_named(manager, other.name, mirror=options.hub_mirror, seed=options.seed)
        for name, task in tasks.items():
            own = set_shots(task, other.shots, by_name=len(tasks) == 1 and other.name in by_name)
            if not other.has(name):
                pieces.append(_Piece(name, task, own, other.chat, other.results))
        loaded.append((other, list(tasks), groups))
    return loaded


def _measure(
    pieces: Sequence[_Piece], lm: LM, options: LeaderboardOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    """Results of the leaderboard's tasks, all written one by one; empty on all ranks but the first."""
    found = {}
    for number, piece in enumerate(pieces, start=1):
        say(f"[{number}/{len(pieces)}] {piece.name}")
        samples = piece.results.folder if options.log_samples else None
        result = evaluate(lm, piece.task, options, chat_template=piece.chat, samples=samples)
        if result is not None:
            result = {**result, "own_shots": piece.own_shots}
            piece.results.write(piece.name, result)
            say(f"    {_raw(piece.name, result)} ({result['documents']} of {result['all_documents']} documents)")
            if piece.name in TASKS:
                found[piece.name] = result
    return found


def _complete(result: Mapping[str, Any], results: Results, options: LeaderboardOptions) -> bool:
    return not options.log_samples or has_samples(result, results.folder)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("give a number of examples, 0 or more, or TASK=N")
    return int(text)


def _raw(task: str, result: Mapping[str, Any]) -> str:
    metrics = [column.metric for column in COLUMNS if task in column.choices]
    metrics = metrics or [name for name in result["metrics"] if "_stderr," not in name]
    return ", ".join(f"{metric.split(',')[0]} {result['metrics'][metric]:.4f}" for metric in metrics)


def _settings(options: LeaderboardOptions, chat: Any, shots: Any) -> dict[str, Any]:
    """All that decides a number besides the model; the size of batches only changes its rounding."""
    # Only where they are given: results without them stay what they are.
    given = {
        "chat_template_kwargs": options.chat_template_kwargs or None,
        "num_fewshot": shots,
        "system_instruction": options.system_instruction,
    }
    return {
        "limit": options.limit,
        "seed": options.seed,
        "chat_template": chat,
        "backend": options.backend,
        "dtype": options.dtype,
        "lm_eval": importlib.metadata.version("lm_eval"),
        **{name: value for name, value in given.items() if value is not None},
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
