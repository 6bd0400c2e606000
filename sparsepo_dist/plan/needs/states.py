"""What rests on a rank from step to step: weights, gradients, optimizer states, buffers. DeepSpeed 0.19."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from sparsepo_dist.engines.config import Placement
from sparsepo_dist.plan.asked.request import Setting
from sparsepo_dist.plan.model.census import Census, Unit, Weight, unique
from sparsepo_dist.plan.model.gathering import persistent

MASTER, MOMENTS = 4, 8  # bytes of a trained number's float32 copy, and of Adam's two moments


@dataclass(frozen=True)
class Weights:
    """Bytes of an engine's parameters on one rank."""

    device: int
    host: int = 0
    """In host memory, offloaded."""


@dataclass(frozen=True)
class Training:
    """Bytes on one rank of what training adds to the policy's weights."""

    waiting: int
    """Gradients of earlier micro-batches, while another one runs forward."""
    early: int
    """Gradients when backward has just begun."""
    late: int
    """Gradients when backward ends."""
    summed: int
    """Gradients when the optimizer's step begins."""
    optimizer: int
    buckets: int
    """Buffers that gradients are reduced in, while backward runs."""
    resting_buckets: int
    reduction: int
    """Temporaries of reducing a bucket, and a gradient too large for one that waits."""
    step: int
    """Temporaries of the optimizer's step."""
    host: int
    """Gradients and optimizer states that are offloaded."""


def policy_weights(setting: Setting, census: Census) -> Weights:
    """Of the policy's engine: model, adapters, mask heads, the reference's head."""
    weights = census.policy_weights
    constants = sum(weight.constants for weight in weights) + census.frozen_adapter * setting.element_size
    if setting.stage < 3:
        return Weights(sum(weight.bytes for weight in weights) + constants)
    sharded = _sharded(weights, setting.zero, setting.ranks, offloaded=setting.parameters_offloaded)
    return Weights(sharded.device + constants, sharded.host)


def frozen_weights(setting: Setting, units: Sequence[Unit], placement: Placement) -> Weights:
    """Of a frozen model's own engine."""
    weights = unique(units)
    if placement == "replicated":
        return Weights(sum(weight.bytes for weight in weights))
    offloaded = placement == "offload" and setting.request.device == "cuda"
    return _sharded(weights, setting.inference_zero(placement), setting.ranks, offloaded=offloaded)


def training(setting: Setting, census: Census, micro_batches: int) -> Training:
    """Bytes of gradients, optimizer and buffers of the policy's engine."""
    trained = [weight for weight in census.policy_weights if weight.trained]
    if setting.stage == 3:
        return _stage_3(setting, trained)
    return (_stages_1_and_2 if setting.stage else _stage_0)(setting, trained, micro_batches)


