"""Which layouts compute a kind of model rightly: tried on the CPU with a miniature of it and random weights."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from transformers import PretrainedConfig, PreTrainedModel

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.attention.choice import CPU
from sparsepo_dist.engines.decoder.check import FLOORS, attending, disagreement, own_logps
from sparsepo_dist.engines.decoder.loading import attention_for
from sparsepo_dist.engines.decoder.miniature import miniature
from sparsepo_dist.engines.decoder.structure import quiet, unloaded_model
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.errors import UserError, unreadable
from sparsepo_dist.masks import MaskConfig
from sparsepo_dist.ops import OpsConfig

ALLOWED = FLOORS[torch.float32]
_STD = 0.15  # of matrices: logits then differ visibly between tokens
_VOCABULARY = 128
_LENGTHS = ((24, 12, 9), (9, 7, 11), (15, 5, 6))  # of prompt, chosen and rejected


class Trial(NamedTuple):
    """What came of a layout."""

    layout: Layout
    difference: float | None
    """From the model by itself, in nats a token of the response that differs most; None where it was refused."""
    refusal: str | None = None

    @property
    def right(self) -> bool:
        """Whether the numbers are the model's own."""
        return self.difference is not None and self.difference <= ALLOWED


def try_layouts(config: PretrainedConfig, *, trust_remote_code: bool = False) -> list[Trial]:
    """Each layout on a miniature of the model that a configuration describes. Draws from torch's generator."""
    return [_try(config, layout, trust_remote_code=trust_remote_code) for layout in get_args(Layout)]


@torch.no_grad()
def _try(config: PretrainedConfig, layout: Layout, *, trust_remote_code: bool) -> Trial:
    torch.manual_seed(0)
    pairs = [
        TokenizedPair(_random_ids(prompt), _random_ids(chosen), _random_ids(rejected))
        for prompt, chosen, rejected in _LENGTHS
    ]
    batch = pack(pairs, [1 / len(pairs)] * len(pairs), layout)
    try:
        with quiet():
            small = miniature(config, _VOCABULARY)
            model = unloaded_model(small, torch.float32, layout, trust_remote_code=trust_remote_code).eval()
            _fill(model)
            engine = ReferenceEngine(
                model, "replicated", None, sources=(), masks=MaskConfig(), head_leaves=False, ops=OpsConfig(),
                device=CPU,
            )  # fmt: skip
            found = engine.score(batch).logps
            with attending(model, attention_for(model.config, "padded", torch.float32)):
                own = [
                    own_logps(model, pair.prompt_ids, ids, CPU)
                    for pair in pairs
                    for ids in (pair.chosen_ids, pair.rejected_ids)
                ]
    except UserError as error:
        return Trial(layout, None, str(error))
    except Exception as error:  # whatever a family's own code raises over a layout is the answer
        return Trial(layout, None, f"it does not run: {type(error).__name__}: {unreadable(error, 200)}")
    assert found is not None
    if not all(part.isfinite().all() for part in own):
        return Trial(layout, None, "with random weights the model's own numbers are not finite")
    return Trial(layout, disagreement(found.split([len(part) for part in own]), own).mean)


def _random_ids(length: int) -> tuple[int, ...]:
    return tuple(torch.randint(_VOCABULARY, (length,)).tolist())


def _fill(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, _STD)
