"""What is read off each family of models equals what its own forward computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTBigCodeConfig, GPTNeoXConfig, PretrainedConfig

from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig
from tests.masks.plain_sites import NAMES, Sites, released_sites
from tests.masks.reading import RELEASED, load, means, read, readings, save_model, sequences
from tests.support.tiny import CONFIGS

VARIANTS: dict[str, PretrainedConfig] = {
    "gpt_bigcode_many_keys": GPTBigCodeConfig(n_embd=32, n_layer=3, n_head=4, n_positions=256, multi_query=False),
    "gpt_neox_sequential": GPTNeoXConfig(**{**CONFIGS["gpt_neox"].to_dict(), "use_parallel_residual": False}),
}
WITHOUT_ROTARY = ("gpt2", "gpt_bigcode", "gpt_bigcode_many_keys")
SHOWS_ATTENTION_PADDED = (*WITHOUT_ROTARY, "gptj")


@pytest.fixture(scope="module", params=sorted({**CONFIGS, **VARIANTS}))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name, config in VARIANTS.items():
            patch.setitem(CONFIGS, name, config)
        return save_model(tmp_path_factory.mktemp("model"), family)


@pytest.fixture(scope="module")
def plain(folder: Path) -> list[tuple[Sites, slice]]:
    """Every response's sites and the positions that predict its tokens."""
    sites = []
    for ids, predicting in sequences():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        sites.append((released_sites(model, ids), predicting))
    return sites


def want(plain: list[tuple[Sites, slice]], kinds: tuple[str, ...]) -> torch.Tensor:
    """[sites, N]"""
    return torch.cat(
        [means([site for kind in kinds for site in sites[kind]])[:, predicting] for sites, predicting in plain], dim=1
    )


@pytest.mark.parametrize("layout", ["prefix_shared", "packed", "padded"])
def test_released_sites(family: str, folder: Path, plain: list, layout: str) -> None:
    kinds, config = ("mlp", "attention", "residual", "logits"), RELEASED
    if layout == "padded" and family not in SHOWS_ATTENTION_PADDED:
        with pytest.raises(UserError, match="masks.sites: .* set data.layout to prefix_shared or packed, or leave"):
            readings(load(folder, layout), "activation", RELEASED)
        kinds = ("mlp", "residual", "logits")
        config = MaskConfig(sites="released", site_types=list(kinds))
    made, outputs = read(folder, "activation", config, layout)
    blocks = len(plain[0][0]["mlp"])
    assert made.site_types == [kind for kind in kinds for _ in plain[0][0][kind]]
    assert made.site_types.count("attention") in (0, blocks * (4 if family in WITHOUT_ROTARY else 6))
    assert made.site_types.count("residual") == blocks * (5 if family == "gptj" else 6) + 2
    assert outputs.site_means.dtype == torch.float32
    torch.testing.assert_close(outputs.site_means, want(plain, kinds), rtol=1e-4, atol=2e-5)


def test_paper_sites_are_the_outputs_of_attention_feed_forward_and_block(folder: Path, plain: list) -> None:
    made, outputs = read(folder, "activation", MaskConfig())
    stream = want(plain, ("residual",))[1:-1].unflatten(0, (3, -1))
    assert made.site_types == ["mlp"] * 3 + ["attention"] * 3 + ["residual"] * 3
    torch.testing.assert_close(
        outputs.site_means, torch.cat([stream[:, -2], stream[:, 2], stream[:, -1]]), rtol=1e-4, atol=2e-5
    )


def test_hidden_states_are_transformers_own_without_the_embedding_at_the_predicting_position(folder: Path) -> None:
    """Released: hidden_states[1:] without the last position; that is row t - 1 for token t."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    with torch.no_grad():
        for ids, predicting in sequences():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:]
            rows.append(torch.stack([layer[0, :-1][predicting.start :] for layer in states]))
    for layout in ("prefix_shared", "packed", "padded"):
        _, outputs = read(folder, "learned", MaskConfig(), layout)
        torch.testing.assert_close(outputs.layer_hidden, torch.cat(rows, 1), rtol=1e-5, atol=1e-5)
        assert torch.equal(outputs.layer_hidden[-1], outputs.final_hidden)
    _, last = read(folder, "learned", MaskConfig(layers="last"), layout)
    assert torch.equal(last.layer_hidden, outputs.layer_hidden[-1:])


def test_every_family_has_its_names() -> None:
    assert set(CONFIGS) == set(NAMES)
