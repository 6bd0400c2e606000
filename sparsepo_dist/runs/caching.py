"""The reference cache of a run: let the reference, and the oracles of its masks, look at every pair once, and keep what
the objective needs of them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sparsepo_dist.contracts import ORACLE_LOGPS, PackedBatch, ReferenceOutputs
from sparsepo_dist.data.batching.pack import trained_tokens
from sparsepo_dist.data.store.columns import Ints
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.disk import remove
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.config import engine_placement
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.environment import prepare_environment
from sparsepo_dist.engines.reference.cache_files import (
    HEAD,
    CachedReadings,
    CacheWriter,
    checksum,
    finish_cache,
    head_tensors,
)
from sparsepo_dist.engines.reference.cached import reads_head
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.engines.reference.oracles import Oracles, scored
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import activation_masks
from sparsepo_dist.ops import Head
from sparsepo_dist.runs.agreement import joined
from sparsepo_dist.runs.assembly import build_oracles, build_reference, filled_config
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.inputs import Inputs, load_inputs, open_cache, reference_key
from sparsepo_dist.runs.resumption import identity
from sparsepo_dist.training.batches import MicroBatches, in_steps
from sparsepo_dist.training.supervision.progress import Progress

PAIRS_AT_ONCE = 64  # dealt out together to each rank
_GIB = 2**30


def write_cache(config: RunConfig, say: Callable[[str], None], *, all_layers: bool = False) -> Path:
    """Write the reference cache of a run; its folder. Every rank must call this.

    Raises:
        UserError: anything the user can mend, before anything is written.
        RankError: it cannot be written.
    """
    prepare_environment()
    folder = _target(config)
    inputs = load_inputs(_with_an_engine(config))
    needs = inputs.objective.requirements
    if not needs.reference:
        raise UserError(f"objective.name: {inputs.config.objective.name} has no reference; there is nothing to cache")
    if folder.exists():
        _check_existing(inputs, folder)
        say(f"{folder} is there already, whole, and fits")
        return folder
    pairs = inputs.train.joined(inputs.heldout)
    places = _different(pairs)
    key = reference_key(inputs.config, needs, inputs.mask_sources, inputs.dtype)
    _announce(inputs, pairs, places, key["fields"], folder, say, all_layers=all_layers)
    progress = Progress()
    progress.left = lambda: "Nothing of the cache is used; write it again"
    with joined(inputs, identity(inputs, folder), progress):
        progress.at("loading the reference")
        ds_config = filled_config(inputs, folder)
        models = _Models(build_reference(inputs, ds_config), build_oracles(inputs, ds_config, progress))
        for engine in (models.reference, *(oracle.engine for oracle in models.oracles.values())):
            engine.release_model()
        unfinished = folder.with_name(f".writing-{folder.name}")
        _write(inputs, models, pairs, places, key, unfinished, progress)
        if distributed.rank() == 0:
            unfinished.rename(folder)
        distributed.barrier()
    return folder


class _Models(NamedTuple):
    """Those that look at the pairs."""

    reference: ReferenceEngine
    oracles: Oracles


def _different(pairs: TokenizedPairs) -> Ints:
    """Places of pairs that differ in token ids, in order: the first of each."""
    return np.sort(np.unique(pairs.keys(), return_index=True)[1])


def _target(config: RunConfig) -> Path:
    if config.reference.cache is None:
        raise UserError("reference.cache: name the folder that the cache is to be written to")
    return Path(config.reference.cache)


def _check_existing(inputs: Inputs, folder: Path) -> None:
    """Raise UserError unless a cache that is there is what would be written."""
    config = inputs.config
    cached = dataclasses.replace(config.reference, placement="cached", cache=str(folder))
    try:
        open_cache(
            dataclasses.replace(config, reference=cached), inputs.objective.requirements, inputs.mask_sources,
            inputs.dtype, inputs.train.joined(inputs.heldout),
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"reference.cache: {folder} exists; remove it, or name another folder ({error})") from None


def _with_an_engine(config: RunConfig) -> RunConfig:
    """The run's configuration with its reference in an engine: here it has to be asked."""
    placement = config.models.placement(distributed.world_size())
    if placement in ("cached", "adapter"):
        if config.model.adapter == "qlora" and config.reference.path is None:
            raise UserError(
                "model.adapter: qlora's reference is the model in 4 bits, with its adapter off, which costs no memory; "
                "it is not cached"
            )
        placement = engine_placement(distributed.world_size())
    return dataclasses.replace(config, reference=dataclasses.replace(config.reference, placement=placement, cache=None))


