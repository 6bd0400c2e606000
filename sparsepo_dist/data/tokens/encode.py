"""Texts become token ids: a prompt by itself, a response as it reads behind its prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import Spans
from sparsepo_dist.data.config import AddBos
from sparsepo_dist.data.tokens.border import NOTHING, Reply
from sparsepo_dist.errors import UserError

TAIL = 200
"""Characters of a prompt that a response is encoded together with; tokens are shorter."""
_ANCHORS = ("\n", "=", "a")
_RESPONSES, _CROSSED, _OPENS_TURNS = "responses", "crossed", "BOS opens turns"


class Encoded(NamedTuple):
    """A response's token ids, with those of them that are trained on."""

    ids: list[int]
    trained: Spans = ()


class Encoder:
    """A tokenizer over the texts of a source.

    A response gets the ids that it has behind its prompt: alone it would begin with a space under SentencePiece-like
    tokenizers, which no model ever wrote there. Where a token would span the border, the prompt keeps the ids that it
    has by itself, as at inference, so that it is the same in front of both responses; `remarks` counts those.

    Args:
        add_bos: as `data.add_bos`.
        turn_end: the token that the chat template ends answers with, where there is one. A response of messages ends
            with it, and EOS is appended only to text and where a template ends answers with no token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, add_bos: AddBos = "auto", turn_end: str | None = None
    ) -> None:
        self.tokenizer, self._add_bos = tokenizer, add_bos
        self.counts: Counter[str] = Counter()
        """Responses, those with a token across their border, and prompts that keep BOS; those of several processes are
        summed."""
        self._turn_end = tokenizer.eos_token if turn_end is None else turn_end
        special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special.pop(tokenizer.unk_token_id, None)  # which stands for text
        self._special = tuple(special.values())
        self._ending = {*special, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(self._turn_end)}

    def remarks(self) -> list[str]:
        """For the user: BOS that could not be left out, and how many responses had a token across their border."""
        lines = []
        if self.counts[_OPENS_TURNS]:
            lines.append(
                f"data.add_bos: false leaves {self.tokenizer.bos_token} at the beginning of prompts where the chat "
                "template opens turns with it"
            )
        if not self.counts[_CROSSED]:
            return lines
        return [
            *lines,
            f"in {self.counts[_CROSSED]} of {self.counts[_RESPONSES]} responses the tokenizer would join the end of "
            "the prompt and the beginning of the response in one token; they were kept apart, as at inference (a "
            "prompt that ends with a space is the usual cause)",
        ]

    def prompt(self, text: str) -> list[int]:
        """Token ids of a prompt (`prompt_ids`)."""
        ids = prompt_ids(text, self.tokenizer, self._add_bos)
        self.counts[_OPENS_TURNS] += self._add_bos is False and ids[:1] == [self.tokenizer.bos_token_id]
        return ids

    def responses(self, prompt: str, replies: Sequence[Reply], *, chat: bool = False) -> list[Encoded]:
        """Each text behind the prompt, ended once: by EOS, or in a `chat` by the template's own token.

        Raises:
            UserError: parts of responses are not trained on, and the tokenizer cannot say which tokens those are.
        """
        tail = prompt[-TAIL:]
        behind = self._ids(tail)
        return [self._reply(tail, behind, reply, chat=chat) for reply in replies]

    def _reply(self, tail: str, behind: list[int], reply: Reply, *, chat: bool) -> Encoded:
        self.counts[_RESPONSES] += 1
        text = self._until_end(reply.text, chat=chat)
        ids, skipped, anchor = self._response(tail, behind, text)
        inside: list[bool] = []
        if reply.trained:
            starts = self._starts(anchor + text)[skipped:]
            inside = [any(a <= start - len(anchor) < b for a, b in reply.trained) for start in starts]
        if not (ids and ids[-1] in (self._ending if chat else (self.tokenizer.eos_token_id,))):
            ids, inside = [*ids, self.tokenizer.eos_token_id], [*inside, *inside[-1:]]
        if not reply.trained:
            return Encoded(ids)
        edges = [i for i, (one, two) in enumerate(zip([False, *inside], [*inside, False], strict=True)) if one != two]
        return Encoded(ids, tuple(zip(edges[::2], edges[1::2], strict=True)) or NOTHING)

    def _until_end(self, text: str, *, chat: bool) -> str:
        """Without the blanks behind a turn's end, and without tokens there that no model is asked for."""
        for end in (self._turn_end, self.tokenizer.eos_token) if chat else (self.tokenizer.eos_token,):
            head, found, behind = text.rpartition(str(end))
            for token in self._special if chat and found and behind else ():
                behind = behind.replace(token, "")
            if found and not behind.strip():
                return head + found
        stripped = text.rstrip()
        return stripped if chat and stripped.endswith(self._special) else text

    def _response(self, tail: str, behind: list[int], text: str) -> tuple[list[int], int, str]:
        """Ids of a response; how many ids stand before them where it is encoded behind the third, a text."""
        whole = self._ids(tail + text)
        if whole[: len(behind)] == behind:
            return whole[len(behind) :], len(behind), tail
        self.counts[_CROSSED] += 1
        for anchor in _ANCHORS:
            before, joined = self._ids(anchor), self._ids(anchor + text)
            if before and joined[: len(before)] == before:
                return joined[len(before) :], len(before), anchor
        return self._ids(text), 0, ""

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def _starts(self, text: str) -> list[int]:
        """Where in a text each token begins, the blanks aside that it takes from before a word."""
        if not self.tokenizer.is_fast:
            raise UserError(
                f"the tokenizer {self.tokenizer.name_or_path} does not say where its tokens stand in a text, which "
                "training on parts of responses needs; use a model with a tokenizer.json"
            )
        found = self.tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        pieces = [(start, text[start:end]) for start, end in found["offset_mapping"]]
        return [start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0) for start, piece in pieces]


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase, add_bos: AddBos = "auto") -> list[int]:
    """Token ids of a prompt, whole: no EOS, and BOS once where the tokenizer has it by itself, or as `add_bos` says.

    A text that has BOS itself, behind white space or not, is given none by the tokenizer. Where `add_bos` is false, BOS
    stays at the beginning of a prompt that has more of it: it then opens turns (`<|im_start|>`).
    """
    has_bos = tokenizer.bos_token is not None and text.lstrip().startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(text, add_special_tokens=not has_bos, verbose=False)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]  # some tokenizers end every text with EOS, which a prompt must not have
    if add_bos == "auto":
        return ids
    bos = tokenizer.bos_token_id
    first = ids.index(bos) if has_bos else 0
    begun = next((i for i, token in enumerate(ids) if i >= first and token != bos), len(ids))
    opens_turns = begun > first and bos in ids[begun:]
    return [*ids[:first], *[bos] * (add_bos or opens_turns), *ids[begun:]]


def first_trained(trained: Spans) -> int:
    """The first token of a response that is trained on; the spans of one of which some is are not NOTHING."""
    return trained[0][0] if trained else 0


def clipped(trained: Spans, length: int) -> Spans:
    """The spans within a response's first tokens."""
    return tuple((start, min(end, length)) for start, end in trained if start < length) or (NOTHING if trained else ())
