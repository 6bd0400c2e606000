"""Whatever the parsers of rows, chats and recipes are given, they raise nothing but the user's own error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.parsing import parse_train
from tests.support.tiny import tiny_tokenizer

LONGEST_MESSAGE = 1500
bounded = settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
# Many real templates refuse some roles, others show calls and tools.
STRICT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "[{{ m.role | trim }}]{{ m['content'] | trim }}{% if m.role == 'assistant' %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TOOL_TEMPLATE = (
    "{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ m.tool_calls | tojson }}</s>"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)

texts = st.text(st.characters(), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
parts = st.fixed_dictionaries({"type": st.just("text"), "text": texts}, optional={"image": scalars})
calls = st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": texts, "arguments": values})}))
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "assistant", "system", "tool"]) | texts,
        "content": texts | texts | st.lists(parts, max_size=2),
    },
    optional={"name": scalars, "tool_calls": calls, "x": values},
)
sides = st.lists(messages, min_size=1, max_size=3)
odd_sides = st.lists(messages | st.dictionaries(st.sampled_from(["role", "content", "x"]), scalars), max_size=4)


def rows_of(side: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mostly with the fields that rows have, sometimes with odd values in them, or without them."""
    given = {"chosen": side, "rejected": side}
    scores = dict.fromkeys(("chosen_score", "rejected_score"), st.floats() | scalars)
    columns = {**scores, "tools": calls | values, "images": values}
    whole = st.fixed_dictionaries({**given, "prompt": side}, optional=columns)
    dialogue = st.tuples(side, st.fixed_dictionaries(given)).map(
        lambda parts: {name: parts[0] + value for name, value in parts[1].items()}
    )
    several = st.lists(side, max_size=3)
    columns |= {"system": texts | values, "score_chosen": values}
    more = st.fixed_dictionaries({"prompt": side, "chosen": several, "rejected": side | several}, optional=columns)
    names = ("prompt", "chosen", "rejected")
    return st.one_of(
        whole, whole, dialogue, more, st.fixed_dictionaries({}, optional=dict.fromkeys(names, odd) | scores),
        supervised(side), summaries(),
    )  # fmt: skip


def supervised(side: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.fixed_dictionaries({"prompt": side, "completion": side}, optional={"system": values, "label": values}),
        st.fixed_dictionaries({"messages": side | values}, optional={"prompt": side}),
        st.fixed_dictionaries({"text": texts | values}, optional={"system": scalars}),
    )


def summaries() -> st.SearchStrategy[dict[str, Any]]:
    """Comparisons and ratings, with odd values in them."""
    keys = ("post", "title", "subreddit", "article")
    info = st.fixed_dictionaries({}, optional=dict.fromkeys(keys, texts | scalars)) | values
    axes = st.fixed_dictionaries({"overall": st.integers(1, 7) | values}) | values
    written = st.fixed_dictionaries({"text": texts | scalars}, optional={"axes": axes}) | values
    compared = {"info": info, "summaries": st.lists(written, max_size=3), "choice": st.integers(0, 2) | values}
    return st.fixed_dictionaries(compared) | st.fixed_dictionaries({"info": info, "summary": written})


def read(path: Path, *, scored: bool, skip: bool, template: str | None = None) -> None:
    """As training reads pairs; what comes back are pairs that can be trained on."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    config = DataConfig(max_length=64, max_prompt_length=32, on_bad_row="skip" if skip else "stop")
    try:
        pairs = load_tokenized(str(path), tokenizer, config, scored=scored)
    except UserError as error:
        assert len(str(error)) < LONGEST_MESSAGE
        return
    for pair in pairs:
        assert pair.prompt_ids and pair.chosen_ids
        assert len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids)) <= config.max_length


@bounded
@given(st.lists(rows_of(texts, texts | values) | values, max_size=3), st.booleans(), st.booleans())
def test_rows_of_any_value(tmp_path: Path, rows: list[Any], scored: bool, skip: bool) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for name in ("rows.jsonl", "rows.json"):
        read(tmp_path / name, scored=scored, skip=skip)


@bounded
@given(st.binary(max_size=64) | st.builds(lambda a, b: b'{"prompt": "' + a + b'", "' + b, st.binary(), st.binary()))
def test_files_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    for name in ("rows.jsonl", "rows.json", "rows.parquet"):
        (tmp_path / name).write_bytes(content)
        read(tmp_path / name, scored=False, skip=False)


@bounded
@given(
    st.lists(rows_of(sides, odd_sides), min_size=1, max_size=3), st.booleans(),
    st.sampled_from([STRICT_TEMPLATE, TOOL_TEMPLATE]),
)  # fmt: skip
def test_chats_of_any_messages(tmp_path: Path, rows: list[Any], skip: bool, template: str) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read(tmp_path / "rows.jsonl", scored=False, skip=skip, template=template)


def recipes() -> st.SearchStrategy[Any]:
    """Sections and fields as there are, with values of any type, and a few that there are not."""
    config = RunConfig()
    optional: dict[str, Any] = {"lorra": values, "model.path": values, "base": values}
    for name in RunConfig.__dataclass_fields__:
        fields = getattr(getattr(config, name), "__dataclass_fields__", None)
        section = values if fields is None else st.dictionaries(st.sampled_from([*fields, "x"]), values, max_size=2)
        optional[name] = section | values
    return st.dictionaries(st.sampled_from(list(optional)), st.none(), min_size=1, max_size=2).flatmap(
        lambda names: st.fixed_dictionaries({name: optional[name] for name in names})
    )


def parse(path: Path) -> None:
    try:
        parse_train(["--recipe", str(path)]).validate()
    except UserError as error:
        assert len(str(error)) < LONGEST_MESSAGE


@settings(bounded, max_examples=80)
@given(recipes())
def test_recipes_of_any_value(tmp_path: Path, recipe: Any) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), errors="replace")
    parse(tmp_path / "recipe.yaml")


@settings(bounded, max_examples=80)
@given(st.binary(max_size=64) | texts.map(lambda text: f"model: {text}".encode(errors="surrogatepass")))
def test_recipes_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    parse(tmp_path / "recipe.yaml")


@settings(bounded, max_examples=60)
@given(st.sampled_from(["model.path", "training.seed", "lora", "masks.site_patterns", "x"]), texts)
def test_options_of_any_text(name: str, value: str) -> None:
    try:
        parse_train([f"--{name}={value}"]).validate()
    except UserError as error:
        assert len(str(error)) < LONGEST_MESSAGE


@bounded
@given(st.dictionaries(st.sampled_from(["zero_optimization", "optimizer", "bf16", "train_batch_size", "x"]), values))
def test_ds_configs_of_any_value(tmp_path: Path, config: Any) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(config))
    try:
        load_ds_config(str(tmp_path / "ds.json"))
    except UserError as error:
        assert len(str(error)) < LONGEST_MESSAGE
