"""Which column of a source holds what: settled once, from its first rows, and then the same for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import Row, RowError
from sparsepo_dist.data.rows.checks import holds_system
from sparsepo_dist.data.rows.form import Form
from sparsepo_dist.data.rows.shapes import (
    MISSING,
    NAMED,
    PAIRS,
    PROMPT_NAMES,
    READS,
    SHAPES,
    Shape,
    how_to_map,
    lookup,
    shape_of,
)
from sparsepo_dist.errors import UserError, did_you_mean, shortened

_SCORE_NAMES = (
    "{}_score", "score_{}", "{}_rating", "rating_{}", "{}-score", "{}-rating", "{}_avg_rating", "{}_reward",
    "{}_scores",
)  # fmt: skip
_CANDIDATES = {
    "prompt": PROMPT_NAMES,
    **{f"{side}_score": tuple(name.format(side) for name in _SCORE_NAMES) for side in ("chosen", "rejected")},
}
"""Names that columns of a role have in preferences."""


def without_rejected(source: str) -> UserError:
    """What an objective that needs rejected responses says of a source that has none."""
    return UserError(
        f"{source}: its rows are prompts with completions, dialogues or texts, and have no rejected response, which "
        "only the objective sft without data.swap does without; give rows with prompt, chosen and rejected, or say "
        "--objective.name sft"
    )


def settle(first: Sequence[Row | RowError], config: DataConfig, source: str, *, needs_rejected: bool) -> Form:
    """How a source is read, by its first rows.

    Args:
        first: its first rows; the form that most of them have is taken for all.
        config: its `format` and `columns` have the last word.
        source: what messages call it.
        needs_rejected: rows without rejected responses are refused.

    Raises:
        UserError: columns that are not there, that nothing reads, or of which several could be meant for one role;
            rows without rejected responses, where those are needed.
    """
    rows = [row.fields for row in first if isinstance(row, Row) and isinstance(row.fields, Mapping)]
    names = list(dict.fromkeys(str(name) for fields in rows for name in fields))
    for role, path in config.columns.items():
        if rows and all(lookup(fields, path) is MISSING for fields in rows):
            known = [*names, *(f"{name}.{key}" for name in names for key in _keys(rows, name))]
            raise UserError(
                f"data.columns: {source} has no column {shortened(path)} for {role}; it has "
                f"{shortened(', '.join(names), 400) or 'none'}{did_you_mean(path, known)}"
            )
    shape = _shape(rows, names, config, source)
    _check_kind(shape, source, needs_rejected=needs_rejected)
    columns = {role: _column(role, shape, rows, config, source) for role in READS[shape.reader]}
    idle = [role for role in config.columns if role not in columns]
    if idle:
        raise UserError(
            f"data.columns: {', '.join(idle)} {'is' if len(idle) == 1 else 'are'} not read of rows of the form "
            f"{shape.name}, which {source} has; leave it out, or name another form with --data.format"
        )
    has_prompt = _has_prompts(rows, columns) if shape.reader == "pairs" else None
    return Form(shape, columns, _has_system(shape, columns, rows, config), has_prompt)


def _has_system(
    shape: Shape, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], config: DataConfig
) -> bool:
    """Whether there are system messages: the user says so, or one of the first rows has one."""
    if shape.reader == "text" or "system" not in columns:
        return False
    told = "system" in config.columns or (config.format == shape.name and "system" in shape.needs)
    return told or any(holds_system(lookup(fields, columns["system"])) for fields in rows)


def _shape(rows: Sequence[Mapping[str, Any]], names: Sequence[str], config: DataConfig, source: str) -> Shape:
    named = NAMED.get(config.format)
    if named is not None:
        if rows and not any(named.fits(fields, config.columns) for fields in rows):
            beside = "; --data.format preference takes a prompt off dialogues" if named.without == PROMPT_NAMES else ""
            raise UserError(
                f"data.format: {source} has no row of the form {named.name}, which has "
                f"{' and '.join(named.needs)}{' and no ' if named.without else ''}{' or '.join(named.without)}; its "
                f"columns are {shortened(', '.join(names), 400) or 'none'}; name them with --data.columns{beside}"
            )
        return named
    found = [(shape, fields) for fields in rows if (shape := shape_of(fields, config.columns)) is not None]
    if not found:
        if (how := next(filter(None, map(how_to_map, rows)), None)) is not None:
            raise UserError(f"{source}: {how}")
        return NAMED["preference"]
    most = Counter(shape.name for shape, _ in found).most_common(1)[0][0]
    shape, fields = next((shape, fields) for shape, fields in found if shape.name == most)
    _check_one_form(shape, fields, config, source)
    return shape


def _has_prompts(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> bool:
    """Whether most pairs have a column of prompts."""
    pairs = [fields for fields in rows if lookup(fields, columns["chosen"]) is not MISSING]
    return 2 * sum(lookup(fields, columns["prompt"]) is not MISSING for fields in pairs) >= len(pairs)


def _keys(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(str(k) for row in rows if isinstance(row.get(name), Mapping) for k in row[name]))


def _check_one_form(shape: Shape, fields: Mapping[str, Any], config: DataConfig, source: str) -> None:
    """Raise UserError where rows without rejected responses could be read in two ways."""
    if shape.reader in (*PAIRS, "unpaired"):
        return
    fitting = [shape for shape in SHAPES if shape.fits(fields, config.columns)]
    if len(fitting) > 1:
        said = ", ".join(f"{shape.name} ({' and '.join(shape.needs)})" for shape in fitting)
        raise UserError(f"{source}: rows could be read as {said}; say which with --data.format")


def _check_kind(shape: Shape, source: str, *, needs_rejected: bool) -> None:
    if shape.reader == "unpaired":
        raise UserError(
            f"{source}: its rows are unpaired: a prompt, one completion and its label. Objectives here, kto too, take "
            "pairs: put a good and a bad completion of one prompt in one row, as prompt, chosen and rejected. For the "
            "objective sft keep the rows whose label is true, and say --data.format prompt_completion"
        )
    if needs_rejected and shape.reader not in PAIRS:
        raise without_rejected(source)


def _column(role: str, shape: Shape, rows: Sequence[Mapping[str, Any]], config: DataConfig, source: str) -> str:
    """The column of a role, by the configuration, the form, or the names that it is known by."""
    if role in config.columns:
        return config.columns[role]
    if role in shape.roles:
        return shape.roles[role]
    taken = {*config.columns.values(), *shape.roles.values()}
    names = _CANDIDATES.get(role, (role,)) if shape.reader == "pairs" else (role,)
    there = [name for name in names if name not in taken and any(name in row for row in rows)]
    if len(there) > 1:
        there = [name for name in there if any(row.get(name) is not None for row in rows)] or there
    if len(there) > 1:
        raise UserError(
            f"{source}: {role} could be any of the columns {', '.join(there)}; say which with "
            f"--data.columns '{{{role}: {there[0]}}}'"
        )
    return there[0] if there else role
