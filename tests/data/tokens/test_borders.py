"""Where prompts end and responses begin, under templates that render a prompt otherwise once an answer follows it."""

from __future__ import annotations

from typing import Any

import pytest

from sparsepo_dist.contracts import Message
from sparsepo_dist.data.reading.sources import RowError
from tests.support import chats
from tests.support.chats import assistant, read, user

HI = [user("Hi")]
EARLIER = [user("Hi"), assistant("<think>\nfirst\n</think>\n\nHo."), user("And?")]
YES, KEYED, INLINE = (
    assistant("Yes."),
    assistant("Yes.", reasoning_content="why"),
    assistant("<think>\nwhy\n</think>\n\nYes."),
)
NONE, REPEATED = assistant("<think>\n\n</think>\n\nYes."), assistant("Yes.", reasoning_content="Yes.")
OFF = {"chat_template_kwargs": {"enable_thinking": False}}

BORDERS: list[tuple[str, list[Message], Message, dict[str, Any], str, str]] = [
    (chats.PLAIN, HI, YES, {}, "[user]Hi<|end|>\n[assistant]", "Yes.<|end|>"),
    (chats.SWITCHED, HI, YES, {}, "[user]Hi<|end|>\n[assistant]", "<think>\n\n</think>\n\nYes.<|end|>"),
    (chats.SWITCHED, HI, YES, OFF, "[user]Hi<|end|>\n[assistant]<think>\n\n</think>\n\n", "Yes.<|end|>"),
    (chats.SWITCHED, HI, KEYED, {}, "[user]Hi<|end|>\n[assistant]", "<think>\nwhy\n</think>\n\nYes.<|end|>"),
    (chats.SWITCHED, HI, INLINE, {}, "[user]Hi<|end|>\n[assistant]", "<think>\nwhy\n</think>\n\nYes.<|end|>"),
    (
        chats.SWITCHED, EARLIER, KEYED, {}, "[user]Hi<|end|>\n[assistant]Ho.<|end|>\n[user]And?<|end|>\n[assistant]",
        "<think>\nwhy\n</think>\n\nYes.<|end|>",
    ),
    (chats.OPENING, HI, YES, {}, "[user]Hi<|end|>\n[assistant]<think>\n", "\n</think>\n\nYes.<|end|>"),
    (chats.OPENING, HI, INLINE, {}, "[user]Hi<|end|>\n[assistant]<think>\n", "why\n</think>\n\nYes.<|end|>"),
    (chats.CLOSED_AT_ONCE, HI, YES, {}, "[user]Hi<|end|>\n[assistant]<think>\n", "</think>Yes.<|end|>"),
    (chats.CLOSED_AT_ONCE, HI, KEYED, {}, "[user]Hi<|end|>\n[assistant]<think>\n", "why\n</think>\nYes.<|end|>"),
    (chats.CHANNELS, HI, YES, {}, "<s>user:Hi<|end|><s>assistant", "/final:Yes.<|return|>"),
    (
        chats.CHANNELS, [user("Hi"), assistant("Ho."), user("And?")], KEYED, {},
        "<s>user:Hi<|end|><s>assistant/final:Ho.<|end|><s>user:And?<|end|><s>assistant",
        "/thought:why<|end|><s>assistant/final:Yes.<|return|>",
    ),
    (chats.COUNTING, HI, YES, {}, "1[user]Hi<|end|>\n[assistant]", "Yes.<|end|>"),
    (chats.GENERATION, HI, YES, {}, "[user]Hi<|end|>\n[assistant]", "Yes.<|end|>"),
    (chats.STRIPPING, HI, YES, {}, "<s>[user]Hi[assistant]<think>\n", "Yes.</s>"),
    (chats.STRIPPING, HI, INLINE, {}, "<s>[user]Hi[assistant]<think>\n", "why\n</think>\n\nYes.</s>"),
    (chats.STRIPPING, HI, KEYED, {}, "<s>[user]Hi[assistant]<think>\n", "why\n</think>\n\nYes.</s>"),
    (chats.STRIPPING, HI, NONE, {}, "<s>[user]Hi[assistant]<think>\n", "\n</think>\n\nYes.</s>"),
    (chats.STRIPPING, HI, REPEATED, {}, "<s>[user]Hi[assistant]<think>\n", "Yes.\n</think>\n\nYes.</s>"),
    (
        chats.STRIPPING, EARLIER, INLINE, {}, "<s>[user]Hi[assistant]\n\nHo.</s>[user]And?[assistant]<think>\n",
        "why\n</think>\n\nYes.</s>",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("template", "prompt", "response", "config", "asked", "answer"), BORDERS)
def test_a_prompt_is_the_generation_prompt_and_a_response_what_the_template_has_behind_it(
    template: str, prompt: list[Message], response: Message, config: dict[str, Any], asked: str, answer: str
) -> None:
    found = read(template, prompt, [response], **config)
    tokenizer = chats.chat_tokenizer(template)
    arguments = config.get("chat_template_kwargs", {})
    at_inference = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **arguments)
    assert (found.prompt, found.response, found.trained) == (asked, answer, [])
    assert found.prompt == at_inference


