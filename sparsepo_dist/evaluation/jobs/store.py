"""Evaluation jobs as folders: one suite on one model each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.jobs.spec import Suite
from sparsepo_dist.queueing.job import DONE, JOB, Job, record


class EvaluationJob(Job):
    """One suite on one model."""

    @property
    def model(self) -> str:
        """The model's name."""
        return self.folder.parent.name

    @property
    def suite(self) -> str:
        """The suite's name."""
        return self.folder.name

    @property
    def driver(self) -> str:
        """Its script's file name. Raises UserError where that cannot be read."""
        return str(record(self.folder / JOB).get("driver"))


class JobStore:
    """All jobs below an output folder."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / "jobs"

    def job(self, model: str, suite: str) -> EvaluationJob:
        """The job of that name, whether it is there or not."""
        return EvaluationJob(self.folder / model / suite, f"{model}/{suite}")

    def add(self, model: str, path: str, suite: Suite) -> EvaluationJob:
        """The job of a suite on the model at a path (absolute, or a hub id); made if it is not there.

        Raises:
            UserError: there is one of that name that was done with another model or other options, or its file cannot
                be read.
        """
        job = self.job(model, suite.name)
        identity = {"model": path, "driver": suite.driver.name, "options": list(suite.options)}
        file = job.folder / JOB
        known = record(file) if file.is_file() else {}
        changed = [name for name in identity if known and known.get(name) != identity[name]]
        if changed and (job.read().state == DONE or job.held()):
            name = changed[0]
            rename = "model" if name == "model" else "suite"
            raise UserError(
                f"{job.name} was or is being evaluated with another {name} ({known.get(name)}, now {identity[name]}); "
                f"give the {rename} another name, or remove {job.folder}"
            )
        command = [str(suite.driver), "--model", path, "--output", str(job.results), *suite.options]
        described = {**identity, "command": command}
        if described != known:
            write_whole(file, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
        return job

    def all(self) -> Iterator[EvaluationJob]:
        """Every job that was ever added, by name."""
        for file in sorted(self.folder.glob(f"*/*/{JOB}")):
            yield self.job(file.parent.parent.name, file.parent.name)
