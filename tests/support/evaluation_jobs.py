"""Plans of evaluation jobs with fake drivers, and `submit` in a process of its own that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from sparsepo_dist.errors import RunError, StoppedError, UserError
from sparsepo_dist.evaluation.jobs.command import main
from sparsepo_dist.evaluation.jobs.spec import Plan, read_plan

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests" / "support" / "fake_driver.py"
LONG = 120.0  # seconds until a condition that must come is given up


class Bench:
    """A folder with models, a plan, and the notes of its drivers."""

    def __init__(self, folder: Path, suites: dict[str, dict[str, Any]], *, models: int = 1, **resources: Any) -> None:
        self.folder, self.notes_file, self.output = folder, folder / "notes.jsonl", folder / "out"
        self.models = {f"m{number}": self._model(f"m{number}") for number in range(models)}
        self.file = folder / "plan.yaml"
        self.resources = {"gpus_per_job": 0, "retries": 0, **resources}
        self.write(suites)

    def write(self, suites: dict[str, dict[str, Any]], **more: Any) -> None:
        """Write the plan."""
        common = {"driver": str(DRIVER), "notes": str(self.notes_file)}
        content = {
            "output": str(self.output),
            "models": {name: str(path) for name, path in self.models.items()},
            "suites": {name: {**common, **options} for name, options in suites.items()},
            "resources": self.resources,
            **more,
        }
        if not self.models:
            del content["models"]
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))

    @property
    def plan(self) -> Plan:
        return read_plan(self.file, ROOT / "evaluation")

    def notes(self) -> list[dict[str, Any]]:
        """What drivers noted, in order."""
        if not self.notes_file.is_file():
            return []
        return [json.loads(line) for line in self.notes_file.read_text().splitlines()]

    def ran(self) -> list[str]:
        """The jobs that ran, as often as they did."""
        return sorted(note["job"] for note in self.notes())

    def open(self) -> None:
        """Let drivers that wait go on."""
        (self.folder / "OPEN").touch()

    def start(self, command: str = "submit") -> subprocess.Popen[str]:
        """`submit` in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.evaluation_jobs", command, str(self.file)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            # Tests that were started in the background ignore Ctrl-C, and so would what they start.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def _model(self, name: str) -> Path:
        folder = self.folder / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"")
        return folder


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that must come."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that only its parent has not looked at yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


if __name__ == "__main__":
    try:
        main(sys.argv[1:], ROOT / "evaluation", print)
    except (UserError, RunError, StoppedError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
