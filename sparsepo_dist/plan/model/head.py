"""What the fused operation over the LM head needs for a micro-batch: sparsepo_dist/ops/operator.py in bytes.

Shapes: N response tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.ops.kernels import COLUMNS
from sparsepo_dist.ops.tiles import plan_tiles
from sparsepo_dist.plan.asked.request import Setting
from sparsepo_dist.plan.asked.shapes import BatchShape
from sparsepo_dist.plan.model.census import Census

STATE = 8 * COLUMNS  # bytes of a row's running sums


class HeadBytes(NamedTuple):
    """Bytes of the fused operation."""

    scoring: int
    """One model's log-probabilities without gradient: tile and rows' sums."""
    kept: int
    """From forward to backward: logits and rows' sums."""
    forward: int
    """Tiles."""
    backward: int
    """Tiles, and gradients of the rows; not the head's own."""
    gradient: int
    """The head's own gradient where it is trained, as it leaves the operation."""
    gradient_sum: int
    """Its float32 sum over several bands of rows, while it is computed."""


def head_bytes(setting: Setting, census: Census, shape: BatchShape) -> HeadBytes:
    """Bytes for a micro-batch in which every token is active."""
    ops, needs, size = setting.config.ops, setting.needs, setting.element_size
    rows = shape.predicted_by_one_of(setting.together)
    weight = max(census.heads.weights, key=lambda w: w.numel * (w.role != "reference head"))
    vocabulary = text_config(setting.policy).vocab_size
    width = weight.numel // vocabulary
    both = needs.divergence is not None
    plan = plan_tiles(
        rows, vocabulary, models=2 if both else 1, kept_models=2 if both else 1, element_size=size,
        tile_bytes=ops.tile_bytes, keep_bytes=ops.keep_bytes,
    )  # fmt: skip
    alone = plan_tiles(
        rows, vocabulary, models=1, kept_models=1, element_size=size, tile_bytes=ops.tile_bytes, keep_bytes=0
    )
    models = 2 if both else 1
    tile, sums = plan.tile_size * size, rows * STATE
    wide = max(4, size)
    gradients = rows * width * size + plan.band_rows * width * wide
    trained = vocabulary * width if weight.trained else 0
    return HeadBytes(
        scoring=alone.tile_size * size + sums,
        kept=plan.kept * tile * models + sums,
        forward=tile * models,
        # Rows that need no gradient are taken out of kept tiles, which copies them.
        backward=tile * models * (2 if plan.kept else 1) + gradients,
        gradient=trained * size,
        gradient_sum=trained * wide if plan.bands > 1 else 0,
    )
