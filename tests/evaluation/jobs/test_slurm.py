"""Jobs through submitit's real Slurm executor, and a cluster that is only its commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.jobs.store import EvaluationJob, JobStore
from sparsepo_dist.evaluation.jobs.submission import queue_of, submit
from sparsepo_dist.evaluation.jobs.table import status
from tests.support.evaluation_jobs import ROOT, Bench, until
from tests.support.fake_slurm import FakeSlurm

ASKED = {"partition": "long", "minutes": 30, "gpus": 2, "cpus": 3, "memory_gb": 5, "account": "lab"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = FakeSlurm(tmp_path / "cluster", monkeypatch)
    yield made
    for job in made.jobs:
        if made.state(job) == "RUNNING":
            made.cancel(job)


def bench_of(tmp_path: Path, suites: dict[str, dict[str, str]], **asked: object) -> tuple[Bench, list[EvaluationJob]]:
    bench = Bench(tmp_path, suites, backend="slurm", retries=1)
    bench.write(suites, slurm=asked)
    return bench, [JobStore(bench.output).job("m0", name) for name in suites]


def test_slurm_is_given_each_job_once(cluster: FakeSlurm, tmp_path: Path) -> None:
    bench, jobs = bench_of(tmp_path, {"a": {}, "once": {"do": "once"}, "user": {"do": "user"}}, **ASKED)
    cluster.busy()
    assert "3 of 3 jobs were given to Slurm, which had 0 of them already; 0 are done" in submit(bench.plan)
    first = cluster.jobs
    assert [cluster.asked(job)["job-name"] for job in first] == [f"evaluate-m0-{job.suite}" for job in jobs]
    wanted = {
        "partition": "long", "time": "30", "gpus-per-node": "2", "cpus-per-task": "3", "mem": "5GB", "account": "lab",
        "nodes": "1", "ntasks-per-node": "1",
    }  # fmt: skip
    for job in first:
        assert wanted.items() <= cluster.asked(job).items()
    assert "0 of 3 jobs were given to Slurm, which had 3 of them already; 0 are done" in submit(bench.plan)
    assert cluster.jobs == first and not bench.ran(), "what waits there is not given again"
    assert status(bench.plan).splitlines()[0] == f"m0/a     queued (waits as {first[0]} of Slurm's)"

    cluster.free()
    until(lambda: all(cluster.state(job) == "COMPLETED" for job in first))
    assert [job.read().state for job in jobs] == ["done", "done", "failed"]
    assert bench.ran() == ["m0/a", "m0/once", "m0/once", "m0/user"]
    submit(bench.plan)
    assert [cluster.asked(job)["job-name"] for job in cluster.jobs[3:]] == ["evaluate-m0-user"]
    until(lambda: cluster.state(cluster.jobs[3]) == "COMPLETED")
    assert bench.ran() == ["m0/a", "m0/once", "m0/once", "m0/user", "m0/user"]


def test_what_slurm_drops_is_given_again_and_then_given_up(cluster: FakeSlurm, tmp_path: Path) -> None:
    bench, (dropped, other) = bench_of(tmp_path, {"a": {"do": "wait"}, "b": {}}, gpus=0)
    jobs = [JobStore(bench.output).add("m0", str(bench.models["m0"]), suite) for suite in bench.plan.suites]
    queue = queue_of(bench.plan)
    cluster.busy()
    queue.advance(jobs)
    first, second = cluster.jobs
    assert "gpus-per-node" not in cluster.asked(first)
    cluster.cancel(first)  # while it waits: only squeue knows
    cluster.free()
    until(lambda: queue.advance(jobs) or len(cluster.jobs) == 3)
    until(lambda: bench.ran() == ["m0/a", "m0/b"] and other.now().final)
    queue.advance(jobs)
    assert len(cluster.jobs) == 3, "what runs there is not given again"
    cluster.cancel(cluster.jobs[2])
    until(lambda: queue.advance(jobs) or dropped.now().final)
    assert (dropped.read().state, other.read().state) == ("failed", "done")
    assert f"Slurm dropped it 2 times; {bench.output / 'slurm'} has its logs" in (dropped.read().reason or "")
    assert cluster.jobs[:2] == [first, second] and len(cluster.jobs) == 3 and bench.ran() == ["m0/a", "m0/b"]
    bench.open()
    submit(bench.plan)  # which is asking for all its attempts again
    until(lambda: dropped.now().state == "done")
    assert len(cluster.jobs) == 4 and bench.ran() == ["m0/a", "m0/a", "m0/b"]


def test_what_slurm_says_when_it_refuses(cluster: FakeSlurm, tmp_path: Path) -> None:
    bench, (job,) = bench_of(tmp_path, {"a": {}}, partition="lnog")
    cluster.refuse("sbatch: error: invalid partition specified: lnog")
    with pytest.raises(UserError, match="slurm: the job m0/a was not taken: sbatch: error: invalid partition .* lnog"):
        submit(bench.plan)
    assert job.now().state == "queued" and not cluster.jobs


def test_without_accounting_a_vanished_job_is_told_and_given_again(cluster: FakeSlurm, tmp_path: Path) -> None:
    bench, (job,) = bench_of(tmp_path, {"a": {}}, gpus=0)
    cluster.busy()
    submit(bench.plan)
    (first,) = cluster.jobs
    cluster.cancel(first)
    assert f"m0/a  queued (Slurm no longer has it as {first})" in status(bench.plan)
    cluster.free()
    assert "1 of 1 jobs were given to Slurm" in submit(bench.plan)
    until(lambda: job.now().final)
    assert len(cluster.jobs) == 2 and job.read().state == "done"
    (cluster.folder / "DOWN").touch()
    bench.write({"a": {}, "b": {}}, slurm={"gpus": 0})
    submit(bench.plan)
    with pytest.raises(UserError, match="squeue does not say which jobs it has: .*Unable to contact slurm controller"):
        submit(bench.plan)


def test_a_job_that_ran_out_of_time_says_so(cluster: FakeSlurm, tmp_path: Path) -> None:
    bench, (job,) = bench_of(tmp_path, {"a": {"do": "wait"}}, gpus=0)
    submit(bench.plan)
    until(bench.notes)
    cluster.time_out(cluster.jobs[0])
    until(lambda: job.now().state == "interrupted")
    assert "m0/a  interrupted: Slurm's time limit, of which SIGUSR2 comes 90 s before: raise slurm.minutes" in status(
        bench.plan
    )
    bench.open()
    until(lambda: cluster.state(cluster.jobs[0]) != "RUNNING")
    submit(bench.plan)
    until(lambda: job.now().state == "done")
