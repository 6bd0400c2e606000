"""Two ranks under ZeRO-3, each with pairs of its own, read the same off a sharded reference as off a whole one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.masks.reading import save_model
from tests.support.runs import launch

pytestmark = pytest.mark.slow

FAMILIES = ("gpt2", "gpt_bigcode", "gpt_neox", "gptj", "llama", "gemma")


def test_released_sites_of_sharded_references(tmp_path: Path) -> None:
    folders = {family: str(save_model(tmp_path / family, family)) for family in FAMILIES}
    done = launch(["tests.masks.sharded_worker", json.dumps(folders), str(tmp_path)], ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for family in FAMILIES:
        for found in ranks:
            torch.testing.assert_close(found[family]["sharded"], found[family]["replicated"], rtol=1e-6, atol=1e-6)
        assert ranks[0][family]["sharded"].shape[1] != ranks[1][family]["sharded"].shape[1]
