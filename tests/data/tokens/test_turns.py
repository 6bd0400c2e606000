"""Dialogues of several turns: which are trained on, and which a prompt that is too long loses."""

from __future__ import annotations

from typing import Any

import pytest

from sparsepo_dist.contracts import Message, PreferenceRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.tokens.chat import Chat, Rendered
from sparsepo_dist.data.tokens.cuts import Cuts
from sparsepo_dist.data.tokens.tokenize import encoder_for, tokenize_row
from sparsepo_dist.data.tokens.turns import from_first_answer
from tests.support import chats
from tests.support.chats import assistant, read, user

SYSTEM = {"role": "system", "content": "Be brief."}
EARLIER = [SYSTEM, user("Hi"), assistant("Ho."), user("And?")]
YES = assistant("Yes.")
CALL = [{"type": "function", "function": {"name": "rain", "arguments": {}}}]
RENDERED_CALL = '[{"type": "function", "function": {"name": "rain", "arguments": {}}}]'
ALL = {"train_on": "all_assistant"}


@pytest.mark.parametrize(
    ("template", "response", "trained"),
    [
        (chats.PLAIN, "Ho.<|end|>\n[user]And?<|end|>\n[assistant]Yes.<|end|>", ["Ho.<|end|>", "Yes.<|end|>"]),
        (chats.GENERATION, "Ho.<|end|>\n[user]And?<|end|>\n[assistant]Yes.<|end|>", ["Ho.<|end|>", "Yes.<|end|>"]),
        (
            chats.SWITCHED, "Ho.<|end|>\n[user]And?<|end|>\n[assistant]<think>\n\n</think>\n\nYes.<|end|>",
            ["Ho.<|end|>", "<think>\n\n</think>\n\nYes.<|end|>"],
        ),
        (
            chats.CHANNELS, "/final:Ho.<|end|><s>user:And?<|end|><s>assistant/final:Yes.<|return|>",
            ["/final:Ho.", "/final:Yes.<|return|>"],
        ),
        (chats.STRIPPING, "Ho.</s>[user]And?[assistant]Yes.</s>", ["Ho.</s>", "Yes.</s>"]),
    ],
)  # fmt: skip
def test_every_turn_of_the_assistant_may_be_trained_on(template: str, response: str, trained: list[str]) -> None:
    found = read(template, EARLIER, [YES], **ALL)
    tokenizer = chats.chat_tokenizer(template)
    asked = tokenizer.apply_chat_template(EARLIER[:2], tokenize=False, add_generation_prompt=True)
    assert found.prompt == asked.removesuffix("<think>\n")  # which no turn of a whole dialogue has
    assert (found.response, found.trained) == (response, trained)
    last = read(template, EARLIER, [YES])
    assert last.prompt.endswith("And?" + asked.partition("Hi")[2]) and last.trained == []


def test_of_a_response_of_several_turns_all_of_the_assistants_are_trained_on() -> None:
    found = read(chats.PLAIN, [user("Hi")], [assistant("Ho."), user("And?"), YES], train_on="last")
    assert found.trained == ["Ho.<|end|>", "Yes.<|end|>"]


def test_what_tools_say_within_a_response_is_read_and_not_trained_on() -> None:
    response = [assistant("", tool_calls=CALL), {"role": "tool", "content": "no"}, YES]
    found = read(chats.PLAIN, [user("Rain?")], response)
    assert found.response == f"{RENDERED_CALL}<|end|>\n[tool]no<|end|>\n[assistant]Yes.<|end|>"
    assert found.trained == [f"{RENDERED_CALL}<|end|>", "Yes.<|end|>"]


def test_a_response_that_is_cut_keeps_its_trained_part() -> None:
    config = {**ALL, "max_length": 200}
    whole = read(chats.PLAIN, EARLIER, [YES], **config)
    lengths = len(whole.prompt) - 2 * len("<|end|>") + 2
    cut = read(chats.PLAIN, EARLIER, [YES], **{**config, "max_length": lengths + 8})
    assert (cut.response, cut.trained) == ("Ho.<|end|>\n[us", ["Ho.<|end|>"])


def test_a_response_with_nothing_left_to_train_on_is_a_bad_row() -> None:
    response = assistant("Yes.", reasoning_content="a reason that is long enough")
    config: dict[str, Any] = {"train_on_reasoning": False, "max_length": 40}
    with pytest.raises(RowError, match="nothing is left of a response that is trained on"):
        read(chats.SWITCHED, [user("Hi")], [response], **config)


