"""Stages that cost nothing: each notes that it ran, and writes what others read; runs of them that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sparsepo_dist.errors import StoppedError
from sparsepo_dist.experiments.stages.run import run_stages
from sparsepo_dist.experiments.stages.stage import Stage
from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.queueing.queue import queue_on
from sparsepo_dist.queueing.resources import Resources, Slurm

ROOT = Path(__file__).resolve().parents[2]
_WORK = """
import pathlib, sys, time
notes, name, do, output, *needs = sys.argv[1:]
with open(notes, "a") as file:
    file.write(name + "\\n")
while do == "wait" and not pathlib.Path(notes).with_name("OPEN").exists():
    time.sleep(0.02)
weights = [pathlib.Path(need, "final", "weights").read_text() for need in needs]
if do == "fail":
    sys.exit("error: it cannot be")
final = pathlib.Path(output, "final")
final.mkdir(parents=True, exist_ok=True)
(final / "weights").write_text(name)
pathlib.Path(output, "metrics").write_text(" ".join([name, *weights]))
"""


class Bench:
    """Stages by name: {"needs": [...], "do": "wait" or "fail", "kept": True, ...}; everything besides `do` is part of
    what they are."""

    def __init__(self, folder: Path, stages: dict[str, dict[str, Any]]) -> None:
        self.folder, self.notes = folder, folder / "notes"
        folder.mkdir(exist_ok=True)
        (folder / "work.py").write_text(_WORK)
        self.described = stages

    @property
    def work(self) -> Work:
        """The stages as jobs."""
        return Work([self._stage(name, given) for name, given in self.described.items()], self.folder / "stages")

    def _stage(self, name: str, given: dict[str, Any]) -> Stage:
        needs = tuple(given.get("needs", ()))
        command = (
            str(self.folder / "work.py"), str(self.notes), name, given.get("do", ""), "{output}",
            *(f"{{{need}}}" for need in needs),
        )  # fmt: skip
        configuration = {key: value for key, value in given.items() if key != "do"}
        temporary = () if given.get("kept") else ("final",)
        return Stage(name, "train", command, {"name": name, **configuration}, ("errors",), needs, temporary)

    def run(self, jobs_at_once: int = 1) -> dict[str, str]:
        """Run them here; how they stand then."""
        work = self.work
        resources = Resources(jobs_at_once=jobs_at_once, gpus_per_job=0, threads_per_job=1, retries=0)
        return run_stages(work, queue_on(resources, Slurm(), work.root, "test"))

    def start(self) -> subprocess.Popen[bytes]:
        """Run them in a process of its own."""
        words = [sys.executable, "-m", "tests.support.stages", str(self.folder), json.dumps(self.described)]
        return subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)

    def ran(self) -> list[str]:
        """Names of stages in the order in which they began."""
        return self.notes.read_text().split() if self.notes.is_file() else []

    def open(self) -> None:
        """Let stages that wait go on."""
        (self.folder / "OPEN").touch()


if __name__ == "__main__":
    try:
        Bench(Path(sys.argv[1]), json.loads(sys.argv[2])).run()
    except StoppedError as error:
        sys.exit(error.exit_code)
