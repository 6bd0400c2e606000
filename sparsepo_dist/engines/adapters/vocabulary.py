"""Adapters for a vocabulary of another size than their model's: peft saves whole embeddings beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from sparsepo_dist.engines.deepspeed.sharding import whole_shape
from sparsepo_dist.errors import UserError


def brought_rows(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> int | None:
    """Tokens in the embeddings or the LM head that an adapter's tensors, by their names in the model, replace.

    None where they replace neither.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {f"{name}.weight" for name, module in model.named_modules() if any(module is end for end in ends)}
    rows = [len(value) for key, value in weights.items() if key.replace(".base_layer", "") in names]
    return max(rows, default=None)


def check_vocabulary(
    model: PreTrainedModel, weights: Mapping[str, Tensor], folder: str, field: str, *, copies: bool
) -> None:
    """Refuse to put an adapter on a model whose embeddings it replaces; `copies`: it has modules of its own.

    Raises:
        UserError: it does, unless as copies of as many tokens, which are switched off with it.
    """
    rows = brought_rows(model, weights)
    weight: Any = model.get_input_embeddings().weight
    there = whole_shape(weight)[0]
    if rows is not None and (rows != there or not copies):
        raise UserError(
            f"{field} {folder}: it replaces the model's embeddings of {there} tokens by its own of {rows}, as for a "
            f"tokenizer with added tokens; make one model of both (sparsepo merge {folder} OUTPUT) and start from that "
            "(--model.path OUTPUT)"
        )


def resize_for(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Give a model the vocabulary of the adapter that is to be put on it."""
    rows = brought_rows(model, weights)
    if rows is not None and rows != len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(rows, mean_resizing=False)
