"""Evaluates every complete checkpoint of a training run as it appears, and the model it ends with."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import IO

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.jobs.spec import Plan
from sparsepo_dist.evaluation.jobs.store import EvaluationJob, JobStore
from sparsepo_dist.evaluation.jobs.submission import newest_weights, queue_of
from sparsepo_dist.evaluation.target import FINAL
from sparsepo_dist.queueing.locks import held, lock
from sparsepo_dist.queueing.queue import POLL_SECONDS, Progress, Queue, ended_with, raise_failures
from sparsepo_dist.runs.folder import CHECKPOINTS, LOCK
from sparsepo_dist.training.checkpoints.export import export_checkpoint
from sparsepo_dist.training.checkpoints.store import COMPLETE, Checkpoint, CheckpointStore

log = logging.getLogger(__name__)
_MOST_STEPS_NAMED = 20


def watch(run: Path, plan: Plan) -> str:
    """Until the run has ended and everything of it is evaluated; what to say then.

    Raises:
        UserError: there is no such run.
        RunError: some jobs failed, or a checkpoint could not be used.
        StoppedError: a signal asked to stop.
    """
    run = run.resolve()
    if not (run / LOCK).is_file():
        raise UserError(f"{run} is no run of launch/train.py: it has no file {LOCK}; name the run's --output_dir")
    queue = queue_of(plan)
    follower = _Follower(run, plan, queue)
    with ended_with(queue), Progress("evaluating", "job") as progress:
        while True:
            ended = not held(run / LOCK) or (run / FINAL).is_dir()  # before looking: what it wrote last is then seen
            follower.look()
            settled = follower.advance(progress)
            if settled and ended:
                break
            time.sleep(POLL_SECONDS)
    follower.tell_unseen()
    raise_failures(follower.jobs)
    if follower.unusable:
        raise RunError("; ".join(follower.unusable))
    told = f"All {len(follower.jobs)} jobs of {run} are done; `collect {plan.file}` gathers their results"
    if not (run / FINAL).is_dir():
        told += f". The run stopped before its end: watch it again when it goes on (it wrote no {FINAL}/)"
    return told


class _Follower:
    """What is known of a run."""

    def __init__(self, run: Path, plan: Plan, queue: Queue) -> None:
        self._run, self._plan, self._queue = run, plan, queue
        self._checkpoints = CheckpointStore(run / CHECKPOINTS)
        self._store = JobStore(plan.output)
        self._exports = plan.output / "exported"
        self._know_again()
        self._of: dict[str, list[EvaluationJob]] = {}
        self.unusable: list[str] = []
        """What is wrong with checkpoints that could not be evaluated."""

    @property
    def jobs(self) -> list[EvaluationJob]:
        """All jobs so far, in the order that their models appeared."""
        return [job for jobs in self._of.values() for job in jobs]

    def look(self) -> None:
        """Take in what is new: checkpoints, the oldest first, for the training removes it first; then final/."""
        for checkpoint in reversed(self._checkpoints.complete()):
            name = f"{self._run.name}-{checkpoint.folder.name}"
            if name not in self._of:
                written = _written(checkpoint)
                ready = self._ready(name, checkpoint, written)
                self._of[name] = self._jobs(name, self._exports / name, written) if ready else []
        for left in sorted(self._exports.glob(f"{self._run.name}-step-*")):  # of a watch before, its checkpoint gone
            if left.name not in self._of:
                self._of[left.name] = self._jobs(left.name, left, 0.0)
        if (self._run / FINAL).is_dir() and self._run.name not in self._of:
            self._of[self._run.name] = self._jobs(self._run.name, self._run, newest_weights(self._run / FINAL))

    def advance(self, progress: Progress) -> bool:
        """Start jobs, remove models that need no more; whether nothing is left to do."""
        progress.show(self.jobs)
        self._queue.advance(self.jobs)
        settled = True
        for name, jobs in self._of.items():
            if not all(job.read().final for job in jobs):
                settled = False
            elif not self._plan.keep_exported:
                self._remove(name)
        if settled:
            progress.show(self.jobs)
        return settled

    def tell_unseen(self) -> None:
        """Say which checkpoints came and went between two looks, while the models of others were made."""
        complete = self._checkpoints.complete()
        if not complete or self.unusable:
            return
        every = complete[0].state()["config"]["checkpoints"]["every_steps"]
        known = {_step(name) for name in self._of} | {
            _step(folder.name) for folder in self._store.folder.glob(f"{self._run.name}-step-*")
        }
        unseen = [step for step in range(every, complete[0].step, every) if step not in known] if every else []
        if unseen:
            more = f" and {len(unseen) - _MOST_STEPS_NAMED} more" if len(unseen) > _MOST_STEPS_NAMED else ""
            log.warning(
                "checkpoints of %s were removed by its training before they could be evaluated: those of steps %s%s; "
                "checkpoints.keep_last keeps more of them", self._run, ", ".join(map(str, unseen[:_MOST_STEPS_NAMED])),
                more,
            )  # fmt: skip

    def _jobs(self, name: str, path: Path, written: float) -> list[EvaluationJob]:
        jobs = [self._store.add(name, str(path), suite) for suite in self._plan.suites]
        for job in jobs:
            job.renew(written)
        return jobs

    def _know_again(self) -> None:
        """Refuse a second run of one name: their checkpoints could not be told apart."""
        file = self._exports / f".{self._run.name}.run"
        known = file.read_text(encoding="utf-8") if file.is_file() else str(self._run)
        if known != str(self._run):
            raise UserError(
                f"{self._plan.output} holds results of {known}, which has the same name as {self._run}: name another "
                f"output, or remove {file} if it is the same run, moved"
            )
        write_whole(file, known)

    def _ready(self, name: str, checkpoint: Checkpoint, written: float) -> bool:
        """Whether a checkpoint's model is there, or all its jobs are done; makes it where that is possible."""
        if all(self._store.job(name, suite.name).read().done_since(written) for suite in self._plan.suites):
            return True
        export, trusted = self._exports / name, self._plan.trust_remote_code
        with self._alone(name):
            if export.is_dir() and export.stat().st_mtime >= written:
                return True
            self._take_away(export)
            try:
                export_checkpoint(checkpoint.folder, export, trust_remote_code=trusted)
                return True
            except UserError as error:
                if (checkpoint.folder / COMPLETE).is_file():
                    log.warning("%s", error)
                    self.unusable.append(str(error))
                else:
                    log.warning("%s was removed by its training before it could be evaluated", checkpoint.folder)
                return False

    def _remove(self, name: str) -> None:
        if (self._exports / name).is_dir():
            with self._alone(name):
                self._take_away(self._exports / name)

    def _take_away(self, export: Path) -> None:
        aside = export.with_name(f".removed-{export.name}")
        shutil.rmtree(aside, ignore_errors=True)
        if export.is_dir():
            export.rename(aside)  # a part of it would pass for a whole one
            shutil.rmtree(aside)

    def _alone(self, name: str) -> IO[bytes]:
        """Hold a model's folder; another watch may be at it."""
        while (alone := lock(self._exports / f".{name}.lock")) is None:
            time.sleep(POLL_SECONDS)
        return alone


def _step(name: str) -> int | None:
    """The step of a model that is a checkpoint's."""
    number = name.rpartition("-step-")[2]
    return int(number) if number.isdecimal() else None


def _written(checkpoint: Checkpoint) -> float:
    """When it became complete, in seconds since 1970; 0 where the training has just removed it."""
    try:
        return (checkpoint.folder / COMPLETE).stat().st_mtime
    except FileNotFoundError:
        return 0.0
