"""Tiny models read as a run reads its reference."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.decoder.logits import logit_map
from sparsepo_dist.masks import MaskConfig, MaskKind, ReferenceReadings
from tests.support.tiny import save_tiny_model

PAIRS = [
    TokenizedPair((11, 12, 13), (21, 22, 23, 24), (31, 32)),
    TokenizedPair((14,), (25,), (33, 34, 35, 36, 37)),
    TokenizedPair((15, 16), (26, 27), (38, 39, 40)),
]
RELEASED = MaskConfig(sites="released")


def save_model(folder: Path, family: str) -> Path:
    """A tiny model whose vectors are not the zeros and ones they start as: a bias or norm left out would not show."""
    save_tiny_model(folder, family)
    state = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, value in state.items():
        if value.dim() == 1:
            state[name] = value + 0.2 * torch.randn(value.shape, generator=generator)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(folder: Path, layout: Layout = "prefix_shared") -> PreTrainedModel:
    """The model as runs load it."""
    return load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout=layout, zero3=None).eval()


def readings(model: PreTrainedModel, kind: MaskKind | None, config: MaskConfig) -> ReferenceReadings:
    """What masks of a kind read off a model."""
    return ReferenceReadings(
        backbone(model), model.get_output_embeddings(), logit_map(model), () if kind is None else (kind,), config
    )


@torch.no_grad()
def collect(model: PreTrainedModel, made: ReferenceReadings, batch: PackedBatch) -> ReferenceOutputs:
    """One forward pass, read."""
    with made.collect(batch.predict_index) as collected:
        final = hidden_at(backbone(model), batch)
    return collected.outputs(final)


def read(
    folder: Path, kind: MaskKind, config: MaskConfig, layout: Layout = "prefix_shared"
) -> tuple[ReferenceReadings, ReferenceOutputs]:
    """PAIRS packed in a layout and read off a model."""
    model = load(folder, layout)
    made = readings(model, kind, config)
    return made, collect(model, made, pack(PAIRS, [1.0] * len(PAIRS), layout))


def sequences() -> list[tuple[list[int], slice]]:
    """Every response of PAIRS after its prompt, in batch order, and the positions that predict its tokens."""
    return [
        ([*pair.prompt_ids, *ids], slice(len(pair.prompt_ids) - 1, len(pair.prompt_ids) + len(ids) - 1))
        for pair in PAIRS
        for ids in (pair.chosen_ids, pair.rejected_ids)
    ]


def traces(model: PreTrainedModel) -> list[str]:
    """Modules that something is still hooked on."""
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "_attn" in vars(module)
    ]


def means(activations: list[Tensor]) -> Tensor:
    """[len(activations), T]: over everything but the first dimension."""
    return torch.stack([activation.flatten(1).mean(1) for activation in activations])
