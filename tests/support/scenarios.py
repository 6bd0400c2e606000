"""Runs in real ranks that something happens to: a worker, and how tests launch it.

A plan is a list of scenarios in turn, in one process a rank: `name`, `fields` of the configuration, `faults`, one for
each time that the launcher starts the ranks (the last times have none). What a scenario came to is in NAME.json.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from safetensors.torch import load_file

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.errors import FinishedError, HandedOnError, RankError, RunError, StoppedError, UserError
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.training.batches import MicroBatches
from sparsepo_dist.training.checkpoints.store import CheckpointStore
from tests.support.faults import Fault, injected
from tests.support.runs import launch

Scenario = dict[str, Any]


def scenario(
    name: str, folder: Path, fields: dict[str, Any], *faults: Fault | None, run: str | None = None
) -> Scenario:
    """A scenario whose run is in folder/`run`, by default its own name; a ds_config may be a dictionary."""
    fields = {**fields, "output_dir": str(folder / (run or name))}
    if isinstance(fields.get("ds_config"), dict):
        ds_config = folder / f"{name}.ds.json"
        ds_config.write_text(json.dumps(fields["ds_config"]))
        fields["ds_config"] = str(ds_config)
    arguments = [f"--{field}={value}" for field, value in fields.items()]
    return {"name": name, "arguments": arguments, "faults": faults}


def play(
    folder: Path, scenarios: Sequence[Scenario], *, ranks: int = 1, restarts: int = 0, timeout: int = 900
) -> subprocess.CompletedProcess[str]:
    """Launch the ranks, which play all scenarios; after a rank's end torchrun starts them again, `restarts` times."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(scenarios))
    arguments = ["tests.support.scenarios", str(plan)]
    return launch(arguments, ranks=ranks, timeout=timeout, options=[f"--max_restarts={restarts}"])


def outcome(folder: Path, name: str) -> dict[str, Any]:
    """`error` (its class, or None), `code`, `message`, and `seen`: indices of the pairs of each step, of all ranks."""
    found: dict[str, Any] = json.loads((folder / f"{name}-0.json").read_text())
    others = [json.loads(path.read_text())["seen"] for path in sorted(folder.glob(f"{name}-[0-9]*.json"))]
    found["seen"] = {
        step: sorted(index for seen in others for index in seen.get(step, [])) for step in sorted(others[0], key=int)
    }
    return found


def weights(run: Path) -> dict[str, Any]:
    """Every tensor of final/."""
    return {
        f"{file.name}/{name}": tensor
        for file in sorted((run / "final").glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def main() -> None:
    """The worker: every scenario in turn; one that is over is not played again after a restart."""
    gc.freeze()
    plan = Path(sys.argv[1])
    for entry in json.loads(plan.read_text()):
        result = plan.parent / f"{entry['name']}-{rank()}.json"
        if not result.is_file():
            _play(entry, result)


def _play(entry: Scenario, result: Path) -> None:
    from sparsepo_dist.runs.run import run

    config = parse_train(entry["arguments"])
    started = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if rank() == 0:
        with (result.parent / f"{entry['name']}.starts").open("a") as file:
            steps = [c.step for c in CheckpointStore(Path(config.output_dir or "") / "checkpoints").complete()]
            file.write(json.dumps(steps) + "\n")
    found: dict[str, Any] = {"error": None, "code": 0, "message": ""}
    fault = dict(enumerate(entry["faults"])).get(started)
    with injected(fault), _recorded() as seen:
        try:
            run(config)
        except (UserError, RunError, StoppedError, FinishedError) as error:
            if isinstance(error, RankError | HandedOnError):  # not of all ranks alike
                raise
            found = {"error": type(error).__name__, "code": error.exit_code, "message": str(error)}
    result.write_text(json.dumps({**found, "seen": seen}))


@contextmanager
def _recorded() -> Any:
    """Pairs of this rank that count, by training step."""
    seen: dict[int, list[int]] = {}
    of = MicroBatches.of
    from sparsepo_dist.training.trainer import Trainer

    train_step = Trainer.train_step
    current = [0]

    def step_of(self: Trainer, step: int) -> Any:
        current[0] = step + 1
        try:
            return train_step(self, step)
        finally:
            current[0] = 0

    def recorded(self: MicroBatches, indices: Sequence[int]) -> Any:
        batches = of(self, indices)
        if current[0]:
            counting = [index for plan in batches.plans if not plan.filler for index in plan.indices]
            seen.setdefault(current[0], []).extend(counting)
        return batches

    with patch.object(MicroBatches, "of", recorded), patch.object(Trainer, "train_step", step_of):
        yield seen


if __name__ == "__main__":
    sys.exit(guarded(main))
