"""Pairs become token ids: the prompt once, responses ended by EOS, truncated as the recipe says."""

from __future__ import annotations

from bisect import bisect_left

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import PreferenceRow, TokenizedRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.tokens.border import NOTHING
from sparsepo_dist.data.tokens.chat import Chat, Rendered
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.encode import Encoded, Encoder
from sparsepo_dist.data.tokens.template import template_text
from sparsepo_dist.data.tokens.turns import from_first_answer, shorter_prompts
from sparsepo_dist.errors import UserError


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> None:
    """Install the recipe's chat template and check what every pair needs.

    Raises:
        UserError: the tokenizer has no EOS, or the template is not there or cannot be read.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no EOS token, which must end every response")
    if config.add_bos is True and tokenizer.bos_token_id is None:
        raise UserError(f"data.add_bos: the tokenizer {tokenizer.name_or_path} has no BOS token; leave it out")
    if config.chat_template is not None:
        tokenizer.chat_template = template_text(config.chat_template)


def encoder_for(chat: Chat, config: DataConfig) -> Encoder:
    """What encodes the texts of a template."""
    has_template = chat.tokenizer.chat_template is not None
    return Encoder(chat.tokenizer, config.add_bos, chat.template.turn_end if has_template else None)


def tokenize_row(
    row: PreferenceRow, chat: Chat, encoder: Encoder, cuts: Cuts, place: str
) -> TokenizedRow | None:  # fmt: skip
    """Token ids of a row, cut to the configured lengths; None where rows that are too long are left out.

    Raises:
        RowError: nothing is left of the prompt or of a response, a chosen and a rejected response are cut to the same
            tokens, nothing of a response is trained on, or the chat template does not render the row.
        UserError: messages, and no chat template; or a row that is too long, where that ends the run.
    """
    if cuts.config.train_on == "all_assistant":
        row = from_first_answer(row)
    texts = chat.texts(row, place)
    whole = encoder.prompt(texts.prompt)
    if cuts.by_turns(whole):
        texts, whole = _fewer_turns(row, texts, whole, chat, encoder, cuts, place)
    replies = (*texts.chosen, *texts.rejected)
    responses = encoder.responses(texts.prompt, replies, chat=not isinstance(row.prompt, str))
    if not texts.prompt and len(responses) == 1:
        whole, responses = _begun(whole, responses[0].ids, place)
    if not whole:
        raise RowError(place, "the prompt is empty")
    cut = cuts.cut(whole, responses, encoder.tokenizer.bos_token_id, place)
    if cut is None:
        return None
    ids = [tuple(response.ids) for response in cut[1]]
    spans = [response.trained for response in cut[1]]
    if NOTHING in spans:
        raise RowError(place, "nothing is left of a response that is trained on (data.max_length, data.train_on)")
    n = len(row.chosen)
    chosen, rejected = tuple(ids[:n]), tuple(ids[n:])
    for twin in set(chosen) & set(rejected):
        raise RowError(place, f"chosen and rejected are the same {len(twin)} tokens after truncation")
    trained = (tuple(spans[:n]), tuple(spans[n:])) if any(spans) else ((), ())
    return TokenizedRow(
        tuple(cut[0]), chosen, rejected, row.chosen_scores, row.rejected_scores, place, *trained
    )  # fmt: skip


def _fewer_turns(
    row: PreferenceRow, texts: Rendered, whole: list[int], chat: Chat, encoder: Encoder, cuts: Cuts, place: str
) -> tuple[Rendered, list[int]]:
    """The row with the fewest turns left out with which its prompt fits, else with most of those that can be.

    They are found by halving: a long dialogue would be rendered as often as it has turns. One that the template refuses
    once turns are left out is not the row's, and does not fit.
    """
    shorter, counts = list(shorter_prompts(row)), chat.counts.copy()
    rendered = {0: (texts, whole)}

    def renders(turns: int) -> bool:
        if turns not in rendered:
            try:
                found = chat.texts(shorter[turns - 1], place)
            except RowError:
                return False
            finally:
                chat.counts = counts.copy()  # the row has been counted
            rendered[turns] = found, encoder.prompt(found.prompt)
        return True

    def fits(turns: int) -> bool:
        return renders(turns) and not cuts.by_turns(rendered[turns][1])

    most = len(shorter)
    left_out = 1 + bisect_left(range(1, most + 1), True, key=fits)
    if left_out > most:
        left_out = next(filter(renders, range(most, -1, -1)))
    cuts.counts["texts without turns"] += isinstance(row.prompt, str)
    cuts.counts["turns"] += left_out
    cuts.counts["turns cut"] += left_out > 0
    return rendered[left_out]


def _begun(prompt: list[int], text: list[int], place: str) -> tuple[list[int], list[Encoded]]:
    """Prompt and response of a whole text: what the tokenizer puts before every text (BOS), or else its first token.

    Raises:
        RowError: nothing but that is there.
    """
    if not prompt or text[: len(prompt)] == prompt:
        prompt, text = text[: len(prompt) or 1], text[len(prompt) or 1 :]
    if not text:
        raise RowError(place, "the text is one token long, so that nothing of it is predicted from what is before")
    return prompt, [Encoded(text)]


def check_scores(row: PreferenceRow, place: str) -> None:
    """Raise RowError unless every chosen response has a score above every rejected one's."""
    for name in ("chosen_scores", "rejected_scores"):
        if not getattr(row, name):
            name = name.removesuffix("s")
            raise RowError(
                place, f"field {name!r} is missing or null, which this objective needs; --data.columns says where it is"
            )
    worst, best = min(row.chosen_scores), max(row.rejected_scores)
    if not worst > best:
        raise RowError(place, f"chosen_score {worst} is not above rejected_score {best}")
