"""The reference cache: what is read is what was written, or an error that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsepo_dist.engines.config import ModelConfig, Models
from sparsepo_dist.engines.reference import cache_files
from sparsepo_dist.engines.reference.cache_files import CachedReadings, CacheWriter, ReferenceCache, finish_cache
from sparsepo_dist.engines.reference.cached import cache_key, check_key
from sparsepo_dist.errors import RankError, UserError
from sparsepo_dist.masks import MaskConfig
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import Head, LogitMap

COUNTS = {-5: 3, 11: 1, 7: 4, 2**62: 2}
NEEDS = Requirements(reference=True, divergence="policy", masks="activation")


def models_of(folder: Path) -> Models:
    return Models(ModelConfig(path=str(folder)))


def rows_of(key: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(key % 1000)
    hidden = torch.randn(COUNTS[key], 6, generator=generator).to(torch.bfloat16)
    return {"final_hidden": hidden, "mask": torch.rand(COUNTS[key], generator=generator)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of four pairs, written by two ranks, shards of about two pairs."""
    monkeypatch.setattr(cache_files, "SHARD_BYTES", 60)
    for part, keys in enumerate(((-5, 7, 2**62), (11,))):
        writer = CacheWriter(tmp_path, part)
        for key in keys:
            writer.add(key, rows_of(key))
        writer.close()
    key: dict[str, Any] = {"fields": ["final_hidden", "mask"], "dtype": "bfloat16", "masks": {}, "files": {}}
    finish_cache(tmp_path, 2, key, CachedReadings(2, 6, ["mlp"]))
    return tmp_path


def test_rows_come_back_in_the_order_that_is_asked_for(folder: Path) -> None:
    cache = ReferenceCache(folder)
    assert len(cache) == 4 and len(list(folder.glob("shard-*"))) == 3
    keys = [7, 2**62, 11, -5, 7]
    found = cache.rows(torch.tensor(keys), [COUNTS[key] for key in keys])
    for name in ("final_hidden", "mask"):
        assert torch.equal(found[name], torch.cat([rows_of(key)[name] for key in keys]))
    assert cache.missing([7, 8, -5, -(2**60)]) == [1, 3]
    assert cache.readings == CachedReadings(2, 6, ["mlp"])


def test_pairs_that_are_not_there_are_never_made_up(folder: Path) -> None:
    cache = ReferenceCache(folder)
    with pytest.raises(RankError, match="lacks a pair"):
        cache.rows(torch.tensor([8]), [3])
    with pytest.raises(RankError, match="has 4 rows of a pair of 5 tokens"):
        cache.rows(torch.tensor([7]), [5])


@pytest.mark.parametrize("shard", ["shard-00000-00000", "shard-00001-00000"])
def test_a_flipped_bit_is_found_when_it_is_read(folder: Path, shard: str) -> None:
    path = folder / f"{shard}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    cache = ReferenceCache(folder)
    with pytest.raises(RankError, match=f"{shard}.safetensors has changed since it was written.*sparsepo cache"):
        for key, count in COUNTS.items():
            cache.rows(torch.tensor([key]), [count])


def test_damage_that_shows_at_once(folder: Path) -> None:
    shard = folder / "shard-00000-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shard-00000-00000.safetensors has \d+ bytes instead of \d+"):
        ReferenceCache(folder)
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00000-00000.safetensors is missing"):
        ReferenceCache(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:40], "is damaged"),
        (lambda text: text.replace('"format": 2', '"format": 3'), "has format 3"),
        (lambda text: text.replace('"format": 2', '"format": 3').replace("readings", "read"), "has format 3"),
        (lambda text: '{"format": 2, "key": ' + "[" * 100_000, "is damaged .nested too deeply"),
        (lambda text: "[]", "is damaged"),
        (lambda text: text.replace('"files": {}', '"files": []'), "is damaged .cache.json has no files"),
        (lambda text: text.replace("shard-00001", "../shard-1"), "is missing"),
    ],
)
def test_a_manifest_that_cannot_be_used(folder: Path, change: Any, words: str) -> None:
    manifest = folder / cache_files.MANIFEST
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(UserError, match=words):
        ReferenceCache(folder)


def swapped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["pairs"] = tensors["pairs"].flip(0).contiguous()


def without_columns(tensors: dict[str, torch.Tensor]) -> None:
    tensors["checksums"] = tensors["checksums"][:, :1].contiguous()


def as_numbers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["pairs"] = tensors["pairs"].double()


def emptied(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: values[:0] for name, values in tensors.items()})


