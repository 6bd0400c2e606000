"""Sampling and response-level KL: a model's own settings do not bend them, adapters count, and sums are right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, TemperatureLogitsWarper, TopPLogitsWarper

from sparsepo_dist.engines.merging import merge_adapter
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.divergence import ReferenceKL
from sparsepo_dist.sampling.nucleus import CANDIDATES, NucleusDraw, draw_any, nucleus
from sparsepo_dist.sampling.responses import Nucleus, Sample
from sparsepo_dist.sampling.transformers import TransformersSampler
from tests.support.tiny import save_tiny_model

PROMPTS = ["One film", "A much longer sentence about"]
SHORT = Nucleus(temperature=1.0, max_new_tokens=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    torch.manual_seed(1)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    )
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    folder = model.parent / "adapter"
    tuned.save_pretrained(folder)
    return folder


def draw(path: Path, *, adapter: Path | None = None, seed: int = 0, settings: Nucleus = SHORT) -> list[Sample]:
    return TransformersSampler(path, adapter).sample(PROMPTS, 3, seed=seed, settings=settings, description="sampling")


def test_samples_are_the_seeds_and_lie_by_prompt(model: Path) -> None:
    first = draw(model)
    assert first == draw(model) != draw(model, seed=1)
    assert [s.prompt for s in first] == [p for p in PROMPTS for _ in range(3)]
    tokenizer = AutoTokenizer.from_pretrained(model)
    for s in first:
        assert list(s.prompt_ids) == tokenizer(s.prompt)["input_ids"]
        assert 0 < len(s.response_ids) <= 8
        ends = [place for place, token in enumerate(s.response_ids) if token == tokenizer.eos_token_id]
        assert ends in ([], [len(s.response_ids) - 1])


def test_at_top_p_1_every_token_comes_as_often_as_its_probability_says() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([[0.0, -1.0, -torch.inf, 2.0, -3.0], [5.0, -torch.inf, 5.0, -torch.inf, -torch.inf]])
    found = draw_any(scores.repeat_interleave(20_000, 0)).view(2, -1)
    shares = torch.stack([torch.bincount(row, minlength=5) / found.shape[1] for row in found])
    want = scores.softmax(-1)
    assert torch.all((shares - want).abs() <= 4 * (want * (1 - want) / found.shape[1]).sqrt())


@pytest.mark.parametrize("sharpness", [4.0, 0.01])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.9, 0.95), (0.25, 0.5), (1.5, 1.0)])
def test_the_nucleus_is_that_of_transformers(sharpness: float, temperature: float, top_p: float) -> None:
    scores = sharpness * torch.randn(5, 4 * CANDIDATES, generator=torch.Generator().manual_seed(0)) / temperature
    want = (TopPLogitsWarper(top_p)(None, scores.clone()) if top_p < 1 else scores).softmax(-1)
    for candidates in (CANDIDATES, scores.shape[-1]):
        share, tokens, whole = nucleus(scores, top_p, candidates=candidates)
        found = torch.zeros_like(scores).scatter(-1, tokens, share / share.sum(-1, keepdim=True))
        torch.testing.assert_close(found[whole], want[whole])
        assert torch.equal(whole, (want > 0).sum(-1) <= candidates)


@pytest.mark.parametrize("candidates", [2, 5, 8])
def test_tokens_are_drawn_as_often_as_their_probability(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose nucleus is wider than the candidates stand beside others."""
    monkeypatch.setattr("sparsepo_dist.sampling.nucleus.CANDIDATES", candidates)
    rows, draws = torch.tensor([[4.0, 1, 0, 0, -1, -2, 2, 3], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]]), 20_000
    torch.manual_seed(0)
    found = NucleusDraw(0.8, 0.9)(torch.empty(0), rows.repeat_interleave(draws, 0))
    assert torch.equal(found.isfinite().sum(-1), torch.ones(2 * draws, dtype=torch.int64))
    frequency = torch.stack([part.argmax(-1).bincount(minlength=8) for part in found.chunk(2)]) / draws
    want = TopPLogitsWarper(0.9)(None, TemperatureLogitsWarper(0.8)(None, rows)).softmax(-1)
    assert (frequency[want == 0] == 0).all()
    torch.testing.assert_close(frequency, want, atol=0.015, rtol=0)  # four standard errors


def test_what_the_folder_says_of_generation_does_not_bend_the_samples(model: Path, tmp_path: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    loaded.generation_config.update(do_sample=True, top_k=1, repetition_penalty=5.0)
    loaded.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert draw(tmp_path) == draw(model)


def test_every_end_of_the_model_ends_a_response(model: Path, tmp_path: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    ends = list(range(97, 97 + 26))
    loaded.generation_config.update(eos_token_id=[257, *ends])
    loaded.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path)
    responses = [s.response_ids for s in draw(tmp_path)]
    assert any(len(ids) < 8 for ids in responses)
    for ids in responses:
        assert not {257, *ends} & set(ids[:-1])


def test_long_prompts_lose_their_beginning_and_what_has_no_room_is_refused(model: Path) -> None:
    cut = draw(model, settings=Nucleus(1.0, 0.95, 4, max_prompt_length=5))
    assert [len(s.prompt_ids) for s in cut] == [5] * 6
    assert bytes(AutoTokenizer.from_pretrained(model).decode(cut[-1].prompt_ids), "utf-8") == b"about"
    with pytest.raises(UserError, match="28 tokens and 250 new ones exceed its 256 positions"):
        draw(model, settings=Nucleus(max_new_tokens=250))


def test_a_cut_prompt_keeps_its_bos_as_in_training(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "with_bos")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    tokenizer.save_pretrained(folder)
    cut = draw(folder, settings=Nucleus(1.0, 0.95, 4, max_prompt_length=5))
    assert cut[-1].prompt_ids == (256, *tokenizer("bout", add_special_tokens=False)["input_ids"])


def test_an_adapter_samples_and_measures_as_the_merged_model(model: Path, adapter: Path, tmp_path: Path) -> None:
    samples = draw(model, adapter=adapter)
    assert samples != draw(model)
    merged = merge_adapter(adapter, tmp_path / "merged", str(model))
    reference = ReferenceKL(model)
    apart = reference.per_response(model, samples, adapter=adapter)
    assert apart == pytest.approx(reference.per_response(merged, samples), rel=1e-4)
    assert min(apart) > 0.01
    assert reference.per_response(model, samples) == pytest.approx([0.0] * len(samples), abs=1e-5)


def test_kl_of_each_response_is_that_of_full_distributions(model: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    samples = draw(model)
    found = ReferenceKL(other).per_response(model, samples, batch_size=4)
    policy, reference = (AutoModelForCausalLM.from_pretrained(path).double().eval() for path in (model, other))
    for sample, value in zip(samples, found, strict=True):
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]])
        with torch.no_grad():
            p, q = (m(ids).logits[0, len(sample.prompt_ids) - 1 : -1].log_softmax(-1) for m in (policy, reference))
        assert value == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)


def test_another_vocabulary_cannot_be_the_reference(model: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", vocabulary=300)
    with pytest.raises(UserError, match="vocabulary of 272 cannot be compared with the 300"):
        ReferenceKL(other).per_response(model, draw(model))
