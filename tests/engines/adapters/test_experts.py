"""Fused experts: adapted, packed into 4 bits, and spoken of where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import peft
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, DeepseekV3Config, PreTrainedModel

from sparsepo_dist.engines.activation_checkpointing import checkpoint_activations
from sparsepo_dist.engines.adapters.lora import add_adapters, as_reference
from sparsepo_dist.engines.adapters.remarks import adapter_remarks
from sparsepo_dist.engines.config import LoraSettings, ModelConfig
from sparsepo_dist.engines.merging import merge_adapter
from sparsepo_dist.errors import UserError
from tests.engines.adapters.test_adapters import IDS, adapted, base_model, logits, stir, write_adapter
from tests.support.mixtures import MIXTURES, save_mixture


@pytest.fixture(scope="module", params=["gpt_oss", "jetmoe", "mixtral", "qwen2_moe"])
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mixture(tmp_path_factory.mktemp("model"), request.param)


def matrices_of_layers(folder: Path) -> int:
    """Router and expert matrices and those of linear modules, each stack of experts one."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    apart = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return sum(p.dim() > 1 and "bias" not in name and id(p) not in apart for name, p in model.named_parameters())


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("quantised", [False, True])
def test_every_matrix_is_adapted_and_off_means_the_base(mixture: Path, quantised: bool) -> None:
    want = logits(base_model(mixture, quantised=quantised))
    model = adapted(mixture, quantised=quantised)
    model.train()
    assert torch.equal(logits(model), want)
    stir(model)
    moved = logits(model)
    assert not torch.allclose(moved, want)
    with as_reference(model, None):
        assert torch.equal(logits(model), want)
    assert torch.equal(logits(model), moved)  # a forward leaves nothing behind
    found = gradients(model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(found[name].abs().sum() > 0 for name in trained)
    assert len(trained) == 2 * matrices_of_layers(mixture)


def test_packed_experts_train_alike_when_computed_again(tmp_path: Path) -> None:
    folder = save_mixture(tmp_path, "mixtral")
    model = adapted(folder, quantised=True).train()
    stir(model)
    want = gradients(model)
    checkpoint_activations(model, True)
    found = gradients(model)
    assert found.keys() == want.keys() and all(torch.equal(found[name], want[name]) for name in want)


def test_what_is_written_is_pefts_merges_and_starts(mixture: Path, tmp_path: Path) -> None:
    model = adapted(mixture, LoraSettings(rank=3))
    stir(model)
    want = logits(model.eval())
    folder = write_adapter(model, tmp_path / "adapter")
    by_peft = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(mixture), folder).eval()
    torch.testing.assert_close(logits(by_peft), want)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(mixture / name, folder)
    merged = AutoModelForCausalLM.from_pretrained(merge_adapter(folder, tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), want, rtol=1e-4, atol=1e-4)
    again = adapted(mixture, start=str(folder), reference=str(folder))
    torch.testing.assert_close(logits(again.eval()), want)
    stir(again, seed=6)
    assert not torch.allclose(logits(again), want)
    with as_reference(again, "reference"):
        torch.testing.assert_close(logits(again), want)


def test_a_packed_model_is_the_plain_one_with_rounded_weights(mixture: Path, tmp_path: Path) -> None:
    """Each adapter on its own expert matrix: peft on a plain model, every weight of it rounded to NF4."""
    model = adapted(mixture, quantised=True)
    packed = [module for module in model.modules() if parametrize.is_parametrized(module)]
    assert packed and not any("experts" in name and p.dim() == 3 for name, p in model.named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(mixture, dtype=torch.float32)
    with torch.no_grad():
        for path, module in model.named_modules():
            name = path.replace(".base_layer", "")
            if parametrize.is_parametrized(module):
                for key in module.parametrizations:
                    plain.get_parameter(f"{name}.{key}").copy_(getattr(module, key))
            elif hasattr(getattr(module, "weight", None), "quant_state") and ".lora_" not in path:
                unpacked = dequantize_4bit(module.weight, module.weight.quant_state)
                plain.get_parameter(f"{name}.weight").copy_(unpacked.view_as(plain.get_parameter(f"{name}.weight")))
    stir(model)
    by_peft = peft.PeftModel.from_pretrained(plain, write_adapter(model, tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(model.eval()), logits(by_peft), rtol=1e-4, atol=1e-4)


def test_dropout_on_experts_is_refused_with_a_remedy(tmp_path: Path) -> None:
    folder = save_mixture(tmp_path, "gpt_oss")
    with pytest.raises(UserError, match=r"lora.dropout: 0.05 cannot be with adapters on experts.* lora.targets"):
        adapted(folder, LoraSettings(dropout=0.05))
    adapted(folder, LoraSettings(dropout=0.05, targets=["q_proj"]))


def test_what_is_not_reached_is_said_with_its_size() -> None:
    small = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8}
    config = DeepseekV3Config(
        vocab_size=64, hidden_size=1024, num_hidden_layers=1, num_attention_heads=2, intermediate_size=1024,
        moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        first_k_dense_replace=1, **small,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        add_adapters(model, LoraSettings(), torch.bfloat16, base="", start=None, reference=None)
    (remark,) = adapter_remarks(model, ModelConfig(adapter="lora"), LoraSettings())
    # Dense projections that peft takes for experts of the family's former layout: three of 1024 x 1024 in 2 bytes.
    assert "peft cannot put all-linear on" in remark and "mlp.up_proj.weight: 6.0 MiB, " in remark
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(MIXTURES["gpt_oss"])
        add_adapters(whole, LoraSettings(), torch.float32, base="", start=None, reference=None)
    assert adapter_remarks(whole, ModelConfig(adapter="lora", activation_checkpointing=True), LoraSettings()) == []
    kept = adapter_remarks(whole, ModelConfig(adapter="qlora"), LoraSettings())
    assert [remark.split(":")[0] for remark in kept] == ["model.adapter", "model.activation_checkpointing"]