def from_nowhere(tensors: dict[str, torch.Tensor]) -> None:
    tensors["pairs"][:, 1:] = -1


@pytest.mark.parametrize(
    "tamper", [swapped, without_columns, as_numbers, emptied, from_nowhere, lambda tensors: tensors.pop("pairs")]
)
def test_an_index_that_was_tampered_with(folder: Path, tamper: Any) -> None:
    index = load_file(folder / cache_files.PAIRS)
    tamper(index)
    save_file(index, folder / cache_files.PAIRS)
    signed(folder, cache_files.PAIRS)
    with pytest.raises(UserError, match="is damaged .*sparsepo cache"):
        ReferenceCache(folder)


def signed(folder: Path, name: str) -> None:
    """The manifest says the size that the file has now."""
    manifest = json.loads((folder / cache_files.MANIFEST).read_text())
    manifest["files"][name] = (folder / name).stat().st_size
    (folder / cache_files.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("form", [torch.float16, torch.int16, "shape"])
def test_the_same_bytes_as_another_kind_of_number(folder: Path, form: Any) -> None:
    """Checksums are of bytes: bfloat16's read as float16 are other values."""
    shard = "shard-00001-00000.safetensors"
    rows = load_file(folder / shard)
    hidden = rows["final_hidden"]
    rows["final_hidden"] = hidden.view(1, 2, 3) if form == "shape" else hidden.view(form)
    save_file(rows, folder / shard)
    signed(folder, shard)
    with pytest.raises(RankError, match=f"{shard} has changed since it was written"):
        ReferenceCache(folder).rows(torch.tensor([11]), [COUNTS[11]])


def test_a_head_that_was_tampered_with(folder: Path) -> None:
    weight, map = torch.ones(4, 6, dtype=torch.bfloat16), LogitMap(0.5, 30.0)
    stored = cache_files.head_tensors(Head(weight, None, map))
    manifest = json.loads((folder / cache_files.MANIFEST).read_text())
    manifest["key"]["head"] = [cache_files.checksum(part) for part in stored.values()]
    (folder / cache_files.MANIFEST).write_text(json.dumps(manifest))
    save_file(stored, folder / cache_files.HEAD)
    found = ReferenceCache(folder).head()
    assert torch.equal(found.weight, weight) and found.map == map
    for changed in (
        {"weight": weight.view(torch.float16)}, {"weight": weight.view(6, 4)}, {"weight": weight + 1},
        {"map": stored["map"] * 2},
    ):  # fmt: skip
        save_file({**stored, **changed}, folder / cache_files.HEAD)
        with pytest.raises(UserError, match="has changed since it was written"):
            ReferenceCache(folder).head()
    save_file({"bias": weight}, folder / cache_files.HEAD)
    with pytest.raises(UserError, match="cannot be read: 'weight'"):
        ReferenceCache(folder).head()


def test_an_unfinished_cache_is_none(folder: Path) -> None:
    (folder / cache_files.MANIFEST).unlink()
    with pytest.raises(UserError, match="holds no finished cache"):
        ReferenceCache(folder)


def test_every_difference_to_the_run_is_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = tmp_path_factory.mktemp("model")
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    masks = MaskConfig()
    key = cache_key(models_of(model), torch.bfloat16, NEEDS, ("activation",), masks)
    cache = ReferenceCache(folder)
    cache.key = {**key, "head": []}
    (folder / cache_files.HEAD).write_bytes(b"")
    check_key(cache, cache_key(models_of(model), torch.bfloat16, NEEDS, ("activation",), masks, cache.key))
    (model / "model.safetensors").write_bytes(b"Weights")
    changed = cache_key(models_of(model), torch.float32, NEEDS, ("activation",), MaskConfig(clip=True), cache.key)
    with pytest.raises(UserError) as error:
        check_key(cache, changed)
    for words in ("model is another (model.safetensors)", "dtype there: bfloat16, here: float32", "'clip': True"):
        assert words in str(error.value)
    learned = cache_key(models_of(model), torch.bfloat16, NEEDS, ("learned",), masks)
    with pytest.raises(UserError, match="it lacks layer_hidden"):
        check_key(cache, learned)


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    key = cache_key(models_of(tmp_path), torch.float32, NEEDS, (), MaskConfig())
    monkeypatch.setattr("sparsepo_dist.engines.reference.cached.sha256", lambda file: pytest.fail(f"{file} is read"))
    again = cache_key(models_of(tmp_path), torch.float32, NEEDS, (), MaskConfig(), json.loads(json.dumps(key)))
    assert again == key
