"""A run's data looked at, without its models: single pairs as they are trained on, and numbers of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.data.tokens.shown import PairText
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.inspection.cutting import cut
from sparsepo_dist.inspection.measures import Measures
from sparsepo_dist.inspection.source import Source, load_whole
from sparsepo_dist.inspection.summary import summary
from sparsepo_dist.objectives import build_objective
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.date import dated
from sparsepo_dist.runs.inputs import check_builtin_names, first_heldout, resolve_builtin
from sparsepo_dist.runs.recipes.starts import untrained_start


class Inspection(NamedTuple):
    """What was found."""

    shown: list[str]
    """The first pairs as text."""
    summary: dict[str, Any]
    train: Measures
    """Of the pairs to train on, whole."""
    limits: Limits


def inspect_data(config: RunConfig, *, colours: bool) -> Inspection:
    """Read the data of a run; of its model, the tokenizer alone is loaded.

    Raises:
        UserError: anything the user can mend, but for bad rows, which are counted.
    """
    config.data.validate()
    config = untrained_start(config)
    check_builtin_names(config)
    config = dated(resolve_builtin(config))
    data, needs = config.data, build_objective(config.objective).requirements
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    sources = [
        load_whole(name, tokenizer, data, scored=needs.scores, rejected=needs.rejected)
        for name in (data.train, data.heldout)
        if name is not None
    ]
    train, heldout = _split(sources, data)
    text = PairText(tokenizer, data, colours=colours)
    shown = [text.pair(*both) for both in _first(sources[0], tokenizer, data, rejected=needs.rejected)]
    return Inspection(shown, summary(data, sources, train, heldout), train, Limits.of(data))


def _split(sources: Sequence[Source], data: DataConfig) -> tuple[Measures, Measures | None]:
    """As a run does: held-out pairs are taken off the end of those that the limits leave."""
    everything = sources[0].measures
    if len(sources) > 1:
        return everything, sources[1].measures
    if not data.heldout_pairs:
        return everything, None
    kept = np.flatnonzero(cut(everything, Limits.of(data)).kept(drop=data.on_long == "drop"))
    first = int(kept[first_heldout(data, len(kept))])
    return everything.of(slice(first)), everything.of(slice(first, None))


def _first(
    source: Source, tokenizer: PreTrainedTokenizerBase, data: DataConfig, *, rejected: bool
) -> Iterator[tuple[TokenizedPair, TokenizedPair]]:
    """The first pairs that are trained on, each as it is cut and whole."""
    kept = cut(source.measures, Limits.of(data)).kept(drop=data.on_long == "drop")
    cuts = Cuts(dataclasses.replace(data, on_long="cut"))
    for index in np.flatnonzero(kept)[: data.show]:
        pair = source.pairs[int(index)]
        whole = pair if rejected else dataclasses.replace(pair, rejected_ids=())
        responses = [list(ids) for ids in (whole.chosen_ids, whole.rejected_ids) if ids]
        found = cuts.cut(list(whole.prompt_ids), responses, tokenizer.bos_token_id, whole.place)
        assert found is not None
        prompt, (chosen, *others) = found
        yield (
            dataclasses.replace(
                whole, prompt_ids=tuple(prompt), chosen_ids=tuple(chosen), rejected_ids=tuple(*others)
            ),
            whole,
        )  # fmt: skip
