"""What a ds_config may hold, found out before DeepSpeed would stop over it on every rank. Checks raise ValueError."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from deepspeed.ops.op_builder import AsyncIOBuilder
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import ValidationError

from sparsepo_dist.disk import unwritable
from sparsepo_dist.errors import did_you_mean, shortened

Json = Mapping[str, Any]

_BATCH_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
_MONITORS = ("tensorboard", "wandb", "csv_monitor", "comet")
_SECTIONS = (
    "zero_optimization", "optimizer", "bf16", "fp16", *_MONITORS, "aio", "comms_logger", "compile",
    "data_types", "flops_profiler",
)  # fmt: skip
_KNOWN = (
    *_BATCH_SIZES, *_SECTIONS, "gradient_clipping", "communication_data_type", "dataloader_drop_last",
    "disable_allgather", "disable_python_gc", "dump_state", "gradient_allreduce_op", "gradient_predivide_factor",
    "legacy_fusion", "log_level", "managed_gradient_accumulation", "memory_breakdown", "prescale_gradients",
    "seq_parallel_communication_data_type", "steps_per_print", "timers", "use_data_before_expert_parallelism",
    "vocabulary_size", "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
)  # fmt: skip
_PRECISION = "the precision is the bf16 section's, or the recipe's (training.precision)"
_ORDER = "which rows a step trains on is the recipe's (data, training.pairs_per_step)"
_SHARDING = "is not supported; ZeRO stage 3 (zero_optimization) shards models"
_WRITER = "how checkpoints are written is the trainer's (checkpoints.*)"
NOT_SERVED = {
    "activation_checkpointing": "it is model.activation_checkpointing; DeepSpeed's own acts on models written for it",
    "amp": _PRECISION,
    "autotuning": "it would end the run after a few steps, as if it were finished; `sparsepo plan` says what fits",
    "checkpoint": _WRITER,
    "compression_training": "compressed weights would be trained; training here has full ones",
    "curriculum_learning": _ORDER,
    "data_efficiency": _ORDER,
    "datastates_ckpt": _WRITER,
    "eigenvalue": "it is a part of quantised training, which is not supported; --model.adapter qlora is",
    "elasticity": "the batch does not follow the number of ranks (training.pairs_per_step); --resume auto takes any",
    "expert_parallel": f"expert parallelism {_SHARDING}",
    "fp8": _PRECISION,
    "hybrid_engine": "nothing is sampled while a run trains",
    "nebula": _WRITER,
    "pipeline": f"pipeline parallelism {_SHARDING}",
    "progressive_layer_drop": "all layers are trained in every step",
    "quantize_training": "quantised training is not supported; --model.adapter qlora is",
    "scheduler": "the schedule is the recipe's (training.schedule)",
    "sequence_parallel_size": "sequence parallelism is not supported",
    "sparse_attention": "attention is the model's own, over blocks of the layout (data.layout)",
    "sparse_gradients": "gradients of embeddings are dense",
    "tensor_parallel": f"tensor parallelism {_SHARDING}",
    "torch_autocast": _PRECISION,
    "weight_quantization": "quantised training is not supported; --model.adapter qlora is",
}
"""What would change behind the trainer's back what is computed, or would do nothing: refused, unless it is off."""
_ZERO = "zero_optimization."
ONLY_VALUES = {
    "bf16.check_grad_overflow": (True, "by it steps with NaN change nothing"),
    "data_types.buffer_dtype": (None, _PRECISION),
    "data_types.param_dtype": (None, _PRECISION),
    "dataloader_drop_last": (False, _ORDER),
    "gradient_allreduce_op": ("mean", "losses are scaled for the mean over ranks"),
    "managed_gradient_accumulation": (True, "the last micro-batch of a step is told to DeepSpeed"),
    _ZERO + "compute_grad_norm": (True, "metrics and clipping need the norm"),
    _ZERO + "elastic_checkpoint": (False, "checkpoints go on on any number of ranks without it"),
    _ZERO + "legacy_stage1": (False, "DeepSpeed has that no more"),
    _ZERO + "load_from_fp32_weights": (True, "a run would not go on with the weights it had"),
    _ZERO + "mics_shard_size": (-1, "parameters are sharded over all ranks"),
    _ZERO + "round_robin_gradients": (False, "a checkpoint would go on wrongly on another number of ranks"),
    _ZERO + "zenflow": (None, "every step updates all parameters"),
    _ZERO + "zero_hpz_partition_size": (1, "DeepSpeed makes secondary shards for one model, and a run has several"),
}
"""Path -> the value that training, checkpoints and metrics are right with, and why."""
_OWN_PARAMS = ("torch_adam", "adam_w_mode", "fp32_optimizer_states")
# pydantic's model of a section -> the section
_TITLES = {"DeepSpeedZeroConfig": "zero_optimization"}


