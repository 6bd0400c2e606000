"""Sources whose rows are good and bad in many ways, and what one process makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows.remarks import Remarks, refuse_or_skip
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.tokenize import encoder_for, tokenize_row
from tests.support.rows import load_pairs
from tests.support.tiny import tiny_tokenizer

Fields = dict[str, Any]
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
DATED = "{{ strftime_now('%d %B %Y') }} " + TEMPLATE


def good(number: int) -> Fields:
    """A row whose texts have other lengths than its neighbours'."""
    word = "abcdefg"[number % 7]
    return {
        "prompt": f"{number} " + word * (number % 5), "chosen": " yes" + word * (number % 11), "rejected": " no" * 2,
    }  # fmt: skip


def write(path: Path, rows: list[Fields | str]) -> str:
    """A .jsonl file; texts stand there as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def templated(template: str | None = TEMPLATE) -> PreTrainedTokenizerBase:
    """The tiny tokenizer with a chat template."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


class Alone(NamedTuple):
    """What one process makes of a source, in one loop over its rows."""

    pairs: list[TokenizedPair]
    remarks: list[str]


def alone(source: str, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Alone:
    """Row after row, without portions, processes and files."""
    chat, cuts, remarks = Chat(tokenizer, config), Cuts(config), Remarks()
    encoder = encoder_for(chat, config)
    pairs: list[TokenizedPair] = []
    for place, row in load_pairs(source, config, remarks):
        try:
            found = tokenize_row(row, chat, encoder, cuts, place)
            pairs.extend([] if found is None else found.pairs())
        except RowError as bad:
            refuse_or_skip(bad, config.on_bad_row, remarks)
    return Alone(pairs, [*remarks.lines(), *chat.remarks(), *encoder.remarks(), *cuts.remarks()])
