"""What is said before training of matrices that an adapter or 4 bits do not reach, and of what experts cost."""

from __future__ import annotations

from transformers import PreTrainedModel

from sparsepo_dist.engines.adapters.experts import Matrix, described, left_out, matrices, wrappers
from sparsepo_dist.engines.adapters.lora import POLICY
from sparsepo_dist.engines.adapters.packing import packed_names
from sparsepo_dist.engines.config import ALL_LINEAR, LoraSettings, ModelConfig


def adapter_remarks(model: PreTrainedModel, config: ModelConfig, settings: LoraSettings) -> list[str]:
    """A sentence for each thing that whoever asked for an adapter might not expect.

    Args:
        model: the policy with its adapter, unquantised; its parameters may be on the meta device.
    """
    remarks = []
    head = model.get_output_embeddings()
    if config.adapter_path is None and settings.targets == ALL_LINEAR:
        missed = left_out(model, head, POLICY)
        if missed:
            remarks.append(
                f"lora.targets: peft cannot put all-linear on these, which stay as they are: {described(missed, model)}"
            )
    if config.adapter == "qlora":
        packed = packed_names(model)
        whole = [m for m in matrices(model) if m.name not in packed and m.parameter is not head.weight]
        if whole:
            remarks.append(f"model.adapter: qlora leaves these unquantised: {described(whole, model)}")
    kept = _kept_for_backward(model, config)
    if kept:
        remarks.append(
            "model.activation_checkpointing: without it (true), backward keeps the unpacked and adapted weights of all "
            f"experts: {described(kept, model)}"
        )
    return remarks


def _kept_for_backward(model: PreTrainedModel, config: ModelConfig) -> list[Matrix]:
    """Experts whose weight is made in each forward, and kept unless that is done again for backward."""
    if config.activation_checkpointing is True:
        return []
    adapted = {id(getattr(wrapper.get_base_layer(), wrapper.parameter_name)) for wrapper in wrappers(model)}
    return [m for m in matrices(model) if m.fused and (config.adapter == "qlora" or id(m.parameter) in adapted)]
