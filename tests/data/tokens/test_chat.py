"""Messages with all that people put into them, from a file to token ids, beside the chat template called directly."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.errors import UserError
from tests.support.tiny import tiny_tokenizer

Fields = dict[str, Any]

START = "{{ '<|im_start|>' + m.role + '\n' }}"
END = "{{ '</s>\n' }}"
OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
PLAIN = "{% for m in messages %}" + START + "{{ m.content }}" + END + "{% endfor %}" + OPEN
TOOLS = (
    "{% if tools %}{{ 'TOOLS ' + tools | tojson + '\n' }}{% endif %}{% for m in messages %}" + START
    + "{% if m.name %}{{ m.name + ': ' }}{% endif %}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content }}"
    "{% if m.tool_calls %}{{ 'CALL ' + m.tool_calls | tojson }}{% endif %}" + END + "{% endfor %}" + OPEN
)  # fmt: skip
LOOP = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text + '|' }}{% endif %}{% endfor %}"
PARTS_OR_TEXT = (
    "{% for m in messages %}" + START + "{% if m.content is string %}{{ m.content }}{% else %}" + LOOP + "{% endif %}"
    + END + "{% endfor %}" + OPEN
)  # fmt: skip
PARTS_ONLY = "{% for m in messages %}" + START + LOOP + END + "{% endfor %}" + OPEN
TEXT_OR_NOTHING = PLAIN.replace("{{ m.content }}", "{{ m.content if m.content is string else '' }}")
THREE_ROLES = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}" + START + "{{ m.content }}" + END
    + "{% endif %}{% endfor %}" + OPEN
)  # fmt: skip
CALL_ALONE = (
    "{% for m in messages %}" + START + "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}"
    "{% endif %}" + END + "{% endfor %}" + OPEN
)  # fmt: skip

CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"town": "Bergen"}}}]
OTHER_CALL = [{"type": "function", "function": {"name": "tides", "arguments": {"hour": 3}}}]
PARAMETERS = {"type": "object", "properties": {"town": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}


def user(content: Any, **more: Any) -> Fields:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> Fields:
    return {"role": "assistant", "content": content, **more}


def parts(*texts: str) -> list[Fields]:
    return [{"type": "text", "text": text} for text in texts]


def row(prompt: list[Fields], chosen: Any = "Yes.", rejected: Any = "No.", **more: Any) -> Fields:
    sides = {"chosen": chosen, "rejected": rejected}
    whole = {name: [assistant(side)] if isinstance(side, str) else side for name, side in sides.items()}
    return {"prompt": prompt, **whole, **more}


SIMPLE = row([user("Hi")])
WITH_TOOLS = row(
    [user("Rain in Bergen?", name="Kari"), assistant("", tool_calls=CALL),
     {"role": "tool", "content": "yes", "name": "weather", "tool_call_id": "1"}],
    [assistant("Yes.", reasoning_content="the tool says so")],
    [assistant("No.", reasoning_content="a guess", tool_calls=OTHER_CALL)],
    tools=[WEATHER],
)  # fmt: skip


def read(folder: Path, template: str, *rows: Fields, name: str = "rows.jsonl", **config: Any) -> list[TokenizedPair]:
    """What training gets of the rows, as rank 0 reads them."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(fields) + "\n" for fields in rows))
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        Dataset.from_list(list(rows)).save_to_disk(path)
    return list(load_tokenized(str(path), tokenizer, DataConfig(**config), progress=True))


def ids(text: str) -> tuple[int, ...]:
    return tuple(tiny_tokenizer()(text, add_special_tokens=False)["input_ids"])


