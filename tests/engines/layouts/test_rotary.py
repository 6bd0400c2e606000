"""LongRoPE: every sequence by its own length, whatever it is packed or padded with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers as hf
from transformers import PretrainedConfig

from sparsepo_dist.contracts import TokenizedPair
from tests.engines.layouts.test_families import assert_near, plain, through_layout

SHORT = 20  # tokens of the longest sequence with the encoding of short ones


def phi3() -> PretrainedConfig:
    return hf.Phi3Config(
        vocab_size=272, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=64, original_max_position_embeddings=SHORT, pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": SHORT,
            "short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.0, 2.0, 4.0, 8.0],
        },
    )  # fmt: skip


def phimoe() -> PretrainedConfig:
    """Another magnitude for long sequences, in place of other frequencies."""
    parameters = {**phi3().rope_parameters, "short_mscale": 1.1, "long_mscale": 1.4}
    return hf.PhimoeConfig(
        vocab_size=272, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=64, num_local_experts=4, pad_token_id=0,
        rope_parameters=parameters,
    )  # fmt: skip


def pair(prompt: int, chosen: int, rejected: int) -> TokenizedPair:
    sizes = enumerate((prompt, chosen, rejected), 1)
    return TokenizedPair(*(tuple((37 * i * k) % 250 + 1 for i in range(size)) for k, size in sizes))


# Shorter than SHORT, as long, one longer, and much longer; pairs of one kind and of two.
PAIRS = [pair(6, 14, 15), pair(3, 5, 2), pair(10, 30, 26), pair(19, 1, 2)]


@pytest.mark.parametrize("config", [phi3, phimoe])
def test_each_sequence_is_encoded_by_its_own_length(config: Callable[[], PretrainedConfig]) -> None:
    training = config is phi3  # in training the other's experts are drawn at random
    want = plain(config(), PAIRS, training=training)
    for layout in ("packed", "padded"):
        assert_near(through_layout(config(), PAIRS, layout, training=training), want)


def test_short_sequences_share_prompts() -> None:
    assert_near(through_layout(phi3(), PAIRS[1:2] * 2, "prefix_shared"), plain(phi3(), PAIRS[1:2] * 2))


def test_length_matters_to_these_models() -> None:
    """What the tests above would not see if factors were alike."""
    long, short = plain(phi3(), PAIRS[2:3])[0], plain(phi3(), [pair(10, 8, 6)])[0]
    assert not torch.allclose(long[:8], short[:8], atol=1e-3)
