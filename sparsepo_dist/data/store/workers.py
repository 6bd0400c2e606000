"""Rows become token ids in several processes; what comes back is what one process would have made, in its order."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import PreferenceRow, TokenizedRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import Row, RowError
from sparsepo_dist.data.rows.form import Form
from sparsepo_dist.data.rows.pairs import parse_row
from sparsepo_dist.data.rows.remarks import Remarks, refuse_or_skip
from sparsepo_dist.data.store.writer import Piece
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.encode import Encoder
from sparsepo_dist.data.tokens.tokenize import check_scores, encoder_for, tokenize_row
from sparsepo_dist.errors import RunError, UserError

AT_ONCE = 64
"""Rows that a process is given at a time."""
MOST_PAIRS = 4096
"""Of a row, which is drawn from once an epoch; a key of each is kept."""
ALONE = 1
"""So many portions are done before other processes are started: a small source needs none."""
_AHEAD = 3
"""Portions a process that are under way: enough that none waits, and few enough to keep in memory."""
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)
Rows = list[Row | RowError]


class Done(NamedTuple):
    """What became of a portion."""

    rows: int
    """How many it had."""
    piece: Piece
    remarks: Remarks
    """Of reading it."""
    counts: list[Counter[str]]
    """Of `Tokenizing.parts`, for this portion."""


class Tokenizing:
    """What makes token ids of the rows of a source, in one process or another."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: DataConfig, form: Form, *, scored: bool, needs_rejected: bool
    ) -> None:
        self.chat, self.cuts = Chat(tokenizer, config), Cuts(config)
        self.encoder = encoder_for(self.chat, config)
        self.parts: tuple[Chat | Encoder | Cuts, ...] = (self.chat, self.encoder, self.cuts)
        self._form, self._on_bad_row = form, config.on_bad_row
        self._scored, self._needs_rejected, self._swap = scored, needs_rejected, config.swap

    def __call__(self, rows: Rows) -> Done:
        """Token ids of a portion.

        Raises:
            UserError: of the first row that ends the run.
        """
        before, remarks = [Counter(part.counts) for part in self.parts], Remarks()
        found = []
        for row in rows:
            try:
                if isinstance(row, RowError):
                    raise row
                tokenized = self._tokenized(row.place, parse_row(row, self._form, remarks))
                if tokenized is not None:
                    found.append(tokenized)
            except RowError as bad:
                refuse_or_skip(bad, self._on_bad_row, remarks)
        counts = [Counter(part.counts) - old for part, old in zip(self.parts, before, strict=True)]
        return Done(len(rows), Piece.of(found), remarks, counts)

    def _tokenized(self, place: str, row: PreferenceRow) -> TokenizedRow | None:
        if self._swap:
            row = row.swapped()
        if not self._needs_rejected:
            row = row.without_rejected()
        pairs = len(row.chosen) * len(row.rejected)
        if pairs > MOST_PAIRS:
            raise RowError(
                place,
                f"{len(row.chosen)} chosen and {len(row.rejected)} rejected responses make {pairs} pairs, where a row "
                f"may make {MOST_PAIRS}; leave some of them out, or divide the row",
            )
        if self._scored:
            check_scores(row, place)
        return tokenize_row(row, self.chat, self.encoder, self.cuts, place)

    def remarks(self, counts: list[Counter[str]]) -> list[str]:
        """What the user must know, by the sums of what was counted in all processes."""
        for part, count in zip(self.parts, counts, strict=True):
            part.counts = count
        return [remark for part in self.parts for remark in part.remarks()]


def in_order(tokenizing: Tokenizing, portions: Iterable[Rows], workers: int) -> Generator[Done, None, None]:
    """What becomes of each portion, in their order, by so many processes.

    Raises:
        UserError: what `portions` or `tokenizing` raise, whichever comes first in that order.
        RunError: a process was killed.
    """
    portions = iter(portions)
    for _, portion in zip(range(ALONE if workers > 1 else -1), portions, strict=False):
        yield tokenizing(portion)
    if workers == 1:
        yield from map(tokenizing, portions)
        return
    yield from _shared_out(tokenizing, portions, workers)


def _shared_out(tokenizing: Tokenizing, portions: Iterator[Rows], workers: int) -> Generator[Done, None, None]:
    first = next(portions, None)
    if first is None:
        return
    # Forked: they have the tokenizer and all modules, and use neither threads nor devices of this process.
    context = multiprocessing.get_context("fork")
    parent = os.getpid()
    gc.freeze()  # or their collector would look at all that this process has, and so copy it
    with ProcessPoolExecutor(workers, context, _begin, (tokenizing, parent)) as pool:
        waiting: deque[Future[Done]] = deque([pool.submit(_work, first)])
        failure: UserError | None = None
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < _AHEAD * workers:
                    try:
                        portion = next(portions, None)
                    except UserError as error:  # what comes before it is due first, and may be worse
                        failure, portion = error, None
                    more = portion is not None
                    if portion is not None:
                        waiting.append(pool.submit(_work, portion))
                if waiting:
                    yield waiting.popleft().result()
        except BrokenProcessPool:
            raise RunError(
                "a process that makes token ids of rows was killed, perhaps because memory is short; start again, with "
                "fewer of them (--data.workers 1)"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            gc.unfreeze()
    if failure is not None:
        raise failure


_tokenizing: Tokenizing | None = None


def _begin(tokenizing: Tokenizing, parent: int) -> None:
    """In a new process: end with the one that made it, and leave signals and threads to that one."""
    global _tokenizing
    _tokenizing = tokenizing
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _work(rows: Rows) -> Done:
    assert _tokenizing is not None
    return _tokenizing(rows)