def directly(template: str, fields: Fields) -> TokenizedPair:
    """The same row by transformers alone; the newline behind the end of a turn is no part of a response."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    render = tokenizer.apply_chat_template
    tools = fields.get("tools")
    prompt = render(fields["prompt"], tools=tools, tokenize=False, add_generation_prompt=True)
    sides = []
    for side in ("chosen", "rejected"):
        whole = render(fields["prompt"] + fields[side], tools=tools, tokenize=False)
        assert whole.startswith(prompt)
        sides.append(ids(whole[len(prompt) :].removesuffix("\n")))
    return TokenizedPair(ids(prompt), *sides)


def text(pair: TokenizedPair) -> str:
    return str(tiny_tokenizer().decode(pair.prompt_ids + pair.chosen_ids))


def refused(folder: Path, template: str, fields: Fields) -> str:
    """The message about a bad second row, which `skip` drops."""
    with pytest.raises(UserError) as caught:
        read(folder, template, SIMPLE, fields)
    assert len(read(folder, template, SIMPLE, fields, on_bad_row="skip")) == 1
    message = str(caught.value)
    assert "rows.jsonl, row 2: " in message and "on_bad_row skip" in message
    return message


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "folder"])
def test_what_a_template_reads_of_messages_and_tools_reaches_it(tmp_path: Path, name: str) -> None:
    rows = [WITH_TOOLS, row([user("Hi"), assistant("", tool_calls=OTHER_CALL)], tools=[])]
    found = read(tmp_path, TOOLS, *rows, name=name)
    # A table's order of keys is its own, and shows in JSON; what stands there is the same.
    assert [sorted(text(pair)) for pair in found] == [sorted(text(directly(TOOLS, fields))) for fields in rows]
    if name == "rows.jsonl":
        assert found == [directly(TOOLS, fields) for fields in rows]
    told = ('"town": "Bergen"', "TOOLS [", "<think>the tool says so</think>", "Kari: Rain", "<|im_start|>tool")
    assert all(words in text(found[0]) for words in told)
    assert "null" not in text(found[0]) + text(found[1]) and "TOOLS" not in text(found[1])


def test_tools_may_be_the_text_of_a_list(tmp_path: Path) -> None:
    assert read(tmp_path, TOOLS, {**WITH_TOOLS, "tools": json.dumps([WEATHER])}) == [directly(TOOLS, WITH_TOOLS)]


def test_a_call_may_stand_without_content(tmp_path: Path) -> None:
    fields = row([user("Rain?")], [assistant(None, tool_calls=CALL)], tools=[WEATHER])
    assert read(tmp_path, TOOLS, fields) == [directly(TOOLS, fields)]


IN_PARTS = row([{"role": "system", "content": parts("Be ", "brief.")}, user(parts("Hi"))], [assistant(parts("Yes."))])
IN_TEXT = row([{"role": "system", "content": "Be brief."}, user("Hi")])
AS_ONE_PART = row(
    [{"role": "system", "content": parts("Be brief.")}, user(parts("Hi"))], [assistant(parts("Yes."))],
    [assistant(parts("No."))],
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "given", "handed_on"),
    [
        (PARTS_OR_TEXT, IN_PARTS, IN_PARTS),
        (PARTS_OR_TEXT, IN_TEXT, IN_TEXT),
        (PARTS_ONLY, IN_TEXT, AS_ONE_PART),
        (PARTS_ONLY, IN_PARTS, AS_ONE_PART),
        (PLAIN, IN_PARTS, IN_TEXT),
        (PLAIN.replace("m.content", "m.content | tojson"), IN_PARTS, IN_TEXT),
        (PLAIN.replace("{{ m.content }}", "{{ m.content + '' }}"), IN_PARTS, IN_TEXT),
        (TEXT_OR_NOTHING, IN_PARTS, IN_TEXT),
    ],
)  # fmt: skip
def test_content_takes_the_form_that_the_template_renders(
    tmp_path: Path, template: str, given: Fields, handed_on: Fields
) -> None:
    assert read(tmp_path, template, given) == [directly(template, handed_on)]


def test_tool_calls_and_tools_that_a_template_does_not_render_are_a_bad_row(tmp_path: Path) -> None:
    message = refused(tmp_path, PLAIN, {**WITH_TOOLS, "tools": None})
    assert "renders nothing of prompt[1].tool_calls" in message and "--data.chat_template" in message
    fields = row([user("Hi")], [assistant("", tool_calls=CALL)])
    assert "nothing of chosen[0].tool_calls" in refused(tmp_path, PLAIN, fields)
    assert "renders nothing of tools;" in refused(tmp_path, PLAIN, {**SIMPLE, "tools": [WEATHER]})


def test_content_that_a_template_does_not_render_is_a_bad_row(tmp_path: Path) -> None:
    for role in ("developer", "tool"):
        fields = row([user("Hi"), {"role": role, "content": "Rain."}])
        assert f"nothing of prompt[1].content, whose role is '{role}'" in refused(tmp_path, THREE_ROLES, fields)
        assert read(tmp_path, PLAIN, fields) == [directly(PLAIN, fields)]


def test_other_keys_that_no_row_shows_are_named_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row([user("Hi", weight=0.5, name="Kari")]), row([user("Ho", weight=1.0)], [assistant("Yes.", name="Bot")])]
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, TOOLS, *rows) == [directly(TOOLS, fields) for fields in rows]
    (record,) = caplog.records
    assert record.getMessage().endswith(
        ": the chat template renders nothing of these keys of messages: weight (2 rows)"
    )


def test_content_beside_a_call_may_be_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fields = row([user("Rain?")], [assistant("Let me see.", tool_calls=CALL)])
    assert read(tmp_path, CALL_ALONE, fields) == [directly(CALL_ALONE, fields)]
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "content beside tool_calls (1 rows)"
    ]


def test_what_was_done_to_rows_is_said_by_one_rank_in_a_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repeating = {
        **SIMPLE,
        "chosen": SIMPLE["prompt"] + SIMPLE["chosen"],
        "rejected": SIMPLE["prompt"] + SIMPLE["rejected"],
    }
    rows = [{**fields, "id": 1} for fields in (repeating, SIMPLE, repeating)]
    assert read(tmp_path, PLAIN, *rows) == [directly(PLAIN, SIMPLE)] * 3
    source = tmp_path / "rows.jsonl"
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"{source}: the responses of 2 rows repeat the prompt at their beginning, which was taken off",
        f"{source}: columns that are not used: id",
    ]
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = PLAIN
    load_tokenized(str(source), tokenizer, DataConfig())
    assert len(caplog.records) == len(lines)


IMAGE = {"type": "image_url", "image_url": {"url": "cat.png"}}
BAD = [
    (row([user([*parts("What is it?"), IMAGE])]), "prompt[0].content[1] is of type 'image_url', which cannot"),
    (row([user("?")], [assistant([{"type": "audio", "audio": "x"}])]), "chosen[0].content[0] is of type 'audio'"),
    (row([user([{"text": "Hi"}])]), "prompt[0].content[0] is of type None"),
    (row([user(["Hi"])]), "prompt[0].content[0] must be a part with type and text, found str"),
    (row([user([{"type": "text", "text": None}])]), "prompt[0].content[0].text must be text, found null"),
    (row([user([{"type": "text", "text": "Hi", "image": "cat.png"}])]), "prompt[0].content[0].image cannot"),
    (row([user({"text": "Hi"})]), "prompt[0].content must be text or a list of text parts, found dict"),
    (row([user(None)]), "prompt[0].content is null"),
    (row([{"role": None, "content": "Hi"}]), "prompt[0].role is null"),
    (row([user("Hi", images=["cat.png"])]), "prompt[0].images cannot be trained on"),
    (row([user("Hi")], images=["cat.png"]), ": images cannot be trained on"),
    (row([user("Hi")], videos=[{"bytes": ""}]), ": videos cannot be trained on"),
    ({"prompt": "Hi", "chosen": "Yes.", "rejected": "No.", "image": "cat.png"}, ": image cannot be trained on"),
    (row([user("Hi", tool_calls={"name": "x"})]), "prompt[0].tool_calls must be a list of objects, found dict"),
    (row([user("Hi")], tools=["weather"]), "tools[0] must be an object, found str"),
    (row([user("Hi")], tools="{weather"), "tools is text, but not JSON"),
    (row([user("Hi", name="\ud83d")]), "prompt[0].name holds half a character"),
    (row([user("Hi", x=json.loads("[" * 80 + "]" * 80))]), "is nested more than 64 levels deep"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "reason"), BAD)
def test_what_cannot_be_trained_on_is_a_bad_row_that_names_the_field(
    tmp_path: Path, fields: Fields, reason: str
) -> None:
    assert reason in refused(tmp_path, PLAIN, fields)


def test_bytes_in_a_message_of_a_table_are_a_bad_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompt\[0\].picture is a bytes, which a chat template cannot render"):
        read(tmp_path, PLAIN, row([user("Hi", picture=b"\x89PNG")]), name="rows.parquet")


def test_empty_columns_of_media_are_no_error(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN, {**SIMPLE, "images": [], "videos": None}) == [directly(PLAIN, SIMPLE)]
