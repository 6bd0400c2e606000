"""What a run needs that every rank can check by itself, before any of them waits for another."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from sparsepo_dist.contracts import OracleRole
from sparsepo_dist.data.batching.balance import packed_tokens
from sparsepo_dist.data.config import DataConfig, Layout
from sparsepo_dist.data.reading.named import Sources
from sparsepo_dist.data.store.mixed import Mixture, load_mixture
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.engines.composite import text_config
from sparsepo_dist.engines.decoder.configuration import check_window, load_config
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.ds_config import agree, check_filled, engine_config, load_ds_config, precision
from sparsepo_dist.engines.layouts.choice import ModelKind, layout_of
from sparsepo_dist.engines.layouts.splitting import check_splitting
from sparsepo_dist.engines.reference.cache_files import MAKE_ANEW, ReferenceCache
from sparsepo_dist.engines.reference.cached import cache_key, check_key
from sparsepo_dist.engines.reference.oracles import Prefix
from sparsepo_dist.engines.sequence.group import check_ranks
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskSources, oracles_of, unused_options
from sparsepo_dist.objectives import Objective, ObjectiveConfig, Requirements, compose, unused_fields
from sparsepo_dist.runs.checks import (
    check_adapter_folders,
    check_models,
    check_token_ids,
    check_what_is_trained,
    warn_of_other_bases,
    warn_of_turn_end,
)
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.date import dated
from sparsepo_dist.runs.recipes.starts import check_start
from sparsepo_dist.training.config import check_shared

log = logging.getLogger(__name__)

FROZEN = ("reference", *get_args(OracleRole))
"""Sections of the configuration of models that are not trained."""
BUILTIN_MODEL, BUILTIN_PAIRS = "builtin:smollm2-135m-instruct", "builtin:sentiment"


@dataclass
class Inputs:
    """A run's configuration, checked and resolved, and its data."""

    config: RunConfig
    objective: Objective
    mask_sources: MaskSources
    model_config: PretrainedConfig
    frozen_configs: dict[str, PretrainedConfig]
    """Of the reference and the oracles, where they have a path of their own."""
    prefixes: dict[OracleRole, Prefix]
    """What each oracle reads before every prompt."""
    tokenizer: PreTrainedTokenizerBase
    train: TokenizedPairs
    heldout: TokenizedPairs
    ds_config: dict[str, Any]
    agreed: dict[str, Any]
    """One value for each field that recipe and ds_config share."""
    dtype: torch.dtype
    device: torch.device
    origins: dict[str, list[dict[str, Any]]]
    """Of `train` and `heldout`: each source, its rows, usable pairs, and pairs that are taken."""
    cache: ReferenceCache | None = None
    """With placement `cached`: fits, and has every pair."""


def load_inputs(config: RunConfig) -> Inputs:
    """Validate the configuration, read the data and the ds_config; nothing here talks to other ranks.

    Raises:
        UserError: anything the user can mend.
    """
    config.validate()
    objective, mask_sources, masks = compose(config.objective, config.masks)
    needs = objective.requirements
    check_what_is_trained(config, needs)
    idle = _idle_penalties(config, mask_sources)
    if idle:
        without = dataclasses.asdict(config.objective) | dict.fromkeys(idle, 0.0)
        objective = compose(ObjectiveConfig(**without), masks).objective
    if distributed.rank() == 0:
        unused = unused_fields(config.objective) + unused_options(mask_sources, config.masks)
        unused += config.models.unused(config.objective.name, needs_reference=needs.reference)
        for sentence in [*unused, *(f"objective.{name}: that mask is not learned" for name in idle)]:
            log.warning("ignored: %s", sentence)
    config = dataclasses.replace(config, masks=masks)
    config.models.check(
        objective=config.objective.name, needs_reference=needs.reference, oracles=oracles_of(mask_sources)
    )
    check_start(config)
    check_adapter_folders(config)
    check_builtin_names(config)
    config = dated(resolve_builtin(config))
    warn_of_other_bases(config)
    device = torch.device("cuda", distributed.local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    ds_config = load_ds_config(config.ds_config)
    check_ranks(config.training.sequence_parallel, distributed.world_size())
    agreed = agree(
        ds_config, config.training.shared(), config.training.DEFAULTS,
        sequence_parallel=config.training.sequence_parallel,
    )  # fmt: skip
    check_shared(agreed)
    dtype = precision(ds_config, config.training.precision, device)
    model_config = load_config(config.model.path, trust_remote_code=config.model.trust_remote_code)
    check_window(model_config, config.data.max_length)
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    prefixes = _prefixes(config, tokenizer)
    frozen = _load_frozen_configs(config, model_config, tokenizer, prefixes, divergence=needs.divergence is not None)
    kinds = _kinds({"model": model_config, **frozen})
    chosen = layout_of(config.data.layout, kinds, config.data.max_length)
    check_splitting(kinds, chosen.layout, config.training.sequence_parallel)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, layout=chosen.layout))
    engine = engine_config(ds_config, agreed, dtype, text_config(model_config).hidden_size, Path("monitor"))
    check_filled(config.ds_config, ds_config, engine, device)
    check_models(config, needs, mask_sources, {"model": model_config, **frozen}, dtype, device)
    mixtures = _load_pairs(config, tokenizer, needs)
    origins = {name: mixture.origins() for name, mixture in mixtures.items()}
    train, heldout = mixtures["train"], mixtures["heldout"]
    warn_of_turn_end(config, tokenizer, train)
    if config.checkpoints.keep_best is not None and not heldout:
        raise UserError(
            "checkpoints.keep_best needs held-out pairs to evaluate on: give data.heldout or data.heldout_pairs"
        )
    if chosen.why is not None and distributed.rank() == 0:
        more = _tokens(train, chosen.layout) / _tokens(train, "prefix_shared")
        log.warning("data.layout is %s, %.1f times the tokens of prefix_shared: %s", chosen.layout, more, chosen.why)
    check_token_ids(config, {"model": model_config, **frozen}, train.joined(heldout).highest_id())
    cache = None
    if needs.reference and config.reference.placement == "cached":
        cache = open_cache(config, needs, mask_sources, dtype, train.joined(heldout))
    return Inputs(
        config, objective, mask_sources, model_config, frozen, prefixes, tokenizer, train, heldout, ds_config, agreed,
        dtype, device, origins, cache,
    )  # fmt: skip


