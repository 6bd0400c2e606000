"""BOS once, at the start; a turn's end as the template has it; and what a template is told besides."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from sparsepo_dist.contracts import PreferenceRow
from sparsepo_dist.data.config import AddBos, DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.encode import prompt_ids
from sparsepo_dist.data.tokens.template import Template
from sparsepo_dist.data.tokens.tokenize import encoder_for, prepare_tokenizer
from sparsepo_dist.errors import UserError
from tests.support import chats
from tests.support.chats import assistant, chat_tokenizer, read, user
from tests.support.tiny import tiny_tokenizer, write_pairs

HI, YES = [user("Hi")], [assistant("Yes.")]
BOS = 256


def with_bos(template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer that begins texts with BOS by itself."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("text", ["Hi", "<s>Hi"])
@pytest.mark.parametrize(
    ("tokenizer", "add_bos", "times"),
    [
        (with_bos(), "auto", 1), (with_bos(), True, 1), (with_bos(), False, 0),
        (tiny_tokenizer(), "auto", None), (tiny_tokenizer(), True, 1), (tiny_tokenizer(), False, 0),
    ],
)  # fmt: skip
def test_bos_stands_once_at_the_beginning_or_not_at_all(
    tokenizer: PreTrainedTokenizerFast, add_bos: AddBos, times: int | None, text: str
) -> None:
    ids = prompt_ids(text, tokenizer, add_bos)
    assert ids.count(BOS) == (text.count("<s>") if times is None else times)
    assert tokenizer.decode([i for i in ids if i != BOS]) == "Hi"


def test_a_template_that_writes_bos_is_not_given_another_one() -> None:
    data = DataConfig()
    for template, bos in ((chats.STRIPPING, "<s>"), (chats.PLAIN, "")):
        tokenizer = chat_tokenizer(template)
        chat = Chat(tokenizer, data)
        encoder = encoder_for(chat, data)
        ids = encoder.prompt(chat.texts(PreferenceRow(tuple(HI), (tuple(YES),), ()), "row 1").prompt)
        assert ids.count(BOS) == len(bos) // 3


@pytest.mark.parametrize("add_bos", ["auto", True])
def test_bos_behind_white_space_is_not_given_twice(add_bos: AddBos) -> None:
    for tokenizer in (with_bos(), tiny_tokenizer()):
        assert tokenizer.decode(prompt_ids("\n<s>Hi", tokenizer, add_bos)) == "\n<s>Hi"
        assert tokenizer.decode(prompt_ids("\n<s>Hi", tokenizer, False)) == "\nHi"


def test_bos_that_opens_turns_is_not_taken_from_the_first_one() -> None:
    template = chats.PLAIN.replace("'[' +", "'<s>' +").replace("[assistant]", "<s>assistant]")
    found = read(template, HI, YES, add_bos=False)
    assert found.prompt == "<s>user]Hi<|end|>\n<s>assistant]"
    assert found.remarks == [
        "data.add_bos: false leaves <s> at the beginning of prompts where the chat template opens turns with it"
    ]
    assert read(template, HI, YES, add_bos=True).prompt == found.prompt


def test_bos_is_refused_where_there_is_none(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(UserError, match=r"data.add_bos: the tokenizer .* has no BOS token"):
        prepare_tokenizer(tokenizer, DataConfig(add_bos=True))


ENDS = [
    (chats.PLAIN, "<|end|>", "<|end|>"),  # another token than EOS
    (chats.STRIPPING, "</s>", "</s>"),
    (chats.CHANNELS, "<|return|>", "<|return|>"),
    (chats.PLAIN.replace("<|end|>\n", "<|end|><|return|>\n"), "<|return|>", "<|end|><|return|>"),
    (chats.PLAIN + "{% if not add_generation_prompt %}</s>{% endif %}", "<|end|>", "<|end|>"),  # EOS ends dialogues
    (chats.PLAIN.replace("<|end|>", ""), None, "</s>"),
]


@pytest.mark.parametrize(("template", "token", "end"), ENDS)
def test_a_response_ends_as_its_turn_and_with_nothing_behind_it(template: str, token: str | None, end: str) -> None:
    assert Template(chat_tokenizer(template)).turn_end == token
    assert read(template, HI, YES).response.endswith(f"Yes.{end}")


def test_a_template_that_refuses_to_show_how_its_answers_end_is_named() -> None:
    refusing = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}" + chats.PLAIN
    )
    (said,) = read(refusing, [{"role": "system", "content": "Be brief."}, *HI], YES).remarks
    assert "the chat template refuses a user's message with an answer (no system message): EOS is appended" in said
    assert not read(chats.PLAIN.replace("<|end|>", ""), HI, YES).remarks


def test_a_call_that_ends_with_a_token_of_its_own_gets_no_other_one() -> None:
    template = chats.PLAIN.replace("<|end|>", "{{ '<|return|>' if m.tool_calls else '<|end|>' }}")
    found = read(template, HI, [assistant("", tool_calls=[{"function": {"name": "rain", "arguments": "{}"}}])])
    assert found.response == '[{"function": {"name": "rain", "arguments": {}}}]<|return|>'


def test_arguments_of_calls_take_the_form_that_the_template_renders() -> None:
    text_only = chats.PLAIN.replace("{{ m.tool_calls | tojson }}", "{{ m.tool_calls[0].function.arguments + '' }}")
    for arguments in ({"town": "Bergen"}, '{"town": "Bergen"}'):
        response = [assistant("", tool_calls=[{"function": {"name": "rain", "arguments": arguments}}])]
        assert '"arguments": {"town": "Bergen"}' in read(chats.PLAIN, HI, response).response
        assert read(text_only, HI, response).response == '{"town": "Bergen"}<|end|>'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"enable_thinking": False}, []),
        ({"enable_thinkng": False}, ["never reads enable_thinkng; did you mean enable_thinking"]),
        ({"style": "short"}, ["never reads style"]),
    ],
)
def test_arguments_that_no_template_reads_are_named(arguments: dict[str, Any], said: list[str]) -> None:
    remarks = read(chats.SWITCHED, HI, YES, chat_template_kwargs=arguments).remarks
    assert len(remarks) == len(said) and all(words in line for words, line in zip(said, remarks, strict=True))


def test_arguments_that_rendering_itself_takes_are_refused() -> None:
    taken = inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters
    for name in (*(set(taken) - {"kwargs"}), "messages"):
        with pytest.raises(UserError, match=f"data.chat_template_kwargs: {name} is not for templates"):
            DataConfig(chat_template_kwargs={name: False}).validate()
    with pytest.raises(UserError, match="leave it out; data.chat_template names a template's file"):
        DataConfig(chat_template_kwargs={"chat_template": "x"}).validate()


def test_arguments_for_rows_of_text_are_said_to_be_idle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_pairs(tmp_path / "pairs.jsonl", 2)
    config = DataConfig(chat_template_kwargs={"enable_thinking": False})
    with caplog.at_level(logging.WARNING):
        load_tokenized(str(source), tiny_tokenizer(), config, progress=True)
    assert "no row is made of messages, so that no chat template reads" in caplog.text


def test_options_for_dialogues_are_said_to_be_idle_for_rows_of_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_pairs(tmp_path / "pairs.jsonl", 2)
    with caplog.at_level(logging.WARNING):
        load_tokenized(
            str(source), tiny_tokenizer(), DataConfig(train_on="all_assistant", train_on_reasoning=False), progress=True
        )
    for option in ("train_on: all_assistant", "train_on_reasoning: false"):
        assert f"ignored: data.{option}: no row is made of messages" in caplog.text
    assert not read(chats.PLAIN, HI, YES, train_on="all_assistant", train_on_reasoning=False).remarks
