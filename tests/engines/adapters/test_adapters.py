"""Adapters in one process: what is frozen, what the reference inside the policy is, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from sparsepo_dist.engines.adapters.files import save_adapter
from sparsepo_dist.engines.adapters.lora import POLICY, add_adapters, as_reference
from sparsepo_dist.engines.config import LoraSettings, ModelConfig, Models, OracleConfig, ReferenceConfig
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.groups import parameter_groups
from sparsepo_dist.engines.merging import merge_adapter
from sparsepo_dist.engines.policy import OwnReference, PolicyModel
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, ReferenceReadings, TokenMasker
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import PLAIN, OpsConfig
from tests.support.tiny import save_tiny_model

IDS = torch.arange(12).view(1, 12)


def base_model(folder: Path, *, quantised: bool = False) -> PreTrainedModel:
    return load_model(
        str(folder), load_config(str(folder)), dtype=torch.float32, layout="padded", zero3=None, quantised=quantised
    )


def adapted(folder: Path, settings: LoraSettings | None = None, **options: Any) -> PreTrainedModel:
    model = base_model(folder, quantised=options.pop("quantised", False))
    options = {"start": None, "reference": None, **options}
    torch.manual_seed(0)
    add_adapters(model, settings or LoraSettings(), torch.float32, base=str(folder), **options)
    return model


def stir(model: PreTrainedModel, seed: int = 5) -> None:
    """Give the trained adapter values that change the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def write_adapter(model: PreTrainedModel, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    state = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    save_adapter(model, POLICY, state, folder)
    return folder


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.fixture(scope="module", params=["llama", "gptj", "gpt_neox", "gpt2"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.mark.parametrize("quantised", [False, True])
def test_the_reference_is_the_model_without_its_adapter(family: Path, quantised: bool) -> None:
    want = logits(base_model(family, quantised=quantised))
    model = adapted(family, quantised=quantised)
    model.train()
    assert torch.equal(logits(model), want)  # a new adapter changes nothing
    stir(model)
    assert not torch.allclose(logits(model), want)
    with as_reference(model, None):
        assert torch.equal(logits(model), want)
        assert not model.training
    assert model.training and not torch.allclose(logits(model), want)


@pytest.mark.parametrize("quantised", [False, True])
def test_every_matrix_but_the_head_is_adapted_and_every_adapter_gets_a_gradient(family: Path, quantised: bool) -> None:
    model = adapted(family, quantised=quantised)
    stir(model)
    with as_reference(model, None):
        logits(model)  # in evaluation mode, which is what spoils 4-bit weights on some CPUs
    model(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name and p.grad is not None and p.grad.abs().sum() > 0 for name, p in trained.items())
    linear = [
        name for name, module in base_model(family).named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and name != "lm_head"
    ]  # fmt: skip
    assert len(trained) == 2 * len(linear)


def test_only_adapters_and_masks_are_optimised(llama: Path) -> None:
    model = adapted(llama)
    readings = ReferenceReadings(model.base_model, model.get_output_embeddings(), PLAIN, ("learned",), MaskConfig())
    masker = TokenMasker(("learned",), MaskConfig(), readings, seed=0)
    module = PolicyModel(model, Requirements(True, None, "learned"), masker, OwnReference(None, readings), OpsConfig())
    groups = parameter_groups(
        module, learning_rate=1.0, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8, masks=MaskConfig()
    )
    optimised = {id(p) for group in groups for p in group["params"]}
    trained = {name for name, p in module.named_parameters() if id(p) in optimised}
    assert trained == {name for name, _ in module.named_parameters() if ".lora_" in name or name.startswith("masker.")}
    assert "masker.heads.reward.weight" in trained


def test_a_saved_adapter_is_pefts_and_merges_into_a_full_model(family: Path, tmp_path: Path) -> None:
    model = adapted(family, LoraSettings(rank=4, alpha=6.0))
    stir(model)
    want = logits(model)
    folder = write_adapter(model, tmp_path / "adapter")
    assert {key.rsplit(".", 2)[1] for key in load_file(folder / "adapter_model.safetensors")} == {"lora_A", "lora_B"}
    plain = AutoModelForCausalLM.from_pretrained(family)
    by_peft = peft.PeftModel.from_pretrained(plain, folder).eval()
    assert (by_peft.peft_config["default"].r, by_peft.peft_config["default"].lora_alpha) == (4, 6.0)
    torch.testing.assert_close(logits(by_peft), want)
    (tmp_path / "adapter" / "tokenizer.json").write_bytes((family / "tokenizer.json").read_bytes())
    (tmp_path / "adapter" / "tokenizer_config.json").write_bytes((family / "tokenizer_config.json").read_bytes())
    merged = AutoModelForCausalLM.from_pretrained(merge_adapter(folder, tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="is not empty"):
        merge_adapter(folder, tmp_path / "merged")


def test_a_policy_that_starts_from_an_adapter_has_it_as_its_reference(llama: Path, tmp_path: Path) -> None:
    first = adapted(llama, LoraSettings(rank=4, targets=["q_proj", "v_proj"]))
    stir(first)
    start = write_adapter(first, tmp_path / "sft")
    model = base_model(llama)
    settings = LoraSettings(dropout=0.5)
    name = add_adapters(
        model, settings, torch.float32, base=str(llama), start=str(start), reference=str(start)
    )  # fmt: skip
    model.eval()
    torch.testing.assert_close(logits(model), logits(first.eval()))
    stir(model, seed=6)
    model.train()
    for _ in range(2):
        with as_reference(model, name):
            torch.testing.assert_close(logits(model), logits(first))  # no dropout either
    assert not torch.allclose(logits(model.eval()), logits(first))
    trained = [key for key, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".policy." in key for key in trained)
    saved = load_file(write_adapter(model, tmp_path / "out") / "adapter_model.safetensors")
    assert saved.keys() == load_file(start / "adapter_model.safetensors").keys()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"init_lora_weights": "gaussian"}], ids=str)
def test_an_adapter_that_peft_wrote_is_loaded_as_peft_loads_it(llama: Path, tmp_path: Path, options: dict) -> None:
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], **options)
    given = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(llama), config)
    stir(given)
    given.save_pretrained(tmp_path / "given")
    assert not (tmp_path / "given" / "tokenizer_config.json").exists()
    model = adapted(llama, start=str(tmp_path / "given"), reference=str(tmp_path / "given"))
    torch.testing.assert_close(logits(model.eval()), logits(given.eval()))
    with as_reference(model, "reference"):
        torch.testing.assert_close(logits(model), logits(given))
    with as_reference(model, None):
        torch.testing.assert_close(logits(model), logits(base_model(llama)))
    saved = json.loads((write_adapter(model, tmp_path / "out") / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(llama) and saved["r"] == 4
    merged = AutoModelForCausalLM.from_pretrained(merge_adapter(tmp_path / "given", tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), logits(given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"trainable_token_indices": [3, 5]}, {"bias": "all"}, {"layer_replication": [(0, 2), (1, 3)]}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_adapters_that_change_the_model_itself_are_refused(llama: Path, tmp_path: Path, options: dict) -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], **options)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(llama), config).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=rf"model.adapter_path {tmp_path}: {next(iter(options))} is .* use a plain LoRA"
    ):
        adapted(llama, start=str(tmp_path))


