"""What masks read inside a mixer that runs by rows: numbers of the right tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention.inputs import model_inputs
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.loading import attention_for
from sparsepo_dist.engines.layouts.families import MIXERS
from sparsepo_dist.engines.layouts.mixers import sequence_rows
from sparsepo_dist.engines.layouts.preparation import prepare
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.hooks import Site, site_means
from tests.engines.attention.packed_batches import random_pairs
from tests.support.hybrids import CONFIGS, hybrid

PAIRS = random_pairs(1, 4, 12)


def read(layout: Layout) -> Tensor:
    """[sites, N]: means of what goes into a convolution's last linear map, of its output, and of a feed-forward's."""
    config = CONFIGS["lfm2"]()
    model = hybrid(config, attention_for(config, layout, torch.float32)).eval()
    prepare(backbone(model), layout)
    block = model.model.layers[2]
    sites = [
        Site("mlp", "inside", block.conv.out_proj, "input"), Site("mlp", "mixer", block.conv, "output"),
        Site("mlp", "behind", block.feed_forward, "output"),
    ]  # fmt: skip
    batch = pack(PAIRS, [1.0] * len(PAIRS), layout)
    with torch.no_grad(), site_means(sites, batch.predict_index) as means:
        hidden_at(backbone(model), batch)
    return torch.cat([means[index] for index in range(len(sites))])


def test_activations_inside_a_mixer_are_read_at_the_response_tokens() -> None:
    want = read("padded")
    assert want.std() > 0.01
    for layout in ("prefix_shared", "packed"):
        torch.testing.assert_close(read(layout), want, rtol=1e-5, atol=1e-6)


def test_rows_hold_each_sequence_and_its_own_last_token_behind_it() -> None:
    for layout in ("prefix_shared", "packed"):
        batch = pack(PAIRS, [1.0] * len(PAIRS), layout)
        rows = sequence_rows(batch)
        want = [
            (*pair.prompt_ids, *response[:-1])
            for pair in PAIRS
            for response in (pair.chosen_ids, pair.rejected_ids)
            if len(response) > 1 or (response and (layout == "packed" or response is pair.chosen_ids))
        ]
        longest = max(map(len, want))
        padded = [[*ids, *ids[-1:] * (longest - len(ids))] for ids in want]
        assert rows.take(batch.input_ids[None]).tolist() == padded
        assert torch.equal(rows.put(rows.take(batch.input_ids[None])), batch.input_ids[None])


def test_a_mixer_that_is_given_other_tokens_is_an_error() -> None:
    config = CONFIGS["lfm2"]()
    model = hybrid(config, attention_for(config, "packed", torch.float32))
    prepare(backbone(model), "packed")
    hidden_at(backbone(model), pack(PAIRS, [1.0] * len(PAIRS), "packed"))
    with pytest.raises(UserError, match=r"states of shape \[1, 3, 32\] of \d+ packed tokens; say --data.layout padded"):
        model.model.layers[0].conv(torch.zeros(1, 3, 32))


def test_mixers_that_are_not_found_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "lfm2", "Lfm2Conv")
    with pytest.raises(UserError, match="no Lfm2Conv is found in a lfm2 model"):
        prepare(backbone(hybrid(CONFIGS["lfm2"](), "eager")), "packed")
    prepare(backbone(hybrid(CONFIGS["lfm2"](), "eager")), "padded")
    attention_only = CONFIGS["granitemoehybrid"]()
    attention_only.layers_block_type = ["full_attention"] * 2
    prepare(backbone(hybrid(attention_only, "eager")), "packed")


def test_families_without_attention_get_no_mask_of_tokens_by_tokens() -> None:
    config = CONFIGS["mamba"]()
    config._attn_implementation = "eager"
    assert "attention_mask" not in model_inputs(pack(PAIRS, [1.0] * len(PAIRS), "packed"), config, torch.float32)


def test_a_model_that_runs_by_rows_runs_a_padded_batch_as_it_is() -> None:
    """What the check of a model tries before it names a remedy."""
    config = CONFIGS["lfm2"]()
    found = []
    for layout in ("prefix_shared", "padded"):
        model = hybrid(config, attention_for(config, "padded", torch.float32)).eval()
        prepare(backbone(model), layout)
        with torch.no_grad():
            found.append(hidden_at(backbone(model), pack(PAIRS, [1.0] * len(PAIRS), "padded")))
    assert torch.equal(*found)
