"""The part of a transformers decoder that a batch runs through: everything but the LM head.

Shapes: T packed tokens, N response tokens, D hidden width.
"""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.engines.attention.alibi import packed_alibi
from sparsepo_dist.engines.attention.inputs import model_inputs
from sparsepo_dist.engines.composite import is_composite, text_decoder
from sparsepo_dist.engines.layouts.preparation import tell
from sparsepo_dist.engines.sequence.rows import OwnRows
from sparsepo_dist.errors import UserError


def backbone(model: PreTrainedModel) -> PreTrainedModel:
    """The decoder under the head; of a composite model its text decoder.

    Raises:
        UserError: the model does not separate the two as transformers' decoders do, or no text decoder is recognised.
    """
    if is_composite(model.config):
        return text_decoder(model)
    base: PreTrainedModel = model.base_model
    if base is not model:
        return base
    inside = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if len(inside) != 1:  # some name it otherwise than they call it (Llama 4)
        raise UserError(f"{type(model).__name__} does not separate a backbone from its head; it is not supported")
    return inside[0]


def hidden_at(base: PreTrainedModel, batch: PackedBatch, own_rows: OwnRows | None = None) -> Tensor:
    """[N, D]: final hidden states of the rows that predict the response tokens; where ranks share the batch, of this
    rank's (`own_rows`, if they are known already). All of them must call this."""
    dtype = base.get_input_embeddings().weight.dtype
    inputs = model_inputs(batch, base.config, dtype)
    tell(base, batch)
    with packed_alibi(base, batch):
        hidden: Tensor = base(**inputs).last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1])[(own_rows or OwnRows.of(batch)).index]
