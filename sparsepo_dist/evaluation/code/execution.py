"""Programs run against their tests, in parallel, each in the sandbox."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm

from sparsepo_dist.evaluation.code.pass_at_k import mean_pass_at_k
from sparsepo_dist.evaluation.code.tasks import Problem
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


def scored(result: Mapping[str, Any], ks: Sequence[int]) -> dict[str, Any]:
    """A task's result with pass@k (0..1) of these k, whichever it had; `left_out` names the k above its samples."""
    # Results of earlier versions had one number of samples for all problems.
    samples = result.get("samples") or [result["samples_per_problem"]] * result["problems"]
    counts = list(zip(samples, result["passed_per_problem"], strict=True))
    scores = mean_pass_at_k(counts, ks)
    return {
        **{f"pass@{k}": score for k, score in scores.items()},
        "left_out": [f"pass@{k}" for k in ks if k not in scores],
        **{name: value for name, value in result.items() if name != "left_out" and not name.startswith("pass@")},
        "samples": samples,
    }


def summarise(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, Any]:
    """What is kept of a task: how many samples of each problem passed, and why others did not."""
    outcomes = Counter(" ".join(filter(None, verdict)) for samples in verdicts for verdict in samples)
    return {
        "problems": len(verdicts),
        "samples": [len(samples) for samples in verdicts],
        "passed_per_problem": [sum(verdict.passed for verdict in samples) for samples in verdicts],
        "outcomes": dict(outcomes.most_common()),
    }


def verdict_lines(problems: Sequence[Problem], verdicts: Sequence[Sequence[Verdict]]) -> str:
    """A line of JSON for each program: problem (its place in the benchmark), sample, passed, outcome, detail, text."""
    rows = [
        {"problem": number, "sample": sample, "passed": verdict.passed, **verdict._asdict(), "program": program}
        for number, (problem, samples) in enumerate(zip(problems, verdicts, strict=True))
        for sample, (program, verdict) in enumerate(zip(problem.programs, samples, strict=True))
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
