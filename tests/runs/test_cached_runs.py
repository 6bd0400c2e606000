"""Runs whose reference is read from a cache are those whose reference is asked, and never load it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.runs import ROOT, ZERO, launch, metrics, train_all
from tests.support.tiny import save_tiny_model, write_pairs
from tests.support.warm import hearth, warm

pytestmark = pytest.mark.slow
SPECIAL: dict[str, dict[str, Any]] = {
    "sparsepo": {"objective.name": "sparsepo", "masks.layer_norm": True},
    "last": {"objective.name": "sparsepo", "masks.layers": "last"},
    "mapo": {"objective.name": "mapo", "masks.sites": "released", "masks.normalisation": "rescale"},
    "dpo": {"objective.name": "dpo"},
    "dpo_last": {"objective.name": "dpo", "masks.kind": "[learned, decay]", "masks.layers": "last"},
    "beta_dpo": {"objective.name": "beta_dpo"},
}


def flags(fields: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in fields.items()]


def cache_command(fields: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    command = warm(str(Path(sys.executable).with_name("sparsepo")), "cache", *flags(fields), *options)
    environment = {**os.environ, **hearth(), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)


def save_inputs(folder: Path) -> dict[str, Any]:
    """Model, pairs and ds_config of a few steps' run in a folder, and the run's fields."""
    save_tiny_model(folder / "model", "llama")
    write_pairs(folder / "pairs.jsonl", 11)
    write_pairs(folder / "heldout.jsonl", 4, seed=1)
    (folder / "zero3.json").write_text(json.dumps(ZERO[3]))
    return {
        "ds_config": folder / "zero3.json", "model.path": folder / "model", "data.train": folder / "pairs.jsonl",
        "data.heldout": folder / "heldout.jsonl", "data.max_length": 100, "data.tokens_per_micro_batch": 150,
        "training.pairs_per_step": 6, "training.max_steps": 3, "training.epochs": 2, "training.learning_rate": 1e-2,
        # AdamW divides by |gradient| + eps: this one keeps it from blowing up the rounding of small gradients.
        "training.eps": 1e-2, "training.precision": "fp32",
    }  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cached")


@pytest.fixture(scope="module")
def common(base: Path) -> dict[str, Any]:
    return save_inputs(base)


@pytest.fixture(scope="module")
def caches(base: Path, common: dict[str, Any]) -> dict[str, Path]:
    """One cache for each objective; sparsepo's is written by two ranks."""
    folders = {name: base / "caches" / name for name in SPECIAL}
    folders["beta_dpo"] = folders["dpo"]  # it reads the same
    for name, folder in folders.items():
        if name == "beta_dpo":
            continue
        fields = {**common, **SPECIAL[name], "reference.cache": folder}
        if name == "sparsepo":
            done = launch(["launch/cache.py", *flags(fields), "--all_layers=true"], ranks=2)
        else:
            done = cache_command(fields)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "15 pairs" in done.stdout and f"--reference.cache {folder}" in done.stdout
    return folders


@pytest.fixture(scope="module")
def runs(base: Path, common: dict[str, Any], caches: dict[str, Path]) -> dict[str, Path]:
    asked = {name: {**common, **special, "reference.placement": "replicated"} for name, special in SPECIAL.items()}
    cached = {
        f"{name}_cached": {**common, **special, "reference.placement": "cached", "reference.cache": caches[name]}
        for name, special in SPECIAL.items()
    }
    two = {f"{name}_two": fields for name, fields in cached.items()}
    return train_all(base / "one", {**asked, **cached}) | train_all(base / "two", two, ranks=2)


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("kind", ["cached", "cached_two"])
def test_a_cached_reference_changes_nothing(runs: dict[str, Path], name: str, kind: str) -> None:
    asked, cached = runs[name], runs[f"{name}_{kind}"]
    expected, found = metrics(asked), metrics(cached)
    for rows in (expected, found):  # before the first update all rewards are 0, and which is larger is rounding
        for row in rows:
            if row["step"] <= 1:
                assert abs(row.pop("rewards/margins")) < 1e-5
                del row["rewards/accuracies"], row["rewards/ties"]
    for want, got in zip(expected, found, strict=True):
        assert got.pop("split") == want.pop("split")
        assert got == pytest.approx(want, rel=2e-4, abs=2e-5), f"step {want['step']}"
    want_weights, weights = (load_file(run / "final" / "model.safetensors") for run in (asked, cached))
    for key, value in want_weights.items():
        assert (value - weights[key]).abs().max().item() < 2e-5, key


