"""Token ids: the boundary, EOS, BOS, truncation and chat templates."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import PreferencePair, TokenizedPair
from sparsepo_dist.data.chat import Chat
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.encode import Encoder
from sparsepo_dist.data.sources import RowError
from sparsepo_dist.data.tokenize import load_tokenized, tokenize_pair
from sparsepo_dist.errors import UserError
from tests.support.tiny import tiny_tokenizer, write_pairs

BOS, EOS = 256, 257
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenized(pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> TokenizedPair:
    return tokenize_pair(pair, Chat(tokenizer), Encoder(tokenizer), config, "row 1")


def text(ids: tuple[int, ...]) -> str:
    return tiny_tokenizer().decode(ids)


def test_responses_end_with_one_eos_and_the_prompt_with_none() -> None:
    pair = tokenized(PreferencePair("ab", " c", " d</s>"), tiny_tokenizer(), DataConfig())
    assert text(pair.prompt_ids) == "ab"
    assert pair.chosen_ids[-1] == EOS and text(pair.chosen_ids[:-1]) == " c"
    assert pair.rejected_ids.count(EOS) == 1 and pair.rejected_ids[-1] == EOS


def test_bos_comes_once_and_only_before_the_prompt() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    for prompt in ("ab", "<s>ab"):
        pair = tokenized(PreferencePair(prompt, " c", " d"), tokenizer, DataConfig())
        assert pair.prompt_ids.count(BOS) == 1 and pair.prompt_ids[0] == BOS and EOS not in pair.prompt_ids
        assert BOS not in pair.chosen_ids


def test_prompt_loses_its_beginning_and_responses_their_end() -> None:
    config = DataConfig(max_prompt_length=3, max_length=7)
    pair = tokenized(PreferencePair("abcdef", "123456", "12"), tiny_tokenizer(), config)
    assert (text(pair.prompt_ids), text(pair.chosen_ids)) == ("def", "1234")
    assert pair.rejected_ids[-1] == EOS


@pytest.mark.parametrize(
    ("pair", "config", "reason"),
    [
        (PreferencePair("abcd", "x", "y"), DataConfig(max_length=4), "fill data.max_length 4"),
        (PreferencePair("", "x", "y"), DataConfig(), "prompt is empty"),
        (PreferencePair("ab", "same then this", "same then that"), DataConfig(max_length=6), "same 4 tokens"),
    ],
)
def test_pair_without_anything_left_is_a_bad_row(pair: PreferencePair, config: DataConfig, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        tokenized(pair, tiny_tokenizer(), config)


def messages(*turns: tuple[str, str]) -> tuple[dict[str, str], ...]:
    return tuple({"role": role, "content": content} for role, content in turns)


def test_chat_template_gives_one_prompt_and_two_endings() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    pair = PreferencePair(messages(("user", "hi")), messages(("assistant", "yes")), messages(("assistant", "no")))
    tokens = tokenized(pair, tokenizer, DataConfig())
    assert text(tokens.prompt_ids) == "[user]hi[assistant]"
    assert text(tokens.chosen_ids[:-1]) == "yes" and tokens.chosen_ids[-1] == EOS


def test_messages_without_a_template_name_the_remedy(tmp_path: Path) -> None:
    pair = PreferencePair(messages(("user", "hi")), messages(("assistant", "y")), messages(("assistant", "n")))
    with pytest.raises(UserError, match="--data.chat_template FILE"):
        tokenized(pair, tiny_tokenizer(), DataConfig())
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"prompt": [{"role": "user", "content": "hi"}], "chosen": [{"role": "assistant", "content": "y"}], '
        '"rejected": [{"role": "assistant", "content": "n"}]}\n'
    )
    assert len(load_tokenized(str(rows), tiny_tokenizer(), DataConfig(chat_template=str(template)))) == 1


def test_skipping_everything_is_an_error(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs.jsonl", 3)
    with pytest.raises(UserError, match="no usable pair is left"):
        load_tokenized(str(source), tiny_tokenizer(), DataConfig(max_length=2, on_bad_row="skip"))
