"""A replicated reference may lend its head; whoever shards what it gets is given a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.masks import MaskConfig
from sparsepo_dist.ops import OpsConfig
from tests.support.tiny import save_tiny_model


@pytest.mark.parametrize("lent", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # the latter's head is its embedding
def test_the_head_is_the_references_own_or_a_copy(tmp_path: Path, family: str, lent: bool) -> None:
    folder = str(save_tiny_model(tmp_path / "model", family))
    model = load_model(folder, load_config(folder), dtype=torch.float32, layout="prefix_shared", zero3=None)
    own = model.get_output_embeddings().weight
    engine = ReferenceEngine(
        model, "replicated", None, sources=(), masks=MaskConfig(), head_leaves=True, head_is_lent=lent, ops=OpsConfig(),
        device=torch.device("cpu"),
    )  # fmt: skip
    head = engine.take_head()
    assert head is not None and torch.equal(head.weight, own)
    assert (head.weight.data_ptr() == own.data_ptr()) is lent
    assert engine.take_head() is None
