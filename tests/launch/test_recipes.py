"""The paper's recipes: every value against a table that was written from the paper and its released implementation."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import GPT2Config, GPTBigCodeConfig, GPTJConfig, GPTNeoXConfig, PretrainedConfig

from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
from sparsepo_dist.files import leaves
from sparsepo_dist.masks import unused_options
from sparsepo_dist.objectives import compose, unused_fields
from sparsepo_dist.plan.asked import request
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.recipes.files import read_recipe
from tests.support.documents import DEFAULT_RECIPE, ROOT

RECIPES = ROOT / "launch" / "recipes"
Values = dict[str, Any]

# Of a domain: start, pairs, beta, epochs, pairs a step, learning rate, schedule, longest sequence; what else it has.
COLUMNS = (
    "model.path", "data.train", "objective.beta", "training.epochs", "training.pairs_per_step",
    "training.learning_rate", "training.schedule", "data.max_length",
)  # fmt: skip
HELDOUT = {
    "sentiment": "data/sentiment:heldout", "dialogue": "Anthropic/hh-rlhf:test", "summaries": "data/summaries:heldout",
    "code": "data/code:heldout", "ablations": "argilla/dpo-mix-7k:test",
}  # fmt: skip
LONGEST_PROMPT = {"data.max_prompt_length": 1024}
OURS = {
    "data.on_bad_row", "data.tokens_per_micro_batch", "ds_config", "model.activation_checkpointing",
    "training.evaluate_every",
}  # fmt: skip
"""What the paper says nothing of, because it is not of the experiment but of how it is run."""
DOMAINS: dict[str, tuple[tuple[Any, ...], Values]] = {
    "sentiment": (("insub/gpt2-large-imdb-fine-tuned", "data/sentiment", 0.8, 3, 64, 1e-6, "cosine", 1024), {}),
    "dialogue": (
        ("trained-by:launch/recipes/dialogue/sft.yaml", "Anthropic/hh-rlhf", 0.1, 3, 128, 1e-6, "cosine", 2048),
        {"training.precision": "fp32", "model.adapter": "none", **LONGEST_PROMPT},
    ),
    "summaries": (
        ("CarperAI/openai_summarize_tldr_sft", "data/summaries", 0.5, 1, 256, 1e-5, "cosine", 2048),
        {"model.adapter": "qlora", "lora.rank": 16, "lora.alpha": 16, "lora.dropout": 0.05, **LONGEST_PROMPT},
    ),
    "code": (
        ("loubnabnl/starcoder-1b", "data/code", 0.1, 30, 32, 5e-7, "linear", 2048),
        {
            "checkpoints.keep_best": "loss",
            "checkpoints.best_is": "lowest",
            "checkpoints.final": "best",
            **LONGEST_PROMPT,
        },
    ),
    "ablations": (
        ("trained-by:launch/recipes/ablations/sft.yaml", "argilla/dpo-mix-7k", 0.1, 3, 128, 5e-7, "cosine", 2048),
        {"data.chat_template": "builtin:plain", **LONGEST_PROMPT},
    ),
}
LEARNED: Values = {
    "objective.name": "sparsepo", "objective.divergence": "policy", "masks.kind": "auto", "masks.on": "both",
    "masks.layers": "all", "masks.linears": 1, "masks.layer_norm": False, "masks.dropout": 0.0, "masks.binary": "none",
    "masks.weight_decay": 0.01, "objective.l1_reward": 0.0, "objective.l1_divergence": 0.0, "masks.learning_rate": None,
}  # fmt: skip
METHODS: dict[str, Values] = {
    "sft": {"objective.name": "sft", "objective.beta": None},
    "dpo": {"objective.name": "dpo", "objective.form": "sigmoid", "objective.label_smoothing": 0.0},
    "dpop": {"objective.name": "dpop", "objective.penalty": 50},
    "simpo": {"objective.name": "simpo", "objective.gamma": 0.3},
    "tdpo1": {"objective.name": "tdpo1"},
    "tdpo2": {"objective.name": "tdpo2", "objective.alpha": 0.5},
    "mapo": {
        "objective.name": "mapo", "objective.divergence": "policy", "masks.kind": "auto", "masks.sites": "paper",
        "masks.site_types": None, "masks.normalisation": "standardise", "masks.clip": False,
    },
    "sparsepo_common": {**LEARNED, "masks.sharing": "common"},
    "sparsepo_independent": {**LEARNED, "masks.sharing": "independent"},
}  # fmt: skip
VARIANTS: dict[str, Values] = {
    "sft": {"objective.name": "sft", "objective.beta": None, "model.path": "EleutherAI/pythia-410m"},
    "sparsepo_common": {**LEARNED, "masks.sharing": "common"},
    "last_layer": {**LEARNED, "masks.sharing": "common", "masks.layers": "last"},
    "last_layer_two_linears": {**LEARNED, "masks.sharing": "common", "masks.layers": "last", "masks.linears": 2},
    "binary": {**LEARNED, "masks.sharing": "common", "masks.binary": "released"},
    "random": {**LEARNED, "masks.sharing": "common", "masks.kind": "random", "masks.random": "fresh"},
}
OWN_L1 = {"objective.l1_reward": 0.001, "objective.l1_divergence": 0.001, "training.learning_rate": 5e-7}
# Where a method differs in one domain.
EXCEPTIONS: dict[tuple[str, str], Values] = {
    ("sentiment", "sft"): {
        "model.path": "openai-community/gpt2-large", "data.train": "data/sentiment:sft",
        "data.heldout": "data/sentiment:sft_heldout", "training.epochs": 1, "training.learning_rate": 1e-5,
    },
    ("sentiment", "tdpo2"): {"objective.alpha": 0.7},
    ("dialogue", "sft"): {
        "model.path": "EleutherAI/pythia-1.4b", "training.epochs": 1, "training.pairs_per_step": 1024,
        "training.learning_rate": 1e-5,
    },
    ("dialogue", "simpo"): {"objective.beta": 2.5},
    ("dialogue", "sparsepo_common"): OWN_L1,
    ("dialogue", "sparsepo_independent"): OWN_L1,
    ("summaries", "sft"): {
        "model.path": "EleutherAI/gpt-j-6b", "data.train": "data/summaries:sft",
        "data.heldout": "data/summaries:sft_heldout",
    },
    ("summaries", "sparsepo_common"): {"objective.beta": 0.1},
    ("summaries", "sparsepo_independent"): {"objective.beta": 0.1},
    ("code", "sft"): {"training.epochs": 1, "training.learning_rate": 1e-5},
}  # fmt: skip
TABLE = [(domain, name) for domain in DOMAINS for name in (VARIANTS if domain == "ablations" else METHODS)]
SHAPES: dict[str, PretrainedConfig] = {
    "insub/gpt2-large-imdb-fine-tuned": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "openai-community/gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "EleutherAI/pythia-1.4b": GPTNeoXConfig(
        hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192
    ),
    "EleutherAI/pythia-410m": GPTNeoXConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "EleutherAI/gpt-j-6b": GPTJConfig(),
    "CarperAI/openai_summarize_tldr_sft": GPTJConfig(),
    "loubnabnl/starcoder-1b": GPTBigCodeConfig(n_positions=8192, n_embd=2048, n_layer=24, n_head=16),
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def path_of(domain: str, name: str) -> Path:
    return RECIPES / domain / f"{name}.yaml"


def test_every_file_is_in_the_table() -> None:
    files = {path for path in RECIPES.rglob("*.yaml") if path.name != "base.yaml"} - {DEFAULT_RECIPE}
    assert files == {path_of(*entry) for entry in TABLE}
    assert {path.parent.name for path in RECIPES.rglob("base.yaml")} == set(DOMAINS)


def wanted(domain: str, name: str) -> Values:
    """A recipe's values by the table."""
    common, more = DOMAINS[domain]
    method = (VARIANTS if domain == "ablations" else METHODS)[name]
    return {
        **dict(zip(COLUMNS, common, strict=True)), "data.heldout": HELDOUT[domain], "training.warmup_ratio": 0.1,
        **more, **method, **EXCEPTIONS.get((domain, name), {}),
    }  # fmt: skip


