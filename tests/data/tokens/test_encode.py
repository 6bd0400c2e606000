"""A response has the ids that it has behind its prompt, whatever kind of tokenizer cuts the text."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparsepo_dist.contracts import PreferenceRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.tokens.border import Reply
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.encode import TAIL, Encoder, prompt_ids
from sparsepo_dist.data.tokens.tokenize import encoder_for
from sparsepo_dist.data.tokens.turns import from_first_answer
from sparsepo_dist.errors import UserError

CORPUS = [
    "Human: name a river. Assistant: the river is the Elbe, a long river.",
    "### Response: the rivers of the north are slow and the other ones are not",
    "answer, another answer, the third answer, naïve and short",
] * 4
SPECIAL = ["<unk>", "</s>", "<|user|>"]


def metaspace(scheme: str, *, split: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def prepended() -> Tokenizer:
    """As Llama 2's conversion has it: the space is put on by the normaliser, and nothing cuts the text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


KINDS: dict[str, tuple[Callable[[], Tokenizer], type]] = {
    "byte_level": (byte_level, trainers.BpeTrainer),
    "metaspace_first": (lambda: metaspace("first", split=False), trainers.BpeTrainer),
    "metaspace_always": (lambda: metaspace("always", split=True), trainers.BpeTrainer),
    "prepended": (prepended, trainers.BpeTrainer),
    "word_piece": (word_piece, trainers.WordPieceTrainer),
    "unigram": (unigram, trainers.UnigramTrainer),
}


@cache
def trained(kind: str) -> PreTrainedTokenizerFast:
    make, trainer = KINDS[kind]
    tokenizer, more = make(), {"unk_token": "<unk>"} if trainer is trainers.UnigramTrainer else {}
    tokenizer.train_from_iterator(CORPUS, trainer(vocab_size=240, special_tokens=SPECIAL, show_progress=False, **more))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def ids_of(encoder: Encoder, prompt: str, *texts: str) -> list[list[int]]:
    return [response.ids for response in encoder.responses(prompt, list(map(Reply, texts)))]


WORDS = st.lists(st.sampled_from(["the", "river", "Elbe", "a", "answer", ",", ":", "\n", " ", "  ", "naïve", "'s"]))
TEXTS = WORDS.map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(prompt=TEXTS, response=TEXTS)
def test_prompt_and_response_are_the_whole_text(kind: str, prompt: str, response: str) -> None:
    """But for the tokens at the border, which a token across it would have to be cut in two."""
    tokenizer = trained(kind)
    before, whole = prompt_ids(prompt, tokenizer), prompt_ids(prompt + response, tokenizer)
    encoder = Encoder(tokenizer)
    (found,) = ids_of(encoder, prompt, response)
    assert found[-1] == tokenizer.eos_token_id
    got = [*before, *found[:-1]]
    if whole[: len(before)] == before:
        assert got == whole and not encoder.remarks()
        return
    assert encoder.remarks()
    texts = [re.sub(r"\s|##", "", tokenizer.decode(ids)) for ids in (got, whole)]
    assert texts[0] == texts[1] or "<unk>" in "".join(texts)


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_token_that_was_kept_apart_ids_are_those_of_the_whole_text(kind: str) -> None:
    tokenizer = trained(kind)
    prompt, response = "Assistant: ", "the answer, the river Elbe"
    (found,) = ids_of(Encoder(tokenizer), prompt, response)
    assert found[-4:-1] == prompt_ids(prompt + response, tokenizer)[-3:]


@pytest.mark.parametrize("kind", ["metaspace_first", "metaspace_always", "prepended", "unigram"])
def test_no_response_begins_with_a_space_that_its_text_has_not(kind: str) -> None:
    """What a model is trained to answer behind `### Response:` and a line break, it can answer there."""
    tokenizer = trained(kind)
    prompt = "### Response:\n"
    (found,) = ids_of(Encoder(tokenizer), prompt, "the river")
    alone = tokenizer("the river", add_special_tokens=False)["input_ids"]
    assert [*prompt_ids(prompt, tokenizer), *found[:-1]] == prompt_ids(prompt + "the river", tokenizer)
    assert found[:-1] != alone


def test_a_token_across_the_border_is_kept_apart_and_counted() -> None:
    tokenizer = trained("byte_level")
    encoder = Encoder(tokenizer)
    chosen, rejected = ids_of(encoder, "Assistant: ", "the river", "the other")
    assert tokenizer.decode(chosen[:-1]) == "the river" and tokenizer.decode(rejected[:-1]) == "the other"
    assert encoder.remarks()[0].startswith("in 2 of 2 responses")
    ids_of(encoder, "Assistant:", " the river")
    assert encoder.remarks()[0].startswith("in 2 of 3 responses")


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_far_in_front_of_a_response_does_not_change_it(kind: str) -> None:
    encoder = Encoder(trained(kind))
    near = "the river is slow. " * (TAIL // 10) + "Assistant:"
    assert ids_of(encoder, near, " the Elbe") == ids_of(encoder, "Human: " + near, " the Elbe")


@pytest.mark.parametrize("prompt", ["Assistant:", "Assistant: ", "a\n"])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_are_trained_on_are_those_whose_words_begin_there(kind: str, prompt: str) -> None:
    tokenizer = trained(kind)
    text = "are, a river the Elbe"
    (found,) = Encoder(tokenizer).responses(prompt, [Reply(text, ((0, 3), (text.index("the"), len(text))))])
    said = [_bare(tokenizer.decode(found.ids[start:end])) for start, end in found.trained]
    assert [part.lower() for part in said] == ["are", "theelbe</s>"]


def test_a_tokenizer_that_does_not_know_where_its_tokens_stand_is_named() -> None:
    tokenizer = trained("byte_level")

    class Slow(type(tokenizer)):  # type: ignore[misc]
        is_fast = False

    slow = Slow(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    Encoder(slow).responses("a", [Reply("the river")])
    with pytest.raises(UserError, match="does not say where its tokens stand"):
        Encoder(slow).responses("a", [Reply("the river", ((0, 3),))])


CHAT = (
    "{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(prompt=TEXTS, response=TEXTS)
def test_messages_have_the_ids_of_the_whole_rendering(kind: str, prompt: str, response: str) -> None:
    """Behind a template's header, with parts of the response trained on: those are the answer's own tokens."""
    tokenizer, config = trained(kind), DataConfig(train_on="all_assistant")
    tokenizer.chat_template = CHAT
    chat = Chat(tokenizer, config)
    turns = [
        ("user", f"a{prompt}"),
        ("assistant", f"b{response}"),
        ("user", f"c{prompt}"),
        ("assistant", f"d{response}"),
    ]
    dialogue = tuple({"role": role, "content": content} for role, content in turns)
    row = from_first_answer(PreferenceRow(dialogue[:3], (dialogue[3:],), ()))
    texts = chat.texts(row, "row 1")
    encoder = encoder_for(chat, config)
    (found,) = encoder.responses(texts.prompt, texts.chosen, chat=True)
    whole = prompt_ids(texts.prompt + texts.chosen[0].text.rstrip("\n"), tokenizer)
    assert [*prompt_ids(texts.prompt, tokenizer), *found.ids] == whole and not encoder.remarks()
    parts = [tokenizer.decode(found.ids[start:end]) for start, end in found.trained]
    answers = [tokenizer.decode(_ids(tokenizer, f"{begin}{response}</s>")) for begin in "bd"]
    assert [_bare(part) for part in parts] == [_bare(answer) for answer in answers]


def _bare(text: str) -> str:
    return re.sub(r"\s|▁", "", text)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found
