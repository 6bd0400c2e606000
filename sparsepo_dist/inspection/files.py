"""What was found of a run's data, as files: numbers, tables and a figure."""

from __future__ import annotations

import json
from pathlib import Path

from sparsepo_dist.disk import open_new
from sparsepo_dist.errors import UserError
from sparsepo_dist.inspection.figure import draw_data
from sparsepo_dist.inspection.run import Inspection
from sparsepo_dist.inspection.table import as_text


def write_inspection(found: Inspection, folder: Path) -> list[Path]:
    """Write inspect.json, table.md and figure.png into a folder, which is made; their paths.

    Raises:
        UserError: they cannot be written.
    """
    texts = {
        folder / "inspect.json": json.dumps(found.summary, indent=1) + "\n",
        folder / "table.md": as_text(found.summary),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with open_new(path) as file:
                file.write(text.encode())
        figure = draw_data(found.train, found.limits, folder / "figure.png")
    except OSError as error:
        raise UserError(f"output: {error.filename or folder} cannot be written: {error.strerror}") from None
    return [*texts, figure]
