"""A worker that runs tiny sharded policies and records what each rank's fused operation gave, for one launch of tests.

Every case is a policy engine and a reference engine under ZeRO-3, run over several settings of the operation. Each
setting is one accumulated gradient over two micro-batches per rank; learning rates of 0 keep parameters where they are.
"""

from __future__ import annotations

import functools
import gc
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import deepspeed
import peft
import torch
from deepspeed.utils import safe_get_full_grad
from torch import Tensor, nn

from sparsepo_dist.contracts import PackedBatch, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.ds_config import engine_config, reference_config
from sparsepo_dist.engines.deepspeed.environment import prepare_environment
from sparsepo_dist.engines.groups import parameter_groups
from sparsepo_dist.engines.policy import PolicyEngine, PolicyModel
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.masks import MaskConfig, MaskSources, TokenMasker
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import OpsConfig
from tests.support.runs import ZERO
from tests.support.tiny import VOCABULARY

MICRO_BATCHES = 2
LORA_RANK, LORA_ALPHA = 4, 8
LORA_TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
    "gptj": ["q_proj", "v_proj", "fc_out"],
}


@dataclass(frozen=True)
class Setting:
    """How the operation is told to work: form of the divergence, bytes of logits kept, bytes of a tile."""

    divergence: Literal["policy", "reference"]
    keep_bytes: int
    tile_bytes: int


@dataclass(frozen=True)
class Case:
    """A policy and its reference; `policy` and `reference` are model folders of one family."""

    family: str
    policy: str
    reference: str
    settings: tuple[Setting, ...]
    lora: bool = False
    checkpointing: bool = False
    bf16: bool = False
    masks: Literal["learned", "zero_on_rank_1"] = "learned"


def pairs_of(rank: int, micro_batch: int) -> list[TokenizedPair]:
    """Two pairs of random ids, different ones and of other lengths for every rank and micro-batch."""
    g = torch.Generator().manual_seed(100 + 10 * rank + micro_batch)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=g))
        return tuple(torch.randint(VOCABULARY, (length,), generator=g).tolist())

    return [TokenizedPair(ids(1, 6), ids(3, 12), ids(3, 12)) for _ in range(2)]


def token_factors(rank: int, micro_batch: int, tokens: int) -> Tensor:
    """[N] float64 c_t of both signs: what an objective would multiply a token's statistics with."""
    g = torch.Generator().manual_seed(200 + 10 * rank + micro_batch)
    return torch.randn(tokens, generator=g, dtype=torch.float64)


def fixed_mask(rank: int, micro_batch: int, tokens: int) -> Tensor:
    """[N] float32 mask, half of it exactly 0; all of it on rank 1."""
    g = torch.Generator().manual_seed(300 + 10 * rank + micro_batch)
    mask = torch.rand(tokens, generator=g).mul_(2).sub_(1).relu_()
    return mask * (rank != 1)


def add_lora(model: nn.Module, family: str) -> None:
    """Adapters in place, everything else frozen; B is not 0, or the gradient of A would be."""
    config = peft.LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=LORA_TARGETS[family])
    peft.inject_adapter_in_model(config, model)
    g = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.1)


class FixedMask(nn.Module):
    """A masker that is told its mask."""

    mask: Tensor
    sources: MaskSources = ()
    common = True
    floor = 0.0

    def forward(self, *_: Any) -> tuple[Tensor, Tensor]:
        return self.mask, self.mask


def learned_masker(reference: ReferenceEngine) -> TokenMasker:
    """Learned masks that are 0 for about half of the tokens, the two for different ones."""
    masker = TokenMasker(("learned",), MaskConfig(), reference.readings, seed=0)
    assert masker.heads is not None
    g = torch.Generator().manual_seed(252)
    with torch.no_grad():
        for name, parameter in masker.heads.named_parameters():
            values = torch.randn(parameter.shape, generator=g) * 0.5
            if name.endswith("out"):
                values.abs_()
            elif name.endswith("bias"):
                values.sub_(1)
            parameter.copy_(values)
    return masker


def tensors_equal_to(value: Tensor) -> list[Tensor]:
    """Every tensor alive in this process that holds these numbers."""
    alive = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    return [tensor for tensor in alive if tensor.shape == value.shape and torch.equal(tensor, value)]


