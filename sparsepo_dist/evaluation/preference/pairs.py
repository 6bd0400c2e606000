"""The pairs that models are held against: how runs read them, their token ids, and the questions in them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import PreferenceRow, Side
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows.pairs import open_rows, parse_row
from sparsepo_dist.data.rows.remarks import Remarks, refuse_or_skip
from sparsepo_dist.data.tokens.chat import Chat
from sparsepo_dist.data.tokens.tokenize import prepare_tokenizer
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.prompts import digest

# They say where pairs are and how they are dealt out, not what becomes of one.
_ELSEWHERE = (
    "train", "heldout", "heldout_pairs", "swap", "mixture_seed", "layout", "tokens_per_micro_batch", "show", "cache",
    "workers",
)  # fmt: skip


class Question(NamedTuple):
    """A prompt with the first response that was preferred."""

    place: str
    """Its file and row."""
    row: PreferenceRow
    chosen: str

    @property
    def prompt(self) -> Side:
        """What is asked."""
        return self.row.prompt


def data_settings(configs: Mapping[str, Mapping[str, Any] | None]) -> DataConfig:
    """How pairs are read: as the runs read theirs; by the defaults where no model is of a run.

    Args:
        configs: each model's run's resolved configuration, where it is of one, by the model's name.

    Raises:
        UserError: a configuration is of another version, or runs read pairs differently.
    """
    found: dict[str, DataConfig] = {}
    for name, config in configs.items():
        if config is None:
            continue
        try:
            found[name] = DataConfig(**config.get("data", {}))
        except TypeError as error:
            raise UserError(f"--model: {name}: its run's configuration is of another version ({error})") from None
    if not found:
        return DataConfig()
    first, *others = found
    for other in others:
        ours, theirs = settings_of(found[first]), settings_of(found[other])
        differing = [f"data.{key}" for key in ours if ours[key] != theirs[key]]
        if differing:
            raise UserError(
                f"--model: the runs of {first} and {other} read pairs differently ({', '.join(differing)}), so that "
                "their numbers could not be compared; evaluate them in calls of their own"
            )
    return found[first]


def settings_of(data: DataConfig) -> dict[str, Any]:
    """What of the settings decides the tokens of a pair."""
    return {name: value for name, value in dataclasses.asdict(data).items() if name not in _ELSEWHERE}


def read_rows_of(source: str, data: DataConfig) -> list[tuple[str, PreferenceRow]]:
    """The pairs of a source with the places that they stand at.

    Raises:
        UserError: a bad row under `on_bad_row` stop, no usable one, or a source that cannot be read.
    """
    remarks = Remarks()
    form, rows = open_rows(source, data, remarks, needs_rejected=True)
    found = []
    for row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            found.append((row.place, parse_row(row, form, remarks)))
        except RowError as bad:
            refuse_or_skip(bad, data.on_bad_row, remarks)
    if not found:
        raise UserError("; ".join([f"--pairs {source}: no usable pair is left", *remarks.lines()]))
    return found


def digest_of(rows: Sequence[tuple[str, PreferenceRow]]) -> str:
    """Names pairs by what they say."""
    return digest([json.dumps(dataclasses.asdict(row), sort_keys=True) for _, row in rows])


def questions(rows: Sequence[tuple[str, PreferenceRow]], count: int | None) -> list[Question]:
    """The first `count` different prompts, None: all, each with the first chosen response of its first row.

    Raises:
        UserError: there are fewer, or a chosen response is more than one text.
    """
    found: dict[str, Question] = {}
    for place, row in rows:
        key = json.dumps(row.prompt, sort_keys=True)
        if len(found) == count:
            break
        if key not in found:
            found[key] = Question(place, row, _text(row.chosen[0], place))
    if len(found) < (count or 0):
        raise UserError(f"--prompt_count {count}: --pairs has {len(found)} different prompts; lower it")
    return list(found.values())


def prompt_texts(
    asked: Sequence[Question], tokenizer: PreTrainedTokenizerBase, data: DataConfig
) -> tuple[str, ...]:  # fmt: skip
    """The prompts as a model reads them: text as it is, messages in the model's chat template.

    Raises:
        UserError: messages, and no chat template, or it refuses a prompt.
    """
    prepare_tokenizer(tokenizer, data)
    chat = Chat(tokenizer, data)
    try:
        return tuple(chat.texts(one.row, one.place).prompt for one in asked)
    except RowError as bad:
        raise UserError(f"--pairs {bad}") from None


def _text(response: Side, place: str) -> str:
    if isinstance(response, str):
        return response
    if len(response) == 1 and isinstance(response[0].get("content"), str):
        return str(response[0]["content"])
    raise UserError(
        f"--pairs {place}: the chosen response is more than one message of text, which nothing here compares"
    )
