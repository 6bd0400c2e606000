"""Which packed tokens and which response tokens of a micro-batch a rank computes, and how all get to know of theirs.

Shapes: n ranks of a group, T packed tokens, C = ceil(T / n) of a rank, N response tokens, R of them on this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenShare


def tokens_of_rank(batch: PackedBatch) -> int:
    """C: packed tokens of each rank; all of them where the batch is not shared."""
    return len(batch.input_ids) if batch.share is None else -(-len(batch.input_ids) // batch.share.ranks)


def own_part(batch: PackedBatch, values: Tensor, fill: int) -> Tensor:
    """[C]: this rank's of `values` [T], filled up behind the last one."""
    if batch.share is None:
        return values
    size = tokens_of_rank(batch)
    padded = F.pad(values, (0, batch.share.ranks * size - len(values)), value=fill)
    return padded[batch.share.place * size :][:size]


@dataclass(frozen=True)
class OwnRows:
    """The response tokens whose predicting positions lie on this rank."""

    index: Tensor
    """[R] int64: the predicting positions, counted from the rank's first token."""
    share: TokenShare | None = None
    order: Tensor | None = None
    """[N] int64: the response tokens of the group's first rank, then those of its second, and so on; None for all."""
    sizes: tuple[int, ...] = ()
    """R of each rank of the group."""

    @classmethod
    def of(cls, batch: PackedBatch) -> OwnRows:
        """Of a micro-batch: all rows where it is not shared."""
        share = batch.share
        if share is None:
            return cls(batch.predict_index)
        size = tokens_of_rank(batch)
        owner = batch.predict_index // size
        sizes = tuple(torch.bincount(owner, minlength=share.ranks).tolist())
        order = owner.argsort(stable=True)
        rows = order.split(sizes)[share.place]
        return cls(batch.predict_index[rows] - share.place * size, share, order, sizes)

    def pick(self, values: Tensor, dimension: int = 0) -> Tensor:
        """This rank's rows of `values` [N, ...], or with N as another dimension."""
        return values if self.rows is None else values.index_select(dimension, self.rows)

    def pick_outputs(self, outputs: ReferenceOutputs) -> ReferenceOutputs:
        """This rank's rows of what a reference says of all."""
        return outputs if self.rows is None else outputs.at(self.rows)

    def whole(self, values: Tensor) -> Tensor:
        """[..., N], the same on every rank of the group, of this rank's `values` [..., R].

        Its gradient must be the same on all of them too, as it is where they go on to compute the same: each takes its
        own rows of it. Every rank of the group must call this.
        """
        if self.share is None:
            return values
        gathered: Tensor = _Gathered.apply(values, self)
        return gathered

    @property
    def rows(self) -> Tensor | None:
        """[R] int64: which of the N they are; None for all."""
        if self.share is None or self.order is None:
            return None
        return self.order.split(self.sizes)[self.share.place]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, own: OwnRows) -> Tensor:
        ctx.own = own
        assert own.share is not None and own.order is not None
        # gloo and nccl gather parts of one size.
        most = max(own.sizes)
        padded = F.pad(values, (0, most - values.shape[-1])).contiguous()
        parts = [torch.empty_like(padded) for _ in own.sizes]
        dist.all_gather(parts, padded, group=own.share.group)
        sorted_by_rank = torch.cat([part[..., :size] for part, size in zip(parts, own.sizes, strict=True)], -1)
        whole = torch.empty_like(sorted_by_rank)
        whole[..., own.order] = sorted_by_rank
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.own.pick(gradients[0], gradients[0].dim() - 1), None
