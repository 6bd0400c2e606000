"""What a collective of a step sends, and those by which ranks that share micro-batches exchange heads for tokens."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from transformers import PretrainedConfig

from sparsepo_dist.engines.attention.choice import attention_heads
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.plan.asked.request import Setting
from sparsepo_dist.plan.asked.shapes import mean_pair

Collective = Literal["all-gather", "reduce-scatter", "all-reduce", "reduce", "all-to-all"]


class Traffic(NamedTuple):
    """What one rank sends in a step for one purpose."""

    collective: Collective
    purpose: str
    bytes: int
    calls: int
    """Collectives, one after the other."""
    ranks: int | None = None
    """That take part in each; None for all of the run."""


def exchanges(setting: Setting, micro_batches: int, passes: int) -> list[Traffic]:
    """The all-to-alls around attention in a step: queries, keys, values and the result, each way in each layer.

    Args:
        passes: of the policy forward, but for what checkpointing computes again.
    """
    n = setting.together
    if n == 1:
        return []
    layout = setting.config.data.settled_layout
    pairs = -(-setting.pairs_per_step // setting.groups)
    tokens = math.ceil(mean_pair(setting).tokens(layout) * pairs / n)
    times = passes + 1 + bool(setting.config.model.activation_checkpointing) + (setting.placement == "adapter")
    runs: list[tuple[str, PretrainedConfig, int]] = [("policy", setting.policy, times)]
    if setting.reference is not None and setting.placement != "cached":
        runs.append(("reference", setting.reference, 1))
    runs += ((role, config, 1) for role, config in setting.oracles.items())
    found = []
    for role, config, count in runs:
        layers = text_config(config).num_hidden_layers
        sent = layers * count * tokens * _exchanged(config, n) * setting.element_size * (n - 1) // n
        found.append(Traffic("all-to-all", f"{role}'s attention", sent, 4 * layers * count * micro_batches, n))
    return found


def _exchanged(config: PretrainedConfig, ranks: int) -> int:
    """Numbers of a token in a layer: queries, result, keys and values; of the latter each rank gets a head at least."""
    heads = attention_heads(config)
    return 2 * heads.width * (heads.queries + math.lcm(heads.keys, ranks))
