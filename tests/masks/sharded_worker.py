"""A worker that reads sharded references of several families and writes what each rank saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from sparsepo_dist.contracts import ReferenceOutputs
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.ds_config import engine_config, reference_config
from sparsepo_dist.engines.deepspeed.environment import prepare_environment
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.ops import OpsConfig
from tests.masks.reading import PAIRS, RELEASED
from tests.support.runs import ZERO


def score(folder: str, placement: Any, rank: int) -> ReferenceOutputs:
    """Other pairs on every rank."""
    pairs = PAIRS[rank : 2 * rank + 1]
    ds_config = None
    if placement == "sharded":
        whole = engine_config(ZERO[3], {"training.max_grad_norm": 0.0}, torch.float32, 32, Path(folder))
        ds_config = reference_config(whole, placement)
    model = load_model(folder, load_config(folder), dtype=torch.float32, layout="prefix_shared", zero3=ds_config)
    engine = ReferenceEngine(
        model, placement, ds_config, sources=("activation",), masks=RELEASED, head_leaves=False, ops=OpsConfig(),
        device=torch.device("cpu"),
    )  # fmt: skip
    return engine.score(pack(pairs, [1.0] * len(pairs), "prefix_shared"))


def main() -> None:
    folders, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    prepare_environment()
    distributed.initialise()
    rank = distributed.rank()
    found = {
        family: {placement: score(folder, placement, rank).site_means for placement in ("sharded", "replicated")}
        for family, folder in folders.items()
    }
    torch.save(found, out / f"{rank}.pt")


if __name__ == "__main__":
    main()
