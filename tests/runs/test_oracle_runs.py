"""Oracles from their training to their use: one for and one against the preference, asked or cached, or by prompts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.inputs import load_inputs
from sparsepo_dist.runs.parsing import parse_train
from tests.runs.test_cached_runs import cache_command, flags, save_inputs
from tests.support.runs import metrics, train_all
from tests.support.tiny import tiny_tokenizer

pytestmark = pytest.mark.slow
TOLD = {"oracle": "Say it well: ", "oracle_against": "Say it badly: "}
RUNS: dict[str, dict[str, Any]] = {
    "tis_dpo": {"objective.name": "tis_dpo", "masks.contrast": "exponential"},
    "tgdpo": {"objective.name": "tgdpo", "masks.guidance": 0.5},
    "told": {
        "objective.name": "tis_dpo",
        "objective.alpha": 0,
        "masks.contrast": "exponential",
        "masks.contrast_bounds": [-3, 3],
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracles")


@pytest.fixture(scope="module")
def common(base: Path) -> dict[str, Any]:
    return {**save_inputs(base), "training.full_metrics_every": 1}


@pytest.fixture(scope="module")
def oracles(base: Path, common: dict[str, Any]) -> dict[str, Path]:
    """As the message of a run without them says."""
    swaps = {"oracle": {}, "oracle_against": {"data.swap": True}}
    runs = {role: {**common, "objective.name": "dpo", **swap} for role, swap in swaps.items()}
    return {role: run / "final" for role, run in train_all(base / "oracles", runs).items()}


@pytest.fixture(scope="module")
def fields(base: Path, common: dict[str, Any], oracles: dict[str, Path]) -> dict[str, dict[str, Any]]:
    found = {name: {**common, **special} for name, special in RUNS.items()}
    paths = {f"{role}.path": path for role, path in oracles.items()}
    found["tis_dpo"] |= paths
    found["tgdpo"] |= {"oracle.path": oracles["oracle"]}
    for role, text in TOLD.items():
        found["told"] |= {f"{role}.path": base / "model", f"{role}.prompt": text}
    return found


@pytest.fixture(scope="module")
def runs(base: Path, fields: dict[str, dict[str, Any]], oracles: dict[str, Path]) -> dict[str, Path]:
    """Asked, and `_cached`; and one that has no reference."""
    cached = {}
    for name, own in fields.items():
        done = cache_command({**own, "reference.cache": base / "caches" / name})
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        cached[f"{name}_cached"] = {
            **own, "reference.placement": "cached", "reference.cache": base / "caches" / name,
        }  # fmt: skip
    simpo = {**fields["tis_dpo"], "objective.name": "simpo", "masks.kind": "contrast"}
    return train_all(base / "runs", {**fields, **cached, "simpo": simpo})


@torch.no_grad()
def logps(model: Path, prefix: str, chosen: bool) -> list[torch.Tensor]:
    """Of every held-out pair's response, by the model alone."""
    model_alone = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = tiny_tokenizer()
    told = tokenizer(prefix, add_special_tokens=False).input_ids
    found = []
    source = str(model.parent / "heldout.jsonl") if model.name == "model" else str(model.parents[2] / "heldout.jsonl")
    for pair in load_tokenized(source, tokenizer, DataConfig(workers=1)):
        ids = torch.tensor(pair.chosen_ids if chosen else pair.rejected_ids)
        first = 1 if pair.prompt_ids[0] == tokenizer.bos_token_id else 0
        prompt = torch.tensor([*pair.prompt_ids[:first], *told, *pair.prompt_ids[first:]])
        rows = model_alone(torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(rows.gather(1, ids[:, None])[:, 0])
    return found


@pytest.mark.parametrize("name", RUNS)
def test_cached_oracles_change_nothing(runs: dict[str, Path], name: str) -> None:
    asked, cached = runs[name], runs[f"{name}_cached"]
    for want, got in zip(metrics(asked), metrics(cached), strict=True):
        for row in (want, got):
            if row["step"] <= 1:  # before the first update all rewards are 0, and which is larger is rounding
                del row["rewards/accuracies"], row["rewards/ties"]
        assert got.pop("split") == want.pop("split")
        assert got == pytest.approx(want, rel=2e-4, abs=2e-5), f"step {want['step']}"
    ours, theirs = (load_file(run / "final" / "model.safetensors") for run in (asked, cached))
    assert all((ours[key] - theirs[key]).abs().max().item() < 2e-5 for key in ours)


def weights(name: str, chosen: bool, oracles: dict[str, Path], base: Path) -> list[torch.Tensor]:
    """Of every held-out pair's response, by the formulas of docs/objectives.md."""
    models, told = (dict.fromkeys(TOLD, base / "model"), TOLD) if name == "told" else (oracles, dict.fromkeys(TOLD, ""))
    sides = [(models["oracle"], told["oracle"])]
    sides.append((base / "model", "") if name == "tgdpo" else (models["oracle_against"], told["oracle_against"]))
    one, other = (logps(model, prefix, chosen) for model, prefix in sides)
    sign = 1 if chosen else -1
    ratios = [a - b for a, b in zip(one, other, strict=True)]
    if name == "tgdpo":
        return [1 + sign * 0.5 * ratio for ratio in ratios]
    low, high = (-3.0, 3.0) if name == "told" else (-0.5, 1.5)
    return [torch.exp(sign * ratio.clamp(low, high)) for ratio in ratios]


@pytest.mark.parametrize("name", RUNS)
def test_weights_are_those_of_the_models_alone(
    base: Path, runs: dict[str, Path], oracles: dict[str, Path], name: str
) -> None:
    """The L1 norm of the masks of the held-out pairs, which nothing trains."""
    both = zip(*(weights(name, chosen, oracles, base) for chosen in (True, False)), strict=True)
    norms = [(chosen.abs().sum() + rejected.abs().sum()).item() for chosen, rejected in both]
    plain = [
        len(one) + len(other) for one, other in zip(*(logps(base / "model", "", c) for c in (True, False)), strict=True)
    ]
    assert abs(sum(norms) - sum(plain)) > 0.05  # the weights are not all 1
    evaluated = [row for row in metrics(runs[name]) if row["split"] == "eval"]
    assert [row["step"] for row in evaluated] == [0, 3]
    for row in evaluated:
        assert row["l1/reward_mask"] == pytest.approx(sum(norms) / len(norms), rel=1e-4)


def test_the_oracles_are_for_and_against_the_preference(oracles: dict[str, Path]) -> None:
    ends = {role: metrics(path.parent) for role, path in oracles.items()}
    for rows in ends.values():  # each by its own pairs
        assert [row for row in rows if row["split"] == "train"][-1]["rewards/margins"] > 0.01
    (for_it, against) = (load_file(path / "model.safetensors") for path in oracles.values())
    assert any((for_it[key] - against[key]).abs().max().item() > 1e-3 for key in for_it)


def test_masks_of_two_oracles_need_no_reference(runs: dict[str, Path]) -> None:
    rows = metrics(runs["simpo"])
    assert rows[-1]["l1/reward_mask"] > 0 and not any(key.startswith("kl") for row in rows for key in row)
    assert math.isfinite(rows[-1]["loss"])


def test_a_cache_of_other_oracles_is_refused(
    base: Path, fields: dict[str, dict[str, Any]], runs: dict[str, Path], oracles: dict[str, Path]
) -> None:
    def cached(name: str, **changes: Any) -> Any:
        own = {**fields[name], "reference.placement": "cached", "reference.cache": base / "caches" / name, **changes}
        return load_inputs(parse_train(flags(own)))

    cache = cached("tis_dpo").cache
    assert set(cache.fields) == {"final_hidden", "oracle_logps", "against_logps"}
    assert set(cached("tgdpo").cache.fields) == {"logps", "oracle_logps"}
    with pytest.raises(UserError, match=r"the oracle that is against the preference is another \(.*safetensors"):
        cached("tis_dpo", **{"oracle_against.path": oracles["oracle"]})
    with pytest.raises(UserError, match=r"oracle.prompt there: 'Say it well: ', here: 'Say it: '"):
        cached("told", **{"oracle.prompt": "Say it: "})
    with pytest.raises(UserError, match="it lacks against_logps"):
        own = {f"{role}.path": path for role, path in oracles.items()}
        cached("tgdpo", **{"objective.name": "tis_dpo", "objective.alpha": 0, **own})
