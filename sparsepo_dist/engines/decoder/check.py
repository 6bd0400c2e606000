"""Whether log-probabilities that were computed some other way are those of the model itself: transformers' forward and
logits, one sequence at a time, with transformers' own attention.

**What is compared.** The mean over a response of |difference|, in nats a token, in the response where it is greatest: a
neighbour's state that leaks in, a position or a scale that is wrong, changes whole responses, while single tokens of a
right model may differ by much where rounding tips a router or falls on a rare token.

**How much is rounding.** Up to `FLOORS` nothing more is asked. Beyond, the model is: its embeddings are moved by one
unit in the last place of its dtype, and what that does to the same mean is the measure. Correct computations differed
from plain transformers by 0.0 to 0.7 of it in bf16, and in fp32 by up to 1.6, far below the floor (random Llama,
GPT-NeoX, GPT-J, Mixtral, OLMoE of 3 to 32 layers; SmolLM2-135M: 0.02 nats of 0.06 in bf16, 4e-7 in fp32); packed LFM2,
which is wrong, by 5 in bf16 and by 10^5 in fp32. `TIMES` that is allowed: a deep mixture of experts with random
weights, whose tokens move by more than a nat when one bit does, is never stopped for that, and others are held to
little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

FLOORS = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Nats a token that are never questioned, by dtype."""
TIMES = 3.0


class Disagreement(NamedTuple):
    """How far log-probabilities of some responses are from the model's own, where they are farthest."""

    mean: float
    """Nats a token in the response that differs most: its mean |difference|."""
    response: int
    """The response that holds the token that differs most."""
    token: int
    """That token's place in it."""
    found: float
    """Its log-probability."""
    own: float
    """The same, as the model itself has it."""


@torch.no_grad()
def own_logps(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int], device: torch.device) -> Tensor:
    """[tokens of the response] float32 on the CPU: log-probabilities in nats, by the model's own forward and logits."""
    ids = torch.tensor([[*prompt, *response]], device=device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    labels = ids[0, len(prompt) :, None]
    return logits.float().log_softmax(-1).gather(1, labels)[:, 0].cpu()


def disagreement(found: Sequence[Tensor], own: Sequence[Tensor]) -> Disagreement:
    """Of the log-probabilities [tokens] of each response, as found and as the model itself has them.

    Equal infinities agree, and NaN with NaN: that a model overflows is no difference.
    """
    pairs = list(zip(found, own, strict=True))
    differences = [_distance(a, b) for a, b in pairs]
    response = max(range(len(pairs)), key=lambda number: float(differences[number].max()))
    token = int(differences[response].argmax())
    a, b = pairs[response]
    return Disagreement(
        max(float(part.mean()) for part in differences), response, token, float(a[token]), float(b[token])
    )


def _distance(a: Tensor, b: Tensor) -> Tensor:
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs().nan_to_num(nan=torch.inf))


@contextmanager
def attending(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """While open, a model attends by another `attn_implementation`; models that take none by interface keep theirs.

    transformers' own `set_attn_implementation` passes over classes in whose source it does not find the interface's
    name, among them those of hubs.
    """
    modules = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    configs = {id(part): part for module in modules for part in _with_parts(module.config)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config in configs.values():
            config._attn_implementation = implementation
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name


def _with_parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            yield from _with_parts(part)


@contextmanager
def moved_by_rounding(model: PreTrainedModel) -> Iterator[None]:
    """While open, every number of a model's embeddings is one unit in the last place up or down, by turns."""

    def move(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        unit = torch.finfo(output.dtype).eps
        steps = torch.arange(output.numel(), device=output.device).view_as(output) % 2 * 2 - 1
        return (output.float() * (1 + unit * steps)).to(output.dtype)

    handle = model.get_input_embeddings().register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()
