"""What is counted of a data set, against counting pair by pair."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from sparsepo_dist.contracts import TokenizedPair, TokenizedRow
from sparsepo_dist.data.batching.balance import packed_tokens
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.encode import Encoded
from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.inspection.cutting import cut, cuts_of, ladder
from sparsepo_dist.inspection.findings import leakage, lengths, repetitions, score_gaps, sides
from sparsepo_dist.inspection.measures import measure
from sparsepo_dist.inspection.summary import LAYOUTS

BOS = 256


def some_pairs(count: int, seed: int = 0) -> list[TokenizedPair]:
    """Short pairs over three tokens, so that much of them is alike; every fifth is for supervised fine-tuning."""
    draw = random.Random(seed)

    def ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(3), k=draw.randint(least, most)))

    pairs = [
        TokenizedPair(
            ids(1, 6), ids(1, 6), () if i % 5 == 0 else ids(1, 6),
            (draw.randint(0, 3), draw.randint(0, 3)) if i % 3 else None, f"row {i}",
        )
        for i in range(count)
    ]  # fmt: skip
    return [pair for pair in pairs if pair.chosen_ids != pair.rejected_ids]


PAIRS = some_pairs(120)


@pytest.mark.parametrize("limits", [Limits(2, 3), Limits(4, 4), Limits(3, 6), Limits(6, 12)])
@pytest.mark.parametrize("on_long", ["cut", "drop"])
def test_what_is_cut_is_what_a_run_cuts(limits: Limits, on_long: str) -> None:
    cuts = Cuts(DataConfig(max_prompt_length=limits.prompt, max_length=limits.whole, on_long=on_long))
    found = cut(measure(PAIRS), limits)
    kept = found.kept(drop=on_long == "drop")
    for i, pair in enumerate(PAIRS):
        responses = [Encoded(list(ids)) for ids in (pair.chosen_ids, pair.rejected_ids) if ids]
        try:
            left = cuts.cut(list(pair.prompt_ids), responses, BOS, pair.place)
        except RowError:
            assert found.full[i] and not kept[i]
            continue
        is_bad = on_long == "cut" and left is not None and len(left[1]) == 2 and left[1][0] == left[1][1]
        assert kept[i] == (left is not None and not is_bad), pair
        if left is not None:
            sizes = [len(left[0]), *(len(response.ids) for response in left[1]), 0][:3]
            assert sizes == [found.prompt[i], found.chosen[i], found.rejected[i]]
    assert kept.any() and kept.all() == (limits.whole == 12)


def test_how_much_is_cut() -> None:
    long = TokenizedPair((1,) * 9, (2,) * 5, (3,) * 2, None, "row 1")
    short = TokenizedPair((1,), (2, 4), (3,), None, "row 2")
    found = cuts_of(measure([long, short]), Limits(6, 8))
    assert found["prompts"] == {"cut": 1, "of": 2, "mean_tokens": 3.0, "most_tokens": 3}
    assert found["responses"] == {"cut": 1, "of": 4, "mean_tokens": 3.0, "most_tokens": 3}
    assert found["pairs"] == 1 and found["without_room"] == found["cut_to_the_same"] == 0
    alike = TokenizedPair((1,), (2, 2, 5), (2, 2, 6), None, "row 3")
    found = cuts_of(measure([alike, dataclasses.replace(long, prompt_ids=(1,) * 3)]), Limits(6, 3))
    assert found["cut_to_the_same"] == 1 and found["without_room"] == 1


def test_of_a_row_all_pairs_are_left_out() -> None:
    row = TokenizedRow((1,), ((2,), (3,) * 9), ((4,),), place="row 1")
    pairs = [*row.pairs(), TokenizedPair((1,), (2,), (4,), None, "row 2")]
    assert cut(measure(pairs), Limits(4, 6)).kept(drop=True).tolist() == [False, False, True]
    assert repetitions(measure(pairs))["rows"] == 2 and repetitions(measure(pairs))["prompts_again"] == 1


def test_larger_limits_end_where_nothing_is_cut() -> None:
    measures = measure(PAIRS)
    steps = ladder(measures, Limits(2, 3))
    assert steps[0] == Limits(2, 3) and steps[1] == Limits(4, 6)
    assert all(cuts_of(measures, one)["pairs"] for one in steps[:-1]) and not cuts_of(measures, steps[-1])["pairs"]


def test_repetitions_against_plain_sets() -> None:
    pairs = [*PAIRS, *(dataclasses.replace(pair, place=f"{pair.place} again") for pair in PAIRS[:7])]
    found = repetitions(measure(pairs))
    texts = [(p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in pairs]
    assert found["pairs_again"] == len(texts) - len(set(texts)) >= 7
    assert found["prompts_again"] == len(pairs) - len({p.prompt_ids for p in pairs})
    chosen, rejected = {t[:2] for t in texts}, {(t[0], t[2]) for t in texts if t[2]}
    contradicted = [t for t in texts if t[:2] in rejected or (t[2] and (t[0], t[2]) in chosen)]
    assert found["contradicted_pairs"] == len(contradicted) > 0
    assert found["responses_on_both_sides"] == len({t[1] for t in texts} & {t[2] for t in texts if t[2]}) > 0


def test_leaks_against_plain_sets() -> None:
    train, heldout = PAIRS[:90], [*PAIRS[90:], PAIRS[3]]
    found = leakage(measure(train), measure(heldout))
    prompts = {p.prompt_ids for p in train}
    assert found["prompts_in_train"] == sum(p.prompt_ids in prompts for p in heldout) > 1
    assert found["pairs_in_train"] >= 1 and found["pairs"] == len(heldout)


def test_sides_and_scores_against_plain_loops() -> None:
    found, two = sides(measure(PAIRS)), [p for p in PAIRS if p.rejected_ids]

    def shared(pair: TokenizedPair) -> int:
        most = min(len(pair.chosen_ids), len(pair.rejected_ids))
        return max(n for n in range(most + 1) if pair.chosen_ids[:n] == pair.rejected_ids[:n])

    assert found is not None and found["pairs"] == len(two)
    assert found["shared_first_tokens"]["mean"] == pytest.approx(sum(map(shared, two)) / len(two))
    assert found["shared_first_tokens"]["pairs"] == sum(shared(p) > 0 for p in two)
    assert found["chosen_longer"] == sum(len(p.chosen_ids) > len(p.rejected_ids) for p in two)
    gaps = [p.scores[0] - p.scores[1] for p in two if p.scores is not None]
    scores = score_gaps(measure(PAIRS))
    assert scores is not None and scores["pairs"] == len(gaps)
    assert (scores["ties"], scores["negative"]) == (gaps.count(0), sum(gap < 0 for gap in gaps))
    assert scores["gap"]["p50"] == np.median(gaps) and scores["gap"]["p100"] == max(gaps)
    assert lengths(measure(PAIRS))["prompt"]["p100"] == 6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_of_a_layout_are_those_that_are_packed(layout: str) -> None:
    measures = measure(PAIRS)
    tokens = packed_tokens(measures.prompt, measures.chosen, measures.rejected, layout)
    assert tokens.tolist() == [len(pack([pair], [1.0], layout).input_ids) for pair in PAIRS]
