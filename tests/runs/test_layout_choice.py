"""A run's layout: what `auto` becomes, what is said of it, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers as hf

from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.asked.request import Request, resolve
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.inputs import load_inputs
from sparsepo_dist.runs.parsing import parse_train
from tests.support.hybrids import CONFIGS, hybrid
from tests.support.runs import ZERO
from tests.support.tiny import VOCABULARY, save_tiny_model, tiny_tokenizer, write_pairs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    save_tiny_model(folder / "llama")
    windowed = hf.GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4, window_size=8, max_position_embeddings=256,
        attention_types=[[["global", "local"], 1]],
    )  # fmt: skip
    for name, config in {"gpt_neo": windowed, "lfm2": CONFIGS["lfm2"]()}.items():
        hybrid(config, "eager").save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    write_pairs(folder / "pairs.jsonl", 6)
    (folder / "ds.json").write_text(json.dumps(ZERO[2]))
    return folder


def config_of(base: Path, **fields: Any) -> RunConfig:
    given = {"data.train": base / "pairs.jsonl", "ds_config": base / "ds.json", "data.max_length": 100,
             "objective.name": "dpo", **fields}  # fmt: skip
    return parse_train([f"--{name}={value}" for name, value in given.items()])


@pytest.mark.parametrize("model", ["llama", "lfm2"])
def test_prompts_are_shared_where_that_is_right(base: Path, caplog: pytest.LogCaptureFixture, model: str) -> None:
    inputs = load_inputs(config_of(base, **{"model.path": base / model}))
    assert inputs.config.data.layout == "prefix_shared"
    assert "data.layout" not in caplog.text


def test_another_layout_says_why_and_what_it_costs(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    for role in ("model", "reference"):
        caplog.clear()
        inputs = load_inputs(config_of(base, **{"model.path": base / "llama", f"{role}.path": base / "gpt_neo"}))
        assert inputs.config.data.layout == "padded"
        said = re.search(r"data.layout is padded, ([\d.]+) times the tokens of prefix_shared: (.*)", caplog.text)
        prompts = sum(len(pair.prompt_ids) for pair in inputs.train)
        responses = sum(len(ids) - 1 for pair in inputs.train for ids in (pair.chosen_ids, pair.rejected_ids))
        assert said[1] == f"{(2 * prompts + responses) / (prompts + responses):.1f}"
        assert said[2] == f"of a gpt_neo model ({role}.path), local layers count their window in places of the row"


def test_a_plan_has_the_layout_of_the_run(base: Path) -> None:
    for model, layout in {"lfm2": "prefix_shared", "gpt_neo": "padded"}.items():
        config = config_of(base, **{"model.path": base / model})
        setting = resolve(Request(config, load_ds_config(config.ds_config), gpus=2))
        assert setting.config.data.layout == layout


def test_a_layout_by_name_that_is_wrong_is_refused(base: Path) -> None:
    config = config_of(base, **{"model.path": base / "gpt_neo", "data.layout": "packed"})
    with pytest.raises(UserError, match=r"data.layout packed: of a gpt_neo model \(model.path\), .* Right is padded"):
        load_inputs(config)
    with pytest.raises(UserError, match="Right is padded"):
        resolve(Request(config, load_ds_config(config.ds_config), gpus=2))


def test_weights_that_change_in_evaluation_are_refused(base: Path, tmp_path: Path) -> None:
    config = CONFIGS["rwkv"]()
    config.rescale_every = 6
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="divides its weights .* every 6 layers; set rescale_every to 0"):
        load_inputs(config_of(base, **{"model.path": tmp_path}))