def _announce(
    inputs: Inputs, pairs: TokenizedPairs, places: Ints, fields: Sequence[str], folder: Path,
    say: Callable[[str], None], *, all_layers: bool,
) -> None:  # fmt: skip
    """Say how large it will be; refuse what was not asked for, or does not fit on the disk."""
    rows = sum(
        len(trained_tokens(ids, trained))
        for p in map(pairs.__getitem__, places.tolist())
        for ids, trained in ((p.chosen_ids, p.chosen_trained), (p.rejected_ids, p.rejected_trained))
    )
    model = text_config(inputs.frozen_configs.get("reference", inputs.model_config))
    width = model.hidden_size * inputs.dtype.itemsize
    per_row = {"final_hidden": width, "layer_hidden": width * model.num_hidden_layers, "logps": 4, "mask": 4}
    per_row |= dict.fromkeys(ORACLE_LOGPS.values(), 4)
    sizes = {name: rows * per_row[name] for name in fields}
    if reads_head(fields):
        sizes["head"] = model.vocab_size * width
    total = sum(sizes.values())
    parts = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in sizes.items())
    say(f"{folder}: {len(places)} pairs, {rows} response tokens, {total / _GIB:.2f} GiB ({parts})")
    if "layer_hidden" in fields and not all_layers:
        raise UserError(
            f"masks.layers: all needs the hidden states of {model.num_hidden_layers} layers, "
            f"{sizes['layer_hidden'] / _GIB:.2f} GiB; say --all_layers true to write them, or train with "
            "--masks.layers last, which reads what is cached anyway"
        )
    existing = next(parent for parent in folder.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if total > free:
        raise UserError(
            f"reference.cache: {total / _GIB:.1f} GiB are needed, {existing} has {free / _GIB:.1f} GiB free; name a "
            "folder on another disk"
        )


def _write(
    inputs: Inputs, models: _Models, pairs: TokenizedPairs, places: Ints, key: dict[str, Any],
    folder: Path, progress: Progress,
) -> None:  # fmt: skip
    if distributed.rank() == 0:
        remove(folder)
        folder.mkdir(parents=True)
    distributed.barrier()
    head = models.reference.take_head()
    if head is not None and distributed.rank() == 0:
        key = {**key, "head": _save_head(head, folder)}
    writer = CacheWriter(folder, distributed.rank())
    for pair, rows in _scored(inputs, models, pairs, places, key["fields"], progress):
        writer.add(pair, rows)
    writer.close()
    distributed.barrier()
    if distributed.rank() == 0:
        readings = models.reference.readings
        known = CachedReadings(readings.layers, readings.width, readings.site_types)
        finish_cache(folder, distributed.world_size(), key, known)


def _scored(
    inputs: Inputs,
    models: _Models,
    pairs: TokenizedPairs,
    places: Ints,
    fields: Sequence[str],
    progress: Progress,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """This rank's pairs: key and rows of each."""
    batches = MicroBatches(pairs, inputs.config.data, inputs.device)
    at_once = PAIRS_AT_ONCE * distributed.world_size()
    with tqdm(total=len(places), desc="caching", unit="pair", disable=distributed.rank() != 0) as bar:
        for indices in in_steps(places.tolist(), at_once):
            for group in batches.of(indices).groups(inputs.config.micro_batches_per_pass):
                yield from _rows(inputs, models, group.joined, fields, progress)
            bar.update(len(indices))


def _rows(
    inputs: Inputs, models: _Models, batch: PackedBatch, fields: Sequence[str], progress: Progress
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    outputs = scored(batch, *models, progress.at)
    assert outputs is not None
    if outputs.site_means is not None:
        types = models.reference.readings.site_types
        mask = activation_masks(outputs.site_means, types, batch.sequence_id, batch.pairs, inputs.config.masks)
        outputs = dataclasses.replace(outputs, mask=mask)
    parts = outputs.split(batch.tokens_of_pairs)
    for pair, weight, part in zip(batch.pair_key.tolist(), batch.pair_weight.tolist(), parts, strict=True):
        if weight:  # else it only fills this rank's round, and another rank has it
            yield pair, {name: _stored(part, name) for name in fields}


def _stored(outputs: ReferenceOutputs, name: str) -> Tensor:
    values: Tensor = getattr(outputs, name)
    if name == "layer_hidden":
        values = values.transpose(0, 1)
    return values.to("cpu", copy=True).contiguous()


def _save_head(head: Head, folder: Path) -> list[int]:
    tensors = head_tensors(head)
    save_file(tensors, folder / HEAD)
    return [checksum(part) for part in tensors.values()]
