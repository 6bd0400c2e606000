"""Everything a run's folder allows to be drawn, written into its report/ and final/."""

from __future__ import annotations

import logging
from pathlib import Path

from sparsepo_dist.disk import open_new
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import read_json
from sparsepo_dist.report.figures import draw_figures
from sparsepo_dist.report.model_card import model_card
from sparsepo_dist.report.page import index_page, tokens_page
from sparsepo_dist.report.reading import read_run

log = logging.getLogger(__name__)


def build_report(folder: Path) -> list[Path]:
    """Draw a run again from its files; the paths written.

    A run's folder may be someone else's: symbolic links in it are not written through.

    Raises:
        UserError: the folder is no run's, one of its files is damaged, or the report cannot be written.
    """
    run = read_run(folder)
    report, final = folder / "report", folder / "final"
    for place in (report, final):
        if place.is_symlink():
            raise UserError(
                f"{place} is a symbolic link, to {place.readlink()}: nothing is written through it. Remove it, or put "
                "the folder itself in its place"
            )
    settings = run.settings() if run.config and final.is_dir() else None
    try:
        report.mkdir(exist_ok=True)
        written = draw_figures(run, report)
        pages = {report / "index.html": index_page(run, written)}
        if run.tokens:
            pages[report / "tokens.html"] = tokens_page(run)
        if settings is not None:
            masks = (final / "masks.safetensors").is_file()
            composite = _is_composite(final / "config.json")
            pages[final / "README.md"] = model_card(run, settings, has_masks=masks, composite=composite)
        for path, text in pages.items():
            with open_new(path) as file:
                file.write(text.encode())
    except OSError as error:
        raise UserError(f"{error.filename or report} cannot be written: {error.strerror}") from None
    return [*written, *pages]


def _is_composite(config: Path) -> bool:
    """Whether a model has parts besides its text decoder. Raises UserError where its configuration is damaged."""
    if not config.is_file():
        return False
    try:
        found = read_json(config)
    except ValueError as error:
        raise UserError(f"{config} is damaged: {error}") from None
    return isinstance(found, dict) and "text_config" in found


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
