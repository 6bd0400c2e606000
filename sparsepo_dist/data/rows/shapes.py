"""The forms of rows that people have, and how they are told from each other: by their columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MISSING = object()
Reader = Literal["pairs", "comparisons", "ratings", "completion", "messages", "text", "unpaired"]
PAIRS: tuple[Reader, ...] = ("pairs", "comparisons", "ratings")
"""What is read as a preference; the others have no rejected response."""


@dataclass(frozen=True)
class Shape:
    """A form of rows."""

    name: str
    """As `data.format` has it."""
    title: str
    """For the line that says how rows are read."""
    needs: tuple[str, ...]
    """Columns that every such row has; dots lead into objects."""
    reader: Reader = "pairs"
    without: tuple[str, ...] = ()
    """Columns that make it another form."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Columns of what has a place of its own in this form."""

    def fits(self, fields: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
        """Whether a row is of this form once `columns` (our name to the row's) has named some of it."""
        return all(_has(fields, columns, need) for need in self.needs) and not any(
            _has(fields, columns, name) for name in self.without
        )


SHAREGPT = "write from and value as role (system, user, assistant, tool) and content"
PROMPT_NAMES = ("prompt", "question", "instruction", "input")
_SIDES = ("chosen", "rejected")
SHAPES = (
    Shape("tldr_comparisons", "TL;DR comparisons: post, two summaries, choice", ("info", "summaries", "choice"),
          "comparisons", without=_SIDES),
    Shape("tldr_ratings", "rated summaries: a pair is a post's best and worst", ("info", "summary"), "ratings",
          without=_SIDES),
    Shape("scored_texts", "responses are objects of text and score",
          tuple(f"{side}.{key}" for side in _SIDES for key in ("text", "score")),
          roles={**{side: f"{side}.text" for side in _SIDES}, **{f"{side}_score": f"{side}.score" for side in _SIDES}}),
    Shape("ultrafeedback", "UltraFeedback binarized", ("prompt", *_SIDES, "score_chosen", "score_rejected")),
    Shape("dpo_mix", "dialogues with ratings, as dpo-mix-7k", (*_SIDES, "chosen_rating", "rejected_rating"),
          without=PROMPT_NAMES),
    Shape("orca", "Orca pairs", ("system", "question", *_SIDES),
          without=("prompt",)),
    Shape("hh", "whole dialogues that begin alike, as Anthropic HH", _SIDES, without=PROMPT_NAMES),
    Shape("preference", "prompt, chosen, rejected", _SIDES),
    Shape("kto", "unpaired, as for KTO", ("prompt", "completion", "label"), "unpaired"),
    Shape("prompt_completion", "prompt and completion", ("prompt", "completion"), "completion"),
    Shape("messages", "dialogues whose last message is the response", ("messages",), "messages"),
    Shape("text", "whole texts", ("text",), "text"),
)  # fmt: skip
"""The first that fits is meant."""
NAMED = {shape.name: shape for shape in SHAPES}
READS: dict[Reader, tuple[str, ...]] = {
    "pairs": ("prompt", "chosen", "rejected", "chosen_score", "rejected_score", "system", "tools"),
    "comparisons": (),
    "ratings": (),
    "completion": ("prompt", "completion", "system", "tools"),
    "messages": ("messages", "system", "tools"),
    "text": ("text", "system"),
}
"""What each reader takes of a row, in our names; others take the columns of their form."""
REQUIRED: dict[Reader, tuple[str, ...]] = {
    "pairs": ("chosen", "rejected"),
    "completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
}
"""What they cannot do without."""


def shape_of(fields: Any, columns: Mapping[str, str]) -> Shape | None:
    """The form of a row; None where it is none that is known."""
    if not isinstance(fields, Mapping):
        return None
    return next((shape for shape in SHAPES if shape.fits(fields, columns)), None)


def how_to_map(fields: Mapping[str, Any]) -> str | None:
    """What to do with rows of a form that others read, and that is none of ours; None where it is not known."""
    if "conversations" in fields:
        mapped = "say --data.columns '{messages: conversations}' (objective sft)"
        first = next(iter(fields["conversations"] or ()), None)
        if isinstance(first, Mapping) and "from" in first:
            return f"conversations are in ShareGPT's form: {SHAREGPT}, and {mapped}"
        return f"conversations are messages under another name: {mapped}"
    if "instruction" in fields and "output" in fields:
        more = ", once input is written behind the instruction" if fields.get("input") else ""
        return (
            "instruction and output are alpaca's form: say --data.columns '{prompt: instruction, completion: output}' "
            f"(objective sft){more}"
        )
    return None


def lookup(fields: Mapping[str, Any], path: str) -> Any:
    """The value at a column, or at a dotted path into objects; MISSING where there is none."""
    if path in fields:
        return fields[path]
    head, _, rest = path.partition(".")
    inner = fields.get(head)
    return lookup(inner, rest) if rest and isinstance(inner, Mapping) else MISSING


def column_of(fields: Mapping[str, Any], path: str) -> str:
    """The column of a row that a path leads into."""
    return path if path in fields else path.partition(".")[0]


def _has(fields: Mapping[str, Any], columns: Mapping[str, str], name: str) -> bool:
    if name in columns:
        return lookup(fields, columns[name]) is not MISSING
    head = name.partition(".")[0]
    taken = head in columns or any(column_of(fields, path) == head for path in columns.values())
    return not taken and lookup(fields, name) is not MISSING
