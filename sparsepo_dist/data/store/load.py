"""The pairs of a source: made once on each machine, and mapped into memory."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.identity import source_identity
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.store.build import Built, build
from sparsepo_dist.data.store.entry import made_once
from sparsepo_dist.data.store.key import store_key
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.data.tokens.tokenize import prepare_tokenizer
from sparsepo_dist.disk import cache_folder
from sparsepo_dist.errors import UserError

log = logging.getLogger(__name__)


def load_tokenized(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    scored: bool = False,
    needs_rejected: bool = True,
    progress: bool = False,
    bar: bool = False,
    remarks: Remarks | None = None,
) -> TokenizedPairs:
    """Every usable pair of a source, in its order.

    With `scored`, a row is bad unless chosen_score is above rejected_score; with `needs_rejected`, a source without
    rejected responses is refused, and without it those that are there are left out. With `progress`, which is for one
    rank, a bar is shown, and it is said what was taken off the rows and what of them is not used; with `bar`, a bar is
    shown where it is this process that reads them. `remarks` is filled with how many rows there are, and which were
    dropped.

    Raises:
        UserError: a bad row under `on_bad_row` "stop", no usable row at all, a tokenizer without EOS, or a cache that
            cannot be written.
        RunError: a process that makes token ids was killed.
    """
    prepare_tokenizer(tokenizer, config)
    key = store_key(source, tokenizer, config, scored=scored, needs_rejected=needs_rejected)
    folder = cache_folder() / "pairs" if config.cache is None else Path(config.cache).expanduser()

    def make(unfinished: Path) -> Built:
        built = build(
            unfinished, source, tokenizer, config, scored=scored, needs_rejected=needs_rejected, bar=bar or progress
        )  # fmt: skip
        if source_identity(source) != key["source"]:
            raise UserError(f"{source}: it has changed while it was read; start again once it is finished")
        return built

    store = made_once(folder, key, make, source, tell=progress)
    pairs = TokenizedPairs.of(store.columns)
    if config.on_bad_row == "skip" or config.on_long == "drop":
        log.warning("%s: %d pairs kept", source, len(pairs))
    if remarks is not None:
        remarks.rows += store.read
        for reason, count, place, first in store.dropped:
            remarks.dropped[reason] += count
            remarks.first.setdefault(reason, RowError(place, first))
    for remark in store.remarks if progress else ():
        log.warning("%s: %s", source, remark)
    return pairs
