"""What every sampler does alike: prompts become ids, and generated ids become samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.data.tokens.cuts import end_of
from sparsepo_dist.data.tokens.encode import prompt_ids
from sparsepo_dist.errors import UserError
from sparsepo_dist.sampling.responses import Nucleus, Sample, response_ends, until_end


class Prompt(NamedTuple):
    """A text to continue."""

    text: str
    ids: tuple[int, ...]
    """BOS and the last ones of a text that is longer than the settings allow, as in training."""


class Sampler(ABC):
    """A loaded model that continues texts.

    Args:
        name: what messages call the model.
        tokenizer: of the model.
        positions: tokens of prompt and response that the model can tell apart; None where it does not say.
        own_ends: tokens that end a response by the model's generation settings.
    """

    def __init__(
        self, name: str, tokenizer: PreTrainedTokenizerBase, positions: int | None, own_ends: int | list[int] | None
    ) -> None:
        self._name, self._tokenizer, self._positions = name, tokenizer, positions
        self._ends = response_ends(own_ends, tokenizer)

    def sample(
        self,
        prompts: Sequence[str],
        per_prompt: int,
        *,
        seed: int,
        settings: Nucleus,
        batch_size: int = 96,
        description: str,
    ) -> list[Sample]:
        """`per_prompt` continuations of every prompt, in order.

        Args:
            batch_size: samples drawn at once; of no meaning to vLLM, which fills the GPU by itself.
            description: of the progress; vLLM shows its own.

        Raises:
            UserError: prompt and response would exceed the model's positions.
            RunError: vLLM leaves out the tokens that end responses.
        """
        return self._draw(self._prompts(prompts, settings), per_prompt, seed, settings, batch_size, description)

    @abstractmethod
    def _draw(
        self, prompts: Sequence[Prompt], count: int, seed: int, settings: Nucleus, batch_size: int, description: str
    ) -> list[Sample]:
        """`count` continuations of every prompt, in order."""

    def _prompts(self, texts: Sequence[str], settings: Nucleus) -> list[Prompt]:
        most, new = settings.max_prompt_length, settings.max_new_tokens
        bos = self._tokenizer.bos_token_id
        found = [Prompt(text, tuple(end_of(prompt_ids(text, self._tokenizer), most, bos))) for text in texts]
        longest = max(len(prompt.ids) for prompt in found)
        if self._positions and longest + new > self._positions:
            raise UserError(
                f"model {self._name}: a prompt of {longest} tokens and {new} new ones exceed its {self._positions} "
                "positions; lower --max_prompt_length or --max_new_tokens"
            )
        return found

    def _sample(self, prompt: Prompt, generated: Sequence[int]) -> Sample:
        response = until_end(generated, self._ends)
        return Sample(prompt.text, self._tokenizer.decode(response, skip_special_tokens=True), prompt.ids, response)
