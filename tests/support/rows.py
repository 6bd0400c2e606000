"""Rows as the data room hands them on, made by hand."""

from __future__ import annotations

from sparsepo_dist.contracts import PreferenceRow, Side


def pair_row(prompt: Side, chosen: Side, rejected: Side) -> PreferenceRow:
    """A row of one chosen and one rejected response."""
    return PreferenceRow(prompt, (chosen,), (rejected,))
