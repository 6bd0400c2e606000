"""Token ids: the boundary, EOS, BOS, truncation and chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import PreferenceRow, TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.encode import Encoder
from sparsepo_dist.data.tokens.tokenize import tokenize_row
from sparsepo_dist.errors import UserError
from tests.support.rows import pair_row
from tests.support.tiny import tiny_tokenizer, write_pairs

BOS, EOS = 256, 257
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenized(row: PreferenceRow, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> TokenizedPair:
    found = tokenize_row(row, Chat(tokenizer, config), Encoder(tokenizer), Cuts(config), "row 1")
    assert found is not None
    (pair,) = found.pairs()
    return pair


def text(ids: tuple[int, ...]) -> str:
    return tiny_tokenizer().decode(ids)


def test_responses_end_with_one_eos_and_the_prompt_with_none() -> None:
    pair = tokenized(pair_row("ab", " c", " d</s>"), tiny_tokenizer(), DataConfig())
    assert text(pair.prompt_ids) == "ab"
    assert pair.chosen_ids[-1] == EOS and text(pair.chosen_ids[:-1]) == " c"
    assert pair.rejected_ids.count(EOS) == 1 and pair.rejected_ids[-1] == EOS


def test_bos_comes_once_and_only_before_the_prompt() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    for prompt in ("ab", "<s>ab"):
        pair = tokenized(pair_row(prompt, " c", " d"), tokenizer, DataConfig())
        assert pair.prompt_ids.count(BOS) == 1 and pair.prompt_ids[0] == BOS and EOS not in pair.prompt_ids
        assert BOS not in pair.chosen_ids


@pytest.mark.parametrize(
    ("written", "bos", "prompt", "response"),
    [("ab", True, "<s>", "ab"), ("<s>ab", True, "<s>", "ab"), ("ab", False, "a", "b"), ("<s>ab", False, "<s>", "ab")],
)
def test_a_whole_text_is_trained_on_behind_its_bos_or_its_first_token(
    written: str, bos: bool, prompt: str, response: str
) -> None:
    tokenizer = tiny_tokenizer()
    if bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    pair = tokenized(PreferenceRow("", (written,), ()), tokenizer, DataConfig(max_length=3))
    assert (text(pair.prompt_ids), text(pair.chosen_ids), pair.rejected_ids) == (
        prompt, response + ("</s>" if len(response) == 1 else ""), (),
    )  # fmt: skip
    with pytest.raises(RowError, match="the text is one token long"):
        tokenized(PreferenceRow("", ("</s>",), ()), tiny_tokenizer(), DataConfig())


def test_prompt_loses_its_beginning_and_responses_their_end() -> None:
    config = DataConfig(max_prompt_length=3, max_length=7)
    pair = tokenized(pair_row("abcdef", "123456", "12"), tiny_tokenizer(), config)
    assert (text(pair.prompt_ids), text(pair.chosen_ids)) == ("def", "1234")
    assert pair.rejected_ids[-1] == EOS


@pytest.mark.parametrize(
    ("row", "config", "reason"),
    [
        (pair_row("abcd", "x", "y"), DataConfig(max_length=4), "fill data.max_length 4"),
        (pair_row("", "x", "y"), DataConfig(), "prompt is empty"),
        (pair_row("ab", "same then this", "same then that"), DataConfig(max_length=6), "same 4 tokens"),
    ],
)
def test_pair_without_anything_left_is_a_bad_row(row: PreferenceRow, config: DataConfig, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        tokenized(row, tiny_tokenizer(), config)


def messages(*turns: tuple[str, str]) -> tuple[dict[str, str], ...]:
    return tuple({"role": role, "content": content} for role, content in turns)


def test_chat_template_gives_one_prompt_and_two_endings() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    pair = pair_row(messages(("user", "hi")), messages(("assistant", "yes")), messages(("assistant", "no")))
    tokens = tokenized(pair, tokenizer, DataConfig())
    assert text(tokens.prompt_ids) == "[user]hi[assistant]"
    assert text(tokens.chosen_ids[:-1]) == "yes" and tokens.chosen_ids[-1] == EOS


def test_messages_without_a_template_name_the_remedy(tmp_path: Path) -> None:
    pair = pair_row(messages(("user", "hi")), messages(("assistant", "y")), messages(("assistant", "n")))
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


def test_a_cut_prompt_keeps_its_bos() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    pair = tokenized(pair_row("abcdef", " c", " d"), tokenizer, DataConfig(max_prompt_length=4))
    assert pair.prompt_ids[0] == BOS and text(pair.prompt_ids[1:]) == "def"


LONG = [("abcdefgh", "12", "34"), ("ab", "1234567890", "34"), ("ab", "12", "34")]


def write_texts(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    path.write_text(
        "".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), r, strict=True))) + "\n" for r in rows)
    )
    return path


@pytest.mark.parametrize(
    ("on_long", "kept", "said"),
    [
        ("cut", 3, "1 of 3 prompts lost their beginning and 1 of 6 responses their end"),
        ("drop", 1, "2 of 3 rows were longer than data.max_prompt_length 4, data.max_length 8 and left out"),
    ],
)
def test_what_is_too_long_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, on_long: Any, kept: int, said: str
) -> None:
    source = str(write_texts(tmp_path / "long.jsonl", LONG))
    config = DataConfig(max_prompt_length=4, max_length=8, on_long=on_long)
    assert len(load_tokenized(source, tiny_tokenizer(), config, progress=True)) == kept
    assert said in caplog.text


def test_what_is_too_long_may_end_the_run(tmp_path: Path) -> None:
    source = str(write_texts(tmp_path / "long.jsonl", LONG[1:]))
    with pytest.raises(UserError, match=r"long.jsonl, row 1: the pair has 2 tokens of prompt and up to 11 of response"):
        load_tokenized(source, tiny_tokenizer(), DataConfig(max_length=8, on_long="stop"))


def test_skipped_rows_are_counted_by_reason_with_the_first_of_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("a", "same", "same"), ("a", "x", "y"), ("a", "", "y"), ("b", "same", "same")]
    source = str(write_texts(tmp_path / "bad.jsonl", rows))
    load_tokenized(source, tiny_tokenizer(), DataConfig(on_bad_row="skip"), progress=True)
    assert "3 bad rows were dropped: 2 like" in caplog.text and "1 like" in caplog.text
    assert "bad.jsonl, row 1: " in caplog.text and "bad.jsonl, row 3: chosen is empty" in caplog.text
    write_texts(tmp_path / "bad.jsonl", rows[2:3])
    with pytest.raises(UserError, match=r"no usable pair is left; 1 bad rows were dropped: 1 like .*chosen is empty"):
        load_tokenized(source, tiny_tokenizer(), DataConfig(on_bad_row="skip"))


def test_a_template_that_prints_a_date_prints_the_one_it_is_told(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %B %Y') }} " + TEMPLATE
    source = tmp_path / "rows.jsonl"
    fields = {"prompt": messages(("user", "hi")), "chosen": messages(("assistant", "y"))}
    source.write_text(json.dumps({**fields, "rejected": messages(("assistant", "n"))}) + "\n")
    (pair,) = load_tokenized(str(source), tokenizer, DataConfig(date="2001-02-03T00:00:00"))
    assert text(pair.prompt_ids).startswith("03 February 2001 ")
    with pytest.raises(UserError, match=r"data.date: tomorrow is no date"):
        DataConfig(date="tomorrow").validate()


def test_every_chosen_response_meets_every_rejected_one() -> None:
    row = PreferenceRow("ab", (" c", " cc"), (" d", " dd", " ddd"), (3.0, 4.0), (0.0, 1.0, 2.0))
    tokenizer = tiny_tokenizer()
    found = tokenize_row(row, Chat(tokenizer, DataConfig()), Encoder(tokenizer), Cuts(DataConfig()), "row 1")
    assert found is not None
    pairs = found.pairs()
    assert [(len(p.chosen_ids) - 2, len(p.rejected_ids) - 2) for p in pairs] == [
        (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3),
    ]  # fmt: skip
    assert pairs[4].scores == (4.0, 1.0) and {text(p.prompt_ids) for p in pairs} == {"ab"}
