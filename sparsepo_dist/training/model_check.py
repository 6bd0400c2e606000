"""Before the first step: what a run's models say in training, held against what each says by itself.

A few short pairs of the run's own data are scored as training scores them (layout, attention, head, engines, sharding,
quantisation, adapters), and by each model's own forward and logits (`engines.decoder.check`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsepo_dist.contracts import ORACLE_LOGPS, Spans, TokenizedPair
from sparsepo_dist.data.batching.pack import pack, trained_tokens
from sparsepo_dist.data.config import Layout
from sparsepo_dist.data.store.pairs import lengths_of
from sparsepo_dist.engines.attention.choice import AttentionSetting
from sparsepo_dist.engines.config import AttentionName, Models, named
from sparsepo_dist.engines.decoder.check import (
    FLOORS,
    TIMES,
    Disagreement,
    attending,
    disagreement,
    moved_by_rounding,
    own_logps,
)
from sparsepo_dist.engines.decoder.loading import attention_for
from sparsepo_dist.engines.deepspeed.distributed import lost_peer, of_all_ranks, rank, world_size
from sparsepo_dist.engines.deepspeed.trace import forget_trace
from sparsepo_dist.engines.reference.cached import CachedReference
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.engines.reference.oracles import Prefix
from sparsepo_dist.engines.sequence.rows import OwnRows
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.training.checkpoints.random_state import capture, restore
from sparsepo_dist.training.trainer import Trainer

log = logging.getLogger(__name__)

_FAR = 2**40  # tokens
_LENGTHS = (128, 48)  # tokens of a pair: two, of which the second has a neighbour before it, and the first one behind


def check_models_alone(
    trainer: Trainer, models: Models, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> None:
    """Hold the numbers of a run's models in training against their own. Every rank must call this.

    Nothing is drawn: random states are what they were. A reference that is read from a cache is not asked.

    Raises:
        UserError: they differ by more than rounding, on every rank.
    """
    states = capture()
    trainer.policy.train(False)
    pairs = sample(trainer.train_batches.pairs, whole=isinstance(trainer.reference, CachedReference))
    check = _Check(trainer, models, tokenizer, dtype, pairs)
    sentences = [check.of_role(role) for role in check.found]
    restore(states)
    if rank() == 0:
        log.info(
            "the models' own numbers agree, in nats a token of the response that differs most: %s", "; ".join(sentences)
        )


def sample(pairs: Sequence[TokenizedPair], *, whole: bool) -> list[TokenizedPair]:
    """Pairs of lengths near `_LENGTHS`, cut to them, or `whole`, as a reference cache knows them."""
    found: list[TokenizedPair] = []
    taken: set[int] = set()
    for length in _LENGTHS:
        number = _nearest(pairs, length, taken)
        taken.add(number)
        pair = pairs[number]
        if not whole:
            room = length // 4
            pair = dataclasses.replace(
                pair, prompt_ids=pair.prompt_ids[-2 * room :], chosen_ids=pair.chosen_ids[:room],
                rejected_ids=pair.rejected_ids[:room], chosen_trained=(), rejected_trained=(),
            )  # fmt: skip
        found.append(pair)
    return found


def _nearest(pairs: Sequence[TokenizedPair], length: int, taken: set[int]) -> int:
    """The first of the pairs whose tokens are nearest to a length, and that is not taken, if any is left."""
    found, least, before = 0, np.iinfo(np.int64).max, 0
    for lengths in lengths_of(pairs):
        distances = np.abs(lengths.sum(axis=1) - length)
        distances[[number - before for number in taken if before <= number < before + len(lengths)]] += _FAR
        place = int(distances.argmin())
        if distances[place] < least:
            found, least = before + place, distances[place]
        before += len(lengths)
    return found


class _Response(NamedTuple):
    pair: TokenizedPair
    name: str
    ids: tuple[int, ...]
    trained: Spans

    @property
    def places(self) -> list[int]:
        """Which of the ids are scored."""
        return trained_tokens(range(len(self.ids)), self.trained)


class _Way(NamedTuple):
    """Another way to compute the same."""

    options: str
    """Of the command line."""
    layout: Layout
    attention: AttentionName


class _Check:
    """One comparison of all models."""

    def __init__(
        self, trainer: Trainer, models: Models, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype,
        pairs: Sequence[TokenizedPair],
    ) -> None:  # fmt: skip
        self.trainer, self.told, self.tokenizer, self.dtype, self.pairs = trainer, models, tokenizer, dtype, pairs
        self.device = trainer.train_batches.device
        self.layout: Layout = trainer.train_batches.config.settled_layout
        self.responses = [
            response
            for pair in pairs
            for response in (
                _Response(pair, "chosen", pair.chosen_ids, pair.chosen_trained),
                _Response(pair, "rejected", pair.rejected_ids, pair.rejected_trained),
            )
            if response.ids
        ]
        self.models = {"policy": trainer.policy.module.model}
        self.engines: dict[str, Any] = {"reference": trainer.reference}
        self.prefixes: dict[str, Prefix] = {}
        for role, oracle in trainer.oracles.items():
            self.engines[role], self.prefixes[role] = oracle.engine, oracle.prefix
        for name, engine in self.engines.items():
            if isinstance(engine, ReferenceEngine) and engine.model is not None:
                self.models[name] = engine.model
        self.found = self._in_training(self.layout)
        """By role: log-probabilities [tokens] of each response, as training computes them."""

    def of_role(self, role: str) -> str:
        """The difference and what is allowed, in words.

        Raises:
            UserError: it is more than is allowed.
        """
        own, bound = self._by_itself(role), FLOORS[self.dtype]
        worst = _worst(self.found[role], own)
        if worst.mean > bound:
            rounded = self._by_itself(role, moved=True)
            bound = max(bound, TIMES * disagreement(rounded, own).mean)
        if worst.mean > bound:
            ways = [way for way in self._ways() if self._works(way, role, own, bound)]
            raise UserError(self._message(role, worst, bound, ways))
        return f"{role} {worst.mean:.2g} of at most {bound:.2g}"

    @torch.no_grad()
    def _in_training(self, layout: Layout) -> dict[str, list[Tensor]]:
        trainer = self.trainer
        packed = pack(self.pairs, [1 / len(self.pairs)] * len(self.pairs), layout, self.device)
        batch = trainer.train_batches.shared(packed)
        outputs = trainer.score(batch)
        stats, _ = trainer.statistics(batch, outputs)
        found = {"policy": stats.policy_logp}
        if stats.reference_logp is not None and not isinstance(trainer.reference, CachedReference):
            found["reference"] = stats.reference_logp
        if outputs is not None:
            whole = OwnRows.of(batch).whole
            found |= {role: whole(getattr(outputs, ORACLE_LOGPS[role])) for role in trainer.oracles}
        trainer.progress.at("checking the models")
        sizes = [len(response.places) for response in self.responses]
        return {role: list(logps.float().cpu().split(sizes)) for role, logps in found.items()}

    def _by_itself(self, role: str, *, moved: bool = False) -> list[Tensor]:
        """Log-probabilities of each response by the model alone; ranks share them out, and each gets all.

        Args:
            moved: by a rounding of its embeddings.
        """
        mine: dict[int, Tensor] = {}
        prefix = self.prefixes.get(role, Prefix())
        rounds = math.ceil(len(self.responses) / world_size())
        with self._alone(role) as model, moved_by_rounding(model) if moved else nullcontext():
            own = attention_for(model.config, "padded", self.dtype, AttentionSetting(device=self.device))
            with attending(model, own):
                # Where parameters are sharded, a rank with nothing left to do has to run as often as the others.
                for number in range(rank(), rounds * world_size(), world_size()):
                    response = self.responses[number % len(self.responses)]
                    prompt = prefix.before(response.pair.prompt_ids)
                    own_ones = own_logps(model, prompt, response.ids, self.device)
                    mine[number] = own_ones[response.places]
        self.trainer.progress.at("checking the models")
        everywhere = {number: logps for part in of_all_ranks(mine) for number, logps in part.items()}
        return [everywhere[number] for number in range(len(self.responses))]

    def _alone(self, role: str) -> AbstractContextManager[PreTrainedModel]:
        trainer = self.trainer
        if role == "policy":
            return trainer.policy.model_alone()
        engine = self.engines[role]
        if isinstance(engine, ReferenceEngine):
            return engine.model_alone()
        return trainer.policy.model_alone(reference=True)

    def _ways(self) -> Iterator[_Way]:
        name = self.told.model.attention
        if self.layout != "padded" and name != "blockwise":
            yield _Way("--model.attention blockwise", self.layout, "blockwise")
        for layout in get_args(Layout):
            if layout == self.layout:
                continue
            attention = "auto" if layout == "padded" else name
            more = "" if attention == name else f" --model.attention {attention}"
            yield _Way(f"--data.layout {layout}{more}", layout, attention)

    def _works(self, way: _Way, role: str, own: Sequence[Tensor], bound: float) -> bool:
        """Whether a model's numbers in training are its own that way."""
        setting = AttentionSetting(way.attention, self.device, dropout=not self.told.model.disable_dropout)
        found: dict[str, list[Tensor]] = {}
        try:
            with ExitStack() as stack:
                for model in self.models.values():
                    attention = attention_for(model.config, way.layout, self.dtype, setting)
                    stack.enter_context(attending(model, attention))
                found = self._in_training(way.layout)
        except Exception as error:  # whatever a model does in a layout that it was not loaded for: it is no way
            if isinstance(error, RuntimeError) and lost_peer(error):
                raise
            log.debug("%s cannot be: %s", way.options, error)
        if not all(of_all_ranks(bool(found))):
            forget_trace(self.trainer.policy.engine)
            return False
        return _worst(found[role], own).mean <= bound

    def _message(self, role: str, worst: Disagreement, bound: float, ways: Sequence[_Way]) -> str:
        config, model = self.told, self.models.get(role, self.models["policy"])
        response = self.responses[worst.response]
        text = shortened(repr(self.tokenizer.decode([response.ids[response.places[worst.token]]])))
        path = (None if role == "policy" else getattr(config, role).path) or config.model.path
        remedy = (
            f"What was tried and is right: {' or '.join(way.options for way in ways)}"
            if ways
            else "No other layout or attention that could be tried is right either: this model is not supported"
        )
        return (
            f"the {named(role)} {path} ({type(model).__name__}) is computed wrongly with data.layout {self.layout} and "
            f"the attention {model.config._attn_implementation}: its log-probabilities are not those that the model "
            f"itself gives to one sequence at a time, but up to {worst.mean:.2g} nats a token from them, where "
            f"rounding explains {bound:.2g}. Token {worst.token} ({text}) of the {response.name} response of "
            f"{response.pair.place} has {worst.found:.4f} instead of {worst.own:.4f}. {remedy}. --model.check false "
            "trains all the same"
        )


def _worst(found: Sequence[Tensor], own: Sequence[Tensor]) -> Disagreement:
    """On the rank where it is greatest. Every rank must call this."""
    return max(of_all_ranks(disagreement(found, own)), key=lambda one: one.mean)
