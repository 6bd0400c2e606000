"""Options of learned heads: the released implementation's heads, weights kept within [0, 1], a floor below them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsepo_dist.engines.groups import parameter_groups
from sparsepo_dist.masks import MaskConfig, MaskHeads
from sparsepo_dist.masks.learned import HIDDEN_WIDTH, LearnedMask
from tests.masks.test_learned import LAYERS, TOKENS, WIDTH, by_definition, head, hidden_states


class ReleasedHead(nn.Module):
    """The released implementation's head for all layers, from its description in docs/objectives.md."""

    def __init__(self, head: LearnedMask) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, HIDDEN_WIDTH), nn.Linear(HIDDEN_WIDTH, 1))
            if head.second_weight is not None
            else nn.Sequential(nn.Linear(WIDTH, 1))
            for _ in range(LAYERS)
        )
        self.out = nn.Linear(LAYERS, 1, bias=False)
        self.dropout = nn.Dropout(0.01)
        self.double()
        with torch.no_grad():
            self.out.weight.copy_(head.out[None])
            for number, layer in enumerate(self.layers):
                layer[0].weight.copy_(head.weight[number])
                if head.second_weight is not None:
                    layer[1].weight.copy_(head.second_weight[number])
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()

    def forward(self, layer_hidden: Tensor) -> Tensor:
        masks = [
            self.dropout(torch.relu(layer(self.norm(hidden))))
            for layer, hidden in zip(self.layers, layer_hidden, strict=True)
        ]
        return self.dropout(torch.relu(self.out(torch.cat(masks, -1)))).squeeze(-1)


class TestReleased:
    @pytest.mark.parametrize("linears", [1, 2])
    def test_its_heads_are_reproduced(self, linears: int) -> None:
        torch.manual_seed(1)
        made = LearnedMask(LAYERS, WIDTH, MaskConfig(init="released", linears=linears)).double()
        theirs = ReleasedHead(made)
        hidden = 50 * hidden_states()
        for mode in (made, theirs):
            mode.eval()
        assert made.dropout == 0.01
        mask = made(hidden)
        assert (mask > 0).any()
        torch.testing.assert_close(mask, theirs(hidden))

    def test_its_initialisation(self) -> None:
        torch.manual_seed(0)
        made = LearnedMask(40, 64, MaskConfig(init="released", linears=2))
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
            elif name == "norm_weight":
                assert (parameter == 1).all()
            else:
                assert parameter.std().item() == pytest.approx(0.02, rel=0.25), name
                assert abs(parameter.mean().item()) < 0.01, name

    def test_biases_and_norms_do_not_decay(self) -> None:
        def decay(init: Any) -> dict[str, float]:
            config = MaskConfig(init=init, layer_norm=True, linears=2, weight_decay=0.3, learning_rate=0.5)
            module = nn.Module()
            module.masker = nn.Module()
            module.masker.heads = MaskHeads(LAYERS, WIDTH, config)
            groups = parameter_groups(
                module, learning_rate=1e-3, weight_decay=0.7, betas=(0.9, 0.99), eps=1e-8, masks=config
            )
            assert all(group["base_lr"] == 0.5 for group in groups)
            names = {id(p): name.removeprefix("masker.heads.reward.") for name, p in module.named_parameters()}
            found = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
            return {name: value for name, value in found.items() if not name.startswith("masker")}

        plain = dict.fromkeys(
            ("weight", "bias", "second_weight", "second_bias", "norm_weight", "norm_bias", "out"), 0.3
        )
        assert decay("torch") == plain
        not_decayed = dict.fromkeys(("bias", "second_bias", "norm_weight", "norm_bias"), 0.0)
        assert decay("released") == plain | not_decayed


VALUES = [{"bounded": bounded, "floor": floor} for bounded, floor in itertools.product((False, True), (0.0, 0.05))]


@pytest.mark.parametrize("options", VALUES, ids=str)
def test_weights_are_the_mask_above_its_floor_and_at_most_1(options: dict) -> None:
    made = head(**options)
    with torch.no_grad():
        made.out.mul_(24)  # so that some weights are above 1
    plain = by_definition(made, hidden_states())
    assert (plain == 0).any() and (plain > 1).any()
    want = plain + options["floor"]
    if options["bounded"]:
        want = torch.minimum(want, torch.tensor(1.0).double())
    torch.testing.assert_close(made(hidden_states()), want)


@pytest.mark.parametrize("options", VALUES, ids=str)
def test_gradients_pass_where_a_weight_is_neither_at_its_floor_nor_at_1(options: dict) -> None:
    made, hidden = head(**options), hidden_states()
    with torch.no_grad():
        made.out.mul_(24)
    names, parameters = zip(*made.named_parameters(), strict=True)
    mask = made(hidden)
    for token in range(TOKENS):
        grads = torch.autograd.grad(mask[token], parameters, retain_graph=True)
        at_an_end = mask[token] == options["floor"] or (options["bounded"] and mask[token] == 1)
        assert any(grad.any() for grad in grads) != bool(at_an_end), token

    def of(*values: Tensor) -> Tensor:
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (hidden,))

    assert torch.autograd.gradcheck(of, tuple(p.detach().requires_grad_() for p in parameters), fast_mode=True)
