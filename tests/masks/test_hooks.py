"""Hooks are there while a forward is read and at no other time, on wrapped modules and unknown decoders too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.engines.adapters.lora import add_adapters, as_reference
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, ReferenceReadings
from sparsepo_dist.masks.hooks import Site, _attention_recorders, site_means
from sparsepo_dist.ops import PLAIN
from tests.masks.reading import PAIRS, RELEASED, collect, load, readings, save_model, traces
from tests.support.tiny import CONFIGS

BATCH = pack(PAIRS, [1.0] * 3, "packed")
KINDS = {"learned": MaskConfig(), "activation": RELEASED}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_after_a_forward_or_an_exception(folder: Path, kind: str) -> None:
    model = load(folder)
    made = readings(model, kind, KINDS[kind])
    assert not traces(model)
    with made.collect(BATCH.predict_index):
        assert traces(model)
    first = collect(model, made, BATCH)
    assert not traces(model) and not _attention_recorders
    broken = dataclasses.replace(BATCH, input_ids=BATCH.input_ids + 10**6)
    with pytest.raises(IndexError):
        collect(model, made, broken)
    assert not traces(model) and not _attention_recorders
    for name in ("final_hidden", "layer_hidden", "site_means"):
        got, want = getattr(collect(model, made, BATCH), name), getattr(first, name)
        assert got is want is None or torch.equal(got, want)


def test_masks_that_read_nothing_hook_nothing(folder: Path) -> None:
    model = load(folder)
    made = readings(model, "random", MaskConfig())
    with made.collect(BATCH.predict_index):
        assert not traces(model)
    outputs = collect(model, made, BATCH)
    assert made.site_types == [] and outputs.layer_hidden is outputs.site_means is None


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_that_are_off_change_nothing(folder: Path, kind: str) -> None:
    plain, wrapped = load(folder), load(folder)
    add_adapters(wrapped, LoraSettings(), torch.float32, base="", start=None, reference=None)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    want = collect(plain, readings(plain, kind, KINDS[kind]), BATCH)
    made = readings(wrapped, kind, KINDS[kind])
    field = "layer_hidden" if kind == "learned" else "site_means"
    with as_reference(wrapped, None):
        assert torch.equal(getattr(collect(wrapped, made, BATCH), field), getattr(want, field))
    assert not torch.equal(getattr(collect(wrapped, made, BATCH), field), getattr(want, field))


def test_sites_in_a_4_bit_model(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    model = load_model(
        str(folder), load_config(str(folder)), dtype=torch.float32, layout="packed", zero3=None, quantised=True
    ).eval()
    made = readings(model, "activation", RELEASED)
    means = collect(model, made, BATCH).site_means
    want = load(folder, "packed")
    plain = collect(want, readings(want, "activation", RELEASED), BATCH).site_means
    assert made.site_types == readings(want, "activation", RELEASED).site_types
    # Four bits keep the sites apart, not their digits.
    assert torch.corrcoef(torch.stack([means.flatten(), plain.flatten()]))[0, 1] > 0.9


class Mixer(nn.Module):
    """A block without attention, whose linear maps have names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)
        self.heads = nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        self.heads(hidden.view(1, 2, -1, 4))
        return hidden + self.mix(hidden)


