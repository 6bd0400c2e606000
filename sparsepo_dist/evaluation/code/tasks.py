"""The benchmarks, what is generated for them, and what the paper reports."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sparsepo_dist.evaluation.hub_mirror import check_dataset

KS = (1, 10, 100)
PAPER = "arXiv 2410.05102"


class Benchmark(NamedTuple):
    """A benchmark, by the names it has elsewhere."""

    title: str
    harness_dataset: str
    """The hub id that BigCode's harness loads."""
    lm_eval_dataset: str
    """The hub id that lm-eval loads."""

    def dataset_of_lm_eval(self, mirror: Path | None) -> str:
        """The id to load: the mirror's, if it holds the data under the harness's older name.

        Raises:
            UserError: the mirror holds neither.
        """
        if mirror is not None and (mirror / self.harness_dataset).is_dir():
            return self.harness_dataset
        check_dataset(self.lm_eval_dataset, mirror, needed_by=self.title)
        return self.lm_eval_dataset


BENCHMARKS = {
    "humaneval": Benchmark("HumanEval", "openai_humaneval", "openai/openai_humaneval"),
    "mbpp": Benchmark("MBPP", "mbpp", "google-research-datasets/mbpp"),
}


PLUS = {"humaneval+": "HumanEval+", "mbpp+": "MBPP+"}
"""EvalPlus's: the same problems (of MBPP's a part) with many more tests."""
OWN = "problems"
"""The task of problems from a file."""


def title(task: str) -> str:
    """How tables call a task."""
    if task == OWN:
        return OWN
    return PLUS[task] if task in PLUS else BENCHMARKS[task].title


class Statement(NamedTuple):
    """One problem without programs."""

    number: str
    """The last part of its id: of HumanEval/7, 7."""
    prompt: str
    """The beginning of a program that a completion goes on from; empty where the prompt is no code."""
    tests: str


class Problem(NamedTuple):
    """One problem and what a model wrote for it."""

    programs: list[str]
    """One a sample; each begins with the prompt where the benchmark's prompt is code."""
    tests: str
    """The benchmark's own tests, to be run after a program in its namespace."""


# Percent: HumanEval pass@1, pass@10, pass@100, then MBPP's.
REPORTED = {
    "StarCoder 1B": (12.22, 24.69, 38.41, 17.83, 39.94, 59.60),
    "DPO": (14.61, 28.42, 46.34, 21.36, 44.71, 62.40),
    "TDPO1": (14.46, 27.42, 46.34, 21.58, 44.48, 61.60),
    "TDPO2": (13.30, 26.06, 45.73, 19.93, 42.51, 62.00),
    "SimPO": (14.55, 27.74, 45.73, 22.89, 43.63, 59.20),
    "MaPO": (14.12, 27.30, 42.07, 20.93, 43.63, 62.20),
    "SparsePO common": (14.15, 27.32, 42.68, 20.92, 44.25, 64.80),
    "SparsePO independent": (14.39, 28.29, 44.51, 19.81, 43.71, 62.00),
}
