"""The page of an experiment: what its file asks for, what is missing, and the runs behind every number."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.contracts import NOTHING_KNOWN, Experiment, KnownFields, TrainedRun
from sparsepo_dist.experiments.drawing.ablations import ablation, table3, table4, table5
from sparsepo_dist.experiments.drawing.benchmarks import figure5, table1, table2
from sparsepo_dist.experiments.drawing.curves import figure3, figure6, figure7
from sparsepo_dist.experiments.drawing.ends import figure8
from sparsepo_dist.experiments.drawing.frontier import figure2
from sparsepo_dist.experiments.drawing.numbers.reading import Collected
from sparsepo_dist.experiments.drawing.parts import Picture, Section, anchor, links, table_html, write_table
from sparsepo_dist.experiments.drawing.samples import samples
from sparsepo_dist.experiments.drawing.starts import starts
from sparsepo_dist.experiments.drawing.summary import rivals, summary
from sparsepo_dist.files import read_json
from sparsepo_dist.report.page import document, image

_DRAWN: Mapping[str, Callable[[Collected, Path], Section]] = {
    "table1": table1, "table2": table2, "table3": table3, "table4": table4, "table5": table5, "ablation": ablation,
    "figure2": figure2, "figure3": figure3, "figure5": figure5, "figure6": figure6, "figure7": figure7,
    "figure8": figure8, "rivals": rivals, "samples": samples, "starts": starts, "summary": summary,
}  # fmt: skip
"""By the name that an experiment's file asks for it, one of DRAWS."""


def build(experiment: Experiment, output: Path, known: KnownFields = NOTHING_KNOWN) -> Path:
    """index.html in `output`, which needs no other file, and beside it its figures (PNG) and tables (JSON, Markdown).

    Args:
        experiment: its runs, and what its file asks for.
        output: the folder.
        known: of the fields of runs' configurations, which may be older than those.

    Reads files alone. What one run's folder lacks, or has damaged, costs that run's numbers only, and the page says so.

    Raises:
        UserError: scipy is not installed, or `output` cannot be written.
    """
    collected = Collected(experiment, known)
    try:
        output.mkdir(parents=True, exist_ok=True)
        sections = {name: _DRAWN[name](collected, output) for name in dict.fromkeys(experiment.draws)}
        for section in sections.values():
            for part in section.parts:
                if not isinstance(part, Picture):
                    write_table(part, output)
        write_whole(output / "index.html", _page(experiment, collected, sections))
    except OSError as error:
        raise UserError(f"{error.filename or output} cannot be written: {error.strerror}") from None
    return output / "index.html"


def _page(experiment: Experiment, collected: Collected, sections: Mapping[str, Section]) -> str:
    listed = "".join(f'<li><a href="#{name}">{escape(section.title)}</a></li>' for name, section in sections.items())
    count = f"{len(experiment.runs)} runs done" + (f", {len(experiment.missing)} missing" if experiment.missing else "")
    parts = [
        f"<p>{count}.</p><ul>{listed}<li><a href='#runs'>Runs</a></li></ul>",
        _missing(experiment, collected),
        *(_section(name, section) for name, section in sections.items()),
        '<h2 id="runs">Runs</h2>', *(_run(run) for run in experiment.runs),
    ]  # fmt: skip
    return document(f"Experiment {experiment.name}", "".join(parts), style=_STYLE)


_STYLE = """
.wide{overflow-x:auto}.wide table{font-size:.82rem}.wide td,.wide th{white-space:nowrap;padding:.2rem .7rem .2rem 0}
body{max-width:78rem}details summary{cursor:pointer}.run{border-top:1px solid #ddd;padding:.3rem 0}
.run pre{white-space:pre-wrap;margin:.3rem 0}.tokens-of-runs th{font-size:.75rem;font-weight:400;white-space:nowrap}
"""


def _missing(experiment: Experiment, collected: Collected) -> str:
    found = [("Not there", experiment.missing), ("Not all used", collected.left_out)]
    parts = []
    for heading, why in found:
        if why:
            rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(reason)}</td></tr>" for name, reason in why.items())
            parts.append(f"<h3>{heading}: {len(why)}</h3><table>{rows}</table>")
    return f"<h2>What is missing</h2>{''.join(parts)}" if parts else ""


def _section(name: str, section: Section) -> str:
    parts = [f'<h2 id="{name}">{escape(section.title)}</h2>']
    for part in section.parts:
        parts.append(_picture(part) if isinstance(part, Picture) else table_html(part))
    parts += [f"<p><small>{escape(note)}</small></p>" for note in section.notes]
    return "".join([*parts, section.html])


def _picture(picture: Picture) -> str:
    caption = f"<small>{escape(picture.caption)} Drawn from so many runs:</small> {links(picture.runs)}"
    return f"<figure>{image(picture.path)}<figcaption>{caption}</figcaption></figure>"


def _run(run: TrainedRun) -> str:
    values = ", ".join(f"{name} {json.dumps(value)}" for name, value in run.values.items()) or "nothing"
    measured = "".join(_result(suite, run.drivers.get(suite, ""), folder) for suite, folder in run.results.items())
    trained = (
        "" if run.run is None
        else f"<p><small>trained in {escape(str(run.run))}</small></p><pre>{escape(run.command)}</pre>"
    )  # fmt: skip
    return (
        f'<div class="run" id="{anchor(run.name)}"><b>{escape(run.name)}</b> <small>{escape(run.method)}; set: '
        f"{escape(values)}; hash <code>{escape(run.identity)}</code></small><details><summary>commands and folders"
        f"</summary>{trained}{measured}</details></div>"
    )


def _result(suite: str, driver: str, folder: Path) -> str:
    """How a suite was measured, as the first record that its driver keeps says."""
    record = _record(folder)
    model = record.get("model") if isinstance(record.get("model"), dict) else {}
    told = [
        f"{suite} ({driver}): {folder}",
        *(f"{name} {record[name]}" for name in ("date", "device") if record.get(name)),
        *([f"model's SHA-256 {model['sha256']}"] if model and model.get("sha256") else []),
    ]
    command = f"<pre>{escape(str(record['command']))}</pre>" if record.get("command") else ""
    return f"<p><small>{escape('; '.join(told))}</small></p>{command}"


def _record(folder: Path) -> dict[str, Any]:
    for path in sorted(folder.rglob("*.json")):
        try:
            found = read_json(path)
        except (OSError, ValueError):
            continue  # what cannot be read is said where its numbers would be
        if isinstance(found, dict) and "task" in found and "command" in found:
            return found
    return {}
