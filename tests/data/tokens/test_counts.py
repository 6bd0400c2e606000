"""What is said of a source is the same whether one process read it or several."""

from __future__ import annotations

import pickle
from typing import Any

from sparsepo_dist.contracts import PreferenceRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.encode import Encoder
from sparsepo_dist.data.tokens.tokenize import tokenize_row
from tests.support.rows import pair_row
from tests.support.tiny import tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.name }}{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class Floor:
    """One process's part of the floor."""

    def __init__(self) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = TEMPLATE
        config = DataConfig(max_prompt_length=30, max_length=50)
        self.parts = Chat(tokenizer, config), Encoder(tokenizer), Cuts(config)

    def read(self, rows: list[PreferenceRow]) -> Floor:
        for row in rows:
            tokenize_row(row, *self.parts, "a row")
        return self

    def remarks(self) -> list[str]:
        return [line for part in self.parts for line in part.remarks()]


def row(words: str, **more: Any) -> PreferenceRow:
    one = {"role": "user", "content": words, **more}
    return pair_row((one,), ({"role": "assistant", "content": "yes" * 9},), ({"role": "assistant", "content": "no"},))


ROWS = [row("hi", weight=1.0), row("Rain in Bergen?", weight=2.0, id="7"), row("hi", name="Kari"), row("ho", id="8")]


def test_counts_of_parts_are_summed_and_survive_pickling() -> None:
    whole, half = Floor().read(ROWS), Floor().read(ROWS[:1])
    other: Floor = pickle.loads(pickle.dumps(Floor())).read(ROWS[1:])
    for part, more in zip(half.parts, other.parts, strict=True):
        part.counts.update(more.counts)
    assert half.remarks() == whole.remarks()
    assert "id (2 rows), weight (2 rows)" in whole.remarks()[0] and "1 of 4 prompts" in whole.remarks()[1]
