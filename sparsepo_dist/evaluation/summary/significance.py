"""Do two models differ? A paired bootstrap over prompts, for every pair of models."""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.arguments import positive, share
from sparsepo_dist.evaluation.summary.holm import holm
from sparsepo_dist.evaluation.summary.metrics import COLUMNS
from sparsepo_dist.files import argument, path_argument, read_json

RESAMPLES = 9999
_DESCRIPTION = """Which differences between models are more than chance? For every two models of the tables that
evaluation/summary.py wrote, at each temperature and for each metric: the mean difference and its interval by a paired
bootstrap over prompts (percentiles), its p-value, and that after Holm's correction for the pairs of one matrix, which
are a metric's at one temperature. Intervals are not corrected."""


class Difference(NamedTuple):
    """How far one model is above another."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided: how often the bootstrap lands at or beyond 0, twice; never below 2 / (resamples + 1)."""

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


Group = tuple[str, float]
"""A metric and a temperature: what is compared with each other."""
Scores = dict[str, list[float]]
"""A score per prompt, by model."""
Pairs = dict[tuple[str, str], tuple[Difference, float]]
"""By model and the one that it is held against: how they differ, and the p-value after Holm's correction."""


def difference(
    one: Sequence[float], other: Sequence[float], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Mean of one - other over the same prompts, its interval and its p-value; whole prompts are drawn.

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
    interval = found.confidence_interval
    return Difference(mean, float(interval.low), float(interval.high), _p_value(found.bootstrap_distribution))


def _p_value(drawn: np.ndarray) -> float:
    """With one draw more, at 0, so that no finite number of draws says that something cannot be (Davison and Hinkley
    1997, section 4.2)."""
    beyond = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    return min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))


def _mean_difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(one - other, axis=axis)


def significance(arguments: Sequence[str] | None = None) -> str:
    """Run the driver; the Markdown, which is also written where --output is given.

    Raises:
        UserError: a table cannot be read or lacks numbers, the tables are of different prompts, or a model stands in
            two of them.
    """
    given = parser().parse_args(arguments)
    groups = _read([_file(Path(path)) for path in given.summary])
    if given.metric:
        groups = {group: scores for group, scores in groups.items() if group[0] == given.metric}
    if not any(len(scores) > 1 for scores in groups.values()):
        raise UserError("there are no two models with the same metric at the same temperature to compare")
    found = {
        group: _compared(scores, level=given.level, resamples=given.resamples, seed=given.seed)
        for group, scores in groups.items()
        if len(scores) > 1
    }
    text = "\n".join(_matrix(group, list(groups[group]), pairs, given) for group, pairs in found.items())
    if given.output:
        write_whole(given.output / "significance.md", text)
        write_whole(given.output / "significance.json", json.dumps(_record(found, given), indent=1) + "\n")
    return text


def _compared(scores: Scores, **how: Any) -> Pairs:
    """Every two models of a group."""
    pairs = list(itertools.combinations(scores, 2))
    raw = [difference(scores[one], scores[other], **how) for one, other in pairs]
    return dict(zip(pairs, zip(raw, holm([each.p for each in raw]), strict=True), strict=True))


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
                before = next(iter(group.values()), None)
                group[model] = _checked(scores, before, f"{file}: {metric} of {model} at {temperature}")
    return groups


def _checked(scores: Any, before: Sequence[float] | None, where: str) -> list[float]:
    """Scores that can be compared with those before. Raises UserError for others: beside NaN all p-values are small."""
    if not isinstance(scores, list) or not all(isinstance(x, int | float) and math.isfinite(x) for x in scores):
        raise UserError(f"{where}: a finite number for each prompt is wanted; measure it again")
    if before is not None and len(scores) != len(before):
        raise UserError(f"{where}: {len(scores)} scores, and {len(before)} of the models before it; measure it again")
    return scores


def _file(path: Path) -> Path:
    return path / "summary.json" if path.is_dir() else path


def _matrix(group: Group, models: Sequence[str], pairs: Pairs, given: argparse.Namespace) -> str:
    metric, temperature = group
    alpha = 1 - given.level
    lines = [["row minus column", *models], ["---"] * (len(models) + 1)]
    lines += [[row, *(_cell(row, column, pairs, alpha) for column in models)] for row in models]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return (
        f"## {COLUMNS.get(metric, metric)}, temperature {temperature:g}\n\n{table}\n"
        f"{given.level:.0%} intervals, p-values, and these after Holm's correction for {_counted(len(pairs))}; * the "
        f"interval leaves out 0; ** so much so that the corrected p is {alpha:.2g} or less\n{_too_few(pairs, given)}"
    )


def _counted(pairs: int) -> str:
    return "one pair" if pairs == 1 else f"{pairs} pairs"


def _too_few(pairs: Pairs, given: argparse.Namespace) -> str:
    """What to say where no difference could be called significant by so few draws."""
    needed = math.ceil(2 * len(pairs) / (1 - given.level)) - 1
    if given.resamples >= needed:
        return ""
    return (
        f"{given.resamples} resamples cannot show that for {_counted(len(pairs))}: give --resamples {needed} or more\n"
    )


def _cell(row: str, column: str, pairs: Pairs, alpha: float) -> str:
    if row == column:
        return ""
    if (row, column) in pairs:
        found, corrected = pairs[row, column]
    else:
        turned, corrected = pairs[column, row]
        found = Difference(-turned.mean, -turned.high, -turned.low, turned.p)
    mark = "" if not found.significant else " **" if corrected <= alpha else " *"
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] p {found.p:.2g}, Holm {corrected:.2g}{mark}"


def _record(found: Mapping[Group, Pairs], given: argparse.Namespace) -> dict[str, Any]:
    return {
        "level": given.level,
        "resamples": given.resamples,
        "seed": given.seed,
        "method": "paired bootstrap over prompts, percentile interval of the mean difference (scipy.stats.bootstrap); "
        "p_holm: Holm's correction over the pairs of models of a metric and temperature",
        "differences": [
            {
                "metric": metric, "temperature": temperature, "model": one, "minus": other, "difference": value.mean,
                "low": value.low, "high": value.high, "significant": value.significant, "p": value.p,
                "p_holm": corrected,
            }
            for (metric, temperature), pairs in found.items()
            for (one, other), (value, corrected) in pairs.items()
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
