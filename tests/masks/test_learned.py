"""Learned masks against FACTS.md's formulas in plain loops, their gradients, and what a mask of 0 promises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sparsepo_dist.masks import MaskConfig, MaskHeads
from sparsepo_dist.masks.learned import HIDDEN_WIDTH, LearnedMask

LAYERS, TOKENS, WIDTH = 3, 6, 5


def hidden_states(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(LAYERS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def head(seed: int = 1, **options: object) -> LearnedMask:
    torch.manual_seed(seed)
    made = LearnedMask(LAYERS, WIDTH, MaskConfig(**options)).double()
    for parameter in (made.norm_weight, made.norm_bias):
        if parameter is not None:
            torch.nn.init.normal_(parameter)
    return made


def by_definition(head: LearnedMask, hidden: Tensor) -> Tensor:
    """m_t = ReLU(w_o . [ReLU(w^l . H^l + b^l)]), one token and one layer at a time."""
    tokens = []
    for t in range(TOKENS):
        layers = []
        for layer in range(LAYERS):
            h = hidden[layer, t]
            if head.norm_weight is not None:
                h = (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt() * head.norm_weight + head.norm_bias
            value = head.weight[layer] @ h + head.bias[layer]
            if head.second_weight is not None:
                value = head.second_weight[layer] @ torch.relu(value) + head.second_bias[layer]
            layers.append(torch.relu(value).reshape(()))
        tokens.append(torch.relu(head.out @ torch.stack(layers)))
    return torch.stack(tokens)


VARIANTS = [{"linears": n, "layer_norm": norm} for n, norm in itertools.product((1, 2), (False, True))]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_mask_is_its_definition(options: dict) -> None:
    made = head(**options)
    mask = made(hidden_states())
    torch.testing.assert_close(mask, by_definition(made, hidden_states()))
    assert (mask >= 0).all() and (mask > 0).any()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_gradients_are_those_of_the_definition(options: dict) -> None:
    made, hidden = head(**options), hidden_states()
    names, parameters = zip(*made.named_parameters(), strict=True)
    upstream = torch.randn(TOKENS, dtype=torch.float64)
    got = torch.autograd.grad((made(hidden) * upstream).sum(), parameters)
    want = torch.autograd.grad((by_definition(made, hidden) * upstream).sum(), parameters)
    for name, ours, theirs in zip(names, got, want, strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)

    def mask(*values: Tensor) -> Tensor:
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (hidden,))

    assert torch.autograd.gradcheck(mask, tuple(p.detach().requires_grad_() for p in parameters), fast_mode=True)


def test_hidden_states_of_another_dtype_are_read_in_float32() -> None:
    made, hidden = head(layer_norm=True).float(), hidden_states(dtype=torch.bfloat16)
    assert torch.equal(made(hidden), made(hidden.float()))
    assert made.bfloat16()(hidden).dtype == torch.float32


def test_one_layer_is_not_mixed() -> None:
    heads = MaskHeads(LAYERS, WIDTH, MaskConfig(layers="last")).double()
    hidden = hidden_states()[-1:]
    reward, _ = heads(hidden)
    assert heads.reward.out is None
    torch.testing.assert_close(reward, torch.relu(hidden[0] @ heads.reward.weight[0] + heads.reward.bias[0]))


def test_two_linears_have_the_papers_width_and_every_linear_is_initialised_like_nn_linear() -> None:
    torch.manual_seed(0)
    made = LearnedMask(40, 64, MaskConfig(linears=2))
    assert HIDDEN_WIDTH == 200 and made.weight.shape == (40, 200, 64)
    for values, inputs in (
        (made.weight, 64), (made.bias, 64), (made.second_weight, 200), (made.second_bias, 200), (made.out, 40),
    ):  # fmt: skip
        bound = 1 / math.sqrt(inputs)
        assert values.abs().max() <= bound
        assert values.min() < -0.7 * bound and values.max() > 0.7 * bound


def test_dropout_follows_each_relu_in_training_only() -> None:
    made, hidden = head(dropout=0.5), hidden_states()
    torch.manual_seed(0)
    dropped = torch.stack([made(hidden) for _ in range(200)])
    made.eval()
    assert torch.equal(made(hidden), made(hidden))
    torch.testing.assert_close(made(hidden), by_definition(made, hidden))
    # Half of the masks fall at the last ReLU, more before; the survivors are scaled up.
    assert ((dropped == 0).double().mean(0) >= 0.4).all() and dropped.max() > 1.9 * made(hidden).max()


class TestWhichMasks:
    def test_common_is_one_head_for_both(self) -> None:
        heads = MaskHeads(LAYERS, WIDTH, MaskConfig(sharing="common")).double()
        reward, divergence = heads(hidden_states())
        assert reward is divergence and heads.divergence is None

    def test_independent_heads_differ(self) -> None:
        torch.manual_seed(1)
        heads = MaskHeads(LAYERS, WIDTH, MaskConfig()).double()
        reward, divergence = heads(hidden_states())
        torch.testing.assert_close(divergence, by_definition(heads.divergence, hidden_states()))
        assert not torch.equal(reward, divergence)

    @pytest.mark.parametrize("on", ["reward", "divergence"])
    def test_the_other_mask_is_1_and_has_no_parameters(self, on: str) -> None:
        heads = MaskHeads(LAYERS, WIDTH, MaskConfig(on=on)).double()
        masks = dict(zip(("reward", "divergence"), heads(hidden_states()), strict=True))
        torch.testing.assert_close(masks.pop(on), by_definition(getattr(heads, on), hidden_states()))
        assert torch.equal(*masks.values(), torch.ones(TOKENS))
        assert {name.split(".")[0] for name, _ in heads.named_parameters()} == {on}


class TestBinary:
    def test_both_kinds_are_the_sign_of_the_mask(self) -> None:
        plain = head()(hidden_states())
        assert 0 < (plain == 0).sum() < TOKENS
        for binary in ("released", "straight_through"):
            assert torch.equal(head(binary=binary)(hidden_states()), (plain > 0).double()), binary

    def test_released_has_gradients_of_zero_and_not_none(self) -> None:
        made = head(binary="released")
        made(hidden_states()).sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in made.parameters())

    def test_straight_through_has_the_gradients_of_the_mask_itself(self) -> None:
        upstream = torch.randn(TOKENS, dtype=torch.float64)
        grads = []
        for binary in ("straight_through", "none"):
            made = head(binary=binary)
            (made(hidden_states()) * upstream).sum().backward()
            grads.append([p.grad for p in made.parameters()])
        assert any(grad.any() for grad in grads[0])
        for ours, theirs in zip(*grads, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("binary", ["none", "released", "straight_through"])
def test_tokens_whose_mask_is_0_give_no_gradient_so_that_they_may_be_skipped(binary: str) -> None:
    """Skipped tokens' statistics are 0 instead of what they are: neither loss nor gradient may depend on them."""
    made = head(binary=binary)
    mask = made(hidden_states())
    off = mask == 0
    assert 0 < off.sum() < TOKENS
    statistics = torch.randn(TOKENS, dtype=torch.float64)
    grads = []
    for values in (statistics, statistics.masked_fill(off, 0)):
        made.zero_grad()
        (made(hidden_states()) * values).sum().square().backward()
        grads.append([p.grad.clone() for p in made.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        assert torch.equal(ours, theirs)
