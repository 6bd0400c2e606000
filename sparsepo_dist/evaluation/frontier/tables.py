"""Models' rewards and KL as tables and a figure, of one call or of many put together. Reads no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.frontier.figure import draw_frontier
from sparsepo_dist.evaluation.frontier.pareto import MARGIN, Point, hypervolume, pareto
from sparsepo_dist.evaluation.tables import Column, csv_table, markdown_table
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.files import read_json

_COLUMNS = (
    Column("method", "Method"), Column("model", "Model"), Column("step", "Step"), Column("kl", "KL (nats)", ".3f"),
    Column("kl_stderr", "± KL", ".3f"), Column("reward", "Reward", ".4f"), Column("reward_stderr", "± reward", ".4f"),
    Column("on_frontier", "On the frontier"),
)  # fmt: skip


def write_frontier_tables(
    rows: Sequence[dict[str, Any]],
    origin: dict[str, Any],
    scorer: str,
    settings: Mapping[str, Any],
    output: Path,
    worst: Point | None = None,
) -> Path:
    """frontier.json, .csv, .md and .png in `output`; the Markdown file.

    Args:
        rows: of models: method, model, kl, reward and their standard errors; `on_frontier` is set here.
        origin: the reference's own row.
        scorer: what the reward is.
        settings: how samples were drawn.
        worst: (KL, reward) that hypervolumes are measured from. By default MARGIN times the largest KL, and the
            reference's own reward: a model that is worth less than where it began covers nothing.
    """
    points = [(row["kl"], row["reward"]) for row in rows]
    front = pareto(points)
    for place, row in enumerate(rows):
        row["on_frontier"] = place in front
    worst = worst or (MARGIN * max(kl for kl, _ in points), origin["reward"])
    volumes = {
        method: hypervolume([p for p, row in zip(points, rows, strict=True) if row["method"] == method], worst)
        for method in dict.fromkeys(row["method"] for row in rows)
    }
    record = {
        "scorer": scorer,
        "settings": dict(settings),
        "reference": origin,
        "rows": list(rows),
        "hypervolume": {
            "reference_point": {"kl": worst[0], "reward": worst[1]},
            "by_method": volumes,
            "of_all": hypervolume(points, worst),
        },
    }
    write_whole(output / "frontier.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_whole(output / "frontier.csv", csv_table(_COLUMNS, [origin, *rows]))
    write_whole(output / "frontier.md", _markdown(record))
    draw_frontier(rows, origin, scorer, output / "frontier.png")
    return output / "frontier.md"


def measured_origin(folder: Path, reference: Target, scorer: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The reference's own row out of the frontier.json in a folder.

    Raises:
        UserError: it cannot be read, is of another reference, or was measured otherwise.
    """
    file = folder / "frontier.json"
    try:
        record = read_json(file)
        origin: dict[str, Any] = record["reference"]
        there = (origin["path"], origin["sha256"], record["scorer"], record["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--reference_results: {file}: no frontier.json ({error!r})") from None
    here = (reference.adapter or reference.model, reference.sha256, scorer, json.loads(json.dumps(dict(settings))))
    names = ("reference", "weights of the reference", "scorer", "settings")
    differing = [name for name, ours, theirs in zip(names, here, there, strict=True) if ours != theirs]
    if differing:
        raise UserError(
            f"--reference_results: {file} was measured with another {', '.join(differing)}; leave it out to measure "
            "the reference here"
        )
    return origin


def put_together(files: Sequence[Path], output: Path) -> Path:
    """One table and figure of several frontier.json, as if all models had been measured at once; its Markdown file.

    Raises:
        UserError: one cannot be read, or was measured otherwise than the first.
    """
    records = []
    for file in files:
        try:
            record = read_json(file)
            records.append(record)
            differing = [k for k in ("scorer", "settings") if record[k] != records[0][k]]
            if record["reference"]["path"] != records[0]["reference"]["path"]:
                differing.append("reference")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: no frontier.json ({error!r})") from None
        if differing:
            raise UserError(f"{file} was measured with another {', '.join(differing)} than {files[0]}")
    first = records[0]
    rows = [row for record in records for row in record["rows"]]
    return write_frontier_tables(rows, first["reference"], first["scorer"], first["settings"], output)


def _markdown(record: dict[str, Any]) -> str:
    volume, settings = record["hypervolume"], record["settings"]
    at = volume["reference_point"]
    named = [{"method": name, "volume": value} for name, value in volume["by_method"].items()]
    named.append({"method": "all together", "volume": volume["of_all"]})
    return (
        markdown_table(_COLUMNS, [record["reference"], *record["rows"]])
        + f"\nReward: {record['scorer']}. {settings['prompt_count']} prompts x {settings['samples']} samples, "
        f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}; ± standard error over prompts.\n\n"
        + markdown_table([Column("method", "Method"), Column("volume", "Hypervolume", ".4f")], named)
        + f"\nHypervolume, in nats x reward, measured from a KL of {at['kl']:.3f} nats and the reward "
        f"{at['reward']:.4f}. Only hypervolumes from one such point can be compared.\n"
    )
