"""A pair as text, the way a model reads it: what is special, what is a label, where something was cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import Spans, TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.errors import printable

HEAD, TAIL = 60, 60
"""Tokens that are shown of the beginning and of the end of a longer text."""
_IDS = 4
_OVERLAP = 8
# Select Graphic Rendition parameters: dim, green, yellow; reverse; magenta.
_COLOURS = {"prompt": "2", "chosen": "32", "rejected": "33"}
_SPECIAL, _MARK = ";7", "35"
LEGEND = "\u27e6special token\u27e7, \u21b5 line break, | context, + label"


class Piece(NamedTuple):
    """Neighbouring characters that look alike."""

    text: str
    colour: str


class PairText:
    """Pairs of a run as text.

    Whatever a row or a tokenizer holds, the text is printable; escape sequences are in it with `colours` alone.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: DataConfig, *, colours: bool) -> None:
        self._tokenizer, self._config, self._colours = tokenizer, config, colours
        added = tokenizer.added_tokens_decoder
        self._special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}

    def pair(self, pair: TokenizedPair, whole: TokenizedPair | None = None) -> str:
        """A pair; `whole` is the same before it was cut, where that is known."""
        parts = [printable(f"{pair.place}: {LEGEND}")]
        for name in _COLOURS:
            ids: tuple[int, ...] = getattr(pair, f"{name}_ids")
            if not ids:
                continue
            lost = None if whole is None else len(getattr(whole, f"{name}_ids")) - len(ids)
            labels = _labels(len(ids), () if name == "prompt" else getattr(pair, f"{name}_trained"))
            pieces = list(self._pieces(name, () if name == "prompt" else pair.prompt_ids, ids, labels, lost))
            gutter = "  | " if name == "prompt" else "  + "
            parts += [self._heading(name, ids, labels, lost), *(gutter + line for line in self._lines(pieces))]
        return "\n".join(parts)

    def _heading(self, name: str, ids: Sequence[int], labels: Sequence[bool], lost: int | None) -> str:
        some = "all labels" if all(labels) else f"{sum(labels):,} of them labels"
        said = [f"{len(ids):,} tokens", "none a label" if name == "prompt" else some]
        if name == "prompt":
            said.append(self._bos(ids))
            if lost is None and len(ids) == self._config.max_prompt_length:
                said.append("as many as data.max_prompt_length takes: the beginning may have been cut")
        else:
            said.append(f"{self._end(ids) or 'no EOS'} at the end")
        if lost:
            said.append(f"{lost:,} cut")
        numbers = [str(number) for number in ids]
        if len(numbers) > 2 * _IDS + 1:
            numbers[_IDS:-_IDS] = ["..."]
        return f"{name}: {', '.join(said)}; ids {' '.join(numbers)}"

    def _end(self, ids: Sequence[int]) -> str:
        """What ends a response: EOS, or a token of the chat template's; nothing where its end was cut."""
        if ids[-1] == self._tokenizer.eos_token_id:
            return "EOS"
        return str(self._tokenizer.convert_ids_to_tokens(ids[-1])) if ids[-1] in self._special else ""

    def _bos(self, ids: Sequence[int]) -> str:
        bos = self._tokenizer.bos_token_id
        times = 0 if bos is None else list(ids).count(bos)
        if times == 0:
            return "no BOS"
        where = "at the start" if ids[0] == bos else "not at the start"
        return f"BOS {where}" if times == 1 else f"BOS {where}, {times} times in all"

    def _pieces(
        self, name: str, before: Sequence[int], ids: Sequence[int], labels: Sequence[bool], lost: int | None
    ) -> Iterator[Piece]:
        """The text of ids behind others."""
        if name == "prompt" and lost:
            kept = int(ids[0] == self._tokenizer.bos_token_id)
            yield from self._decoded(name, before, ids[:kept], labels)
            yield Piece(f"\u27e6{lost:,} tokens cut\u27e7", _MARK)
            before, ids = ids[:kept], ids[kept:]
        if len(ids) > HEAD + TAIL + 1:
            yield from self._decoded(name, before, ids[:HEAD], labels)
            yield Piece(f"\u27e6{len(ids) - HEAD - TAIL:,} tokens not shown\u27e7", _MARK)
            yield from self._decoded(name, ids[:-TAIL], ids[-TAIL:], labels[-TAIL:], was=labels[HEAD - 1])
        else:
            yield from self._decoded(name, before, ids, labels)
        if name != "prompt" and lost != 0 and not self._end(ids):
            yield Piece(f"\u27e6{f'{lost:,} tokens ' if lost else ''}cut\u27e7", _MARK)

    def _decoded(
        self, name: str, before: Sequence[int], ids: Sequence[int], labels: Sequence[bool], *, was: bool = True
    ) -> Iterator[Piece]:
        read = list(before[-_OVERLAP:])
        told = zip(ids, labels, strict=False)
        for (special, label), group in groupby(told, key=lambda one: (one[0] in self._special, one[1])):
            colour, run = _COLOURS[name if label else "prompt"], [number for number, _ in group]
            if label != was:
                yield Piece("\u27e6labels\u27e7" if label else "\u27e6no labels\u27e7", _MARK)
                was = label
            if special:
                yield from (Piece(f"\u27e6{self._named(number)}\u27e7", colour + _SPECIAL) for number in run)
            else:
                yield Piece(self._behind(read, run), colour)
            read = [*read, *run][-_OVERLAP:]

    def _named(self, number: int) -> str:
        roles = {"BOS": self._tokenizer.bos_token_id, "EOS": self._tokenizer.eos_token_id}
        return " ".join([str(self._tokenizer.convert_ids_to_tokens(number)), *(n for n in roles if roles[n] == number)])

    def _behind(self, before: list[int], ids: list[int]) -> str:
        """Text as it reads behind other tokens: alone, some tokenizers would take its first space off."""
        first, both = self._text(before), self._text([*before, *ids])
        return both[len(first) :] if both.startswith(first) else self._text(ids)

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _lines(self, pieces: Sequence[Piece]) -> list[str]:
        lines = [""]
        for text, colour in pieces:
            first, *others = printable(text).replace("\t", "\u21e5").split("\n")
            lines[-1] += self._painted(first, colour)
            for other in others:
                lines[-1] += self._painted("\u21b5", colour)
                lines.append(self._painted(other, colour))
        return lines if lines[-1] or len(lines) == 1 else lines[:-1]

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and text else text


def _labels(count: int, trained: Spans) -> list[bool]:
    """[count]: which tokens are trained on; all where there are no spans."""
    return [not trained or any(start <= place < end for start, end in trained) for place in range(count)]
