"""What transformers alone says, one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsepo_dist.contracts import TokenizedPair


def plain_logps(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """[N]: log-probabilities of all response tokens by a model's own forward and logits, with their gradient."""
    parts = []
    for pair in pairs:
        for response in filter(None, (pair.chosen_ids, pair.rejected_ids)):
            ids = torch.tensor([[*pair.prompt_ids, *response]])
            logps = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            parts.append(logps.gather(-1, ids[0, 1:, None]).squeeze(-1)[-len(response) :])
    return torch.cat(parts)
