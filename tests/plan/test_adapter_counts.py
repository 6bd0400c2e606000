"""Plans of mixtures of experts in 4 bits, and of starts from adapters with modules of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM

from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.plan.needs.plan import Plan
from sparsepo_dist.plan.needs.states import policy_weights
from tests.plan.measuring import predict
from tests.plan.test_counts import _constants
from tests.support.mixtures import save_mixture
from tests.support.tiny import save_tiny_model


def planned(tmp_path: Path, **fields: Any) -> Plan:
    ds_config = tmp_path / "ds.json"
    ds_config.write_text('{"zero_optimization": {"stage": 2}}')
    given = {name.replace("__", "."): value for name, value in fields.items()}
    return predict({"ds_config": ds_config, "data.max_length": 128, "training.precision": "fp32", **given}, ranks=1)


def test_bytes_of_packed_experts(tmp_path: Path) -> None:
    folder = save_mixture(tmp_path / "mixtral", "mixtral")
    plan = planned(tmp_path, model__path=folder, model__adapter="qlora", objective__name="dpo",
                   training__precision="bf16")  # fmt: skip
    model = load_model(
        str(folder), load_config(str(folder)), dtype=torch.bfloat16, layout="packed", zero3=None, quantised=True
    )
    constants = sum(_constants(module) for module in model.modules())
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for steps in module.parametrizations.values():
                state = steps[0].state
                parts = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
                constants += sum(part.nbytes for part in parts)
    added = plan.census.count("adapter") * 2
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert policy_weights(plan.setting, plan.census).device - added == weights + constants


def test_a_start_is_counted_as_it_is(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "llama")
    shape = peft.LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, modules_to_save=["norm", "lm_head"])
    given = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), shape)
    given.save_pretrained(tmp_path / "given")
    start = {"model__adapter_path": tmp_path / "given", "reference__adapter_path": tmp_path / "given"}
    plan = planned(tmp_path, model__path=folder, model__adapter="lora", objective__name="dpo", **start)
    want = sum(parameter.numel() for parameter in given.parameters() if parameter.requires_grad)
    assert plan.census.count("adapter", trained=True) == plan.census.frozen_adapter == want