MODELS: dict[str, tuple[Models, str]] = {
    "start without saying the reference": (
        Models(model=ModelConfig(adapter="lora", adapter_path="sft")), "--reference.adapter_path sft",
    ),
    "adapter_path without adapter": (Models(model=ModelConfig(adapter_path="sft")), "model.adapter is none"),
    "settings without adapter": (Models(lora=LoraSettings(rank=4)), "lora: settings are given"),
    "placement without adapter": (Models(reference=ReferenceConfig(placement="adapter")), "reference.placement"),
    "placement adapter and another model": (
        Models(ModelConfig(adapter="lora"), reference=ReferenceConfig("other", placement="adapter")), "leave out one",
    ),
    "reference adapter alone": (
        Models(ModelConfig(adapter="lora"), reference=ReferenceConfig(adapter_path="sft")), "model.adapter_path sft",
    ),
    "unquantised reference": (
        Models(ModelConfig(adapter="qlora"), reference=ReferenceConfig(placement="sharded")), "unquantised",
    ),
    "rank": (Models(ModelConfig(adapter="lora"), LoraSettings(rank=0)), "lora.rank: 0"),
    "dropout": (Models(ModelConfig(adapter="lora"), LoraSettings(dropout=1.0)), "lora.dropout: 1.0"),
    "targets": (Models(ModelConfig(adapter="lora"), LoraSettings(targets=[])), "lora.targets"),
    "targets of its own": (
        Models(ModelConfig(adapter="lora", adapter_path="sft"), LoraSettings(targets=["q_proj"])), "targets out",
    ),
    "oracle": (Models(oracle=OracleConfig("other")), "oracle.path: objective dpo has no such oracle"),
    "oracle against": (
        Models(oracle_against=OracleConfig("other")), "oracle_against.path: .* say --masks.kind contrast$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_contradictions_are_named(case: str) -> None:
    models, message = MODELS[case]
    with pytest.raises(UserError, match=message):
        models.check(objective="dpo", needs_reference=True, oracles=())


def test_where_the_reference_lives_by_itself() -> None:
    assert (Models().placement(1), Models().placement(2)) == ("replicated", "sharded")
    assert Models(ModelConfig(adapter="qlora")).placement(2) == "adapter"
    assert Models(ModelConfig(adapter="lora"), reference=ReferenceConfig("other")).placement(2) == "sharded"
    Models(ModelConfig(adapter="lora", adapter_path="sft"), reference=ReferenceConfig(adapter_path="sft")).check(
        objective="dpo", needs_reference=True, oracles=()
    )
    Models(ModelConfig(adapter="lora", adapter_path="sft")).check(objective="sft", needs_reference=False, oracles=())


def test_sepo_needs_an_oracle_and_sft_takes_no_reference() -> None:
    with pytest.raises(UserError, match="oracle.path: .* is for the preference; name its folder, or train one .* dpo"):
        Models().check(objective="sepo", needs_reference=True, oracles=("oracle",))
    with pytest.raises(UserError, match="oracle_against.path: .* is against the preference; .* --data.swap true"):
        Models(oracle=OracleConfig("other")).check(
            objective="tis_dpo", needs_reference=True, oracles=("oracle", "oracle_against")
        )
    with pytest.raises(UserError, match="objective sft has no reference"):
        Models(reference=ReferenceConfig("other")).check(objective="sft", needs_reference=False, oracles=())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "lm_head"], "the LM head"),
        (["embed_tokens"], "the embeddings"),
        (["nothing_like_it"], "nothing_like"),
    ],
)
def test_targets_that_cannot_be(llama: Path, targets: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"lora.targets: .*{message}"):
        adapted(llama, LoraSettings(targets=targets))


