"""A module in place of flash-attn: the same interface, computed block by block in plain PyTorch."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor


class PlainFlash(types.ModuleType):
    """`flash_attn` with the one function that is used; keeps the arguments it was called with."""

    def __init__(self) -> None:
        super().__init__("flash_attn")
        self.__spec__ = importlib.machinery.ModuleSpec("flash_attn", loader=None)
        self.calls: list[dict[str, Any]] = []

    def flash_attn_varlen_func(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """[total q, heads, width]: sequences end where the next one starts; so many keys before and after are seen."""
        self.calls.append({name: value for name, value in locals().items() if name != "self"})
        parts = []
        for start, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
            query, key, value = (states[start:end].transpose(0, 1) for states in (q, k, v))
            key, value = (states.repeat_interleave(len(query) // len(states), 0) for states in (key, value))
            scores = query @ key.transpose(1, 2) * (softmax_scale or query.shape[-1] ** -0.5)
            scores = softcap * torch.tanh(scores / softcap) if softcap else scores
            back = torch.arange(end - start)[:, None] - torch.arange(end - start)
            left, right = window_size[0], 0 if causal else window_size[1]
            hidden = ((back > left) & (left >= 0)) | ((back < -right) & (right >= 0))
            parts.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value).transpose(0, 1))
        return torch.cat(parts)


def installed(monkeypatch: pytest.MonkeyPatch) -> PlainFlash:
    """As if flash-attn were there."""
    module = PlainFlash()
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return module