def reference_key(
    config: RunConfig, needs: Requirements, mask_sources: MaskSources, dtype: torch.dtype,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a reference cache of this run depends on besides its pairs. Raises UserError as `cache_key`."""
    return cache_key(config.models, dtype, needs, mask_sources, config.masks, known)


def open_cache(
    config: RunConfig, needs: Requirements, mask_sources: MaskSources, dtype: torch.dtype,
    pairs: TokenizedPairs,
) -> ReferenceCache:  # fmt: skip
    """The reference cache, held against the run.

    Raises:
        UserError: it is damaged, of something else, or lacks pairs.
    """
    assert config.reference.cache is not None
    cache = ReferenceCache(Path(config.reference.cache))
    check_key(cache, reference_key(config, needs, mask_sources, dtype, cache.key))
    missing = cache.missing(pairs.keys())
    if missing:
        raise UserError(
            f"reference.cache: {cache.folder} lacks {len(missing)} of {len(pairs)} pairs, among them "
            f"{pairs[missing[0]].place}: it was made from other data, or with another tokenizer, truncation or "
            f"data.date. {MAKE_ANEW}"
        )
    return cache


def check_builtin_names(config: RunConfig) -> None:
    """Raise UserError for a `builtin:` name that nothing has."""
    for field, value, name in (
        ("model.path", config.model.path, BUILTIN_MODEL),
        *(("data.train", spec.source, BUILTIN_PAIRS) for spec in config.data.train_specs()),
        *(("data.heldout", spec.source, BUILTIN_PAIRS) for spec in config.data.heldout_specs()),
        *((f"{part}.path", getattr(config, part).path, None) for part in FROZEN),
    ):  # fmt: skip
        if value is not None and value.startswith("builtin:") and value != name:
            there = (
                f"there is {name}" if name else f"a folder or hub id is wanted, and {BUILTIN_MODEL} is for model.path"
            )
            raise UserError(f"{field}: {value} is not built in; {there}")


def resolve_builtin(config: RunConfig) -> RunConfig:
    """Replace `builtin:` names by files, making those that are missing; other ranks of the machine wait for them.

    Raises:
        UserError: there is nothing of that name, or a package that it takes is not installed.
    """
    model, data = config.model, config.data
    pairs = BUILTIN_PAIRS in [spec.source for spec in (*data.train_specs(), *data.heldout_specs())]
    if not (pairs or model.path == BUILTIN_MODEL):
        return config
    from sparsepo_dist.builtin.pairs import sentiment_files
    from sparsepo_dist.builtin.smollm2 import smollm2_folder

    train, heldout = data.train, data.heldout
    if pairs:
        files = sentiment_files()
        if train == BUILTIN_PAIRS and heldout is None and not data.heldout_pairs:
            heldout = BUILTIN_PAIRS
        train = _with(train, BUILTIN_PAIRS, str(files.train))
        heldout = None if heldout is None else _with(heldout, BUILTIN_PAIRS, str(files.heldout))
    path = str(smollm2_folder()) if model.path == BUILTIN_MODEL else model.path
    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, path=path),
        data=dataclasses.replace(data, train=train, heldout=heldout),
    )


def _with(sources: Sources, name: str, file: str) -> Sources:
    """The same sources, one of them by the file that it stands for."""
    if isinstance(sources, str):
        return file if sources == name else sources
    return [
        {**entry, "source": file if entry["source"] == name else entry["source"]}
        if isinstance(entry, Mapping)
        else _with(entry, name, file)
        for entry in sources
    ]


def _idle_penalties(config: RunConfig, mask_sources: MaskSources) -> list[str]:
    """L1 penalties that no parameter would feel; they would only shift the loss."""
    objective, on = config.objective, config.masks.on
    if objective.name != "sparsepo":
        return []
    idle = {
        "l1_reward": "learned" not in mask_sources or on == "divergence",
        "l1_divergence": "learned" not in mask_sources or on == "reward",
    }
    return [name for name, is_idle in idle.items() if is_idle and getattr(objective, name)]


def _load_frozen_configs(
    config: RunConfig, policy: PretrainedConfig, tokenizer: PreTrainedTokenizerBase,
    prefixes: Mapping[OracleRole, Prefix], *, divergence: bool,
) -> dict[str, PretrainedConfig]:  # fmt: skip
    """A reference or an oracle of its own path must read the policy's tokens, as far and, for a divergence, as wide."""
    trust, configs = config.model.trust_remote_code, {}
    longer: dict[str, int] = {role: len(prefix.ids) for role, prefix in prefixes.items()}
    for role in FROZEN:
        path = getattr(config, role).path
        if path is None:
            continue
        field = f"{role}.path"
        configs[role] = frozen = load_config(path, field=field, trust_remote_code=trust)
        check_window(frozen, config.data.max_length + longer.get(role, 0), field)
        if load_tokenizer(path, field=field, trust_remote_code=trust).get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"{field} {path} has another tokenizer than the policy {config.model.path}; both must read "
                "the same tokens"
            )
        theirs, ours = text_config(frozen).vocab_size, text_config(policy).vocab_size
        if role == "reference" and divergence and theirs != ours:
            raise UserError(
                f"{field} {path} has a vocabulary of {theirs}, the policy {config.model.path} one of "
                f"{ours}; a divergence needs the same"
            )
    return configs