def test_an_answer_without_the_reasoning_that_the_prompt_opens_is_said() -> None:
    (said,) = read(chats.STRIPPING, HI, [YES]).remarks
    assert "ends with '<think>\\n', which it does not write in front of 1 responses" in said
    assert not read(chats.STRIPPING, HI, [INLINE]).remarks


def test_reasoning_behind_a_prompt_that_ends_it_is_left_out_aloud() -> None:
    for response in (KEYED, INLINE):
        found = read(chats.SWITCHED, HI, [response], **OFF)
        assert found.response == "Yes.<|end|>"
        assert "the reasoning of 1 responses is left out" in found.remarks[0]


@pytest.mark.parametrize(
    ("template", "response", "trained"),
    [
        (chats.SWITCHED, KEYED, "Yes.<|end|>"),
        (chats.SWITCHED, INLINE, "Yes.<|end|>"),
        (chats.OPENING, INLINE, "Yes.<|end|>"),
        (chats.STRIPPING, INLINE, "Yes.</s>"),
        (chats.STRIPPING, KEYED, "Yes.</s>"),
        (chats.CHANNELS, KEYED, "Yes.<|return|>"),
        (chats.CLOSED_AT_ONCE, KEYED, "Yes.<|end|>"),
    ],
)
def test_reasoning_may_be_read_and_not_trained_on(template: str, response: Message, trained: str) -> None:
    whole, found = (read(template, HI, [response], train_on_reasoning=told) for told in (True, False))
    assert (whole.response, whole.trained) == (found.response, [])
    assert "why" in found.response and found.trained == [trained]


def test_what_stands_in_place_of_reasoning_is_not_trained_on_either() -> None:
    """Else one side of a pair would be, and the other not."""
    assert read(chats.PLAIN, HI, [YES], train_on_reasoning=False).trained == []
    for template in (chats.SWITCHED, chats.OPENING):
        found = read(template, HI, [YES], train_on_reasoning=False)
        assert "</think>" in found.response and found.trained == ["Yes.<|end|>"]


THOUGHTS = chats.STRIPPING.replace("<think>\n", "")


def test_reasoning_that_an_answer_repeats_is_not_taken_for_rendered() -> None:
    """Its template leaves it out, whatever it says."""
    assert THOUGHTS != chats.STRIPPING
    for thought in ("4", "why"):
        found = read(THOUGHTS, HI, [assistant(f"<think>\n{thought}\n</think>\n\nIt is 4.")])
        assert found.response == f"<think>\n{thought}\n</think>\n\nIt is 4.</s>"


def test_reasoning_of_earlier_turns_that_a_template_leaves_out_is_counted() -> None:
    turns = [assistant("<think>\naa\n</think>\n\nOne."), user("So?"), assistant("<think>\nbb\n</think>\n\nTwo.")]
    found = read(THOUGHTS, HI, turns)
    assert "aa" not in found.response
    assert any("leaves out the reasoning of turns in 1 responses" in remark for remark in found.remarks)


def test_another_answer_than_the_prompt_asks_for_is_a_bad_row() -> None:
    other = chats.COUNTING.replace("{% if add_generation_prompt %}[assistant]", "{% if add_generation_prompt %}<bot>")
    with pytest.raises(RowError, match="begins an answer otherwise than it asks for one"):
        read(other, HI, [YES])


ABOUT = assistant("The tag </think> ends it.")


@pytest.mark.parametrize("template", [chats.PLAIN, chats.GENERATION])
def test_an_answer_that_writes_of_the_end_of_reasoning_is_no_reasoning(template: str) -> None:
    found = read(template, HI, [ABOUT], train_on_reasoning=False)
    assert (found.response, found.trained) == ("The tag </think> ends it.<|end|>", [])
    earlier = [*HI, ABOUT, user("And?")]
    found = read(template, earlier, [YES], train_on="all_assistant", train_on_reasoning=False)
    assert found.trained == ["The tag </think> ends it.<|end|>", "Yes.<|end|>"]


def test_an_answer_that_writes_of_it_stays_behind_a_prompt_that_ends_reasoning() -> None:
    template = chats.PLAIN.replace("[assistant]{% endif %}", "[assistant]<think>\n\n</think>\n\n{% endif %}")
    found = read(template, HI, [ABOUT])
    assert found.response == "The tag </think> ends it.<|end|>"
    assert not any("is left out" in line for line in found.remarks)


def test_an_answer_may_write_of_it_behind_its_reasoning() -> None:
    content = "<think>\nwhy\n</think>\n\nThe tag </think> ends it."
    for template, end in ((chats.PLAIN, "<|end|>"), (chats.STRIPPING, "</s>")):
        found = read(template, HI, [assistant(content)], train_on_reasoning=False)
        assert found.trained == [f"The tag </think> ends it.{end}"]
    found = read(chats.SWITCHED, HI, [assistant(content)], train_on_reasoning=False)
    assert found.trained == ["ends it.<|end|>"]  # which is what the template renders


def test_reasoning_that_is_left_out_is_counted_where_the_prompt_has_more_besides() -> None:
    template = chats.PLAIN.replace("[assistant]{% endif %}", "[assistant]<think>\n\n</think>\n\n{% endif %}")
    said = read(template, HI, [INLINE]).remarks
    assert any("the reasoning of 1 responses is left out" in line for line in said)
    assert any("which it does not write in front of 1 responses" in line for line in said)
