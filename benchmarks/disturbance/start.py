"""One start of the run: its ranks as processes of their own, started as srun starts them, so that their exit codes are
seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.disturbance.nodes import LINK, Nodes, address
from sparsepo_dist.engines.deepspeed.environment import free_port

RANKS_PER_NODE = 2
ROOT = Path(__file__).resolve().parents[2]
_MESSAGES = ("error: ", "stopped: ")


class Start:
    """The ranks of one start.

    Args:
        options: of `launch/train.py`.
        logs: folder for what each rank says; made.
        nodes: where they run; None is this machine as it is.
    """

    def __init__(self, options: list[str], logs: Path, nodes: Nodes | None) -> None:
        logs.mkdir(parents=True)
        self._logs, self._began = logs, time.time()
        count = ranks(nodes is not None)
        shared = {
            **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1" if nodes is None else address(1), "MASTER_PORT": free_port(),
            "LOCAL_WORLD_SIZE": str(RANKS_PER_NODE),
        }  # fmt: skip
        if nodes is not None:
            shared["GLOO_SOCKET_IFNAME"] = LINK
        self.processes = []
        for rank in range(count):
            command = [sys.executable, str(ROOT / "launch" / "train.py"), *options]
            if nodes is not None:
                command = nodes.on(node_of(rank), command)
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank % RANKS_PER_NODE)}
            with self._log(rank).open("wb") as log:
                process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            self.processes.append(process)

    def alive(self) -> bool:
        """Whether any rank is there."""
        return any(process.poll() is None for process in self.processes)

    def ended_within(self, seconds: float) -> bool:
        """Whether all ranks have ended, once they have or so many seconds have passed."""
        until = time.monotonic() + seconds
        while self.alive() and time.monotonic() < until:
            time.sleep(0.1)
        return not self.alive()

    def await_end(self) -> None:
        """Until all ranks have ended."""
        for process in self.processes:
            process.wait()

    def trains(self, metrics: Path) -> None:
        """Until it has begun its first step, which opens the run's file of metrics, or has ended."""
        while self.alive() and not (metrics.is_file() and metrics.stat().st_mtime > self._began):
            time.sleep(0.1)

    def codes(self) -> list[int | None]:
        """Exit code of each rank; the signal's number below 0 where one ended it."""
        return [process.poll() for process in self.processes]

    def said(self) -> list[str]:
        """The message that each rank ended with; "" where it had none."""
        texts = [self._log(rank).read_text(errors="replace") for rank in range(len(self.processes))]
        return [next((line for line in text.splitlines()[::-1] if line.startswith(_MESSAGES)), "") for text in texts]

    def end(self) -> None:
        """Kill what is left."""
        for process in self.processes:
            process.kill()
            process.wait()

    def _log(self, rank: int) -> Path:
        return self._logs / f"rank-{rank}.log"


def ranks(two_nodes: bool) -> int:
    """Ranks of a start."""
    return RANKS_PER_NODE * (2 if two_nodes else 1)


def node_of(rank: int) -> int:
    """The node that a rank is on, counted from 1."""
    return rank // RANKS_PER_NODE + 1