def check_fields(config: Json) -> None:
    """Raise ValueError for what a ds_config, as its file has it, may not hold: sections, types, values."""
    for name, value in config.items():
        if name in NOT_SERVED:
            if not _off(value):
                raise ValueError(f'{name} is not supported: {NOT_SERVED[name]}. Remove it, or say "enabled": false')
        elif name not in _KNOWN:
            hint = did_you_mean(name, _KNOWN) or "; DeepSpeed would ignore it: remove it"
            raise ValueError(f"there is no field {shortened(name)}{hint}")
    _check_finite(config)
    for name in _SECTIONS:
        if name in config and not isinstance(config[name], Mapping):
            raise ValueError(f"{name} must be an object, {{...}}, found {_shown(config[name])}")
    for name in _BATCH_SIZES:
        _expect(config, name, _is_count, 'a whole number greater than 0, or "auto"')
    _expect(config, "gradient_clipping", _is_amount, 'a number of at least 0, or "auto"')
    _expect(config, "gradient_predivide_factor", _is_factor, "a number greater than 0")
    for name in ("bf16", "fp16"):
        _expect(config.get(name, {}), "enabled", lambda value: isinstance(value, bool), 'true, false or "auto"', name)
    zero = config.get("zero_optimization", {})
    if type(zero.get("stage", 0)) is not int or zero.get("stage", 0) not in range(4):
        raise ValueError(f"zero_optimization.stage must be 0, 1, 2 or 3, found {_shown(zero['stage'])}")
    for name in ("offload_optimizer", "offload_param"):
        if not isinstance(zero.get(name), Mapping | None):
            raise ValueError(f"zero_optimization.{name} must be an object, {{...}}, found {_shown(zero[name])}")
    _check_only_values(config)
    if "optimizer" in config:
        _check_optimizer(config["optimizer"], zero)
    elif _device(zero, "offload_optimizer") != "none" and config.get("zero_force_ds_cpu_optimizer", True):
        raise ValueError(
            "zero_optimization.offload_optimizer needs an optimizer section, as ds_configs/zero3_offload.json has it"
        )


def check_engine(engine: Json, device: torch.device) -> None:
    """Raise ValueError for what DeepSpeed itself would refuse of a filled ds_config, or this machine does not have."""
    try:
        DeepSpeedConfig(dict(engine))
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from None
    except Exception as error:  # DeepSpeed asserts, and raises whatever its parts do
        raise ValueError(f"DeepSpeed refuses it: {type(error).__name__}: {shortened(str(error), 300)}") from None
    zero = engine.get("zero_optimization", {})
    for name in ("offload_optimizer", "offload_param"):
        if _device(zero, name) == "nvme":
            _check_nvme(zero[name], f"zero_optimization.{name}")
    quantised = [name for name in zero if name.startswith("zero_quantized") and zero[name]]
    if quantised and device.type == "cpu":
        raise ValueError(f"zero_optimization.{quantised[0]} has no CPU implementation in DeepSpeed; remove it")
    for name in ("wandb", "comet"):
        package = {"comet": "comet_ml"}.get(name, name)
        if engine.get(name, {}).get("enabled") and importlib.util.find_spec(package) is None:
            raise ValueError(f"{name} is enabled, but {package} is not installed: pip install {package}")


