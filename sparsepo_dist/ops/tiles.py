"""How the logits are cut: bands of rows, tiles of vocabulary entries, and the tiles that fit the memory budget.

A tile spans all rows of a band and as many columns as the budget allows, not the other way round: each weight of the
head is then read once a band instead of once for every few rows, and its gradient is one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MOST_ROWS = 4096
"""Rows of a band: more would make tiles so narrow that the products over them slow down."""
LANES = 64
"""Tiles are a multiple of this wide, so that their rows start aligned."""


class TilePlan(NamedTuple):
    """The cut of [rows, vocabulary] logits; the same in forward and backward."""

    rows: int
    vocabulary: int
    band_rows: int
    """Of each band; the last one may be shorter."""
    width: int
    """Vocabulary entries of each tile; a band's last one may be narrower."""
    kept: int
    """The first so many tiles, band by band, are kept from forward to backward."""

    @property
    def bands(self) -> int:
        """Number of bands."""
        return -(-self.rows // self.band_rows)

    @property
    def columns(self) -> int:
        """Number of tiles of a band."""
        return -(-self.vocabulary // self.width)

    @property
    def tile_size(self) -> int:
        """Logits of the largest tile, of one model."""
        return self.band_rows * self.width

    def band(self, number: int) -> slice:
        """Rows of a band."""
        return slice(number * self.band_rows, min((number + 1) * self.band_rows, self.rows))

    def tiles(self, band: int) -> Iterator[tuple[slice, int | None]]:
        """Vocabulary entries of each tile of a band, and its place among the kept ones, if it is one."""
        for column in range(self.columns):
            place = band * self.columns + column
            entries = slice(column * self.width, min((column + 1) * self.width, self.vocabulary))
            yield entries, place if place < self.kept else None


def plan_tiles(
    rows: int, vocabulary: int, *, models: int, kept_models: int, element_size: int, tile_bytes: int, keep_bytes: int
) -> TilePlan:
    """Cut [rows, vocabulary] so that one tile of `models` models stays within `tile_bytes`, or is one entry wide.

    As many tiles of `kept_models` models are kept as fit into `keep_bytes`. A logit has `element_size` bytes.
    """
    bands = max(1, -(-rows // MOST_ROWS))
    band_rows = max(1, -(-rows // bands))
    width = min(vocabulary, max(1, tile_bytes // (band_rows * element_size * models)))
    if width < vocabulary and width > LANES:
        width -= width % LANES
    plan = TilePlan(rows, vocabulary, band_rows, width, 0)
    kept = keep_bytes // (plan.tile_size * element_size * kept_models)
    return plan._replace(kept=min(plan.bands * plan.columns, kept) if rows else 0)


def view(buffer: Tensor, place: int, plan: TilePlan, rows: int, entries: slice) -> Tensor:
    """[rows, entries] contiguous logits in a flat buffer [tiles * tile_size]."""
    width = entries.stop - entries.start
    return torch.narrow(buffer, 0, place * plan.tile_size, rows * width).view(rows, width)
