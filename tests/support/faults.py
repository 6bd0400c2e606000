"""Faults that happen to one rank of a real run: it dies, hangs, is signalled, computes NaN, finds its disk full.

A fault is a dictionary: `kind`, `step` (counted from 1), `rank`, and `during`, the beginning of what Progress must say,
or the name of a place in PLACES.
"""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from sparsepo_dist.engines import saving
from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.engines.policy import PolicyEngine
from sparsepo_dist.runs import folder as folder_module
from sparsepo_dist.training.checkpoints import checkpointer
from sparsepo_dist.training.checkpoints.store import CheckpointStore
from sparsepo_dist.training.supervision.progress import Progress
from sparsepo_dist.training.trainer import Trainer

Fault = dict[str, Any]
AT_THE_END = -1  # step of a fault after the last one
ECHO = 1.2  # longer than what still counts as the same request to stop


@contextmanager
def injected(fault: Fault | None) -> Iterator[None]:
    """The fault happens while open, once."""
    if fault is None:
        yield
        return
    injectors = {
        "nan": _spoiled_rows, "inf": _spoiled_rows, "gradient": _spoiled_gradient, "small disk": _small_disk,
        "no model": _no_model, "another folder": _another_folder,
    }  # fmt: skip
    with injectors.get(fault["kind"], _at_a_place)(fault):
        yield


@contextmanager
def _at_a_place(fault: Fault) -> Iterator[None]:
    now = Progress()
    mark = Progress.at
    pending = [fault]

    def act(step: int | None = None) -> None:
        if pending and (step or now.step) == fault["step"] and rank() == fault["rank"]:
            pending.clear()
            ACTIONS[fault["kind"]]()

    def at(self: Progress, doing: str, *, step: int | None = None) -> None:
        mark(self, doing, step=step)
        now.step, now.doing = self.step, doing
        if doing.startswith(fault["during"]):
            act()

    with patch.object(Progress, "at", at):
        if fault["during"] in PLACES:
            with PLACES[fault["during"]](act):
                yield
        else:
            yield


@contextmanager
def _inside_forward(act: Callable[[], None]) -> Iterator[None]:
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, output: (
            act() if type(module).__name__.endswith("MLP") and torch.is_grad_enabled() else None
        )
    )
    with hook:
        yield


@contextmanager
def _in_the_background(act: Callable[[int], None]) -> Iterator[None]:
    digest = CheckpointStore.digest

    def wrapped(self: CheckpointStore, step: int, *args: Any) -> None:
        act(step)  # the working thread is in some later step
        digest(self, step, *args)

    with patch.object(CheckpointStore, "digest", wrapped):
        yield


def _before(target: Any, name: str) -> Callable[[Callable[[], None]], Any]:
    @contextmanager
    def place(act: Callable[[], None]) -> Iterator[None]:
        original = getattr(target, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            act()
            return original(*args, **kwargs)

        with patch.object(target, name, wrapped):
            yield

    return place


def _before_the_engines(act: Callable[[], None]) -> Any:
    import sparsepo_dist.runs.run as module

    return _before(module, "build_trainer")(act)


def _at_the_rename(name: str, *, after: bool) -> Callable[[Callable[..., None]], Any]:
    """Of a folder that is written aside."""

    @contextmanager
    def place(act: Callable[..., None]) -> Iterator[None]:
        rename = Path.rename

        def wrapped(self: Path, target: Any) -> Path:
            found = re.fullmatch(name, self.name)
            step = int(found[1]) if found and found.groups() else AT_THE_END  # the working thread may be in a later one
            if found and not after:
                act(step)
            renamed = rename(self, target)
            if found and after:
                act(step)
            return renamed

        with patch.object(Path, "rename", wrapped):
            yield

    return place


PLACES: dict[str, Callable[[Any], Any]] = {
    "before the engines": _before_the_engines,
    "inside the forward": _inside_forward,
    "inside the optimizer": _before(torch.optim.AdamW, "step"),
    "between a checkpoint's files": _before(checkpointer, "save_file"),
    "while a checkpoint is synced": _in_the_background,
    "before a checkpoint is renamed": _at_the_rename(r"\.writing-step-(\d+)", after=False),
    "after a checkpoint is renamed": _at_the_rename(r"\.writing-step-(\d+)", after=True),
    "before final/ is renamed": _at_the_rename(r"\.writing-final", after=False),
    "after final/ is renamed": _at_the_rename(r"\.writing-final", after=True),
}


def _signal_twice() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ECHO)
    os.kill(os.getpid(), signal.SIGTERM)