def check_monitor_paths(config: Json) -> None:
    """Raise ValueError for a folder that the ds_config names for a monitor and that cannot be written."""
    for name in ("tensorboard", "csv_monitor"):
        path = config.get(name, {}).get("output_path", "auto")
        if config.get(name, {}).get("enabled") and path not in ("auto", ""):
            reason = unwritable(Path(str(path)))
            if reason is not None:
                raise ValueError(f'{name}.output_path: {path} cannot be written: {reason}; "auto" is the run\'s folder')


def _off(section: Any) -> bool:
    # "auto" would be on where a trainer is told so, which this one cannot be
    return section is False or (isinstance(section, Mapping) and section.get("enabled") in (False, "auto"))


def _check_finite(value: Any, place: str = "") -> None:
    """JSON has no NaN; Python's reader does."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} must be a finite number, found {value}")
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        _check_finite(part, f"{place}.{name}" if place else str(name))


def _check_only_values(config: Json) -> None:
    for path, (only, reason) in ONLY_VALUES.items():
        section, _, name = path.rpartition(".")
        values = config.get(section, {}) if section else config
        if name in values and (type(values[name]), values[name]) != (type(only), only):
            raise ValueError(f"{path} can only be {json.dumps(only)}: {reason}. Remove it")


def _check_optimizer(section: Json, zero: Json) -> None:
    kind = section.get("type")
    if not isinstance(kind, str) or kind.lower() not in ("adam", "adamw"):
        found = f"found {_shown(kind)}" if "type" in section else "it is missing"
        raise ValueError(f"optimizer.type must be Adam or AdamW, which parameter groups here are made for; {found}")
    params = section.get("params", {})
    if not isinstance(params, Mapping):
        raise ValueError(f"optimizer.params must be an object, {{...}}, found {_shown(params)}")
    for name in ("lr", "eps", "weight_decay"):
        _expect(params, name, _is_amount, 'a number of at least 0, or "auto"', "optimizer.params")
    _expect(params, "betas", _is_two_numbers, 'a list of two numbers, or "auto"', "optimizer.params")
    adam: Any = FusedAdam
    if params.get("torch_adam"):
        adam = torch.optim.AdamW
    elif _device(zero, "offload_optimizer") != "none":
        adam = DeepSpeedCPUAdam
    taken = [*_OWN_PARAMS, *list(inspect.signature(adam.__init__).parameters)[2:]]
    for name in params:
        if name not in taken:
            hint = did_you_mean(name, taken) or f"; it takes {', '.join(taken)}"
            raise ValueError(f"optimizer.params.{shortened(name)} is not taken by {adam.__name__}{hint}")


def _check_nvme(section: Json, name: str) -> None:
    path = section.get("nvme_path")
    reason = f"nvme_path {path} is no folder"
    if not AsyncIOBuilder().is_compatible(verbose=False):
        reason = "DeepSpeed's async_io cannot be built here (it needs libaio)"
    elif path is not None and Path(str(path)).is_dir():
        return
    raise ValueError(f'{name}: {reason}; use "device": "cpu"')


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    section = _TITLES.get(error.title, error.title)
    hint = ""
    if problem["type"] == "extra_forbidden" and section == "zero_optimization":
        hint = did_you_mean(place, DeepSpeedZeroConfig.model_fields)
    return f"{section}.{place}: {problem['msg']}, found {_shown(problem['input'])}{hint}"


def _device(zero: Json, name: str) -> str:
    section = zero.get(name)
    return str(section.get("device", "none")) if isinstance(section, Mapping) else "none"


def _expect(section: Json, name: str, good: Callable[[Any], bool], wanted: str, prefix: str = "") -> None:
    value = section.get(name, "auto")
    if value != "auto" and not good(value):
        raise ValueError(f"{prefix}{'.' * bool(prefix)}{name} must be {wanted}, found {_shown(value)}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_factor(value: Any) -> bool:
    return _is_amount(value) and value > 0


def _is_two_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_amount, value))


def _shown(value: Any) -> str:
    return shortened(repr(value))
