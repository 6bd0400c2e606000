"""Pairs become token ids: the prompt once, responses ended by EOS, truncated as the recipe says."""

from __future__ import annotations

import logging
from pathlib import Path

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import Message, PreferencePair, TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.pairs import load_pairs, refuse_or_skip
from sparsepo_dist.data.sources import RowError
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import read_text

log = logging.getLogger(__name__)


def load_tokenized(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    scored: bool = False,
    progress: bool = False,
) -> list[TokenizedPair]:
    """Every usable pair of a source, in its order.

    With `scored`, a row is bad unless chosen_score is above rejected_score.

    Raises:
        UserError: a bad row under `on_bad_row` "stop", no usable row at all, or a tokenizer without EOS.
    """
    prepare_tokenizer(tokenizer, config)
    tokenized: list[TokenizedPair] = []
    dropped = seen = 0
    for place, pair in tqdm(
        load_pairs(source, config.on_bad_row),
        desc=f"reading {shortened(Path(source).name)}",
        unit="pair",
        disable=not progress,
    ):
        seen += 1
        try:
            if scored:
                _check_scores(pair, place)
            tokenized.append(tokenize_pair(pair, tokenizer, config, place))
        except RowError as bad:
            refuse_or_skip(bad, config.on_bad_row)
            dropped += 1
    if not tokenized:
        raise UserError(f"{source}: no usable pair is left ({seen} read, {dropped} dropped after tokenisation)")
    if config.on_bad_row == "skip":
        log.warning("%s: %d pairs kept", source, len(tokenized))
    return tokenized


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> None:
    """Install the recipe's chat template and check what every pair needs.

    Raises:
        UserError: the tokenizer has no EOS, or the template's file cannot be read.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no EOS token, which must end every response")
    if config.chat_template is not None:
        path = Path(config.chat_template)
        if not path.is_file():
            raise UserError(f"data.chat_template: no such file {path}")
        tokenizer.chat_template = read_text(path, f"data.chat_template: {path}")


def tokenize_pair(
    pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, config: DataConfig, place: str
) -> TokenizedPair:
    """Token ids of a pair, cut to the configured lengths.

    Raises:
        RowError: nothing is left of the prompt or of a response, or both responses are cut to the same tokens.
        UserError: messages, and no chat template.
    """
    prompt_text, chosen_text, rejected_text = _texts(pair, tokenizer, place)
    prompt = prompt_ids(prompt_text, tokenizer)[-config.max_prompt_length :]
    room = config.max_length - len(prompt)
    if not prompt:
        raise RowError(place, "the prompt is empty")
    if room < 1:
        raise RowError(place, f"the prompt's {len(prompt)} tokens fill data.max_length {config.max_length}")
    chosen = _response_ids(chosen_text, tokenizer)[:room]
    rejected = _response_ids(rejected_text, tokenizer)[:room]
    if chosen == rejected:
        raise RowError(place, f"chosen and rejected are the same {len(chosen)} tokens after truncation")
    scores = None
    if pair.chosen_score is not None and pair.rejected_score is not None:
        scores = (pair.chosen_score, pair.rejected_score)
    return TokenizedPair(tuple(prompt), tuple(chosen), tuple(rejected), scores, place)


def _check_scores(pair: PreferencePair, place: str) -> None:
    for name in ("chosen_score", "rejected_score"):
        if getattr(pair, name) is None:
            raise RowError(place, f"field {name!r} is missing, which this objective needs")
    if not pair.chosen_score > pair.rejected_score:  # type: ignore[operator]
        raise RowError(place, f"chosen_score {pair.chosen_score} is not above rejected_score {pair.rejected_score}")


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt, whole: BOS once where the tokenizer has it, no EOS."""
    has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(text, add_special_tokens=not has_bos, verbose=False)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]  # some tokenizers end every text with EOS, which a prompt must not have
    return ids


def _response_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    eos = tokenizer.eos_token_id
    if eos in ids and not tokenizer.decode(ids[len(ids) - ids[::-1].index(eos) :]).strip():
        return ids[: len(ids) - ids[::-1].index(eos)]  # chat templates put a newline after the turn's end
    return [*ids, eos]


def _texts(pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, place: str) -> tuple[str, str, str]:
    if isinstance(pair.prompt, str):
        assert isinstance(pair.chosen, str) and isinstance(pair.rejected, str)
        return pair.prompt, pair.chosen, pair.rejected
    if tokenizer.chat_template is None:
        raise UserError(
            f"{place}: rows are lists of messages, and the tokenizer {tokenizer.name_or_path} has no chat template. "
            "Name a Jinja file with --data.chat_template FILE, or give prompt, chosen and rejected as text"
        )
    prompt = _render(pair.prompt, tokenizer, place, generation=True)
    sides = []
    for side in (pair.chosen, pair.rejected):
        assert not isinstance(side, str)
        whole = _render((*pair.prompt, *side), tokenizer, place, generation=False)
        if not whole.startswith(prompt):
            raise RowError(place, "the chat template renders the prompt differently once a response follows it")
        sides.append(whole[len(prompt) :])
    return prompt, sides[0], sides[1]


def _render(messages: tuple[Message, ...], tokenizer: PreTrainedTokenizerBase, place: str, *, generation: bool) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=generation
            )
        )
    except Exception as error:  # templates raise whatever their author chose
        raise RowError(place, f"the chat template refuses this row: {error}") from None
