"""What a model does to its logits after the head, asked of its own forward, whatever its configuration calls it.

Some divide them (Granite), multiply them (Cohere, Falcon-H1), divide what the head reads (MiniCPM3) or cap them softly
(Gemma 2, RecurrentGemma); fields of one name mean one thing here and another there. So the forward above the decoder
is run once, over a few known rows and a head of this module's own, and what comes out is a LogitMap, or is refused.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.ops import PLAIN, Head, LogitMap

_WIDTH = 8  # of the rows; the model's own takes no part
_SMALL, _LARGE = 2.0**-20, 2.0**30
"""Products that no cap bends, and that every cap holds down."""


@torch.no_grad()
def logit_map(model: PreTrainedModel) -> LogitMap:
    """The map from products of final hidden rows and the LM head to the model's logits.

    Nothing of the model is computed with but its code above the decoder: its weights may be sharded, packed or absent.

    Raises:
        UserError: it does something else to them, or its head is more than one linear layer.
    """
    rows, head = _rows_and_head(_linear(model))
    products = head(rows)
    found = _asked(model, rows, head)
    if found.shape != products.shape:
        raise UserError(
            f"{type(model).__name__} has a head of {products.shape[-1]} entries and gives logits of {found.shape[-1]}; "
            "a vocabulary that is cut is not supported"
        )
    map = _fitted(type(model).__name__, found)
    if not torch.allclose(map.logits(products), found.to(products.dtype), rtol=1e-5, atol=1e-5):
        raise UserError(
            f"{type(model).__name__} changes its logits after the head, or what the head reads, by more than a factor "
            "and a soft cap; that is not supported"
        )
    return map


def own_head(model: PreTrainedModel) -> Head:
    """A model's own head, with its map. Its weight must be whole here.

    Raises:
        UserError: as `logit_map`.
    """
    head: Any = model.get_output_embeddings()
    return Head(head.weight, head.bias, logit_map(model))


def _linear(model: PreTrainedModel) -> Any:
    head: Any = model.get_output_embeddings()
    linear = getattr(head, "original_module", head)  # peft's wrapper, where an adapter has a head of its own
    if not hasattr(linear, "out_features") or all(child is not head for child in model.children()):
        raise UserError(
            f"{type(model).__name__} has a head that is more than one linear layer, or part of a model inside it; it "
            "is not supported"
        )
    return linear


def _rows_and_head(like: Any) -> tuple[Tensor, nn.Linear]:
    """[1, 6, 8] hidden rows and a head over them of as many entries as the model's. Entry 0 of the first two rows gets
    products of _SMALL and _LARGE."""
    drawn = torch.Generator().manual_seed(0)
    kind: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    # Without an initialisation, which would draw from the global generator.
    head = nn.utils.skip_init(nn.Linear, _WIDTH, like.out_features, bias=like.bias is not None, **kind)
    head.weight.copy_(torch.randn(head.weight.shape, generator=drawn, **kind))
    head.weight[0] = torch.eye(_WIDTH, **kind)[0]
    if head.bias is not None:
        head.bias.copy_(torch.randn(head.bias.shape, generator=drawn, **kind))
        head.bias[0] = 0
    rows = torch.zeros(1, 6, _WIDTH, **kind)
    rows[0, 0, 0], rows[0, 1, 0] = _SMALL, _LARGE
    rows[0, 2:4] = torch.randn(2, _WIDTH, generator=drawn, **kind)
    rows[0, 4:] = 10 * torch.randn(2, _WIDTH, generator=drawn, **kind)
    return rows, head


def _asked(model: PreTrainedModel, rows: Tensor, head: nn.Linear) -> Tensor:
    """Logits [1, n, V] by the model's own forward, the decoder under it giving `rows` and its head being `head`."""
    base, own_head = backbone(model), model.get_output_embeddings()
    shell: Any = copy.copy(model)
    shell._modules = dict(model._modules)
    for name, child in model.named_children():
        if child is own_head:
            shell._modules[name] = head
        elif any(module is base for module in child.modules()):
            shell._modules[name] = _Decoder(child, rows)
    ids = torch.zeros(rows.shape[:2], dtype=torch.int64, device="cpu")
    try:
        logits: Tensor = type(model).forward(shell, input_ids=ids, use_cache=False).logits
    except Exception as error:  # whatever a model's own code raises over what it did not expect
        raise UserError(
            f"{type(model).__name__}: what it does between its decoder and its logits could not be found out "
            f"({type(error).__name__}: {shortened(str(error))}); it is not supported"
        ) from error
    return logits


def _fitted(name: str, found: Tensor) -> LogitMap:
    small, large = float(found[0, 0, 0]) / _SMALL, float(found[0, 1, 0])
    scale = 1.0 if math.isclose(small, 1, rel_tol=1e-6) else small  # some compute in float32
    if not (0 < scale < math.inf and large > 0):
        raise UserError(f"{name} makes logits of {small:g} times the head's products; that is not supported")
    map = LogitMap(scale, large if large < scale * _LARGE / 2 else math.inf)
    return PLAIN if map == PLAIN else map


class _Decoder:
    """Gives known rows in place of a decoder, or of a module in it; everything else is the decoder's own."""

    def __init__(self, real: nn.Module, rows: Tensor) -> None:
        self._real, self._rows = real, rows

    def __call__(self, *_: Any, **__: Any) -> _Outputs:
        return _Outputs((self._rows,))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return _Decoder(found, self._rows) if isinstance(found, nn.Module) else found


class _Outputs(tuple[Tensor]):
    """A decoder's outputs: the last hidden states, first and by name, and nothing else."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
