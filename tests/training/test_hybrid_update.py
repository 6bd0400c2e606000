"""Models whose tokens meet otherwise than by attention: one step gives the same parameters, sharded over two ranks in
the layout that shares prompts with activation checkpointing, and on one rank in plain rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.hybrids import CONFIGS, hybrid
from tests.support.runs import ZERO, metrics, train_all
from tests.support.tiny import tiny_tokenizer, write_pairs
from tests.training.test_same_update import EPS, LEARNING_RATE, TOLERANCE

pytestmark = pytest.mark.slow  # two launches, which every test here reads from

WORK = {
    "lfm2": {},
    "lfm2_lora": {"model.adapter": "lora", "lora.targets": '["in_proj","q_proj"]'},
    "falcon_h1": {},
    "mamba": {},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("hybrid_update")
    write_pairs(base / "pairs.jsonl", 7)
    common: dict[str, Any] = {
        "data.train": base / "pairs.jsonl", "data.max_length": 100, "objective.name": "simpo",
        "training.pairs_per_step": 7, "training.max_steps": 1, "training.learning_rate": LEARNING_RATE,
        "training.eps": EPS, "training.schedule": "constant", "training.warmup_ratio": 0, "training.precision": "fp32",
    }  # fmt: skip
    plain = {"ds_config": ZERO[0], "data.layout": "padded", "data.tokens_per_micro_batch": 100000}
    sharded = {
        "ds_config": ZERO[3], "data.layout": "prefix_shared", "data.tokens_per_micro_batch": 90,
        "model.activation_checkpointing": True,
    }  # fmt: skip
    one, two = {}, {}
    for name, changes in WORK.items():
        family = name.removesuffix("_lora")
        if not (base / family).is_dir():
            hybrid(CONFIGS[family](), "eager").save_pretrained(base / family)
            tiny_tokenizer().save_pretrained(base / family)
        fields = {**common, "model.path": base / family, **changes}
        one[name], two[f"{name}_two"] = {**fields, **plain}, {**fields, **sharded}
    return train_all(base / "one", one) | train_all(base / "two", two, ranks=2)


@pytest.mark.parametrize("name", WORK)
def test_update_equals_the_plain_one(folders: dict[str, Path], name: str) -> None:
    file = "adapter_model.safetensors" if "lora" in name else "model.safetensors"
    plain, other = (load_file(folders[run] / "final" / file) for run in (name, f"{name}_two"))
    assert plain.keys() == other.keys()
    for key in plain:
        assert (plain[key] - other[key]).abs().max().item() <= TOLERANCE, key
    rows = [metrics(folders[run])[0] for run in (name, f"{name}_two")]
    assert rows[0]["grad_norm"] > 0.01
    assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-5)
