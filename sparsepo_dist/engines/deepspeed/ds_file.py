"""The ds_config as a file, before DeepSpeed is loaded to judge it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsepo_dist.errors import UserError
from sparsepo_dist.files import parse_json, read_text


def read_ds_config(path: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: no such file, or not a JSON object.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"ds_config: no such file {path} (looked in {Path.cwd()}); the project's are in ds_configs/")
    try:
        config = parse_json(read_text(file, f"ds_config: {path}"))
    except ValueError as error:
        raise UserError(f"ds_config: {path} is not JSON: {error}{_about_comments(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"ds_config: {path} must hold a JSON object, found {type(config).__name__}")
    return config


def _about_comments(error: ValueError) -> str:
    rest = error.doc[error.pos :].lstrip() if isinstance(error, json.JSONDecodeError) else ""
    return "; comments are not JSON, take them out" if rest.startswith(("//", "/*", "#")) else ""
