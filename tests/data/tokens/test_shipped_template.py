"""The chat template that ships with the project, under a tokenizer as Pythia's: one special token for everything."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPTNeoXTokenizer, PreTrainedTokenizerBase

from sparsepo_dist.contracts import Message, PreferenceRow, TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.tokenize import encoder_for, prepare_tokenizer, tokenize_row
from sparsepo_dist.errors import UserError
from tests.support.chats import assistant, user

END = "<|endoftext|>"
CONFIG = DataConfig(chat_template="builtin:plain")


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Byte-level BPE with merges, so that a border may fall into a token; BOS, EOS and unknown are one; no template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["The user said:\n\nHello there, assistant.\n\n\nYes, the best answer is here.\n  Indeed.|>\n"] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder = tmp_path_factory.mktemp("neox")
    GPTNeoXTokenizer(tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END).save_pretrained(folder)
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    assert found.chat_template is None and found.bos_token_id == found.eos_token_id
    prepare_tokenizer(found, CONFIG)
    return found


def encoded(tokenizer: PreTrainedTokenizerBase, prompt: list[Message], chosen: Message) -> TokenizedPair:
    chat = Chat(tokenizer, CONFIG)
    row = PreferenceRow(tuple(prompt), ((chosen,),), ((assistant("No."),),))
    tokens = tokenize_row(row, chat, encoder_for(chat, CONFIG), Cuts(CONFIG), "row 1")
    assert tokens is not None
    (pair,) = tokens.pairs()
    return pair


@pytest.mark.parametrize("answer", ["Yes.", "\n\nYes.\n", "  Indeed.", "Yes.\n\n\nHello"])
def test_a_dialogue_is_its_rendering_cut_where_the_model_is_asked(neox: PreTrainedTokenizerBase, answer: str) -> None:
    dialogue = [{"role": "system", "content": "Be kind."}, user("Hi\n"), assistant("Hello."), user("And?")]
    pair = encoded(neox, dialogue, assistant(answer))
    prompt = f"<|system|>\nBe kind.\n<|user|>\nHi\n<|assistant|>\nHello.{END}\n<|user|>\nAnd?\n<|assistant|>\n"
    assert neox.decode(pair.prompt_ids) == prompt
    assert neox.decode(pair.chosen_ids) == answer.strip() + END
    whole = neox(prompt + answer.strip() + END, add_special_tokens=False)["input_ids"]
    assert [*pair.prompt_ids, *pair.chosen_ids] == whole, "no token of the whole lies across the border"


def test_responses_end_once_with_what_generation_stops_at(neox: PreTrainedTokenizerBase) -> None:
    assert Chat(neox, CONFIG).template.turn_end == END
    pair = encoded(neox, [user("Hi")], assistant("Yes."))
    for ids in (pair.chosen_ids, pair.rejected_ids):
        assert ids[-1] == neox.eos_token_id and ids.count(neox.eos_token_id) == 1


def test_the_model_that_is_saved_has_it(neox: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    neox.save_pretrained(tmp_path)
    asked = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "<|user|>\nHi\n<|assistant|>\n"


def test_what_it_does_not_render_is_refused(neox: PreTrainedTokenizerBase) -> None:
    with pytest.raises(RowError, match=r"builtin:plain has the roles system, user and assistant, not tool"):
        encoded(neox, [user("Hi"), {"role": "tool", "content": "4"}], assistant("Four."))


def test_a_name_that_does_not_ship(neox: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"builtin:plane is not built in; there is builtin:plain; did you mean plain"):
        prepare_tokenizer(neox, DataConfig(chat_template="builtin:plane"))
