"""The ds_config: "auto" filled from the recipe, contradictions named, and what the reference's engine takes of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparsepo_dist.engines.config import Placement
from sparsepo_dist.engines.deepspeed.distributed import world_size
from sparsepo_dist.engines.deepspeed.ds_checks import NOT_SERVED, check_engine, check_fields, check_monitor_paths
from sparsepo_dist.engines.deepspeed.ds_file import read_ds_config
from sparsepo_dist.errors import UserError
from sparsepo_dist.files import leaves

Json = dict[str, Any]

# ds_config path -> recipe field: the values that both could hold.
SHARED_FIELDS = {
    "train_batch_size": "training.pairs_per_step",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer.params.lr": "training.learning_rate",
    "optimizer.params.betas": "training.betas",
    "optimizer.params.eps": "training.eps",
    "optimizer.params.weight_decay": "training.weight_decay",
}


def load_ds_config(path: str) -> Json:
    """The JSON object in a file.

    Raises:
        UserError: no such file, not a JSON object, or a field that DeepSpeed or this trainer cannot take.
    """
    config = read_ds_config(path)
    try:
        check_fields(config)
    except ValueError as error:
        raise UserError(f"ds_config: {path}: {error}") from None
    return config


def agree(
    config: Json, recipe: Mapping[str, Any], defaults: Mapping[str, Any], *, sequence_parallel: int = 1
) -> dict[str, Any]:
    """One value for each field that ds_config and recipe share.

    Args:
        config: the ds_config.
        recipe: recipe field to value, None where the recipe is silent.
        defaults: recipe field to the value used where both are silent.
        sequence_parallel: ranks that share each micro-batch.

    Raises:
        UserError: the two name different values, both in the message; or the ds_config's three batch sizes disagree.
    """
    agreed = {}
    batch = _batch_size(config, world_size() // sequence_parallel)
    for path, field in SHARED_FIELDS.items():
        theirs, ours = batch if path == "train_batch_size" else _get(config, path), recipe[field]
        if theirs in (None, "auto"):
            agreed[field] = defaults[field] if ours is None else ours
        elif ours is None or _same(ours, theirs):
            agreed[field] = theirs
        else:
            raise UserError(f"{field} is {ours} in the recipe and {path} is {theirs} in the ds_config; keep one")
    return agreed


def precision(config: Json, wanted: str, device: torch.device) -> torch.dtype:
    """The dtype that parameters are computed in: the ds_config's bf16/fp16 section, else the recipe's wish.

    Raises:
        UserError: recipe and ds_config differ, or fp16 on a CPU.
    """
    sections = {"bf16": torch.bfloat16, "fp16": torch.float16}
    for name, dtype in sections.items():
        enabled = _get(config, f"{name}.enabled")
        if enabled is True:
            if wanted not in ("auto", name):
                raise UserError(f"training.precision is {wanted} in the recipe, {name} is enabled in the ds_config")
            if dtype == torch.float16 and device.type == "cpu":
                raise UserError("ds_config: fp16 is enabled, which DeepSpeed refuses on CPUs; use bf16 or fp32")
            return dtype
        if enabled is False and wanted == name:
            raise UserError(f"training.precision is {wanted} in the recipe, {name} is disabled in the ds_config")
    if wanted == "auto":
        # bf16 is only silent about when the ds_config says "auto": no section means DeepSpeed's own default, fp32.
        return torch.bfloat16 if _get(config, "bf16.enabled") == "auto" and has_bf16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16: where it is emulated, it takes several times as long as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def engine_config(
    config: Json, agreed: Mapping[str, Any], dtype: torch.dtype, hidden_size: int, monitor_path: Path
) -> Json:
    """What deepspeed.initialize gets for the policy: everything filled, batch sizes neutral.

    The trainer itself decides how many pairs make a micro-batch and how many of those a step, so DeepSpeed is
    told of single-sample micro-batches without accumulation and handed the boundaries by hand. `hidden_size` is D of
    the policy, which bucket sizes and the persistence threshold (numbers of parameters) follow.

    Raises:
        UserError: an "auto" that nothing fills.
    """
    filled = {name: copy.deepcopy(value) for name, value in config.items() if name not in NOT_SERVED}
    for name in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        filled.pop(name, None)
    filled.update(train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1)
    filled["gradient_clipping"] = agreed["training.max_grad_norm"]
    filled.setdefault("steps_per_print", 2**31 - 1)
    filled["bf16"] = {**filled.get("bf16", {}), "enabled": dtype == torch.bfloat16}
    if _get(filled, "fp16.enabled") == "auto":
        filled["fp16"]["enabled"] = dtype == torch.float16
    if "optimizer" in filled:
        params = filled["optimizer"].setdefault("params", {})
        for name in ("lr", "betas", "eps", "weight_decay"):
            params[name] = agreed[SHARED_FIELDS[f"optimizer.params.{name}"]]
    # The same rules that transformers documents for these three.
    for name, value in (
        ("reduce_bucket_size", hidden_size * hidden_size),
        ("stage3_prefetch_bucket_size", int(0.9 * hidden_size * hidden_size)),
        ("stage3_param_persistence_threshold", 10 * hidden_size),
    ):
        if _get(filled, f"zero_optimization.{name}") == "auto":
            filled["zero_optimization"][name] = value
    for monitor in ("tensorboard", "csv_monitor"):
        if _get(filled, f"{monitor}.output_path") == "auto":
            filled[monitor]["output_path"] = str(monitor_path)
    left = [path for path, value in leaves(filled) if value == "auto"]
    if left:
        raise UserError(f'ds_config: "auto" cannot be filled for {", ".join(left)}; write a value')
    return filled


def check_filled(path: str, config: Json, engine: Json, device: torch.device) -> None:
    """Hold a ds_config, and what `engine_config` made of it, against DeepSpeed and this machine.

    Raises:
        UserError: what neither has; the file and field are named.
    """
    try:
        check_monitor_paths(config)
        check_engine(engine, device)
    except ValueError as error:
        raise UserError(f"ds_config: {path}: {error}") from None


def reference_config(engine: Json, placement: Placement) -> Json:
    """ZeRO-3 without an optimizer for the frozen reference, in the policy's dtype."""
    zero: Json = {"stage": 3, "stage3_param_persistence_threshold": 0}
    theirs = engine.get("zero_optimization", {})
    if theirs.get("stage") == 3:
        zero = {name: value for name, value in theirs.items() if not name.startswith("offload_")}
    if placement == "offload":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    kept: Json = {name: engine[name] for name in ("bf16", "fp16") if name in engine}
    return {
        **kept, "zero_optimization": zero, "train_micro_batch_size_per_gpu": 1, "steps_per_print": 2**31 - 1,
    }  # fmt: skip


def zero_stage(config: Json) -> int:
    """ZeRO stage of a ds_config."""
    return int(_get(config, "zero_optimization.stage") or 0)


def most_pairs_per_micro_batch(config: Json) -> int | None:
    """The ds_config's own limit of a micro-batch, in pairs, where it has one."""
    limit = config.get("train_micro_batch_size_per_gpu")
    return None if limit in (None, "auto") else int(limit)


def _batch_size(config: Json, ranks: int) -> int | None:
    """Global batch: as written, or from micro-batch x accumulation x data-parallel ranks as DeepSpeed defines it."""
    written = config.get("train_batch_size")
    parts: list[Any] = [config.get(n) for n in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")]
    product = None if any(part in (None, "auto") for part in parts) else parts[0] * parts[1] * ranks
    if written in (None, "auto"):
        return product
    if product not in (None, written):
        raise UserError(
            f"ds_config: train_batch_size {written} is not train_micro_batch_size_per_gpu {parts[0]} x "
            f"gradient_accumulation_steps {parts[1]} x {ranks} ranks"
        )
    return int(written)


def _same(ours: Any, theirs: Any) -> bool:
    return list(ours) == list(theirs) if isinstance(ours, list | tuple) else bool(ours == theirs)


def _get(config: Json, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value
