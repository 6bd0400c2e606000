"""`--backend vllm` against a vLLM after its documentation: samples as transformers', adapters, what is stored."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.code import command as code
from sparsepo_dist.evaluation.divergence import ReferenceKL
from sparsepo_dist.evaluation.frontier import run as frontier_run
from sparsepo_dist.evaluation.frontier.command import frontier
from sparsepo_dist.evaluation.summary.command import summary
from sparsepo_dist.evaluation.target import target
from sparsepo_dist.evaluation.vllm_lm_eval import lm_eval_model
from sparsepo_dist.sampling.responses import Nucleus, Sample
from sparsepo_dist.sampling.sampler import Sampler
from sparsepo_dist.sampling.transformers import TransformersSampler
from sparsepo_dist.sampling.vllm import VllmSampler, max_lora_rank
from tests.support.tiny import save_tiny_model

PROMPTS = ["One film", "A much longer sentence about", "One film"]
LIKELIEST = Nucleus(temperature=0.01, top_p=0.01, max_new_tokens=24)
DRAWN = Nucleus(temperature=1.0, max_new_tokens=8)


@pytest.fixture(scope="module", autouse=True)
def same_arithmetic() -> Iterator[None]:
    """vLLM's stand-in computes in float32, and so must what it is compared with, whatever this machine multiplies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsepo_dist.sampling.transformers.has_bf16", lambda _: False)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("tiny") / "model", seed=3)
    settings = json.loads((folder / "generation_config.json").read_text())
    # Another end than the tokenizer's, among what this model likes to say.
    sampler = TransformersSampler(folder)
    likes = sampler.sample(PROMPTS[:1], 1, seed=0, settings=LIKELIEST, description="")[0].response_ids
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [257, likes[5]]}))
    return folder


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    torch.manual_seed(1)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, target_modules=["q_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    tuned.save_pretrained(model.parent / "adapter")
    return model.parent / "adapter"


def draw(sampler: Sampler, settings: Nucleus, *, seed: int = 0, count: int = 2) -> list[Sample]:
    return sampler.sample(PROMPTS, count, seed=seed, settings=settings, description="")


def test_the_likeliest_responses_are_those_of_transformers(fake_vllm: ModuleType, model: Path, adapter: Path) -> None:
    plain = draw(VllmSampler(model), LIKELIEST)
    assert plain == draw(TransformersSampler(model), LIKELIEST)
    lengths = {len(sample.response_ids) for sample in plain}
    assert min(lengths) == 6 and plain[0].response_ids[-1] != 257, "it ends as the model's settings say"
    adapted = draw(VllmSampler(model, adapter), LIKELIEST)
    assert adapted == draw(TransformersSampler(model, adapter), LIKELIEST) != plain
    assert [built["enable_lora"] for built in fake_vllm.BUILT[-2:]] == [False, True]
    assert fake_vllm.BUILT[-1]["max_lora_rank"] == 8 and fake_vllm.BUILT[-1]["dtype"] in ("float32", "bfloat16")


def test_samples_are_the_seeds_and_no_two_prompts_share_their_chance(fake_vllm: ModuleType, model: Path) -> None:
    sampler, tokenizer = VllmSampler(model), AutoTokenizer.from_pretrained(model)
    first = draw(sampler, DRAWN, count=4)
    assert first == draw(sampler, DRAWN, count=4) != draw(sampler, DRAWN, seed=1, count=4)
    assert [sample.prompt for sample in first] == [prompt for prompt in PROMPTS for _ in range(4)]
    said = [sample.response_ids for sample in first]
    assert len(set(said[:4])) > 1 and said[:4] != said[8:], "the first and the last prompt are one text"
    for sample in first:
        assert list(sample.prompt_ids) == tokenizer(sample.prompt)["input_ids"]
        assert sample.response == tokenizer.decode(sample.response_ids, skip_special_tokens=True)
    cut = draw(sampler, Nucleus(max_new_tokens=2, max_prompt_length=3))
    assert all(sample.prompt_ids == s.prompt_ids[-3:] for sample, s in zip(cut, first[::2], strict=True))
    with pytest.raises(UserError, match="exceed its 256 positions; lower --max_prompt_length or --max_new_tokens"):
        draw(sampler, Nucleus(max_new_tokens=250))


def test_what_vllm_may_do_wrong_is_said(
    fake_vllm: ModuleType, model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = SimpleNamespace(token_ids=[5, 6], finish_reason="stop")
    monkeypatch.setattr(fake_vllm.LLM, "generate", lambda *_, **__: [SimpleNamespace(outputs=[ended])] * len(PROMPTS))
    with pytest.raises(RunError, match="leaves out the token that ends a response"):
        draw(VllmSampler(model), DRAWN, count=1)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Engine core initialization failed.")

    monkeypatch.setattr(fake_vllm.LLM, "__init__", fails)
    with pytest.raises(RunError, match=f"vLLM cannot load {model}: Engine core"):
        VllmSampler(model)
    with pytest.raises(UserError, match="--backend vllm: .*adapter_config.json does not say the adapter's rank: File"):
        max_lora_rank(str(tmp_path))
    for text in ("[]", "{", '{"r": true}', '{"r": 8, "rank_pattern": [1]}', '{"r": ' + "[" * 100_000):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match="does not say the adapter's rank"):
            max_lora_rank(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "rank_pattern": {"q_proj": 24}}')
    assert max_lora_rank(str(tmp_path)) == 32
    (tmp_path / "adapter_config.json").write_text('{"r": 1024, "rank_pattern": {}}')
    with pytest.raises(UserError, match="has rank 1024, and vLLM takes 512 at most"):
        max_lora_rank(str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_nothing_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", None)
    common = ["--model", "nobody/none", "--output", str(tmp_path), "--backend", "vllm"]
    for run in (
        lambda: summary([*common, "--prompts", "nowhere.jsonl"]),
        lambda: frontier(common),
        lambda: code.main(["generate", *common], print),
    ):
        with pytest.raises(UserError, match="--backend vllm: vLLM is not installed; run `pip install vllm`"):
            run()


def test_summaries_are_stored_with_their_backend(fake_vllm: ModuleType, model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"POST {number} TL;DR:", "summary": f"a story, number {number}"} for number in range(3)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "--model", str(model), "--prompts", str(tmp_path / "prompts.jsonl"), "--prompt_count", "3", "--samples", "2",
        "--max_new_tokens", "6", "--temperatures", "1", "--output",
    ]  # fmt: skip
    summary([*command, str(tmp_path / "vllm"), "--backend", "vllm", "--batch_size", "2"])
    summary([*command, str(tmp_path / "vllm"), "--backend", "vllm", "--batch_size", "3"])
    summary([*command, str(tmp_path / "own")])
    stored = {
        name: json.loads((tmp_path / name / "summary.json").read_text())["settings"] for name in ("vllm", "own")
    }  # fmt: skip
    assert stored["vllm"].pop("backend") == "vllm" and stored["own"].pop("batch_size") == 16
    assert stored["vllm"] == stored["own"], "files that were written before there was a backend are the default's"
    assert len(fake_vllm.BUILT) == 1
    for name, other in (("vllm", []), ("own", ["--backend", "vllm"])):
        with pytest.raises(UserError, match="was measured with another backend, batch_size; name another --output"):
            summary([*command, str(tmp_path / name), *other])


def test_kl_is_measured_by_transformers_once_all_is_sampled(
    fake_vllm: ModuleType, model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class After(ReferenceKL):
        def __init__(self, *arguments: Any) -> None:
            assert len(fake_vllm.BUILT) == 3, "vLLM takes nearly all of a GPU"
            super().__init__(*arguments)

    monkeypatch.setattr(frontier_run, "ReferenceKL", After)
    other = save_tiny_model(tmp_path / "other", seed=4)
    table = frontier([
        "--model", f"lora={adapter}", "--base", str(model), "--model", f"full={other}", "--reference", str(model),
        "--output", str(tmp_path / "out"), "--prompt_count", "3", "--samples", "2", "--max_new_tokens", "6",
        "--backend", "vllm",
    ])  # fmt: skip
    record = json.loads(table.with_suffix(".json").read_text())
    assert record["settings"]["backend"] == "vllm" and "batch_size" not in record["settings"]
    assert all(row["kl"] > 0.01 for row in record["rows"])


@pytest.mark.slow
def test_lm_evals_model_over_vllm_takes_adapters(fake_vllm: ModuleType, adapter: Path) -> None:
    one = target(str(adapter))
    lm = lm_eval_model(one, dtype="float32", batch_size="auto", seed=0)
    assert (lm.lora_request.lora_path, lm.batch_size) == (str(adapter), "auto")
    assert [
        {"model": one.model, "dtype": "float32", "enable_lora": True, "max_lora_rank": 8}
    ] == fake_vllm.BUILT  # fmt: skip
