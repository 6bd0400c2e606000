"""One measurement in a process of its own, which prints what it found as one line of JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def found_by(module: str, work: Any, launcher: Sequence[str] = (), **environment: str) -> dict[str, Any]:
    """What a module of benchmarks prints of some work, a dataclass.

    Args:
        launcher: arguments of Python before the module's.
        environment: variables besides this process's.

    Raises:
        SystemExit: it failed.
    """
    described = json.dumps(dataclasses.asdict(work), default=str)
    done = subprocess.run(
        [sys.executable, *launcher, "-m", module, described], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{described} failed:\n{done.stderr[-3000:]}")
    return figures_in(done.stdout)


def figures_in(said: str) -> dict[str, Any]:
    """Of all that a measurement's process has printed, the last line that begins with its seconds."""
    line = next(line for line in reversed(said.splitlines()) if line.startswith('{"seconds"'))
    found: dict[str, Any] = json.loads(line)
    return found
