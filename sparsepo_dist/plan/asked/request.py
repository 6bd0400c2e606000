"""What is to be planned: a run's configuration, checked and resolved as the run itself would, without its data."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from transformers import AutoConfig, PretrainedConfig

from sparsepo_dist.contracts import OracleRole
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.config import ALL_LINEAR, LoraSettings, Placement
from sparsepo_dist.engines.decoder.configuration import check_window, load_config
from sparsepo_dist.engines.deepspeed.ds_config import agree, engine_config, precision, reference_config
from sparsepo_dist.engines.layouts.choice import ModelKind, layout_of
from sparsepo_dist.engines.layouts.splitting import check_splitting
from sparsepo_dist.engines.sequence.group import check_ranks
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskSources, oracles_of
from sparsepo_dist.objectives import Requirements, compose
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.inputs import BUILTIN_MODEL, check_builtin_names
from sparsepo_dist.runs.recipes.starts import untrained_start

Device = Literal["cuda", "cpu"]

# What would change the figures and is not in them: better no plan than a wrong one.
_NOT_PLANNED = (
    "zero_optimization.zero_quantized_weights", "zero_optimization.zero_quantized_nontrainable_weights",
    "zero_optimization.zero_quantized_gradients", "zero_optimization.use_muon",
    "zero_optimization.stage3_use_all_reduce_for_fetch_params", "zero_optimization.stage3_module_granularity_threshold",
    "bf16.bf16_master_weights_and_grads", "fp16.fp16_master_weights_and_grads", "bf16.bf16_optimizer_states",
    "data_types.grad_accum_dtype", "compile.deepcompile",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A question: this configuration on so many GPUs."""

    config: RunConfig
    ds_config: dict[str, Any]
    """As its file has it."""
    gpus: int
    """Ranks, one a GPU."""
    tokens_per_pair: float | None = None
    """Mean packed tokens of a pair, for the number of micro-batches; the longest pair's where not given."""
    device: Device = "cuda"
    """Kind of the ranks' device."""


@dataclass(frozen=True)
class Setting:
    """A request with everything resolved that the run would resolve when it starts."""

    request: Request
    """Its layout is settled."""
    needs: Requirements
    mask_sources: MaskSources
    placement: Placement | None
    """None for objectives without a reference."""
    policy: PretrainedConfig
    reference: PretrainedConfig | None
    """None where it is the policy's own model or there is none."""
    oracles: dict[OracleRole, PretrainedConfig]
    """Those that are loaded: none where their scores are cached."""
    dtype: torch.dtype
    engine: dict[str, Any]
    """The ds_config that the policy's engine would get."""
    zero: DeepSpeedZeroConfig
    pairs_per_step: int

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.request.config

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return self.request.gpus

    @property
    def together(self) -> int:
        """Ranks that share each micro-batch."""
        return self.request.config.training.sequence_parallel

    @property
    def groups(self) -> int:
        """Groups of such ranks, each with micro-batches of its own."""
        return self.ranks // self.together

    @property
    def stage(self) -> int:
        """ZeRO stage of the policy's engine."""
        return int(self.zero.stage)

    @property
    def element_size(self) -> int:
        """Bytes of a number that models compute with."""
        return self.dtype.itemsize

    @property
    def optimizer_offloaded(self) -> bool:
        """Whether optimizer states, and stage 3's gradients, rest in host memory that is not the device's own."""
        return self.request.device == "cuda" and self.stage > 0 and _offloads(self.zero.offload_optimizer)

    @property
    def parameters_offloaded(self) -> bool:
        """Whether the policy's shards rest in host memory that is not the device's own."""
        return self.request.device == "cuda" and self.stage == 3 and _offloads(self.zero.offload_param)

    @property
    def linears_keep_input(self) -> bool:
        """Whether DeepSpeed's own linear, which keeps its input even for a frozen weight, has replaced torch's.

        Loading any model under ZeRO-3 replaces it in the whole process.
        """
        placements: list[Placement | None] = [self.oracle_placement(role) for role in self.oracles]
        if self.reference is not None:
            placements.append(self.placement)
        if {"sharded", "offload"} & set(placements):
            return True
        return self.stage == 3 and self.config.model.adapter != "qlora"

    def oracle_placement(self, role: OracleRole) -> Placement:
        """Where an oracle lives."""
        return self.config.models.oracle_placement(role, self.request.gpus)

    def inference_zero(self, placement: Placement) -> DeepSpeedZeroConfig:
        """ZeRO's settings in a frozen model's own engine."""
        return DeepSpeedZeroConfig(**reference_config(self.engine, placement)["zero_optimization"])


