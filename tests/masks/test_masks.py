"""Learned and activation masks against FACTS.md's definitions, and the hooks that feed them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.pack import pack
from sparsepo_dist.data.tokenize import load_tokenized
from sparsepo_dist.engines.loading import load_config, load_model
from sparsepo_dist.engines.reference import ReferenceEngine
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, MaskHeads, activation_masks
from sparsepo_dist.masks.sites import activation_sites, decoder_blocks
from sparsepo_dist.objectives import Requirements
from tests.support.tiny import CONFIGS, save_tiny_model, tiny_tokenizer, write_pairs

LAYERS, TOKENS, WIDTH = 3, 6, 5


def learned_by_definition(head: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    values = []
    for t in range(TOKENS):
        layers = [
            torch.relu(head.weight[layer] @ (head.norm(hidden[layer, t]) if head.norm else hidden[layer, t])
                       + head.bias[layer])
            for layer in range(LAYERS)
        ]  # fmt: skip
        values.append(torch.relu(head.out @ torch.stack(layers)))
    return torch.stack(values)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_learned_mask_is_its_definition(layer_norm: bool) -> None:
    torch.manual_seed(1)
    heads = MaskHeads(LAYERS, WIDTH, MaskConfig(layer_norm=layer_norm))
    hidden = torch.randn(LAYERS, TOKENS, WIDTH)
    reward, divergence = heads(hidden)
    torch.testing.assert_close(reward, learned_by_definition(heads.reward, hidden))
    torch.testing.assert_close(divergence, learned_by_definition(heads.divergence, hidden))
    assert not torch.equal(reward, divergence)
    assert (reward >= 0).all() and (divergence >= 0).all()


def test_common_masks_are_one_and_last_layer_has_no_mixing() -> None:
    torch.manual_seed(0)
    heads = MaskHeads(LAYERS, WIDTH, MaskConfig(sharing="common", layers="last"))
    hidden = torch.randn(1, TOKENS, WIDTH)
    reward, divergence = heads(hidden)
    assert reward is divergence and heads.reward.out is None
    torch.testing.assert_close(reward, torch.relu(hidden[0] @ heads.reward.weight[0] + heads.reward.bias[0]))


SEQUENCES = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3])


def test_activation_mask_standardises_within_each_response() -> None:
    means = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)) * 5 + 3
    mask = activation_masks(means, ["mlp"] * 4, SEQUENCES, 2, MaskConfig())
    want = torch.zeros(10, dtype=torch.float64)
    for sequence in range(4):
        rows = sequence == SEQUENCES
        part = means[:, rows].double()
        deviation = part.std(1, correction=0, keepdim=True)
        scaled = torch.where(deviation > 0, (part - part.mean(1, keepdim=True)) / deviation, 0.0)
        want[rows] = scaled.mean(0)
    torch.testing.assert_close(mask.double(), want, rtol=1e-4, atol=1e-5)
    assert mask[3] == 0  # a response of one token


def test_activation_mask_as_released_averages_types_not_sites() -> None:
    means = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    kinds = ["mlp", "mlp", "attention"]
    mask = activation_masks(means, kinds, SEQUENCES, 2, MaskConfig(normalisation="rescale"))
    rows = SEQUENCES == 2
    part = means[:, rows]
    low, high = part.min(1, keepdim=True).values, part.max(1, keepdim=True).values
    scaled = (part - low) / (high - low)
    want = ((scaled[0] + scaled[1]) / 2 + scaled[2]) / 2
    torch.testing.assert_close(mask[rows], want, rtol=1e-4, atol=1e-5)
    assert ((mask >= 0) & (mask <= 1)).all()


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), request.param)


def engine(folder: Path, masks: str) -> tuple[ReferenceEngine, nn.Module]:
    model = load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout="packed", zero3=None)
    needs = Requirements(True, "policy", masks, True)
    return ReferenceEngine(model, "replicated", None, needs, MaskConfig(), torch.device("cpu")), model


def test_hidden_states_are_transformers_own_without_the_embedding(folder: Path, tmp_path: Path) -> None:
    reference, _ = engine(folder, "learned")
    source = write_pairs(tmp_path / "pairs.jsonl", 1)
    (pair,) = load_tokenized(str(source), tiny_tokenizer(), DataConfig())
    scored = reference.score(pack([pair], [1.0], "packed"))
    plain = load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout="padded", zero3=None).eval()
    ids = torch.tensor([[*pair.prompt_ids, *pair.chosen_ids]])
    with torch.no_grad():
        states = plain(ids, output_hidden_states=True).hidden_states[1:]
    predicting = slice(len(pair.prompt_ids) - 1, ids.shape[1] - 1)
    want = torch.stack([layer[0, predicting] for layer in states])
    torch.testing.assert_close(scored.layer_hidden[:, : len(pair.chosen_ids)], want, rtol=1e-5, atol=1e-5)
    assert torch.equal(scored.layer_hidden[-1], scored.final_hidden)


def test_hooks_see_every_site_and_leave_no_trace(folder: Path, tmp_path: Path) -> None:
    reference, model = engine(folder, "activation")
    source = write_pairs(tmp_path / "pairs.jsonl", 2)
    pairs = load_tokenized(str(source), tiny_tokenizer(), DataConfig())
    batch = pack(pairs, [1.0, 1.0], "packed")
    scored = reference.score(batch)
    assert reference.site_types == ["attention", "mlp", "residual"] * 3
    assert scored.site_means.shape == (9, len(batch.labels)) and scored.site_means.dtype == torch.float32
    assert len({tuple(row.tolist()) for row in scored.site_means}) == 9
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_are_removed_when_the_forward_fails(folder: Path) -> None:
    reference, model = engine(folder, "activation")
    batch = pack(load_tokenized_one(), [1.0], "packed")
    broken = type(batch)(**{**vars(batch), "input_ids": batch.input_ids + 10**6})
    with pytest.raises(IndexError):
        reference.score(broken)
    assert not any(module._forward_hooks for module in model.modules())


def load_tokenized_one() -> list:
    from sparsepo_dist.contracts import TokenizedPair

    return [TokenizedPair((1, 2), (3, 4), (5,))]


def test_unknown_architecture_lists_what_it_has() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = nn.Linear(2, 2)

    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(2))
    assert len(decoder_blocks(model, 2)) == 2
    with pytest.raises(UserError, match="mixer: Linear"):
        activation_sites(model, 2)
    with pytest.raises(UserError, match="no list of 7 like blocks.*layers \\(2 modules\\)"):
        decoder_blocks(model, 7)