class Decoder(nn.Module):
    """An architecture that structure-finding does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2, hidden_size=4)
        self.embed = nn.Embedding(9, 4)
        self.tower = nn.Module()
        self.tower.layers = nn.ModuleList(Mixer() for _ in range(2))
        self.unused = nn.Linear(4, 4)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)[None]
        for layer in self.tower.layers:
            hidden = layer(hidden)
        return hidden


class TestUnknownDecoder:
    def read(self, **options: object) -> tuple[Decoder, ReferenceReadings]:
        torch.manual_seed(0)
        config = MaskConfig(**options)
        config.validate()
        decoder = Decoder()
        return decoder, ReferenceReadings(decoder, nn.Linear(4, 9), PLAIN, ("activation",), config)

    def test_its_modules_are_listed_and_the_option_named(self) -> None:
        with pytest.raises(UserError, match=r"Mixer \(its modules: mix: Linear, heads: Identity\);.*site_patterns"):
            self.read()

    def test_a_pattern_makes_it_work(self) -> None:
        decoder, made = self.read(site_types=["residual", "mlp"], site_patterns={"mlp": r"tower\.layers\.\d\.mix"})
        ids, rows = torch.tensor([3, 1, 4, 1]), torch.tensor([1, 3])
        with torch.no_grad(), made.collect(rows) as collected:
            final = decoder(ids)[0, rows]
        means = collected.outputs(final).site_means
        assert made.site_types == ["residual", "residual", "mlp", "mlp"]
        with torch.no_grad():
            hidden, residual, mlp = decoder.embed(ids), [], []
            for layer in decoder.tower.layers:
                mlp.append(layer.mix(hidden).mean(-1)[rows])
                hidden = hidden + layer.mix(hidden)
                residual.append(hidden.mean(-1)[rows])
        torch.testing.assert_close(means, torch.stack([*residual, *mlp]))

    def test_released_types_that_are_named_replace_structure(self) -> None:
        _, made = self.read(sites="released", site_patterns=dict.fromkeys(("mlp", "attention", "residual"), "embed"))
        assert made.site_types == ["mlp", "attention", "residual", "logits"]

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("mix", r"'mix' matches no module of the decoder: embed, tower, tower.layers, tower.layers.N, tower"),
            ("unused", "unused takes no part in the model's forward pass"),
            (r".*\.heads", r"tower.layers.0.heads has an activation of shape \[1, 2, 2, 4\]; features per token"),
        ],
    )
    def test_patterns_that_cannot_work_are_explained(self, pattern: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            decoder, made = self.read(site_types=["mlp"], site_patterns={"mlp": pattern})
            with torch.no_grad(), made.collect(torch.tensor([0])) as collected:
                final = decoder(torch.tensor([3, 1, 4, 1]))[0]
            collected.outputs(final[:1])

    def test_without_blocks_the_module_lists_are_listed(self) -> None:
        decoder = Decoder()
        decoder.config.num_hidden_layers = 7
        for kind, remedy in (("learned", "masks.layers: last"), ("activation", "masks.site_patterns")):
            with pytest.raises(UserError, match=f"no list of 7 like blocks.*layers \\(2 modules\\); .*{remedy}"):
                ReferenceReadings(decoder, nn.Linear(4, 9), PLAIN, kind, MaskConfig())
        ReferenceReadings(decoder, nn.Linear(4, 9), PLAIN, ("learned",), MaskConfig(layers="last"))


def test_a_fused_projection_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    model = load(save_model(tmp_path, "gpt_neox"))
    for block in backbone(model).layers:
        block.attention.__class__ = type("OtherAttention", (type(block.attention),), {})
    with pytest.raises(UserError, match="no query, key and value projection.*OtherAttention.*query_key_value: Linear"):
        readings(model, "activation", RELEASED)
    readings(model, "activation", MaskConfig(sites="released", site_patterns={"attention": r".*\.query_key_value"}))


def test_sigmoids_are_taken_of_features_before_their_mean() -> None:
    """Against a plain forward, the outputs of the modules kept whole."""
    torch.manual_seed(0)
    first, second = nn.Linear(6, 5), nn.Linear(5, 4)
    sites = [Site("mlp", "first", first, "output"), Site("residual", "second", second, "input")]
    rows, index = torch.randn(1, 7, 6), torch.tensor([1, 4, 6])
    with site_means(sites, index, sigmoid=True) as means:
        kept = first(rows)
        second(kept)
    want = kept[0, index].sigmoid().mean(-1)
    torch.testing.assert_close(means[0][0], want)
    torch.testing.assert_close(means[1][0], want)