def test_text_and_dialogues_without_an_earlier_answer_stay_as_they_are() -> None:
    for row in (PreferenceRow("Hi", ("Ho.",), ()), PreferenceRow((user("Hi"),), ((YES,),), ())):
        assert from_first_answer(row) == row


LONG: list[Message] = [SYSTEM, *(user("x" * 30), assistant("y" * 30)), *(user("Hi"), assistant("Ho.")), user("And?")]


@pytest.mark.parametrize(("most", "kept"), [(200, 0), (90, 3), (45, 5)])
def test_a_prompt_may_lose_whole_turns_and_keeps_the_systems(most: int, kept: int) -> None:
    found = read(chats.PLAIN, LONG, [YES], max_prompt_length=most, cut_prompts="turns")
    tokenizer = chats.chat_tokenizer(chats.PLAIN)
    messages = [SYSTEM, *LONG[max(kept, 1) :]]
    assert found.prompt == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    lost = f"1 of 1 prompts lost {kept // 2} turns at their beginning"
    assert bool(found.remarks) == (kept > 0) and all(lost in line for line in found.remarks)


def test_a_last_turn_that_is_too_long_is_cut_by_tokens() -> None:
    found = read(chats.PLAIN, LONG, [YES], max_prompt_length=10, cut_prompts="turns")
    assert len(chats.chat_tokenizer(chats.PLAIN)(found.prompt)["input_ids"]) == 10
    assert "lost 2 turns" in found.remarks[0] and "1 of 1 prompts lost their beginning" in found.remarks[1]
    assert DataConfig().cut_prompts == "tokens"


@pytest.mark.parametrize(
    ("most", "refused", "said"),
    [
        (90, ["Hi"], ["lost 2 turns"]),
        (45, ["And?"], ["lost 1 turns", "lost their beginning"]),
        (45, ["Hi", "And?"], ["lost their beginning"]),
    ],
)
def test_a_shorter_dialogue_that_the_template_refuses_is_not_taken(
    most: int, refused: list[str], said: list[str]
) -> None:
    """`refused`: what the user must not begin with, behind the system's message."""
    refusing = f"{{% if messages[1].content in {refused} %}}{{{{ raise_exception('no') }}}}{{% endif %}}{chats.PLAIN}"
    found = read(refusing, LONG, [YES], max_prompt_length=most, cut_prompts="turns")
    assert len(chats.chat_tokenizer(refusing)(found.prompt)["input_ids"]) <= most
    assert [any(words in line for words in said) for line in found.remarks] == [True] * len(said)


def test_turns_are_left_out_for_the_room_of_a_response_too() -> None:
    found = read(chats.PLAIN, LONG, [YES], max_length=90, cut_prompts="turns")
    assert found.prompt.startswith("[system]Be brief.<|end|>\n[user]Hi") and found.response.startswith("Yes.")


def test_messages_of_the_system_between_turns_stay() -> None:
    later = {"role": "system", "content": "Be kind."}
    found = read(chats.PLAIN, [*LONG[:2], later, *LONG[2:]], [YES], max_prompt_length=90, cut_prompts="turns")
    assert found.prompt.startswith("[system]Be brief.<|end|>\n[system]Be kind.<|end|>\n[user]")


def test_a_prompt_of_many_turns_is_rendered_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    texts = Chat.texts

    def counted(self: Chat, row: PreferenceRow, place: str) -> Rendered:
        rendered.append(len(row.prompt))
        return texts(self, row, place)

    monkeypatch.setattr(Chat, "texts", counted)
    turns = [turn for number in range(64) for turn in (user(f"q{number}"), assistant("a"))]
    for most in (40, 200, 1000):
        rendered.clear()
        found = read(chats.PLAIN, [*turns, user("And?")], [YES], max_prompt_length=most, cut_prompts="turns")
        ids = chats.chat_tokenizer(chats.PLAIN)(found.prompt)["input_ids"]
        assert most - len("[user]q00..[assistant]a..") < len(ids) <= most and len(rendered) < 10


def test_turns_are_said_to_be_none_of_text() -> None:
    tokenizer, data = chats.chat_tokenizer(chats.PLAIN), DataConfig(max_prompt_length=10, cut_prompts="turns")
    chat, cuts = Chat(tokenizer, data), Cuts(data)
    tokenize_row(PreferenceRow("x" * 30, ("Ho.",), ()), chat, encoder_for(chat, data), cuts, "row 1")
    assert cuts.remarks()[0] == "data.cut_prompts: turns does nothing for prompts of text: 1 of 1 were too long"
