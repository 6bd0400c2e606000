"""A run's data looked at, without its models: single pairs as they are trained on, and numbers of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.encode import Encoded
from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.data.tokens.shown import PairText
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.inspection.measures import Measures
from sparsepo_dist.inspection.mixed import Taken, measures_of, split_off, taken
from sparsepo_dist.inspection.source import load_whole
from sparsepo_dist.inspection.summary import summary
from sparsepo_dist.objectives import build_objective
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.date import dated
from sparsepo_dist.runs.inputs import check_builtin_names, check_heldout, resolve_builtin
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
    specs, others = data.train_specs(), data.heldout_specs()
    sources = [
        load_whole(spec.source, tokenizer, data, scored=needs.scores, rejected=needs.rejected)
        for spec in (*specs, *others)
    ]
    train, heldout = taken(specs, sources[: len(specs)], data), taken(others, sources[len(specs) :], data)
    if data.heldout_pairs:
        check_heldout(data, sum(len(part.rows) for part in train))
        train, heldout = split_off(train, data.heldout_pairs)
    text = PairText(tokenizer, data, colours=colours)
    shown = [text.pair(*both) for both in _first(train, tokenizer, data)]
    measures = measures_of(train)
    counts = summary(data, sources, measures, measures_of(heldout) if heldout else None)
    return Inspection(shown, counts, measures, Limits.of(data))


def _first(
    parts: Sequence[Taken], tokenizer: PreTrainedTokenizerBase, data: DataConfig
) -> Iterator[tuple[TokenizedPair, TokenizedPair]]:
    """The first pairs that are trained on, each as it is cut and whole."""
    cuts = Cuts(dataclasses.replace(data, on_long="cut"))
    for whole in islice((part.source.pairs[int(place)] for part in parts for place in part.usable), data.show):
        sides = ((whole.chosen_ids, whole.chosen_trained), (whole.rejected_ids, whole.rejected_trained))
        responses = [Encoded(list(ids), trained) for ids, trained in sides if ids]
        found = cuts.cut(list(whole.prompt_ids), responses, tokenizer.bos_token_id, whole.place)
        assert found is not None
        prompt, (chosen, *others) = found
        other = others[0] if others else Encoded([])
        yield (
            dataclasses.replace(
                whole, prompt_ids=tuple(prompt), chosen_ids=tuple(chosen.ids), rejected_ids=tuple(other.ids),
                chosen_trained=chosen.trained, rejected_trained=other.trained,
            ),
            whole,
        )  # fmt: skip
