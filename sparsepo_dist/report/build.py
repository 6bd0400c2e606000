"""Everything a run's folder allows to be drawn, written into its report/ and final/."""

from __future__ import annotations

import logging
from pathlib import Path

import yaml

from sparsepo_dist.errors import RunError, shortened
from sparsepo_dist.report.figures import draw_figures
from sparsepo_dist.report.model_card import model_card
from sparsepo_dist.report.page import index_page, tokens_page
from sparsepo_dist.report.reading import read_run

log = logging.getLogger(__name__)


def build_report(folder: Path) -> list[Path]:
    """Draw a run again from its files; the paths written.

    Raises:
        UserError: the folder is no run's, or metrics.jsonl or tokens.jsonl is damaged.
        RunError: a file of it cannot be read, or the report not be written.
    """
    try:
        return _build(folder)
    except OSError as error:
        raise RunError(f"the report of {folder} cannot be drawn: {error}") from None


def try_report(folder: Path) -> bool:
    """As `build_report`, of a run that is finished whatever comes of its report: where that cannot be drawn, a warning
    says why. Whether it was drawn."""
    try:
        build_report(folder)
    except Exception as error:  # a damaged file can spoil a page in any way
        reason = shortened(str(error), 300) or type(error).__name__
        log.warning("the run is finished, without a report: %s; `sparsepo report %s` draws it again", reason, folder)
        return False
    return True


def _build(folder: Path) -> list[Path]:
    run = read_run(folder)
    report = folder / "report"
    report.mkdir(exist_ok=True)
    written = draw_figures(run, report)
    pages = {report / "index.html": index_page(run, written)}
    if run.tokens:
        pages[report / "tokens.html"] = tokens_page(run)
    final = folder / "final"
    if run.config and final.is_dir():
        masks = (final / "masks.safetensors").is_file()
        pages[final / "README.md"] = model_card(run, yaml.safe_load(run.config), has_masks=masks)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return [*written, *pages]
