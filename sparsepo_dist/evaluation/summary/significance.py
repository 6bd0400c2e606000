"""Do two models differ? A paired bootstrap over prompts, for every pair of models."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.arguments import positive, share
from sparsepo_dist.evaluation.summary.metrics import COLUMNS
from sparsepo_dist.files import argument, path_argument, read_json

RESAMPLES = 9999
_DESCRIPTION = """Which differences between models are more than chance? For every two models of the tables that
evaluation/summary.py wrote, at each temperature and for each metric: the mean difference and its interval by a paired
bootstrap over prompts (percentiles); significant where the interval leaves out 0. Intervals are not corrected for the
number of comparisons."""


class Difference(NamedTuple):
    """How far one model is above another."""

    mean: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


Group = tuple[str, float]
"""A metric and a temperature: what is compared with each other."""
Scores = dict[str, list[float]]
"""A score per prompt, by model."""


def difference(
    one: Sequence[float], other: Sequence[float], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Mean of one - other over the same prompts and its interval; whole prompts are drawn.

    Raises:
        UserError: scipy is not installed, or there are fewer than two prompts.
    """
    try:
        from scipy.stats import bootstrap
    except ImportError:
        raise UserError("the bootstrap needs scipy: pip install 'sparsepo_dist[eval]'") from None
    if len(one) < 2:
        raise UserError("a bootstrap over prompts needs two of them or more")
    found = bootstrap(
        (np.asarray(one), np.asarray(other)), _mean_difference, paired=True, vectorized=True, confidence_level=level,
        n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    mean = float(np.mean(one) - np.mean(other))
    return Difference(mean, float(found.confidence_interval.low), float(found.confidence_interval.high))


def _mean_difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(one - other, axis=axis)


def significance(arguments: Sequence[str] | None = None) -> str:
    """Run the driver; the Markdown, which is also written where --output is given.

    Raises:
        UserError: a table cannot be read, the tables are of different prompts, or a model stands in two of them.
    """
    given = parser().parse_args(arguments)
    groups = _read([_file(Path(path)) for path in given.summary])
    if given.metric:
        groups = {group: scores for group, scores in groups.items() if group[0] == given.metric}
    if not any(len(scores) > 1 for scores in groups.values()):
        raise UserError("there are no two models with the same metric at the same temperature to compare")
    found = {
        group: {
            (one, other): difference(
                scores[one], scores[other], level=given.level, resamples=given.resamples, seed=given.seed
            )
            for one, other in itertools.combinations(scores, 2)
        }
        for group, scores in groups.items()
    }
    text = "\n".join(_matrix(group, list(groups[group]), pairs, given.level) for group, pairs in found.items() if pairs)
    if given.output:
        write_whole(given.output / "significance.md", text)
        write_whole(given.output / "significance.json", json.dumps(_record(found, given), indent=1) + "\n")
    return text


def _read(files: Sequence[Path]) -> dict[Group, Scores]:
    groups: dict[Group, Scores] = {}
    first: Any = None
    for file in files:
        try:
            table = read_json(file)
            prompts = (table["settings"]["prompts"], table["settings"]["references"])
            rows = [(row["model"], row["temperature"], dict(row["per_prompt"])) for row in table["rows"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: not a summary.json of evaluation/summary.py ({error!r})") from None
        first = first or prompts
        if prompts != first:
            raise UserError(f"{file} is of other prompts than {files[0]}: the same ones are needed for a paired test")
        for model, temperature, metrics in rows:
            for metric, scores in metrics.items():
                group = groups.setdefault((metric, temperature), {})
                if model in group:
                    raise UserError(f"{file}: the model {model} stands in two of the tables; leave one of them out")
                group[model] = scores
    return groups


def _file(path: Path) -> Path:
    return path / "summary.json" if path.is_dir() else path


def _matrix(group: Group, models: Sequence[str], pairs: Mapping[tuple[str, str], Difference], level: float) -> str:
    metric, temperature = group
    lines = [["row minus column", *models], ["---"] * (len(models) + 1)]
    lines += [[row, *(_cell(row, column, pairs) for column in models)] for row in models]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return (
        f"## {COLUMNS.get(metric, metric)}, temperature {temperature:g}\n\n{table}\n"
        f"{level:.0%} intervals; * significant\n"
    )


def _cell(row: str, column: str, pairs: Mapping[tuple[str, str], Difference]) -> str:
    if row == column:
        return ""
    if (row, column) in pairs:
        found = pairs[row, column]
    else:
        turned = pairs[column, row]
        found = Difference(-turned.mean, -turned.high, -turned.low)
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]{' *' if found.significant else ''}"


def _record(found: Mapping[Group, Mapping[tuple[str, str], Difference]], given: argparse.Namespace) -> dict[str, Any]:
    return {
        "level": given.level,
        "resamples": given.resamples,
        "seed": given.seed,
        "method": "paired bootstrap over prompts, percentile interval of the mean difference (scipy.stats.bootstrap)",
        "differences": [
            {
                "metric": metric, "temperature": temperature, "model": one, "minus": other, "difference": value.mean,
                "low": value.low, "high": value.high, "significant": value.significant,
            }
            for (metric, temperature), pairs in found.items()
            for (one, other), value in pairs.items()
        ],
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="significance.py", description=_DESCRIPTION)
    parser.add_argument(
        "summary",
        type=argument,
        nargs="+",
        metavar="SUMMARY",
        help="a summary.json, or the folder it is in; several are put together",
    )
    parser.add_argument("--metric", choices=list(COLUMNS), help="this one only (default: all that are there)")
    parser.add_argument("--level", type=share, default=0.95, metavar="P", help="of the intervals (%(default)s)")
    parser.add_argument("--resamples", type=positive, default=RESAMPLES, metavar="N", help="drawn (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (%(default)s)")
    parser.add_argument(
        "--output", type=path_argument, metavar="DIR", help="also write significance.md and significance.json here"
    )
    return parser
