"""Texts become token ids: a prompt by itself, a response as it reads behind its prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

TAIL = 200
"""Characters of a prompt that a response is encoded together with; tokens are shorter."""
_ANCHORS = ("\n", "=", "a")


class Encoder:
    """A tokenizer over the texts of a source.

    A response gets the ids that it has behind its prompt: alone it would begin with a space under SentencePiece-like
    tokenizers, which no model ever wrote there. Where a token would span the border, the prompt keeps the ids that it
    has by itself, as at inference, so that it is the same in front of both responses; `remarks` counts those.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.counts: Counter[str] = Counter()
        """Responses, and those with a token across their border; those of several processes are summed."""

    def remarks(self) -> list[str]:
        """For the user: how many responses had a token across their border."""
        if not self.counts["crossed"]:
            return []
        return [
            f"in {self.counts['crossed']} of {self.counts['responses']} responses the tokenizer would join the end of "
            "the prompt and the beginning of the response in one token; they were kept apart, as at inference (a "
            "prompt that ends with a space is the usual cause)"
        ]

    def responses(self, prompt: str, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text behind the prompt, ended by EOS once."""
        tail = prompt[-TAIL:]
        behind = self._ids(tail)
        return [self._ended(self._response(behind, self._ids(tail + text), text)) for text in texts]

    def _response(self, prompt: list[int], whole: list[int], text: str) -> list[int]:
        self.counts["responses"] += 1
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        self.counts["crossed"] += 1
        for anchor in _ANCHORS:
            before, joined = self._ids(anchor), self._ids(anchor + text)
            if before and joined[: len(before)] == before:
                return joined[len(before) :]
        return self._ids(text)

    def _ended(self, ids: list[int]) -> list[int]:
        eos = self.tokenizer.eos_token_id
        if eos in ids and not self.tokenizer.decode(ids[len(ids) - ids[::-1].index(eos) :]).strip():
            return ids[: len(ids) - ids[::-1].index(eos)]  # chat templates put a newline after the turn's end
        return [*ids, eos]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt, whole: BOS once where the tokenizer has it, no EOS."""
    has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(text, add_special_tokens=not has_bos, verbose=False)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]  # some tokenizers end every text with EOS, which a prompt must not have
    return ids