def test_adapters_that_do_not_fit(llama: Path, tmp_path: Path) -> None:
    good = write_adapter(adapted(llama, LoraSettings(rank=4)), tmp_path / "good")
    with pytest.raises(UserError, match=r"lora.rank is 8, but the adapter .* has 4"):
        adapted(llama, LoraSettings(rank=8), start=str(good))
    other = save_tiny_model(tmp_path / "gptj", "gptj")
    with pytest.raises(UserError, match="^model.adapter_path"):
        adapted(other, start=str(good))
    with pytest.raises(UserError, match="does not belong on|cannot be merged into"):
        merge_adapter(good, tmp_path / "wrong", str(other))
    assert not (tmp_path / "wrong").exists()
    weights = {key: value.clone() for key, value in load_file(good / "adapter_model.safetensors").items()}
    (good / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="adapter_model.safetensors cannot be read"):
        adapted(llama, start=str(good))
    save_file(dict(list(weights.items())[1:]), good / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit the model: .* is missing"):
        adapted(llama, start=str(good))
    (good / "adapter_model.safetensors").rename(good / "adapter_model.bin")
    with pytest.raises(UserError, match="pickled weights are not read"):
        adapted(llama, start=str(good))
    settings = json.loads((good / "adapter_config.json").read_text())
    (good / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "IA3"}))
    (good / "adapter_model.bin").rename(good / "adapter_model.safetensors")
    with pytest.raises(UserError, match="it is a IA3 adapter; only LoRA"):
        adapted(llama, start=str(good))
    for name, wrong in (("r", None), ("r", "4"), ("r", True), ("lora_alpha", "x"), ("target_modules", 3)):
        (good / "adapter_config.json").write_text(json.dumps({**settings, name: wrong}))
        with pytest.raises(UserError, match=f"adapter_config.json (has {name} .* cannot be|cannot be read)"):
            adapted(llama, start=str(good))
    for damaged in ("{", "[]", '{"r": ' + "[" * 100_000):
        (good / "adapter_config.json").write_text(damaged)
        with pytest.raises(UserError, match="adapter_config.json cannot be read"):
            adapted(llama, start=str(good))
    (good / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        adapted(llama, start=str(good))
    with pytest.raises(UserError, match="no adapter_config.json is there"):
        adapted(llama, start=str(tmp_path))
