"""How jobs stand, and one table of the numbers that their drivers ended with."""

from __future__ import annotations

import csv
import datetime
import io
import json
from dataclasses import dataclass
from pathlib import Path

from sparsepo_dist.disk import write_whole
from sparsepo_dist.evaluation.jobs.finals import FRONTIER, final
from sparsepo_dist.evaluation.jobs.spec import Plan
from sparsepo_dist.evaluation.jobs.store import EvaluationJob, JobStore
from sparsepo_dist.queueing.job import DONE, FAILED, INTERRUPTED, RUNNING, Job, State
from sparsepo_dist.queueing.slurm_queue import SlurmsJobs, given_as


def status(plan: Plan) -> str:
    """A line for every job of a file and of the runs watched with it. Raises as `Job.now`, and as `SlurmsJobs.has`."""
    jobs = _jobs(plan)
    width = max((len(job.name) for job in jobs), default=0)
    slurm = SlurmsJobs() if plan.resources.backend == "slurm" else None
    lines = [f"{job.name:<{width}}  {_described(job, job.now())}{_waiting(job, slurm)}" for job in jobs]
    return "\n".join(lines) if lines else f"{plan.file} has no jobs"


def _described(job: Job, state: State) -> str:
    if state.state == RUNNING:
        since = datetime.datetime.fromtimestamp(state.started or 0).strftime("%F %T")
        return f"running: process {state.pid} on {state.host}, attempt {state.attempts}, since {since}; {job.log}"
    if state.state == FAILED:
        return f"failed: {state.reason}; {job.log}"
    if state.state == INTERRUPTED:
        return f"interrupted: {state.reason}; submit again to go on; {job.log}"
    if state.reason and state.state != DONE:
        return f"{state.state}: the last attempt failed: {state.reason}; {job.log}"
    return state.state


def _waiting(job: Job, slurm: SlurmsJobs | None) -> str:
    """Whether Slurm has a job that does not run and is not over."""
    number = given_as(job) if slurm is not None else None
    state = job.now()
    if slurm is None or number is None or state.final or state.state == RUNNING:
        return ""
    return f" (waits as {number} of Slurm's)" if slurm.has(number) else f" (Slurm no longer has it as {number})"


@dataclass(frozen=True)
class Table:
    """Numbers of all models in all suites."""

    rows: dict[str, dict[str, float]]
    """Model to column to number; a column is SUITE/ and the column of its driver's table."""
    unfinished: tuple[str, ...]
    """Names of jobs that are not done."""
    without: tuple[str, ...] = ()
    """Names of jobs that are done and gave no number."""
    notes: tuple[str, ...] = ()
    """What is to be known of some jobs' numbers."""

    @property
    def columns(self) -> list[str]:
        """In the order of suites and files."""
        return list(dict.fromkeys(column for numbers in self.rows.values() for column in numbers))

    def as_json(self) -> str:
        """{"models": {MODEL: {COLUMN: number}}, "unfinished": [...], "without_numbers": [...], "notes": [...]}."""
        record = {
            "models": self.rows, "unfinished": self.unfinished, "without_numbers": self.without, "notes": self.notes
        }  # fmt: skip
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"

    def as_csv(self) -> str:
        """A row per model."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["model", *self.columns])
        for model, numbers in self.rows.items():
            writer.writerow([model, *(numbers.get(column, "") for column in self.columns)])
        return text.getvalue()

    def as_markdown(self) -> str:
        """The same, with numbers to read, and what is missing below."""
        lines = [
            "| model |" + "".join(f" {column} |" for column in self.columns),
            "| --- |" + " ---: |" * len(self.columns),
        ]
        for model, numbers in self.rows.items():
            cells = (f"{numbers[column]:.4g}" if column in numbers else "" for column in self.columns)
            lines.append(f"| {model} |" + "".join(f" {cell} |" for cell in cells))
        if self.unfinished:
            lines += ["", f"Not done: {', '.join(self.unfinished)}."]
        if self.without:
            lines += ["", f"Done without a number: {', '.join(self.without)}; their logs say why."]
        lines += [line for note in self.notes for line in ("", f"{note}.")]
        return "\n".join(lines) + "\n"


def collect(plan: Plan) -> tuple[Table, list[Path]]:
    """The table, and where it was written: table.json, .csv and .md in the file's output, figures/ of frontiers.

    Raises:
        UserError: a result, or how a job stands, cannot be read.
    """
    rows: dict[str, dict[str, float]] = {}
    unfinished, without, notes = [], [], []
    for job in _jobs(plan):
        numbers = rows.setdefault(job.model, {})
        if job.now().state != DONE:
            unfinished.append(job.name)
            continue
        found = final(job)
        numbers.update({f"{job.suite}/{column}": value for column, value in found.numbers.items()})
        if not found.numbers:
            without.append(job.name)
        if found.note is not None:
            notes.append(f"{job.name}: {found.note}")
    table = Table(rows, tuple(unfinished), tuple(without), tuple(notes))
    texts = {"json": table.as_json(), "csv": table.as_csv(), "md": table.as_markdown()}
    paths = [plan.output / f"table.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, text)
    return table, [*paths, *_figures(plan)]


def _figures(plan: Plan) -> list[Path]:
    """One of every suite that measures reward against KL, of all its models."""
    by_suite: dict[str, list[Path]] = {}
    for job in _jobs(plan):
        file = job.results / FRONTIER
        if job.now().state == DONE and job.driver == "frontier.py" and file.is_file():
            by_suite.setdefault(job.suite, []).append(file)
    if not by_suite:
        return []
    from sparsepo_dist.evaluation.frontier.tables import put_together  # matplotlib, which other tables can do without

    return [put_together(files, plan.output / "figures" / suite) for suite, files in by_suite.items()]


def _jobs(plan: Plan) -> list[EvaluationJob]:
    """The file's own in its order, then what was watched; those that nobody has submitted yet included."""
    store = JobStore(plan.output)
    own = [store.job(model, suite.name) for model in plan.models for suite in plan.suites]
    return list(dict.fromkeys([*own, *store.all()]))
