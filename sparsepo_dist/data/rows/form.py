"""How every row of a source is read, once that is settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsepo_dist.data.reading.sources import Row, RowError
from sparsepo_dist.data.rows.messages import MEDIA
from sparsepo_dist.data.rows.shapes import MISSING, REQUIRED, Shape, column_of, lookup, shape_of
from sparsepo_dist.errors import did_you_mean, shortened

_NULL_PROMPT = "; give one, or leave the field out where chosen and rejected are whole dialogues that begin alike"


@dataclass(frozen=True)
class Form:
    """The form of a source's rows; it can be handed to other processes."""

    shape: Shape
    columns: Mapping[str, str]
    """Our name to the source's column, or to a dotted path, for everything that is read by our names."""
    has_system: bool = False
    """Whether there are system messages: then texts become messages in every row, also where its own is empty."""

    has_prompt: bool | None = None
    """Whether pairs have a column of prompts, as most of the first rows do or do not; None where it is not asked."""

    def line(self) -> str | None:
        """For the user: how rows are read; None where they have our own columns."""
        more = [shortened(f"{role} is {path}") for role, path in self.columns.items() if path != role]
        if self.has_system:
            more.append(f"{shortened(self.columns['system'])} becomes the first message, and makes messages of texts")
        if self.shape.name == "preference" and not more:
            return None
        return "; ".join([f"rows are read as {self.shape.name} ({self.shape.title})", *more])

    def values(self, row: Row) -> dict[str, Any]:
        """What a row holds, by our names; roles whose column it has not are absent.

        Raises:
            RowError: it is no object, lacks a column that it needs, has null there, or is of another form.
        """
        fields, place, reader = row.fields, row.place, self.shape.reader
        if not isinstance(fields, Mapping):
            *most, last = ("prompt", *self._needed()) if reader == "pairs" else self._needed()
            wanted = f"{', '.join(most)} and {last}" if most else last
            raise RowError(place, f"expected an object with {wanted}, found {type(fields).__name__}")
        for path in self._needed():
            if lookup(fields, path) is MISSING:
                raise RowError(place, self._missing(fields, path))
        found = {role: lookup(fields, path) for role, path in self.columns.items()}
        values = {role: value for role, value in found.items() if value is not MISSING}
        if self.has_prompt is not None and self.has_prompt != ("prompt" in values):
            is_said, most_do = ("missing", "have") if self.has_prompt else ("there", "do not have")
            raise RowError(
                place,
                f"{self.columns['prompt']} is {is_said}, and most of the first rows {most_do} it; put rows of another "
                "form in a source of their own",
            )
        for role in ("prompt", *REQUIRED.get(reader, ())):
            if role in values and values[role] is None:
                more = _NULL_PROMPT if role == "prompt" and reader == "pairs" else ""
                raise RowError(place, f"{self.columns[role]} is null{more}")
        return values

    def unused(self, row: Row, *, tools: bool) -> Iterable[str]:
        """Columns of a row that hold something and that nothing reads; `tools` says whether tools are read."""
        used = {column_of(row.fields, path) for role, path in self.columns.items() if tools or role != "tools"}
        used.update(column_of(row.fields, path) for path in self._needed())
        used.update(MEDIA)
        return (str(name) for name, value in row.fields.items() if value is not None and name not in used)

    def _needed(self) -> tuple[str, ...]:
        """Columns that a row cannot do without."""
        roles = REQUIRED.get(self.shape.reader)
        return self.shape.needs if roles is None else tuple(self.columns[role] for role in roles)

    def _missing(self, fields: Mapping[str, Any], path: str) -> str:
        other = shape_of(fields, {})
        if other is not None and other.reader != self.shape.reader:
            return (
                f"it is of the form {other.name}, and its source is read as {self.shape.name} by its first rows; put "
                "rows of another form in a source of their own"
            )
        names = list(map(str, fields))
        there = shortened(", ".join(names)) + did_you_mean(path, names) if names else "no fields"
        return f"field {path!r} is missing; the row has {there}"
