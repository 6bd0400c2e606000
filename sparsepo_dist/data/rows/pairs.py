"""Rows become checked preference rows: every one is looked at, and a bad one is named with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from sparsepo_dist.contracts import PreferenceRow, Side
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import Row, RowError, read_rows
from sparsepo_dist.data.rows.checks import (
    Response,
    check_different,
    check_response,
    holds_system,
    parse_responses,
    parse_scores,
    parse_side,
)
from sparsepo_dist.data.rows.columns import settle
from sparsepo_dist.data.rows.form import Form
from sparsepo_dist.data.rows.messages import parse_tools, refuse_media
from sparsepo_dist.data.rows.prompts import behind_system, split, take_off
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.rows.shapes import NAMED
from sparsepo_dist.data.rows.summaries import comparison, paired
from sparsepo_dist.data.rows.supervised import dialogue, whole_text
from sparsepo_dist.errors import did_you_mean

_FIRST_ROWS = 100
"""Are looked at for the form of a source."""


def open_rows(
    source: str, config: DataConfig, remarks: Remarks, *, needs_rejected: bool = False
) -> tuple[Form, Iterator[Row | RowError]]:
    """The form of a source's rows, and the rows that `parse_row` takes.

    Raises:
        UserError: as `read_rows` and `settle`.
    """
    rows = _counted(read_rows(source), remarks)
    first = list(islice(rows, _FIRST_ROWS))
    form = settle(first, config, source, needs_rejected=needs_rejected)
    remarks.read_as = form.line()
    rows = chain(first, rows)
    if form.shape.reader == "ratings":
        roles = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score")
        return Form(NAMED["preference"], {role: role for role in roles}), paired(rows, remarks)
    return form, rows


def _counted(rows: Iterator[Row | RowError], remarks: Remarks) -> Iterator[Row | RowError]:
    for row in rows:
        remarks.rows += 1
        yield row


def parse_row(row: Row, form: Form, remarks: Remarks) -> PreferenceRow:
    """A checked row; a prompt that all responses repeat is taken off them. Depends on nothing but the row and its form.

    Raises:
        RowError: what is wrong with which field.
    """
    place = row.place
    values = form.values(row)
    refuse_media(place, row.fields)
    if form.shape.reader == "comparisons":
        values = comparison(row)
    prompt, chosen, rejected, repeats = _sides(row, form, values)
    if prompt == "" and (form.shape.reader == "completion" or form.has_system):
        more = "; whole texts are a column text" if form.shape.reader == "completion" else ""
        raise RowError(place, f"{form.columns['prompt']} is empty{more}")
    if form.has_system:
        prompt, responses = behind_system(
            place, form.columns["system"], values.get("system"), prompt, [*chosen, *rejected]
        )
        chosen, rejected = responses[: len(chosen)], responses[len(chosen) :]
    elif holds_system(values.get("system")):
        name = form.columns["system"]
        late = (
            "this row: the first rows have none; give the column to all, null where there is none, and say "
            f"--data.columns '{{system: {name}}}'"
        )
        where = "a whole text" if form.shape.reader == "text" else late
        raise RowError(place, f"{name} cannot stand before {where}")
    for response in (*chosen, *rejected):
        check_response(place, response, prompt, form.columns.get("prompt", "prompt"))
    check_different(place, chosen, rejected)
    chosen_scores, rejected_scores = (
        parse_scores(place, form.columns[role], values[role], len(sides)) if role in values else ()
        for role, sides in (("chosen_score", chosen), ("rejected_score", rejected))
    )
    tools = () if isinstance(prompt, str) else parse_tools(place, values.get("tools"))
    remarks.leave(form.unused(row, tools=not isinstance(prompt, str)))
    remarks.repeating += repeats
    good, bad = (tuple(side for _, side in sides) for sides in (chosen, rejected))
    return PreferenceRow(prompt, good, bad, chosen_scores, rejected_scores, tools)


def _sides(row: Row, form: Form, values: dict[str, Any]) -> tuple[Side, list[Response], list[Response], bool]:
    """Prompt, chosen and rejected responses, and whether they repeated the prompt."""
    place, columns = row.place, form.columns
    if form.shape.reader == "messages":
        return *dialogue(place, columns["messages"], values["messages"]), [], False
    if form.shape.reader == "text":
        return *whole_text(place, columns["text"], values["text"]), [], False
    names = ("completion",) if form.shape.reader == "completion" else ("chosen", "rejected")
    sides = [parse_responses(place, columns.get(name, name), values[name]) for name in names]
    responses = [response for side in sides for response in side]
    if "prompt" in values:
        name = columns.get("prompt", "prompt")
        prompt, responses, repeats = take_off(place, name, parse_side(place, name, values["prompt"]), responses)
    else:
        (prompt, responses), repeats = split(place, responses, did_you_mean("prompt", map(str, row.fields))), False
    return prompt, responses[: len(sides[0])], responses[len(sides[0]) :], repeats
