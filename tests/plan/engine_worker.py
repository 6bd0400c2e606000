"""Trains what a JSON file describes and notes what DeepSpeed holds and gathers; rank 0 writes RUN/engine.json."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import deepspeed.runtime.zero.partitioned_param_coordinator as coordinator
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.environment import prepare_environment
from sparsepo_dist.runs.assembly import build_trainer
from sparsepo_dist.runs.inputs import load_inputs
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.run import open_run
from sparsepo_dist.training.trainer import Trainer

STEPS = 4  # ZeRO-3 records modules in the second pass and follows the record from the third on


def run(arguments: list[str]) -> None:
    prepare_environment()
    inputs = load_inputs(parse_train(arguments))
    distributed.initialise()
    folder, _ = open_run(inputs.config)
    trainer = build_trainer(inputs, folder)
    for step in range(STEPS - 1):
        trainer.train_step(step)
    gathered = gathered_in_a_step(trainer) if trainer.policy.zero_stage == 3 else {}
    if distributed.rank() == 0:
        (folder / "engine.json").write_text(json.dumps({**held(trainer), **gathered}))


def held(trainer: Trainer) -> dict[str, int]:
    """Elements of DeepSpeed's own buffers."""
    optimizer: Any = trainer.policy.engine.optimizer
    if trainer.policy.zero_stage < 3:
        return {"masters": sum(part.numel() for part in optimizer.single_partition_of_fp32_groups)}
    sharded = {"policy": trainer.policy.module, "reference": trainer.reference and trainer.reference._module}
    return {
        "masters": sum(part.numel() for part in optimizer.fp32_partitioned_groups_flat),
        "gradients": optimizer.grad_partitions_flat_buffer.numel(),
        "bucket": sum(bucket.buffer.numel() for bucket in optimizer.ipg_buckets.values()),
        **{
            f"{name} shards": sum(parameter.ds_tensor.numel() for parameter in module.parameters())
            for name, module in sharded.items()
            if module is not None
        },
    }


def gathered_in_a_step(trainer: Trainer) -> dict[str, int]:
    """Most whole parameters of the policy at once, besides persistent ones, and all that are gathered."""
    parameters: list[Any] = list(trainer.policy.module.parameters())
    mine, seen = {parameter.ds_id for parameter in parameters}, Counter[str]()
    kind: Any = coordinator.PartitionedParameterCoordinator
    name = "_PartitionedParameterCoordinator__all_gather_params_"
    fetch, all_gather = kind.fetch_sub_module, getattr(kind, name)

    def fetch_and_look(self: Any, *args: Any, **kwargs: Any) -> None:
        fetch(self, *args, **kwargs)
        whole = (p for p in parameters if p.ds_status != ZeroParamStatus.NOT_AVAILABLE and not p.ds_persist)
        seen["most gathered"] = max(seen["most gathered"], sum(p.ds_numel for p in whole))

    def count(self: Any, wanted: Any, *args: Any, **kwargs: Any) -> None:
        missing = (p for p in wanted if p.ds_id in mine and p.ds_status == ZeroParamStatus.NOT_AVAILABLE)
        seen["gathered"] += sum(p.ds_numel for p in missing)
        all_gather(self, wanted, *args, **kwargs)

    kind.fetch_sub_module = fetch_and_look
    setattr(kind, name, count)
    trainer.train_step(STEPS - 1)
    kind.fetch_sub_module = fetch
    setattr(kind, name, all_gather)
    return dict(seen)


def main() -> None:
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        run(arguments)


if __name__ == "__main__":
    sys.exit(guarded(main))