@pytest.mark.parametrize(("domain", "name"), TABLE)
def test_every_value_is_the_papers(domain: str, name: str) -> None:
    config = parse_train(["--recipe", str(path_of(domain, name))], default_recipe=DEFAULT_RECIPE)
    values = wanted(domain, name)
    assert {field: operator.attrgetter(field)(config) for field in values} == values


@pytest.mark.parametrize(("domain", "name"), TABLE)
def test_no_value_escapes_the_table(domain: str, name: str) -> None:
    texts = [file.path.read_text(encoding="utf-8") for file in read_recipe(str(path_of(domain, name)))]
    said = {field for text in texts for field, _ in leaves(yaml.safe_load(text))} - {"base"}
    assert said - OURS <= wanted(domain, name).keys()


@pytest.mark.parametrize(("domain", "name"), TABLE)
def test_every_recipe_can_be_run_and_planned(domain: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to what is on hubs; nothing in it is ignored."""
    config = parse_train(["--recipe", str(path_of(domain, name))])
    monkeypatch.setattr(request, "model_config", lambda path, _: SHAPES[path])
    setting = request.resolve(request.Request(config, load_ds_config(config.ds_config), gpus=8))
    sources = compose(config.objective, config.masks).sources
    assert unused_fields(config.objective) + unused_options(sources, config.masks) == []
    assert setting.pairs_per_step == config.training.pairs_per_step
    assert config.data.heldout is not None and config.training.evaluate_every > 0


def test_the_default_recipe_is_the_laptops() -> None:
    config = parse_train(["--recipe", str(DEFAULT_RECIPE)])
    config.validate()
    assert (config.model.path, config.data.train) == ("builtin:smollm2-135m-instruct", "builtin:sentiment")
