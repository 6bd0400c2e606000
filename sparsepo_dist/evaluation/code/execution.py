"""Programs run against their tests, in parallel, each in the sandbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm

from sparsepo_dist.evaluation.code.pass_at_k import mean_pass_at_k
from sparsepo_dist.evaluation.code.tasks import KS, Problem
from sparsepo_dist.evaluation.sandbox.box import Verdict, run
from sparsepo_dist.evaluation.sandbox.limits import Limits


def execute(problems: Sequence[Problem], limits: Limits, *, workers: int, title: str) -> list[list[Verdict]]:
    """A verdict of every sample of every problem.

    Raises:
        UserError: this machine does not confine a program.
    """
    verdicts: list[list[Verdict]] = [[Verdict("not run")] * len(problem.programs) for problem in problems]
    pool = ThreadPoolExecutor(workers)  # each waits for a process
    try:
        waiting: dict[Future[Verdict], tuple[int, int]] = {}
        for number, problem in enumerate(problems):
            for sample, program in enumerate(problem.programs):
                waiting[pool.submit(run, program, problem.tests, limits)] = number, sample
        for future in tqdm(as_completed(waiting), total=len(waiting), desc=title, unit="program"):
            number, sample = waiting[future]
            verdicts[number][sample] = future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return verdicts


def summarise(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, Any]:
    """What is kept of a task: pass@k (0..1), and how many samples of each problem passed and why others did not."""
    counts = [(len(samples), sum(verdict.passed for verdict in samples)) for samples in verdicts]
    scores = mean_pass_at_k(counts, KS)
    outcomes = Counter(" ".join(filter(None, verdict)) for samples in verdicts for verdict in samples)
    return {
        **{f"pass@{k}": score for k, score in scores.items()},
        "left_out": [f"pass@{k}" for k in KS if k not in scores],
        "problems": len(counts),
        "samples_per_problem": min(samples for samples, _ in counts),
        "passed_per_problem": [passed for _, passed in counts],
        "outcomes": dict(outcomes.most_common()),
    }