def _fill_disk() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk, writing raises OSError instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(600),
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGUSR1": lambda: os.kill(os.getpid(), signal.SIGUSR1),
    "SIGHUP": lambda: os.kill(os.getpid(), signal.SIGHUP),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
    "SIGTERM twice": _signal_twice,
    "full disk": _fill_disk,
}


@contextmanager
def _spoiled_rows(fault: Fault) -> Iterator[None]:
    """The loss of a pair is not finite, in every step from `step` on."""
    losses = Trainer._losses

    def spoiled(self: Trainer, known: Any, *args: Any, **kwargs: Any) -> Any:
        found = losses(self, known, *args, **kwargs)
        if kwargs.get("training", True) and self.progress.step >= fault["step"]:
            row = known.batch.pair_index.to(found.device) == fault["pair"]
            found = found * torch.where(row, math.nan if fault["kind"] == "nan" else math.inf, 1.0)
        return found

    with patch.object(Trainer, "_losses", spoiled):
        yield


@contextmanager
def _small_disk(fault: Fault) -> Iterator[None]:
    """From a step on every disk has so many free `bytes`, by what rank 0 is told."""
    usage = shutil.disk_usage
    with _known_step() as now:

        def told(path: Any) -> Any:
            found = usage(path)
            return found._replace(free=fault["bytes"]) if rank() == 0 and now.step >= fault["step"] else found

        with patch.object(shutil, "disk_usage", told):
            yield


@contextmanager
def _no_model(fault: Fault) -> Iterator[None]:
    """The disk is full when the model is saved, half of it being written, and has room for everything else."""

    def written(model: Any, tokenizer: Any, state: Any, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(fault["errno"], os.strerror(fault["errno"]))

    with patch.object(saving, "write_model", written):
        yield


@contextmanager
def _another_folder(fault: Fault) -> Iterator[None]:
    """Where output_dir is a disk of each machine's own, its name means another folder there. Nobody waits for it."""
    import sparsepo_dist.runs.run as module

    opened = module.open_run

    def opened_elsewhere(config: Any) -> Any:
        folder, lock = opened(config)
        return (Path(fault["folder"]) if rank() == fault["rank"] else folder), lock

    with patch.object(module, "open_run", opened_elsewhere), patch.object(folder_module, "SHARED_SECONDS", 0.0):
        yield


@contextmanager
def _known_step() -> Iterator[Progress]:
    now, mark = Progress(), Progress.at

    def at(self: Progress, doing: str, *, step: int | None = None) -> None:
        mark(self, doing, step=step)
        now.step = self.step

    with patch.object(Progress, "at", at):
        yield now


@contextmanager
def _spoiled_gradient(fault: Fault) -> Iterator[None]:
    """The gradient is not finite, the loss is, in the backward of one step on one rank."""
    backward = PolicyEngine.backward

    def spoiled(self: PolicyEngine, loss: torch.Tensor, *, last: bool) -> None:
        if self.engine.global_steps + 1 == fault["step"] and rank() == fault["rank"]:
            loss.register_hook(lambda gradient: gradient * math.inf)
        backward(self, loss, last=last)

    with patch.object(PolicyEngine, "backward", spoiled):
        yield
