"""What a run's folder, or several folders, allow to be drawn, written: a page, figures, a model card."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sparsepo_dist.disk import open_new
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import read_json
from sparsepo_dist.report.model_card import model_card
from sparsepo_dist.report.pages.page import page_of
from sparsepo_dist.report.reading import read_run

log = logging.getLogger(__name__)


def build_report(folder: Path) -> list[Path]:
    """Draw a run again from its files; the paths written.

    A run's folder may be someone else's: symbolic links in it are not written through.

    Raises:
        UserError: the folder is no run's, one of its files is damaged, or the report cannot be written.
    """
    from sparsepo_dist.report.figures import draw_figures  # matplotlib takes a second, which pages alone do not want

    run = read_run(folder)
    report, final = folder / "report", folder / "final"
    for place in (report, final):
        _refuse_link(place)
    settings = run.settings() if run.config and final.is_dir() else None
    try:
        report.mkdir(exist_ok=True)
        written = draw_figures(run, report)
        if settings is not None:
            masks = (final / "masks.safetensors").is_file()
            composite = _is_composite(final / "config.json")
            with open_new(final / "README.md") as file:
                file.write(model_card(run, settings, has_masks=masks, composite=composite).encode())
            written.append(final / "README.md")
    except OSError as error:
        raise UserError(f"{error.filename or report} cannot be written: {error.strerror}") from None
    write_page([folder], report / "index.html")
    return [*written, report / "index.html"]


def write_page(folders: Sequence[Path], path: Path, refresh_seconds: float | None = None) -> bool:
    """The page of several folders (`page_of`), put in its place at once: who reads it never finds a part. Whether all
    of their runs are finished.

    Raises:
        UserError: as `page_of`; the page cannot be written.
    """
    text, finished = page_of(folders, refresh_seconds=refresh_seconds)
    if path.parent in [folder / "report" for folder in folders]:  # a run's folder may be someone else's
        _refuse_link(path.parent)
    unfinished = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_new(unfinished) as file:
            file.write(text.encode())
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be written: {error.strerror}") from None
    return finished


def watch(folders: Sequence[Path], path: Path, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Draw the page again and again until all runs are finished, and once more, as tables follow a model; an open page
    loads itself again likewise.

    A file may be half written at any moment: what cannot be drawn now stays as it was, and is said.

    Raises:
        UserError: as `write_page`, of the first page.
    """
    finished, last = write_page(folders, path, seconds), False
    while not last:
        sleep(seconds)
        last = finished
        try:
            finished = write_page(folders, path, None if last else seconds)
        except UserError as error:
            log.warning("the page is left as it was: %s", error)
            last = False


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


def _refuse_link(place: Path) -> None:
    if place.is_symlink():
        raise UserError(
            f"{place} is a symbolic link, to {place.readlink()}: nothing is written through it. Remove it, or put "
            "the folder itself in its place"
        )


def _is_composite(config: Path) -> bool:
    """Whether a model has parts besides its text decoder. Raises UserError where its configuration is damaged."""
    if not config.is_file():
        return False
    try:
        found = read_json(config)
    except ValueError as error:
        raise UserError(f"{config} is damaged: {error}") from None
    return isinstance(found, dict) and "text_config" in found
