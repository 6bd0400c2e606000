"""Tokens of a response that are read and not trained on, in each layout, beside transformers one sequence at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack, trained_tokens
from sparsepo_dist.data.config import Layout
from sparsepo_dist.data.tokens.keys import pair_key
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.decoder.logits import own_head
from sparsepo_dist.ops import token_stats
from tests.support.plain import plain_logps
from tests.support.tiny import save_tiny_model

PAIRS = [
    TokenizedPair((5, 6, 7), (21, 22, 23, 24, 257), (31, 257), chosen_trained=((1, 3), (4, 5))),
    TokenizedPair((8,), (41, 42), (51, 52, 53, 54), chosen_trained=((1, 2),), rejected_trained=((0, 2), (3, 4))),
    TokenizedPair((9, 4), (61, 62, 63), (), chosen_trained=((0, 1),)),
    TokenizedPair((3,), (71, 257), (81, 82)),
]


def test_spans_name_the_tokens_that_are_trained_on() -> None:
    assert trained_tokens((1, 2, 3, 4), ()) == [1, 2, 3, 4]
    assert trained_tokens((1, 2, 3, 4), ((0, 1), (2, 4))) == [1, 3, 4]


@pytest.mark.parametrize("layout", get_args(Layout))
def test_untrained_tokens_stay_inputs_and_are_no_labels(layout: Layout) -> None:
    batch, whole = (pack(pairs, [1.0] * 4, layout) for pairs in (PAIRS, list(map(without_spans, PAIRS))))
    assert torch.equal(batch.input_ids, whole.input_ids) and torch.equal(batch.position_ids, whole.position_ids)
    assert batch.labels.tolist() == [22, 23, 257, 31, 257, 42, 51, 52, 54, 61, 71, 257, 81, 82]
    assert batch.sequence_id.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 6, 6, 7, 7]
    assert batch.tokens_of_pairs == [5, 4, 1, 4]


@pytest.mark.parametrize("layout", get_args(Layout))
def test_loss_and_gradient_are_those_of_the_trained_tokens_alone(tmp_path: Path, layout: Layout) -> None:
    folder = str(save_tiny_model(tmp_path))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = load_model(folder, load_config(folder), dtype=torch.float32, layout=layout, zero3=None).eval()
    batch = pack(PAIRS, [1.0] * 4, layout)
    found = token_stats(hidden_at(backbone(ours), batch), own_head(ours), batch.labels).policy_logp
    truth = plain_logps(theirs, PAIRS)[_places()]
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    truth.sum().backward()
    for (name, got), wanted in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_pairs_key_is_another_one_with_spans_and_what_it_was_without() -> None:
    pair = TokenizedPair((1, 2, 3), (4, 5, 9), (6, 9))
    assert pair_key(pair) == -2657312910810222364  # as in caches that were written before there were spans
    keys = {pair_key(replace(pair, chosen_trained=spans)) for spans in ((), ((0, 1),), ((1, 3),))}
    assert len(keys | {pair_key(replace(pair, rejected_trained=((0, 1),)))}) == 4


def without_spans(pair: TokenizedPair) -> TokenizedPair:
    return replace(pair, chosen_trained=(), rejected_trained=())


def _places() -> list[int]:
    """Of the trained tokens among those of all responses, one after the other."""
    found: list[int] = []
    start = 0
    for pair in PAIRS:
        for ids, spans in ((pair.chosen_ids, pair.chosen_trained), (pair.rejected_ids, pair.rejected_trained)):
            found += [start + i for i in range(len(ids)) if not spans or any(a <= i < b for a, b in spans)]
            start += len(ids)
    return found
