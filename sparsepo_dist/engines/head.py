"""Where the LM head meets ZeRO-3: the module that gathers both heads while the fused operation runs."""

from __future__ import annotations

from typing import Any

import deepspeed
from torch import Tensor, nn

from sparsepo_dist.ops import Divergence, Head, LogitMap, OpsConfig, token_stats


class HeadStats(nn.Module):
    """token_stats over a model's own head and, for a divergence, the reference's: a frozen copy, or one in the model.

    The copy lives here, inside the policy's engine, because the divergence needs both heads in the forward and in
    the backward pass. The policy's head belongs to its model (it may be tied to the embedding): under ZeRO-3 it is
    registered as external, so that DeepSpeed gathers it before this module's forward and backward and releases it
    after.

    Args:
        lm_head: the model's.
        map: what the model does to its logits.
        reference: the reference's head with its map, or a head in the same model; None for no divergence.
        divergence: the form of the expected log-ratio.
        squares: whether the sums of squared probabilities are wanted.
        ops: the fused operation's settings.
    """

    def __init__(
        self,
        lm_head: nn.Module,
        map: LogitMap,
        reference: Head | nn.Module | None,
        divergence: Divergence | None,
        ops: OpsConfig,
        squares: bool = False,
    ) -> None:
        super().__init__()
        # Tuples, so that parameters are not registered twice.
        self._lm_head = (lm_head,)
        self._in_model = (reference,) if isinstance(reference, nn.Module) else ()
        self.map = map
        self.reference_weight = self.reference_bias = None
        if isinstance(reference, Head):
            self.reference_weight = nn.Parameter(reference.weight, requires_grad=False)
            if reference.bias is not None:
                self.reference_bias = nn.Parameter(reference.bias, requires_grad=False)
            self.reference_map = reference.map
        self.divergence = divergence
        self.ops = ops
        self.squares = squares

    def gather_with_zero3(self) -> None:
        """Announce the policy's head to ZeRO-3; once, after deepspeed.initialize."""
        for head in {*self._lm_head, *self._in_model}:
            for parameter in head.parameters():
                deepspeed.zero.register_external_parameter(self, parameter)

    def forward(
        self, hidden: Tensor | None, labels: Tensor, reference_hidden: Tensor | None, active: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """(policy_logp, reference_logp, divergence, log_squares), [N] each, in nats; the latter three None where not
        asked for.

        Of `hidden` [N, D], `labels` [N] int64, `reference_hidden` [N, D_ref] and `active` [N] bool, as token_stats
        takes them, and refuses them with ValueError. Without `hidden` only what the reference says comes back.
        """
        lm_head: Any = self._lm_head[0]
        head = Head(lm_head.weight, lm_head.bias, self.map)
        reference_head = None
        if self._in_model:
            own: Any = self._in_model[0]
            reference_head = head if own is lm_head else Head(own.weight, own.bias, self.map)
        if self.reference_weight is not None:
            reference_head = Head(self.reference_weight, self.reference_bias, self.reference_map)
        if hidden is None:
            assert reference_hidden is not None and reference_head is not None
            return None, token_stats(reference_hidden, reference_head, labels, config=self.ops).policy_logp, None, None
        stats = token_stats(
            hidden,
            head,
            labels,
            reference_hidden,
            None if reference_hidden is None else reference_head,
            divergence=None if reference_hidden is None else self.divergence,
            active=active,
            squares=self.squares,
            config=self.ops,
        )
        return stats.policy_logp, stats.reference_logp, stats.divergence, stats.log_squares
