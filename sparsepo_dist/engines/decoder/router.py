"""The loss that balances a mixture of experts, where a model's configuration asks for it (`output_router_logits`).

Shapes: T packed tokens, E experts.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.errors import UserError

_FUNCTION = "load_balancing_loss_func"
_PARAMETERS = ["gate_logits", "num_experts", "top_k", "attention_mask"]
# As transformers' models name them, on themselves or in the configuration of their text decoder.
_COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
_EXPERTS, _CHOSEN = ("num_experts", "num_local_experts"), ("num_experts_per_tok",)


class RouterLoss:
    """A model's own balancing loss, by the function beside it in transformers, weighted by its own coefficient.

    Args:
        model: the policy; its decoder records router logits [T, E] of each layer when it runs.
        function: `load_balancing_loss_func` of the model's module.

    Raises:
        UserError: the model does not say how many experts there are, how many a token is sent to, or the coefficient.
    """

    def __init__(self, model: PreTrainedModel, function: Callable[..., Tensor]) -> None:
        self._base: nn.Module = backbone(model)
        self._function = function
        self.coefficient: float = _number(model, _COEFFICIENTS)
        self._experts, self._chosen = int(_number(model, _EXPERTS)), int(_number(model, _CHOSEN))

    @contextmanager
    def collect(self, batch: PackedBatch) -> Iterator[list[Tensor]]:
        """While open, a forward pass of the policy over `batch` leaves its loss [] in the list, differentiable.

        Padding is left out; every other packed token counts once, also a prompt that two responses share.
        """
        losses: list[Tensor] = []

        def read(module: nn.Module, inputs: Any, outputs: Any) -> None:
            logits = getattr(outputs, "router_logits", None)
            if not (isinstance(logits, tuple) and logits):
                raise UserError(
                    f"{type(module).__name__} gives no router logits, of which its configuration asks for a loss; set "
                    "output_router_logits to false in its config.json"
                )
            real = (batch.pair_id >= 0).view(batch.rows, -1)
            balance = self._function(logits, self._experts, self._chosen, real)
            losses.append(self.coefficient * balance)

        hook = self._base.register_forward_hook(read)
        try:
            yield losses
        finally:
            hook.remove()


def router_loss(model: PreTrainedModel) -> RouterLoss | None:
    """The balancing loss that a model's configuration asks for; None where it asks for none.

    Raises:
        UserError: transformers has none for this model, or one of another kind than Mixtral's.
    """
    if not getattr(text_config(model.config), "output_router_logits", False):
        return None
    function = getattr(sys.modules[type(model).__module__], _FUNCTION, None)
    if function is None or list(inspect.signature(function).parameters) != _PARAMETERS:
        raise UserError(
            f"model.path: the configuration asks for a router loss (output_router_logits), but transformers has none "
            f"of Mixtral's kind for {type(model).__name__}; set output_router_logits to false in config.json to train "
            "without"
        )
    return RouterLoss(model, function)


def _number(model: PreTrainedModel, names: tuple[str, ...]) -> float:
    for place in (model, text_config(model.config)):
        for name in names:
            value = getattr(place, name, None)
            if isinstance(value, int | float):
                return value
    raise UserError(
        f"model.path: the configuration asks for a router loss (output_router_logits), but {type(model).__name__} has "
        f"no {' or '.join(names)}; set output_router_logits to false in config.json to train without"
    )