def resolve(request: Request) -> Setting:
    """Check a request as the run itself would.

    Raises:
        UserError: anything the user can mend, or a setting whose cost is not known here.
    """
    config = untrained_start(request.config)
    config.validate()
    if request.gpus < 1:
        raise UserError(f"gpus: {request.gpus} must be at least 1")
    objective, mask_sources, masks = compose(config.objective, config.masks)
    config, needs = dataclasses.replace(config, masks=masks), objective.requirements
    config.models.check(
        objective=config.objective.name, needs_reference=needs.reference, oracles=oracles_of(mask_sources)
    )
    check_builtin_names(config)
    together = config.training.sequence_parallel
    check_ranks(together, request.gpus)
    ds_config = _with_batch_size(request.ds_config, request.gpus // together)
    agreed = agree(ds_config, config.training.shared(), config.training.DEFAULTS)
    dtype = _dtype(ds_config, config.training.precision, request.device)
    policy = model_config(config.model.path, config)
    check_window(policy, config.data.max_length)
    placement = config.models.placement(request.gpus) if needs.reference else None
    engine = engine_config(ds_config, agreed, dtype, text_config(policy).hidden_size, Path("monitor"))
    _refuse_what_is_not_planned(engine)
    reference = None if placement in (None, "adapter") else config.reference.path or config.model.path
    oracles = config.models.oracles
    frozen: dict[str, str | None] = {"reference": reference, **{role: one.path for role, one in oracles.items()}}
    models = {role: model_config(path, config) for role, path in frozen.items() if path is not None}
    kinds = {f"{role}.path": ModelKind.of(model) for role, model in {"model": policy, **models}.items()}
    layout = layout_of(config.data.layout, kinds, config.data.max_length).layout
    check_splitting(kinds, layout, together)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, layout=layout))
    return Setting(
        request=dataclasses.replace(request, config=config),
        needs=needs,
        mask_sources=mask_sources,
        placement=placement,
        policy=policy,
        reference=models.get("reference"),
        oracles={} if placement == "cached" else {role: models[role] for role in oracles},
        dtype=dtype,
        engine=engine,
        zero=_zero(engine),
        pairs_per_step=int(agreed["training.pairs_per_step"]),
    )


def model_config(path: str, config: RunConfig) -> PretrainedConfig:
    """A model's configuration; of the built-in one it is in the package's file.

    Raises:
        UserError: it cannot be found, or is of no model that can be trained here.
    """
    if path == BUILTIN_MODEL:
        from sparsepo_dist.builtin.smollm2 import gguf_file

        file = gguf_file()
        return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    return load_config(path, trust_remote_code=config.model.trust_remote_code)


def adapter_shape(config: RunConfig) -> LoraSettings:
    """Settings of the policy's adapter; a saved one's are in its folder. Raises UserError where that holds none."""
    if config.model.adapter_path is None:
        return config.lora
    from sparsepo_dist.engines.adapters.files import adapter_settings

    saved = adapter_settings(config.model.adapter_path, "model.adapter_path")
    if saved.target_parameters:  # an adapter on experts, which is one on all
        return dataclasses.replace(config.lora, rank=saved.r, alpha=float(saved.lora_alpha), targets=ALL_LINEAR)
    targets = saved.target_modules if isinstance(saved.target_modules, str) else sorted(saved.target_modules or ())
    return dataclasses.replace(config.lora, rank=saved.r, alpha=float(saved.lora_alpha), targets=targets)


def _dtype(ds_config: dict[str, Any], wanted: str, device: Device) -> torch.dtype:
    """As `precision`, for GPUs that need not be here: they are taken to have bfloat16."""
    if device == "cuda" and wanted == "auto" and ds_config.get("bf16", {}).get("enabled") == "auto":
        wanted = "bf16"
    return precision(ds_config, wanted, torch.device(device))


def _with_batch_size(ds_config: dict[str, Any], ranks: int) -> dict[str, Any]:
    """The global batch written out: DeepSpeed defines it by the number of ranks, which are not there yet."""
    ds_config = copy.deepcopy(ds_config)
    micro, steps = ds_config.get("train_micro_batch_size_per_gpu"), ds_config.get("gradient_accumulation_steps")
    if isinstance(micro, int) and isinstance(steps, int):
        product = micro * steps * ranks
        if ds_config.get("train_batch_size", "auto") not in ("auto", product):
            raise UserError(
                f"ds_config: train_batch_size {ds_config['train_batch_size']} is not train_micro_batch_size_per_gpu "
                f"{micro} x gradient_accumulation_steps {steps} x {ranks} ranks"
            )
        ds_config["train_batch_size"] = product
        del ds_config["gradient_accumulation_steps"]
    return ds_config


def _zero(engine: dict[str, Any]) -> DeepSpeedZeroConfig:
    try:
        return DeepSpeedZeroConfig(**engine.get("zero_optimization", {}))
    except ValueError as error:
        raise UserError(f"ds_config: zero_optimization: {error}") from None


def _refuse_what_is_not_planned(engine: dict[str, Any]) -> None:
    for path in _NOT_PLANNED:
        value: Any = engine
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value:
            raise UserError(f"ds_config: {path} is not something that can be planned; leave it out to see a plan")
    kind = str(engine.get("optimizer", {}).get("type", "AdamW")).lower()
    if kind not in ("adam", "adamw"):
        raise UserError(f"ds_config: optimizer {engine['optimizer']['type']} cannot be planned; Adam and AdamW can")


def _offloads(section: Any) -> bool:
    return section is not None and section.device != "none"