def _prefixes(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> dict[OracleRole, Prefix]:
    found: dict[OracleRole, Prefix] = {}
    for role, oracle in config.models.oracles.items():
        ids = tokenizer.encode(oracle.prompt or "", add_special_tokens=False)
        found[role] = Prefix(tuple(ids), tokenizer.bos_token_id)
    return found


def _kinds(models: Mapping[str, PretrainedConfig]) -> dict[str, ModelKind]:
    return {f"{role}.path": ModelKind.of(model) for role, model in models.items()}


def _load_pairs(config: RunConfig, tokenizer: PreTrainedTokenizerBase, needs: Requirements) -> dict[str, Mixture]:
    data, speaks = config.data, distributed.rank() == 0
    load = partial(
        load_mixture, tokenizer=tokenizer, config=data, scored=needs.scores, needs_rejected=needs.rejected,
        progress=speaks, bar=True,
    )  # fmt: skip
    train, heldout = load(data.train_specs()), load(data.heldout_specs())
    if data.heldout_pairs:
        check_heldout(data, train.rows)
        train, heldout = train.split(data.heldout_pairs)
    if data.swap and speaks:
        log.warning("data.swap: chosen and rejected responses have changed places, in training and held-out pairs")
    mixtures = {"train": train, "heldout": heldout}
    for name, mixture in mixtures.items():
        if speaks and len(mixture.parts) > 1:
            log.info("data.%s: %s", name, mixture.line())
    return mixtures


def check_heldout(data: DataConfig, rows: int) -> None:
    """Raise UserError where the rows held out leave none of so many."""
    if data.heldout_pairs >= rows:
        raise UserError(f"data.heldout_pairs: {data.heldout_pairs} leaves no training pair of {rows}")


def _tokens(pairs: TokenizedPairs, layout: Layout) -> int:
    """Packed tokens of all pairs."""
    parts = (packed_tokens(part[:, 0], part[:, 1], part[:, 2], layout) for part in pairs.lengths())
    return sum(int(part.sum()) for part in parts)
