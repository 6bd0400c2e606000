"""The first pairs of a run, written once where it starts: what was made of the data is best seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.tokens.shown import PairText


def show_pairs(pairs: Sequence[TokenizedPair], tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> None:
    """Write the first `data.show` pairs to standard error, in colours where that is a terminal."""
    text = PairText(tokenizer, config, colours=has_colours(sys.stderr))
    for pair in pairs[: config.show]:
        write(text.pair(pair), sys.stderr)


def has_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours, and its user wants them (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write(text: str, stream: TextIO) -> None:
    """A line; characters that the stream's encoding lacks are spelt out."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