def shard(weight: Weight, ranks: int) -> int:
    """Elements of one rank's part under ZeRO-3."""
    return -(-weight.stored // ranks)


def groups(trained: Sequence[Weight]) -> list[list[Weight]]:
    """As the optimizer has them: matrices, vectors, mask heads."""
    model = [weight for weight in trained if weight.role != "masks"]
    parts = [
        [weight for weight in model if weight.matrix],
        [weight for weight in model if not weight.matrix],
        [weight for weight in trained if weight.role == "masks"],
    ]
    return [part for part in parts if part]


def _sharded(weights: Sequence[Weight], zero: DeepSpeedZeroConfig, ranks: int, *, offloaded: bool) -> Weights:
    shards = sum(shard(weight, ranks) * weight.element_size for weight in weights)
    # On one rank a whole parameter is its shard, unless that rests elsewhere.
    whole = sum(weight.bytes for weight in persistent(weights, zero)) if ranks > 1 or offloaded else 0
    return Weights(whole, shards) if offloaded else Weights(shards + whole)


def _stage_3(setting: Setting, trained: Sequence[Weight]) -> Training:
    zero, size = setting.zero, setting.element_size
    parts = [sum(shard(weight, setting.ranks) for weight in group) for group in groups(trained)]
    part, offloaded = sum(parts), setting.optimizer_offloaded
    whole = sum(weight.numel for weight in trained)
    bucket = int(zero.reduce_bucket_size)
    oversized = max((weight.numel for weight in trained if weight.numel > bucket), default=0)
    buckets = _touched(setting, bucket, whole) * size
    gradients = 0 if offloaded else part * size
    step = max(_step_temporaries(setting, min(p, int(zero.sub_group_size))) for p in parts)
    return Training(
        waiting=gradients,
        early=gradients,
        late=gradients,
        summed=gradients,
        # In float32 too, DeepSpeed 0.19 makes a master copy: it compares a device with its name, never equal.
        optimizer=0 if offloaded else part * (MASTER + MOMENTS),
        buckets=buckets,
        resting_buckets=buckets,
        reduction=(min(bucket, whole) + oversized) * size,
        step=0 if offloaded else step,
        host=part * (size + MASTER + MOMENTS + 4) if offloaded else 0,
    )


def _stages_1_and_2(setting: Setting, trained: Sequence[Weight], micro_batches: int) -> Training:
    zero, size, ranks, offloaded = setting.zero, setting.element_size, setting.ranks, setting.optimizer_offloaded
    whole, bucket = sum(weight.numel for weight in trained), int(zero.reduce_bucket_size)
    parts = [-(-sum(w.numel for w in group) // (2 * ranks)) * 2 for group in groups(trained)]
    owned = sum(_owned(group, part, ranks) for group, part in zip(groups(trained), parts, strict=True))
    largest = max(weight.numel for weight in trained)
    oversized = largest if largest > bucket else 0
    at_once = setting.request.device == "cuda"  # a CPU's buffers take memory only as they fill
    if setting.stage == 1:  # whole gradients, of which the last micro-batch moves those of the rank's part to a buffer
        summed, late, early = whole, whole, owned * at_once + (whole if micro_batches > 1 else 0)
    elif offloaded:  # a buffer that each gradient passes through on its way to the host
        summed = late = early = largest
    else:  # later micro-batches fill a buffer of their own, which is then added to the first
        summed, late = owned, owned * min(2, micro_batches)
        early = late * at_once
    waiting = 0 if micro_batches == 1 else whole if setting.stage == 1 else summed
    return Training(
        waiting=waiting * size,
        early=max(early, waiting) * size,
        late=late * size,
        summed=summed * size,
        optimizer=0 if offloaded else sum(parts) * (MASTER + MOMENTS),
        buckets=_touched(setting, bucket * (2 if zero.overlap_comm else 1), whole) * size,
        resting_buckets=0,
        reduction=(oversized + (max(min(bucket, whole), oversized) if ranks > 1 else 0)) * size,
        step=0 if offloaded else max(_step_temporaries(setting, part) for part in parts),
        host=sum(parts) * (size + MASTER + MOMENTS + 4) + owned * size if offloaded else 0,
    )


def _stage_0(setting: Setting, trained: Sequence[Weight], micro_batches: int) -> Training:
    whole, size = sum(weight.numel for weight in trained), setting.element_size
    waiting = whole * size if micro_batches > 1 else 0
    master = 0 if size == 4 else MASTER
    return Training(
        waiting=waiting,
        early=waiting,
        late=whole * size,
        summed=whole * size,
        optimizer=whole * (master + MOMENTS),
        buckets=0,
        resting_buckets=0,
        reduction=0,
        step=_step_temporaries(setting, whole) if master else _adam_temporaries(setting, whole),
        host=0,
    )


def _touched(setting: Setting, buffer: int, used: int) -> int:
    """Elements of a buffer that take memory: on a CPU only those ever written."""
    return buffer if setting.request.device == "cuda" else min(buffer, used)


def _owned(group: Sequence[Weight], part: int, ranks: int) -> int:
    """Numbers of the gradients that stage 2 keeps: whole parameters, where a rank's part cuts through them too."""
    most = 0
    for rank in range(ranks):
        start, total = 0, 0
        for weight in group:
            if start < (rank + 1) * part and start + weight.numel > rank * part:
                total += weight.numel
            start += weight.numel
        most = max(most, total)
    return most


def _step_temporaries(setting: Setting, part: int) -> int:
    """A flat copy of the gradients, a float32 one, and what the optimizer needs besides that one."""
    converting = part * (4 + (setting.element_size if setting.element_size < 4 else 0))
    return max(converting, part * 4 + _adam_temporaries(setting, part))


def _adam_temporaries(setting: Setting, part: int) -> int:
    """None in fused kernels; torch's plain AdamW takes roots of all second moments at once."""
    section = setting.engine.get("optimizer")
    params = (section or {}).get("params", {})
    if section is not None and (not params.get("torch_adam") or params.get("fused")):
        return 0
    return part * (4 if setting.request.device == "cuda" else 8)
