"""Numbers and bytes of a plan against models that are really built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.adapters.lora import add_adapters, quantisation
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.masks import MaskConfig
from sparsepo_dist.masks.learned import MaskHeads
from sparsepo_dist.plan.asked.shapes import PairShape, batch_like, batch_of
from sparsepo_dist.plan.needs.plan import Plan
from sparsepo_dist.plan.needs.states import policy_weights
from tests.plan.measuring import predict
from tests.support.composites import save_composite
from tests.support.tiny import CONFIGS, save_tiny_model


@pytest.fixture
def plan_of(tmp_path: Path) -> Any:
    def build(family: str, **fields: Any) -> tuple[Plan, Path]:
        folder = save_tiny_model(tmp_path / family, family)
        ds_config = tmp_path / "ds.json"
        ds_config.write_text('{"zero_optimization": {"stage": 2}}')
        given = {name.replace("__", "."): value for name, value in fields.items()}
        plan = predict({"model.path": folder, "ds_config": ds_config, "data.max_length": 128, **given}, ranks=1)
        return plan, folder

    return build


@pytest.mark.parametrize("family", CONFIGS)
def test_parameters_are_those_of_the_model(plan_of: Any, family: str) -> None:
    plan, folder = plan_of(family)
    model = AutoModelForCausalLM.from_pretrained(folder)
    masks = MaskHeads(model.config.num_hidden_layers, 32, MaskConfig())
    head = sum(parameter.numel() for parameter in model.get_output_embeddings().parameters())
    assert plan.census.count("model") == model.num_parameters()
    assert plan.census.count("masks") == sum(parameter.numel() for parameter in masks.parameters())
    # Below ZeRO-3 a whole reference lends its head, which may be its embedding; any other gives a copy.
    assert plan.census.count("reference head") == (0 if model.config.tie_word_embeddings else head)
    assert plan_of(family, reference__placement="sharded")[0].census.count("reference head") == head
    assert plan.census.count(trained=True) == model.num_parameters() + plan.census.count("masks")


def test_other_parts_of_a_composite_are_frozen(tmp_path: Path) -> None:
    folder = save_composite(tmp_path / "gemma3", "gemma3")
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    fields = {"model.path": folder, "ds_config": tmp_path / "ds.json", "data.max_length": 128, "objective.name": "dpo"}
    census = predict(fields, ranks=1).census
    model = AutoModelForImageTextToText.from_pretrained(folder)
    vision = sum(parameter.numel() for name, parameter in model.named_parameters() if "language_model" not in name)
    assert census.count("other part") == vision > 0
    assert census.count("model") == census.count(trained=True) == model.num_parameters() - vision
    assert census.count("other part", trained=True) == 0


@pytest.mark.parametrize("family", CONFIGS)
def test_adapters_are_those_of_the_model(plan_of: Any, family: str) -> None:
    plan, folder = plan_of(family, model__adapter="lora", lora__rank=4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    add_adapters(model, LoraSettings(rank=4), torch.float32, base="", start=None, reference=None)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert plan.census.count("adapter") == plan.census.count("adapter", trained=True) == trained
    assert plan.census.count("model", trained=True) == plan.census.count("reference head") == 0


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_bytes_of_4_bit_models_with_their_constants(plan_of: Any, family: str, dtype: str) -> None:
    plan, folder = plan_of(family, model__adapter="qlora", training__precision=dtype)
    number = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation(number), dtype=number)
    weights = {id(parameter): parameter.nbytes for parameter in model.parameters()}
    constants = sum(_constants(module) for module in model.modules())
    assert constants > 0
    added = (plan.census.count("adapter") + plan.census.count("masks")) * number.itemsize
    assert policy_weights(plan.setting, plan.census).device - added == sum(weights.values()) + constants


def _constants(module: nn.Module) -> int:
    """Bytes of everything a 4-bit matrix has besides its packed numbers."""
    state: Any = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is None:
        return 0
    tensors = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("layout", ["prefix_shared", "packed", "padded"])
def test_shapes_are_those_of_a_packed_batch(layout: Layout) -> None:
    shapes = [PairShape(7, 5, 2), PairShape(7, 5, 2), PairShape(3, 2, 2)]
    pairs = [TokenizedPair((1,) * s.prompt, (2,) * s.response, (3,) * s.response) for s in shapes]
    real, planned = pack(pairs, [1.0] * 3, layout), batch_like(batch_of(shapes, layout))
    tensors = [v for part in (real, real.attention) if part for v in vars(part).values() if isinstance(v, torch.Tensor)]
    of_pairs = real.pair_index.nbytes + real.pair_weight.nbytes + real.pair_key.nbytes
    assert batch_of(shapes, layout).bytes == sum(tensor.nbytes for tensor in tensors) - of_pairs
    names = ("input_ids", "position_ids", "pair_id", "branch", "predict_index", "labels", "sequence_id")
    for name in names:
        assert getattr(real, name).shape == getattr(planned, name).shape, name
    assert real.rows == planned.rows and (real.attention is None) == (planned.attention is None)
    if real.attention is not None and planned.attention is not None:
        assert real.attention.gather_index.shape == planned.attention.gather_index.shape
        assert real.attention.scatter_index.shape == planned.attention.scatter_index.shape
        assert real.attention.spans == planned.attention.spans
