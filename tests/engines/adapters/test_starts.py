"""Starts from what peft makes besides plain LoRA: the reference stays exact, and merging gives the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sparsepo_dist.engines.adapters.lora import add_frozen_adapter, as_reference
from sparsepo_dist.engines.adapters.saved_modules import head_of
from sparsepo_dist.engines.merging import merge_adapter
from sparsepo_dist.errors import UserError
from tests.engines.adapters.test_adapters import adapted, base_model, logits, stir, write_adapter
from tests.support.tiny import save_tiny_model, tiny_tokenizer

KINDS: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "norms": {"modules_to_save": ["norm"]},
    "embeddings and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.fixture(scope="module", params=["llama", "qwen2"])  # tied and not
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), request.param)


def given(base: Path, folder: Path, **options: Any) -> PreTrainedModel:
    """An adapter that peft wrote to a folder, on its model."""
    torch.manual_seed(3)
    shape = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], **options)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), shape)
    stir(model)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_is_its_reference_and_merges(base: Path, tmp_path: Path, kind: str) -> None:
    start = tmp_path / "given"
    want = logits(given(base, start, **KINDS[kind]))
    model = adapted(base, start=str(start), reference=str(start)).eval()
    assert torch.equal(logits(model), want)
    stir(model, seed=6)
    moved = logits(model)
    with as_reference(model, "reference"):
        assert torch.equal(logits(model), want)
    with as_reference(model, None):
        assert torch.equal(logits(model), logits(base_model(base)))
    assert torch.equal(logits(model), moved) and not torch.allclose(moved, want)
    alone = base_model(base).eval()
    add_frozen_adapter(alone, str(start), torch.float32)
    torch.testing.assert_close(logits(alone), want)
    written = write_adapter(model, tmp_path / "written")
    tiny_tokenizer().save_pretrained(written)
    for folder, expected in ((start, want), (written, moved)):
        merged = AutoModelForCausalLM.from_pretrained(merge_adapter(folder, tmp_path / f"merged-{folder.name}"))
        torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


def test_all_of_a_start_is_trained_and_nothing_else(base: Path, tmp_path: Path) -> None:
    given(base, tmp_path, use_dora=True, modules_to_save=["norm", "lm_head"])
    model = adapted(base, start=str(tmp_path), reference=str(tmp_path)).train()
    for _ in range(2):
        with as_reference(model, "reference"):
            logits(model)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained and all(".policy." in name for name in trained)
    model(input_ids=torch.arange(12).view(1, 12)).logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert {part for name in trained for part in name.split(".")} >= {"lora_magnitude_vector", "lm_head", "norm"}


def test_each_model_has_its_own_head(base: Path, tmp_path: Path) -> None:
    given(base, tmp_path, modules_to_save=["lm_head"])
    model = adapted(base, start=str(tmp_path), reference=str(tmp_path))
    policy, reference, original = (head_of(model, name) for name in ("policy", "reference", None))
    assert policy.weight.requires_grad and not reference.weight.requires_grad
    assert torch.equal(policy.weight, reference.weight) and not torch.equal(policy.weight, original.weight)


def test_dora_on_a_model_in_4_bits(base: Path, tmp_path: Path) -> None:
    given(base, tmp_path, use_dora=True)
    model = adapted(base, start=str(tmp_path), reference=str(tmp_path), quantised=True).eval()
    want = logits(model)
    stir(model, seed=6)
    assert not torch.allclose(logits(model), want)
    with as_reference(model, "reference"):
        assert torch.equal(logits(model), want)


def test_a_copy_of_what_is_in_4_bits_is_refused(base: Path, tmp_path: Path) -> None:
    given(base, tmp_path, modules_to_save=["o_proj"])
    adapted(base, start=str(tmp_path))
    with pytest.raises(UserError, match=r"model.adapter_path: it has its own .*o_proj .*--model.adapter lora"):
        adapted(base, start=str(tmp_path), quantised=True)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_an_adapter_that_holds_a_part_of_its_model_is_refused_with_pefts_remedy(
    base: Path, tmp_path: Path, kind: str
) -> None:
    given(base, tmp_path, init_lora_weights=kind)
    with pytest.raises(UserError, match=f"'{kind}', .*path_initial_model_for_weight_conversion"):
        adapted(base, start=str(tmp_path))


@pytest.mark.parametrize("own", [None, ["embed_tokens", "lm_head"]])
def test_an_adapter_with_added_tokens_merges_and_is_no_start(base: Path, tmp_path: Path, own: list[str] | None) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    plain = AutoModelForCausalLM.from_pretrained(base)
    plain.resize_token_embeddings(plain.config.vocab_size + 2)
    shape = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=own, base_model_name_or_path=str(base))
    model = peft.get_peft_model(plain, shape).eval()
    stir(model)
    model.save_pretrained(tmp_path / "given", save_embedding_layers=own is None)
    tokenizer.save_pretrained(tmp_path / "given")
    with pytest.raises(UserError, match=r"embeddings of 272 tokens by its own of 274.*sparsepo merge"):
        adapted(base, start=str(tmp_path / "given"))
    folder = merge_adapter(tmp_path / "given", tmp_path / "merged", str(base))
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert merged.config.vocab_size == 274
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("</think>") == len(tokenizer) - 1
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)