class ShardedCase:
    """Engines of one case, and what is to be recorded of them."""

    def __init__(self, case: Case, rank: int, folder: Path) -> None:
        self.case, self.rank = case, rank
        dtype = torch.bfloat16 if case.bf16 else torch.float32
        ds_config = engine_config(ZERO[3], {"training.max_grad_norm": 0.0}, dtype, 32, folder)
        load = functools.partial(load_model, dtype=dtype, layout="prefix_shared")
        needs = Requirements(True, "policy", "learned" if case.masks == "learned" else None, True)
        ref_ds_config = reference_config(ds_config, "sharded")
        reference = load(case.reference, load_config(case.reference), zero3=ref_ds_config)
        self.reference = ReferenceEngine(
            reference, "sharded", ref_ds_config, sources=("learned",) if case.masks == "learned" else (),
            masks=MaskConfig(), head_leaves=True, ops=OpsConfig(), device=torch.device("cpu"),
        )  # fmt: skip
        masker: nn.Module = learned_masker(self.reference).to(dtype) if case.masks == "learned" else FixedMask()
        model = load(case.policy, load_config(case.policy), zero3=ds_config)
        if case.lora:
            add_lora(model, case.family)
        if case.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        module = PolicyModel(model, needs, masker, self.reference.take_head(), OpsConfig())
        self.given = {
            name: p.detach().clone()
            for name, p in module.named_parameters()
            if name.startswith("masker.") or "lora_" in name
        }
        groups = parameter_groups(
            module, learning_rate=1e-2, weight_decay=0.0, betas=(0.9, 0.95), eps=1e-8, masks=MaskConfig()
        )
        self.policy = PolicyEngine(module, groups, ds_config)
        self.policy.train()
        lm_head = module.model.get_output_embeddings()
        stats = module.head_stats
        self.heads = {
            "policy.weight": lm_head.weight,
            "policy.bias": lm_head.bias,
            "reference.weight": stats.reference_weight,
            "reference.bias": stats.reference_bias,
        }
        self.seen: dict[str, Any] = {}
        stats.register_forward_pre_hook(self._watch)

    def record(self) -> dict[str, Any]:
        """Everything that the tests look at, of this rank; gradients are whole."""
        before = self._head_values()
        whole = sum(tensor is not before["reference.weight"] for tensor in tensors_equal_to(before["reference.weight"]))
        settings = []
        for number, setting in enumerate(self.case.settings, start=1):
            settings.append(self._gradient(setting))
            # Parameters stay where they are until the last setting is done.
            settings[-1]["norm"] = self.policy.step(float(number == len(self.case.settings)))
        return {
            "given": self.given, "settings": settings, "before": before, "after": self._head_values(),
            "whole_reference_heads": whole,
        }  # fmt: skip

    def close(self) -> None:
        """Let go of both engines."""
        self.policy.engine.destroy()

    def _gradient(self, setting: Setting) -> dict[str, Any]:
        stats = self.policy.module.head_stats
        stats.divergence = setting.divergence
        stats.ops = OpsConfig(keep_bytes=setting.keep_bytes, tile_bytes=setting.tile_bytes)
        micro_batches = [self._micro_batch(number) for number in range(MICRO_BATCHES)]
        parameters = list(self.policy.module.named_parameters())
        grads = {name: safe_get_full_grad(p).clone() for name, p in parameters if p.requires_grad}
        return {
            "micro_batches": micro_batches,
            "gradients": grads,
            "frozen_with_gradient": [name for name, p in parameters if not p.requires_grad and p.grad is not None],
        }

    def _micro_batch(self, number: int) -> dict[str, Any]:
        batch = pack(pairs_of(self.rank, number), [1.0, 1.0], "prefix_shared")
        resting = self._placement()
        logp, ref_logp, v, m_u, m_d = self._forward(batch, number)
        factors = token_factors(self.rank, number, len(logp)).float()
        loss = (factors * (m_u * (logp - ref_logp) + m_d * v)).sum()
        self.policy.backward(loss, last=number == MICRO_BATCHES - 1)
        return {
            "policy_logp": logp.detach(), "reference_logp": ref_logp.detach(), "divergence": v.detach(),
            "m_u": m_u.detach(), "m_d": m_d.detach(), **self.seen,
            "resting": resting, "rested": self._placement(),
        }  # fmt: skip

    def _forward(self, batch: PackedBatch, number: int) -> tuple[Tensor, ...]:
        reference = self.reference.score(batch)
        masker: Any = self.policy.module.masker
        if isinstance(masker, FixedMask):
            masker.mask = fixed_mask(self.rank, number, len(batch.labels))
        stats, masks = self.policy.stats(batch, reference, all_tokens=False)
        return stats.policy_logp, stats.reference_logp, stats.divergence, masks.reward, masks.divergence

    def _placement(self) -> dict[str, tuple[str, int]]:
        """ds_status and number of elements here of every head parameter."""
        return {name: (p.ds_status.name, p.numel()) for name, p in self.heads.items() if p is not None}

    def _watch(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """What the operation is called with; registered after DeepSpeed's own hooks, so called after them."""
        hidden, labels, ref_hidden, active = inputs
        self.seen = {
            "gathered": self._placement(), "hidden": hidden.detach().clone(), "labels": labels,
            "reference_hidden": ref_hidden.clone(), "active": active,
        }  # fmt: skip

    def _head_values(self) -> dict[str, Tensor]:
        self.policy.settle()
        heads = {name: p for name, p in self.heads.items() if p is not None}
        with deepspeed.zero.GatheredParameters(list(heads.values())):
            return {name: p.detach().clone() for name, p in heads.items()}


def main() -> None:
    """Run every case of a plan; what this rank recorded of each is saved beside the plan."""
    plan = Path(sys.argv[1])
    prepare_environment()
    distributed.initialise()
    gc.freeze()  # DeepSpeed collects garbage four times a case, most of the time over a million imported objects
    rank = distributed.rank()
    for name, fields in json.loads(plan.read_text()).items():
        case = Case(**{**fields, "settings": tuple(Setting(**setting) for setting in fields["settings"])})
        sharded = ShardedCase(case, rank, plan.parent)
        torch.save(sharded.record(), plan.parent / f"{name}.rank{rank}.pt")
        sharded.close()


if __name__ == "__main__":
    main()
