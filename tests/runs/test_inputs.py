"""What every rank refuses by itself, before it joins the others: parts of a recipe that do not go together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsepo_dist.engines.adapters.files import save_adapter
from sparsepo_dist.engines.adapters.lora import add_adapters
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.inputs import Inputs, load_inputs
from sparsepo_dist.runs.parsing import parse_train
from tests.support import chats
from tests.support.runs import ZERO
from tests.support.tiny import CONFIGS, save_tiny_model, tiny_tokenizer, write_pairs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_model(folder / "model")
    write_pairs(folder / "pairs.jsonl", 4)
    (folder / "ds.json").write_text(json.dumps(ZERO[2]))
    (folder / "sft").mkdir()
    (folder / "sft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "sft" / "adapter_model.safetensors").write_bytes(b"")
    return folder


def load(base: Path, **fields: Any) -> Inputs:
    given = {
        "model.path": base / "model", "data.train": base / "pairs.jsonl", "ds_config": base / "ds.json",
        "data.max_length": 100, **fields,
    }  # fmt: skip
    return load_inputs(parse_train([f"--{name}={value}" for name, value in given.items()]))


def test_good_inputs_are_loaded(base: Path) -> None:
    inputs = load(base)
    assert len(inputs.train) == 4 and inputs.mask_sources == ("learned",)
    assert load(base, **{"masks.kind": "random"}).mask_sources == ("random",)
    assert load(base, **{"objective.name": "dpo"}).mask_sources == ()


def test_the_built_in_model_on_other_pairs_makes_no_pairs(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsepo_dist.builtin.smollm2.smollm2_folder", lambda: base / "model")
    monkeypatch.setattr("sparsepo_dist.builtin.pairs.sentiment_files", lambda: pytest.fail("pairs were sampled"))
    inputs = load(base, **{"model.path": "builtin:smollm2-135m-instruct"})
    assert inputs.config.model.path == str(base / "model") and len(inputs.train) == 4 and not inputs.heldout


@pytest.mark.parametrize("layout", ["prefix_shared", "packed", "padded"])
@pytest.mark.parametrize("family", CONFIGS)
def test_mask_sites_by_name_are_tried_on_every_family(base: Path, tmp_path: Path, family: str, layout: str) -> None:
    fields = {
        "model.path": save_tiny_model(tmp_path / "model", family),
        "data.layout": layout,
        "objective.name": "mapo",
    }
    pattern = json.dumps({"mlp": r"(h|layers)\.\d+\.mlp"})
    assert load(base, **fields, **{"masks.site_patterns": pattern}).mask_sources == ("activation",)
    with pytest.raises(UserError, match=r"(h|layers) takes no part in the model's forward pass"):
        load(base, **fields, **{"masks.site_patterns": json.dumps({"mlp": "h|layers"})})


def test_a_model_that_looks_at_its_data_is_not_tried(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sparsepo_dist.runs.checks.hidden_at", lambda *_: torch.empty(1).item())
    fields = {"objective.name": "mapo", "masks.site_patterns": json.dumps({"mlp": "layers"})}
    assert load(base, **fields).mask_sources == ("activation",)
    assert "masks.site_patterns are first tried in the first step" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.adapter": "lora", "model.adapter_path": "{base}/sft"}, "--reference.adapter_path {base}/sft"),
        ({"model.path": "{base}/sft"}, "--model.adapter_path {base}/sft"),
        ({"reference.path": "{base}/sft"}, "--reference.adapter_path {base}/sft"),
        ({"model.adapter": "qlora", "reference.placement": "replicated"}, "unquantised"),
        ({"lora.rank": 8}, "model.adapter is none"),
        ({"objective.name": "sepo"}, "for the preference; name its folder"),
        (
            {"objective.name": "tis_dpo", "oracle.path": "{base}/model"},
            "--objective.name dpo --masks.kind auto --data.swap",
        ),
        (
            {"objective.name": "tgdpo", "oracle.path": "{base}/model", "oracle_against.path": "{base}/model"},
            "oracle_against.path: objective tgdpo has no such oracle; leave it out",
        ),
        ({"objective.name": "odpo", "data.swap": True}, "data.swap: odpo needs chosen_score above rejected_score"),
        ({"objective.name": "simpo", "reference.path": "{base}/model"}, "objective simpo has no reference"),
        ({"objective.name": "tdpo1", "masks.kind": "oracle"}, "for the preference; name its folder"),
        ({"objective.name": "dpo", "masks.kind": "learned", "masks.on": "divergence"}, "leaves nothing to weigh"),
    ],
)
def test_contradictions_name_the_remedy(base: Path, fields: dict[str, Any], message: str) -> None:
    filled = {name: value.format(base=base) if isinstance(value, str) else value for name, value in fields.items()}
    with pytest.raises(UserError) as refused:
        load(base, **filled)
    assert message.format(base=base) in str(refused.value)


def test_frozen_models_must_read_the_same_tokens(base: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", positions=64)
    both = {"objective.name": "tis_dpo", "oracle.path": base / "model"}
    for role, needed in (("reference", {}), ("oracle", {"objective.name": "sepo"}), ("oracle_against", both)):
        with pytest.raises(UserError, match=rf"position range of 64 \({role}.path\)"):
            load(base, **{f"{role}.path": other, **needed})
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["!"], vocabulary["?"] = vocabulary["?"], vocabulary["!"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="reference.path .* has another tokenizer than the policy"):
        load(base, **{"reference.path": other, "data.max_length": 60})
    with pytest.raises(UserError, match="oracle_against.path .* has another tokenizer than the policy"):
        load(base, **{**both, "oracle_against.path": other, "data.max_length": 60})
    with pytest.raises(UserError, match="^oracle.path .*: the folder holds no model"):
        load(base, **{"oracle.path": tmp_path, "objective.name": "sepo"})


def test_what_an_oracle_is_told_is_token_ids_and_takes_room(base: Path, tmp_path: Path) -> None:
    told = {"oracle.prompt": "Be kind. ", "oracle_against.prompt": "Be <s>"}
    oracles = dict.fromkeys(("oracle.path", "oracle_against.path"), base / "model")
    prefixes = load(base, **{"objective.name": "tis_dpo", **oracles, **told}).prefixes
    assert prefixes["oracle"].ids == tuple(tiny_tokenizer()("Be kind. ").input_ids)
    assert prefixes["oracle_against"].ids[-1] == prefixes["oracle"].bos == 256
    small = save_tiny_model(tmp_path / "small", positions=104)
    fields = {"objective.name": "sepo", "oracle.path": small, "data.max_length": 100}
    assert load(base, **fields).prefixes["oracle"].ids == ()
    with pytest.raises(UserError, match=r"109 exceeds the model's position range of 104 \(oracle.path\)"):
        load(base, **fields, **{"oracle.prompt": "Be kind. "})


def test_swapped_pairs_are_told(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    fields = {"objective.name": "dpo", "data.heldout_pairs": 1}
    plain, swapped = load(base, **fields), load(base, **fields, **{"data.swap": True})
    assert "data.swap: chosen and rejected responses have changed places" in caplog.text
    for part in ("train", "heldout"):
        assert getattr(swapped, part).fingerprint() != getattr(plain, part).fingerprint()


def test_an_adapter_of_another_base_is_named_once(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = AutoModelForCausalLM.from_pretrained(base / "model")
    add_adapters(model, LoraSettings(rank=4), torch.float32, base="elsewhere/base", start=None, reference=None)
    tmp_path.joinpath("sft").mkdir()
    save_adapter(model, "policy", dict(model.named_parameters()), tmp_path / "sft")
    starts = {f"{part}.adapter_path": tmp_path / "sft" for part in ("model", "reference")}
    load(base, **{"objective.name": "dpo", "model.adapter": "lora", **starts})
    [told] = [record.getMessage() for record in caplog.records if "was made for" in record.getMessage()]
    assert told.startswith(
        f"model.adapter_path {tmp_path / 'sft'}: it was made for the model elsewhere/base, and is put"
    )


def test_a_chat_template_may_begin_with_a_byte_order_mark(base: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_bytes(b"\xef\xbb\xbf{{ messages[0].content }}")
    loaded = load(base, **{"data.chat_template": tmp_path / "chat.jinja"})
    assert loaded.tokenizer.chat_template == "{{ messages[0].content }}"


def test_what_templates_are_told_and_bos_may_be_given_on_a_command_line_or_in_a_recipe(tmp_path: Path) -> None:
    told = "{enable_thinking: false, effort: low, turns: 3}"
    (tmp_path / "recipe.yaml").write_text(f"data: {{chat_template_kwargs: {told}, add_bos: true}}\n")
    given = ["--data.chat_template_kwargs", told, "--data.add_bos", "true"], ["--recipe", str(tmp_path / "recipe.yaml")]
    for arguments in given:
        data = parse_train(arguments).data
        assert data.chat_template_kwargs == {"enable_thinking": False, "effort": "low", "turns": 3}
        assert data.add_bos is True
    assert parse_train([]).data.add_bos == "auto" and parse_train(["--data.add_bos=false"]).data.add_bos is False


@pytest.mark.parametrize(("eos", "warned"), [(None, True), ([257, 99], True), ([257, 258], False)])
def test_an_end_of_turns_at_which_nothing_stops_is_said(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, eos: list[int] | None, warned: bool
) -> None:
    model = shutil.copytree(base / "model", tmp_path / "model")
    chats.chat_tokenizer(chats.PLAIN).save_pretrained(model)
    (model / "generation_config.json").unlink(missing_ok=True)
    if eos is not None:
        (model / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    fields = {"prompt": [chats.user("Hi")], "chosen": [chats.assistant("Yes.")], "rejected": [chats.assistant("No.")]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(fields) + "\n")
    load(base, **{"model.path": model, "data.train": tmp_path / "rows.jsonl"})
    said = [record.getMessage() for record in caplog.records if "responses end with <|end|>" in record.getMessage()]
    assert len(said) == warned and all("write 258 into eos_token_id" in line for line in said)


def test_penalties_on_masks_that_do_not_learn_are_ignored_aloud(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {"objective.l1_reward": 0.1, "objective.l1_divergence": 0.2}
    assert load(base, **given, **{"masks.kind": "random"}).objective.l1_reward == 0
    only = load(base, **given, **{"masks.on": "reward"}).objective
    assert (only.l1_reward, only.l1_divergence) == (0.1, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "ignored: objective.l1_reward: that mask is not learned",
        "ignored: objective.l1_divergence: that mask is not learned",
        "ignored: objective.l1_divergence: that mask is not learned",
    ]


def test_what_a_shared_recipe_says_for_other_objectives_is_ignored_aloud(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"objective.name": "dpo", "objective.l1_reward": 0.1, "masks.layer_norm": True}
    load(base, **given)
    assert [record.getMessage() for record in caplog.records] == [
        "ignored: objective.l1_reward: 0.1 is for sparsepo; dpo does not use it",
        "ignored: masks.layer_norm: True is for learned masks, but this run's objective has no masks",
    ]


def test_placements_of_models_that_are_not_there_are_ignored_aloud(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(base, **{"objective.name": "sft", "reference.placement": "offload", "oracle.placement": "replicated"})
    assert [record.getMessage() for record in caplog.records] == [
        "ignored: reference.placement: objective sft has no reference model",
        "ignored: oracle.placement: objective sft has no such oracle",
    ]


def test_a_command_line_without_adapter_overrules_the_recipes_adapter(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tmp_path / "lora.yaml"
    recipe.write_text("model: {adapter: qlora}\nlora: {rank: 8}\n")
    load(base, recipe=recipe, **{"model.adapter": "none"})
    assert [record.getMessage() for record in caplog.records] == [
        "ignored: lora: the recipe's settings are for an adapter, and model.adapter is none"
    ]
    with pytest.raises(UserError, match="model.adapter is none"):
        load(base, recipe=recipe, **{"model.adapter": "none", "lora.rank": 4})


def test_odpo_needs_scores_in_order(base: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (base / "pairs.jsonl").read_text().splitlines()]
    assert load(base, **{"objective.name": "odpo"}).train[0].scores == (1.5, 0.5)
    for change, message in (
        ({"chosen_score": None}, "field 'chosen_score' is missing"),
        ({"chosen_score": 0.5}, "chosen_score 0.5 is not above rejected_score 0.5"),
    ):
        bad = tmp_path / "bad.jsonl"
        bad.write_text("".join(json.dumps(row) + "\n" for row in (rows[0], {**rows[1], **change})))
        with pytest.raises(UserError, match=rf"bad.jsonl.*2.*{message}"):
            load(base, **{"objective.name": "odpo", "data.train": bad})
        load(base, **{"data.train": bad})  # others do not mind


def test_models_that_cannot_be_trained_as_they_are_stored(base: Path, tmp_path: Path) -> None:
    stored = save_tiny_model(tmp_path / "stored")
    config = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    for role, needed in (("model", {}), ("oracle", {"objective.name": "sepo"})):
        with pytest.raises(
            UserError, match=rf"{role}.path .* is stored as \[272, 32\], but config.json asks for \[200, "
        ):
            load(base, **{f"{role}.path": stored, **needed})
    few = save_tiny_model(tmp_path / "few", vocabulary=250)
    with pytest.raises(UserError, match="model.path .* vocabulary of 250, but the tokenizer gives ids up to 257"):
        load(base, **{"model.path": few})
    quantised = {**config, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (stored / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(UserError, match="^model.path .*: the model is stored quantised"):
        load(base, **{"model.path": stored})


def test_an_incomplete_model_is_not_filled_up_at_random(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(UserError, match="is incomplete: 9 tensors are missing, among them model.layers.3."):
        load_model(
            str(folder), load_config(str(folder)), dtype=torch.float32, layout="packed", zero3=None
        )  # fmt: skip


def test_code_in_a_model_folder_is_run_only_when_that_is_asked_for(tmp_path: Path) -> None:
    settings = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import PretrainedConfig\n"
        f"Path({str(ran)!r}).touch()\n\n\nclass OwnConfig(PretrainedConfig):\n    model_type = 'own'\n"
    )
    with pytest.raises(UserError, match="trust_remote_code"):
        load_config(str(tmp_path))
    assert not ran.exists()
    assert load_config(str(tmp_path), trust_remote_code=True).model_type == "own"
    assert ran.exists()


def test_an_option_may_be_given_again_and_a_source_may_not(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_train(["--training.epochs=1", "--training.epochs", "2"]).training.epochs == 2
    assert "training.epochs is given 2 times: the last one counts" in caplog.text
    with pytest.raises(UserError, match=r"data.train is given 2 times; .* one list: --data.train '\[A, B\]'"):
        parse_train(["--data.train", "a.jsonl", "--data.train=b.jsonl"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data.columns", "{prompt: question, chosen: info.good}"],
        ["--data.columns.prompt", "question", "--data.columns.chosen=info.good"],
        ["--recipe", "recipe.yaml"],
    ],
)
def test_columns_are_named_by_a_mapping_or_one_by_one(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("data:\n  columns: {prompt: question, chosen: info.good}\n")
    assert parse_train(arguments).data.columns == {"prompt": "question", "chosen": "info.good"}