def test_the_reference_is_not_loaded(
    base: Path, common: dict[str, Any], caches: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsepo_dist.runs import assembly, inputs
    from sparsepo_dist.runs.parsing import parse_train

    fields = {**common, **SPECIAL["dpo"], "reference.placement": "cached", "reference.cache": caches["dpo"]}
    loaded = inputs.load_inputs(parse_train(flags(fields)))
    assert loaded.cache is not None and len(loaded.cache) == 15
    monkeypatch.setattr(assembly, "build_reference", lambda *_: pytest.fail("the reference is loaded"))
    assert loaded.cache.key["dtype"] == "float32" and loaded.cache.fields == ["logps"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference.cache": "nowhere"}, "nowhere holds no finished cache"),
        ({"objective.name": "sparsepo"}, "it lacks final_hidden, layer_hidden"),
        ({"training.precision": "bf16"}, "dtype there: float32, here: bfloat16"),
        ({"data.max_length": 40}, r"lacks \d+ of 15 pairs, among them .*pairs.jsonl"),
        ({"reference.cache": None}, "placement cached reads a folder"),
    ],
)
def test_a_cache_that_does_not_fit(
    base: Path, common: dict[str, Any], caches: dict[str, Path], changes: dict[str, Any], words: str
) -> None:
    from sparsepo_dist.errors import UserError
    from sparsepo_dist.runs.inputs import load_inputs
    from sparsepo_dist.runs.parsing import parse_train

    fields = {**common, **SPECIAL["dpo"], "reference.placement": "cached", "reference.cache": caches["dpo"], **changes}
    with pytest.raises(UserError, match=words):
        load_inputs(parse_train(flags({name: value for name, value in fields.items() if value is not None})))


def test_other_weights_are_noticed(base: Path, common: dict[str, Any], caches: dict[str, Path]) -> None:
    from sparsepo_dist.errors import UserError
    from sparsepo_dist.runs.inputs import load_inputs
    from sparsepo_dist.runs.parsing import parse_train

    other = base / "other"
    shutil.copytree(base / "model", other)
    save_tiny_model(other, "llama", seed=1)
    fields = {**common, **SPECIAL["dpo"], "reference.placement": "cached", "reference.cache": caches["dpo"]}
    with pytest.raises(UserError, match=r"the reference's model is another \(.*model.safetensors"):
        load_inputs(parse_train(flags({**fields, "model.path": other})))


def test_what_is_large_is_only_written_when_asked_for(base: Path, common: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    done = cache_command({**common, **SPECIAL["sparsepo"], "reference.cache": folder})
    assert done.returncode == 2 and not folder.exists()
    assert "layer_hidden" in done.stdout and "--all_layers true" in done.stderr and "Traceback" not in done.stderr
    folder.mkdir()
    again = cache_command({**common, **SPECIAL["dpo"], "reference.cache": folder})
    assert again.returncode == 2 and "exists; remove it" in again.stderr
    assert not list(folder.iterdir())


def test_one_that_is_there_and_fits_is_done(common: dict[str, Any], caches: dict[str, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in caches["dpo"].iterdir()}
    fields = {**common, **SPECIAL["dpo"], "objective.beta": 7.0, "reference.cache": caches["dpo"]}
    done = cache_command(fields)
    assert done.returncode == 0 and "is there already, whole, and fits" in done.stdout, done.stderr[-4000:]
    assert {path: path.stat().st_mtime_ns for path in caches["dpo"].iterdir()} == before
