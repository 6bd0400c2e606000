"""Plain float64 autograd's statistics and gradients of the cases of tests.support.sharded_head.

It knows nothing of the package: transformers' own forward, one sequence at a time, full logits, the formulas of
tests.support.brute_force, masks and LoRA written out as matrix products. Its float64 is float32 where transformers
insists (rotary tables, Llama's norms, attention's softmax): 1e-7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.support.brute_force import Response, token_numbers
from tests.support.sharded_head import (
    LORA_ALPHA,
    LORA_RANK,
    MICRO_BATCHES,
    Case,
    Setting,
    fixed_mask,
    pairs_of,
    token_factors,
)


@dataclass
class Plain:
    """What plain autograd says: [rank][micro-batch] statistics by name, and gradients by the policy's names."""

    stats: list[list[dict[str, Tensor]]]
    gradients: dict[str, Tensor]


def plain_model(folder: str, bf16: bool) -> nn.Module:
    """The model in float64, its weights rounded to bfloat16 first where the engine rounds them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    if bf16:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())
    return model


def add_adapters(model: nn.Module, given: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """W + scale * B @ A into the weights; (A, B) of each adapted weight's name."""
    adapters = {}
    for name, a in given.items():
        if ".lora_A." in name:
            weight = name.removeprefix("model.").replace(".lora_A.default", "")
            adapters[weight] = (a.double(), given[name.replace(".lora_A.", ".lora_B.")].double())
    with torch.no_grad():
        for weight, (a, b) in adapters.items():
            model.get_parameter(weight).add_(b @ a, alpha=LORA_ALPHA / LORA_RANK)
    return adapters


def plain_mask(prefix: str, masks: dict[str, Tensor], layers: Tensor) -> Tensor:
    """ReLU(w_o . ReLU(w^l . H^l + b^l)) of reference states [L, N, D]."""
    weight, bias, out = (masks[f"masker.heads.{prefix}.{part}"] for part in ("weight", "bias", "out"))
    return torch.relu(out @ torch.relu((layers * weight[:, None]).sum(-1) + bias[:, None]))


def plain_pass(
    case: Case,
    setting: Setting,
    ranks: int,
    given: dict[str, Tensor],
    masks_seen: list[list[tuple[Tensor, Tensor]]] | None = None,
) -> Plain:
    """One global gradient, as DeepSpeed averages it: the mean over ranks of the sum over micro-batches.

    `given` holds the parameters of masks and adapters by the policy's names. `masks_seen` [rank][micro-batch] takes
    the place of learned masks, which then get no gradient.
    """
    model, reference = plain_model(case.policy, case.bf16), plain_model(case.reference, case.bf16)
    given = {name: (value.bfloat16() if case.bf16 else value).double() for name, value in given.items()}
    adapters = add_adapters(model, given)
    mask_leaves = {n: v.requires_grad_() for n, v in given.items() if n.startswith("masker.heads.") and not masks_seen}
    stats: list[list[dict[str, Tensor]]] = []
    loss = torch.zeros((), dtype=torch.float64)
    for rank in range(ranks):
        stats.append([])
        for number in range(MICRO_BATCHES):
            logits, ref_logits, layers, tokens = [], [], [], []
            for pair in pairs_of(rank, number):
                for response in (pair.chosen_ids, pair.rejected_ids):
                    ids = torch.tensor([[*pair.prompt_ids, *response]])
                    predicting = slice(len(pair.prompt_ids) - 1, -1)
                    logits.append(model(ids).logits[0, predicting])
                    with torch.no_grad():
                        out = reference(ids, output_hidden_states=True)
                    ref_logits.append(out.logits[0, predicting])
                    layers.append(torch.cat(out.hidden_states[1:])[:, predicting])
                    tokens.extend(response)
            none = torch.empty(0)
            numbers = token_numbers(Response(torch.cat(logits), torch.cat(ref_logits), tokens, none, none))
            logp, ref_logp, reverse_kl, forward_kl, *_ = numbers
            v = reverse_kl if setting.divergence == "policy" else -forward_kl
            if masks_seen:
                m_u, m_d = (mask.double() for mask in masks_seen[rank][number])
            elif mask_leaves:
                m_u, m_d = (plain_mask(p, mask_leaves, torch.cat(layers, 1)) for p in ("reward", "divergence"))
            else:
                m_u = m_d = fixed_mask(rank, number, len(tokens)).double()
            factors = token_factors(rank, number, len(tokens))
            loss = loss + (factors * (m_u * (logp - ref_logp) + m_d * v)).sum() / ranks
            found = {
                "policy_logp": logp, "reference_logp": ref_logp, "divergence": v, "m_u": m_u, "m_d": m_d,
                "policy_top": torch.cat(logits).abs().amax(-1), "reference_top": torch.cat(ref_logits).abs().amax(-1),
            }  # fmt: skip
            stats[-1].append({name: values.detach() for name, values in found.items()})
    names = [name for name, _ in model.named_parameters()]
    grads = torch.autograd.grad(loss, [*model.parameters(), *mask_leaves.values()])
    of_weights = dict(zip(names, grads, strict=False))
    gradients = dict(zip(mask_leaves, grads[len(names) :], strict=True))
    if not case.lora:
        return Plain(stats, gradients | {f"model.{name}": grad for name, grad in of_weights.items()})
    for name, (a, b) in adapters.items():
        grad, module = of_weights[name] * (LORA_ALPHA / LORA_RANK), "model." + name.removesuffix(".weight")
        gradients[f"{module}.lora_A.default.weight"] = b.T @ grad
        gradients[f"{module}.lora_B.default.weight"] = grad @ a.T
    return Plain(stats, gradients)
