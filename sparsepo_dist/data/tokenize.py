"""Pairs become token ids: the prompt once, responses ended by EOS, truncated as the recipe says."""

from __future__ import annotations

import logging
from pathlib import Path

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import PreferencePair, TokenizedPair
from sparsepo_dist.data.chat import Chat
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.encode import Encoder, prompt_ids
from sparsepo_dist.data.pairs import Remarks, load_pairs, refuse_or_skip
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

    With `scored`, a row is bad unless chosen_score is above rejected_score. With `progress`, which is for one rank, a
    bar is shown, and it is said what was taken off the rows and what of them is not used.

    Raises:
        UserError: a bad row under `on_bad_row` "stop", no usable row at all, or a tokenizer without EOS.
    """
    prepare_tokenizer(tokenizer, config)
    chat, encoder, remarks = Chat(tokenizer), Encoder(tokenizer), Remarks()
    tokenized: list[TokenizedPair] = []
    dropped = seen = 0
    rows = load_pairs(source, config.on_bad_row, remarks)
    for place, pair in tqdm(rows, desc=f"reading {shortened(Path(source).name)}", unit="pair", disable=not progress):
        seen += 1
        try:
            if scored:
                _check_scores(pair, place)
            tokenized.append(tokenize_pair(pair, chat, encoder, config, place))
        except RowError as bad:
            refuse_or_skip(bad, config.on_bad_row)
            dropped += 1
    if not tokenized:
        raise UserError(f"{source}: no usable pair is left ({seen} read, {dropped} dropped after tokenisation)")
    if config.on_bad_row == "skip":
        log.warning("%s: %d pairs kept", source, len(tokenized))
    for remark in (*remarks.lines(), *chat.remarks(), *encoder.remarks()) if progress else ():
        log.warning("%s: %s", source, remark)
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


def tokenize_pair(pair: PreferencePair, chat: Chat, encoder: Encoder, config: DataConfig, place: str) -> TokenizedPair:
    """Token ids of a pair, cut to the configured lengths.

    Raises:
        RowError: nothing is left of the prompt or of a response, both responses are cut to the same tokens, or the
            chat template does not render the row.
        UserError: messages, and no chat template.
    """
    texts = chat.texts(pair, place)
    prompt = prompt_ids(texts.prompt, encoder.tokenizer)[-config.max_prompt_length :]
    room = config.max_length - len(prompt)
    if not prompt:
        raise RowError(place, "the prompt is empty")
    if room < 1:
        raise RowError(place, f"the prompt's {len(prompt)} tokens fill data.max_length {config.max_length}")
    chosen, rejected = (ids[:room] for ids in encoder.responses(texts.prompt, (texts.chosen, texts.rejected)))
    if chosen == rejected:
        raise RowError(place, f"chosen and rejected are the same {len(chosen)} tokens after truncation")
    scores = None
    if pair.chosen_score is not None and pair.rejected_score is not None:
        scores = (pair.chosen_score, pair.rejected_score)
    return TokenizedPair(tuple(prompt), tuple(chosen), tuple(rejected), scores, place)


def _check_scores(pair: PreferencePair, place: str) -> None:
    for name in ("chosen_score", "rejected_score"):
        if getattr(pair, name) is None:
            raise RowError(place, f"field {name!r} is missing or null, which this objective needs")
    if not pair.chosen_score > pair.rejected_score:  # type: ignore[operator]
        raise RowError(place, f"chosen_score {pair.chosen_score} is not above rejected_score {pair.rejected_score}")
