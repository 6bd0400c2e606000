"""The pairs of a source before anything is cut, and what was wrong with its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.inspection.measures import Measures, measure

_NO_LIMIT = 2**40


class Source(NamedTuple):
    """A source, read to its end."""

    name: str
    pairs: Sequence[TokenizedPair]
    """Whole, in its order."""
    remarks: Remarks
    """Its bad rows, counted by reason."""
    measures: Measures
    """Of `pairs`."""

    @property
    def good_rows(self) -> int:
        """Rows that pairs are of."""
        return int(self.measures.row.max()) + 1


def load_whole(
    name: str, tokenizer: PreTrainedTokenizerBase, config: DataConfig, *, scored: bool, rejected: bool
) -> Source:  # fmt: skip
    """As `load_tokenized`, but for the lengths: nothing is cut, and bad rows are counted, not refused.

    Args:
        scored: whether the run's objective needs scores.
        rejected: whether it needs rejected responses.

    Raises:
        UserError: the source cannot be read, or has no good row.
    """
    whole = dataclasses.replace(
        config, max_length=2 * _NO_LIMIT, max_prompt_length=_NO_LIMIT, on_long="cut", on_bad_row="skip"
    )
    remarks = Remarks()
    pairs = load_tokenized(
        name, tokenizer, whole, scored=scored, needs_rejected=rejected, progress=True, remarks=remarks
    )
    return Source(name, pairs, remarks, measure(pairs))
