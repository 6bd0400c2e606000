"""Composite models: what their text decoder says of text, what of them is trained, what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, PreTrainedModel

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.adapters.lora import add_adapters
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import check_window, load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.saving import gathered_state, write_model
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, ReferenceReadings
from sparsepo_dist.ops import PLAIN, Head, token_stats
from tests.engines.attention.packed_batches import random_pairs
from tests.support.composites import COMPOSITES, HYBRIDS, PROCESSOR, save_composite
from tests.support.plain import plain_logps
from tests.support.tiny import tiny_tokenizer

PAIRS = random_pairs(3, 4, 12)


@pytest.fixture(scope="module", params=sorted(COMPOSITES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_composite(tmp_path_factory.mktemp("composite") / request.param, request.param)


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    return save_composite(tmp_path / "gemma3", "gemma3")


def loaded(folder: Path, layout: Layout = "padded") -> PreTrainedModel:
    return load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout=layout, zero3=None).eval()


@torch.no_grad()
def of_transformers(folder: Path, pairs: list[TokenizedPair]) -> torch.Tensor:
    return plain_logps(AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval(), pairs)


def logps(folder: Path, layout: Layout) -> torch.Tensor:
    model, batch = loaded(folder, layout), pack(PAIRS, [1.0] * len(PAIRS), layout)
    head = model.get_output_embeddings()
    with torch.no_grad():
        return token_stats(hidden_at(backbone(model), batch), Head(head.weight, head.bias), batch.labels).policy_logp


def test_log_probabilities_of_text_are_the_composite_s(folder: Path) -> None:
    wanted = of_transformers(folder, PAIRS)
    torch.testing.assert_close(logps(folder, "padded"), wanted, rtol=1e-5, atol=1e-5)
    if folder.name not in HYBRIDS:
        torch.testing.assert_close(logps(folder, "prefix_shared"), wanted, rtol=1e-5, atol=1e-5)


def test_only_the_text_decoder_is_trained_and_all_is_saved(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all("language_model" in name or "lm_head" in name for name in trained)
    assert not any("vision" in name or "visual" in name for name in trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.add_(0.5)
    write_model(model, tiny_tokenizer(), gathered_state(model), tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert len(before) - len(same) == len(trained)
    assert same and not any("language_model" in name or "lm_head" in name for name in same)
    again, found = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model) and not found["missing_keys"] and not found["unexpected_keys"]
    for name in PROCESSOR:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "fc1"]])
def test_adapters_are_on_the_text_decoder_alone(gemma: Path, targets: str | list[str]) -> None:
    model = loaded(gemma)
    add_adapters(model, LoraSettings(targets=targets), torch.float32, base="", start=None, reference=None)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(name.startswith("model.language_model.") for name in trained)


def test_targets_in_the_vision_tower_alone_are_refused(gemma: Path) -> None:
    with pytest.raises(UserError, match=r"lora\.targets"):
        add_adapters(
            loaded(gemma), LoraSettings(targets=["fc1"]), torch.float32, base="", start=None, reference=None
        )  # fmt: skip


@pytest.mark.parametrize("sites", ["paper", "released"])
def test_masks_read_the_text_decoder_alone(gemma: Path, sites: str) -> None:
    model = loaded(gemma, "prefix_shared")
    readings = ReferenceReadings(
        backbone(model), model.get_output_embeddings(), PLAIN, "activation", MaskConfig(sites=sites)
    )  # fmt: skip
    inside = {id(module) for module in backbone(model).modules()}
    assert readings.sites and all(id(site.module) in inside for site in readings.sites)
    assert readings.layers == 2 and readings.width == 32


def test_lengths_are_held_against_the_text_part(gemma: Path) -> None:
    with pytest.raises(UserError, match="position range of 256"):
        check_window(load_config(str(gemma)), 257)
