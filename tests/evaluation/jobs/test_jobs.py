"""Evaluation jobs on this machine: each runs once, whatever dies in between; who fails leaves the others alone."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.jobs.store import JobStore
from sparsepo_dist.evaluation.jobs.submission import submit
from sparsepo_dist.evaluation.jobs.table import collect, status
from sparsepo_dist.queueing import devices
from sparsepo_dist.queueing.devices import places
from sparsepo_dist.queueing.resources import Resources, Slurm
from sparsepo_dist.queueing.slurm import SlurmQueue
from tests.support.evaluation_jobs import ROOT, Bench, gone, until


def test_every_job_runs_once_and_its_numbers_are_gathered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"a": {"tasks": ["x", "y"]}, "b": {}}, models=2, jobs_at_once=2, threads_per_job=3)
    assert "queued" in status(bench.plan)
    assert "All 4 jobs are done" in submit(bench.plan)
    submit(bench.plan)
    assert bench.ran() == ["m0/a", "m0/b", "m1/a", "m1/b"]
    assert {note["threads"] for note in bench.notes()} == {"3"}
    table, _ = collect(bench.plan)
    assert table.rows["m0"] == {
        "a/x/acc": 0.25, "a/x/n/all": 4, "a/y/acc": 1.25, "a/y/n/all": 4, "b/one/acc": 0.25, "b/one/n/all": 4,
    }  # fmt: skip
    record = {"models": table.rows, "unfinished": [], "without_numbers": [], "notes": []}
    assert json.loads((bench.output / "table.json").read_text()) == record
    header, *rows = csv.reader((bench.output / "table.csv").read_text().splitlines())
    assert header == ["model", *table.rows["m0"]] and [row[:2] for row in rows] == [["m0", "0.25"], ["m1", "0.25"]]
    assert "| m1 | 0.25 | 4 | 1.25 |" in (bench.output / "table.md").read_text()


def test_a_suite_that_is_added_is_all_that_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"a": {}})
    submit(bench.plan)
    bench.write({"a": {}, "b": {}})
    table, _ = collect(bench.plan)
    assert table.unfinished == ("m0/b",) and "Not done: m0/b." in table.as_markdown()
    submit(bench.plan)
    assert bench.ran() == ["m0/a", "m0/b"]


def test_what_dies_is_tried_again_and_leaves_the_others_alone(tmp_path: Path) -> None:
    suites = {"dead": {"do": "die"}, "once": {"do": "once"}, "mistake": {"do": "user"}, "fine": {}}
    bench = Bench(tmp_path, suites, retries=2)
    with pytest.raises(RunError) as told:
        submit(bench.plan)
    assert bench.ran() == ["m0/dead"] * 3 + ["m0/fine", "m0/mistake"] + ["m0/once"] * 2
    log = bench.output / "jobs" / "m0" / "dead" / "log.txt"
    assert "2 of 4 jobs failed" in str(told.value)
    assert f"m0/dead: exit code 1: RuntimeError: out of something ({log})" in str(told.value)
    assert "m0/mistake: error: --tasks: there is no such task" in str(told.value)
    lines = dict(line.split(maxsplit=1) for line in status(bench.plan).splitlines())
    assert lines["m0/fine"] == lines["m0/once"] == "done"
    assert lines["m0/dead"] == f"failed: exit code 1: RuntimeError: out of something; {log}"
    assert log.read_text().count("=== attempt") == 3 and f"evaluating {bench.models['m0']}" in log.read_text()
    # submitting again is asking for another try of those that failed, and of those only
    bench.write({**suites, "dead": {}})
    with pytest.raises(RunError, match="1 of 4 jobs failed"):
        submit(bench.plan)
    assert bench.ran() == ["m0/dead"] * 4 + ["m0/fine"] + ["m0/mistake"] * 2 + ["m0/once"] * 2


@pytest.mark.parametrize("who", ["driver", "keeper"])
def test_a_killed_job_is_tried_again_and_nothing_of_it_goes_on(tmp_path: Path, who: str) -> None:
    bench = Bench(tmp_path, {"a": {"do": "wait"}, "b": {}}, retries=1)
    process = bench.start()
    until(bench.notes)
    first = bench.notes()[0]
    keeper = JobStore(bench.output).job("m0", "a").read().pid
    os.kill(first["pid"] if who == "driver" else keeper or 0, signal.SIGKILL)
    until(lambda: len(bench.notes()) == 2)
    until(lambda: gone(first["pid"]) and gone(first["child"]))
    assert "attempt 2" in status(bench.plan)
    bench.open()
    told, _ = process.communicate()
    assert process.returncode == 0, told
    assert bench.ran() == ["m0/a", "m0/a", "m0/b"]
    assert not JobStore(bench.output).job("m0", "a").read().reason


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_submission_leaves_no_orphans_and_the_next_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    bench = Bench(tmp_path, {"a": {}, "b": {"do": "wait"}, "c": {"do": "wait"}, "d": {}}, jobs_at_once=2)
    process = bench.start()
    until(lambda: len(bench.notes()) == 3)
    running = bench.notes()[1:]
    lines = status(bench.plan).splitlines()
    assert [line.split()[1] for line in lines] == ["done", "running:", "running:", "queued"]
    assert f"on {os.uname().nodename}, attempt 1" in lines[1]
    process.send_signal(number)
    told, _ = process.communicate()
    assert process.returncode == {signal.SIGTERM: 75}.get(number, -number), told
    until(lambda: all(gone(note["pid"]) and gone(note["child"]) for note in running))
    states = ["done", "interrupted:", "interrupted:", "queued"]
    until(lambda: [line.split()[1] for line in status(bench.plan).splitlines()] == states)
    assert "SIGTERM from outside; submit again to go on" in status(bench.plan)
    bench.open()
    assert "All 4 jobs" in submit(bench.plan)  # although there are no retries: it did not die by itself
    assert bench.ran() == ["m0/a", "m0/b", "m0/b", "m0/c", "m0/c", "m0/d"]


def test_submissions_at_once_share_the_work_and_the_places(tmp_path: Path) -> None:
    suites = {name: {"do": "wait"} for name in "abcdef"}
    bench = Bench(tmp_path, suites, jobs_at_once=2)
    both = [bench.start(), bench.start()]
    until(lambda: len(bench.notes()) == 2)
    jobs = [JobStore(bench.output).job("m0", name) for name in suites]
    assert sum(job.now().state == "running" for job in jobs) == 2
    # the one that is killed had at least one of the two: the other takes it over
    both[0].kill()
    both[0].communicate()
    killed = {note["job"] for note in bench.notes() if gone(note["pid"])}
    bench.open()
    told, _ = both[1].communicate()
    assert both[1].returncode == 0, told
    again = {name for name in bench.ran() if bench.ran().count(name) > 1}
    assert set(bench.ran()) == {f"m0/{name}" for name in suites}
    assert again <= {note["job"] for note in bench.notes()[:2]} and killed <= again


def test_two_whole_submissions_at_once_run_no_job_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {name: {} for name in "abcdef"}, jobs_at_once=2)
    both = [bench.start(), bench.start()]
    for process in both:
        told, _ = process.communicate()
        assert process.returncode == 0, told
    assert bench.ran() == [f"m0/{name}" for name in "abcdef"]


def test_numbers_of_other_options_or_other_weights_are_not_taken_for_these(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"a": {}})
    submit(bench.plan)
    bench.write({"a": {"tasks": ["x"]}})
    with pytest.raises(UserError, match="m0/a was or is being evaluated with another options .* another name"):
        submit(bench.plan)
    bench.write({"a": {}})
    submit(bench.plan)
    assert bench.ran() == ["m0/a"]
    later = (JobStore(bench.output).job("m0", "a").read().started or 0) + 0.001
    os.utime(bench.models["m0"] / "model.safetensors", (later, later))
    submit(bench.plan)  # the driver is asked: it knows its own results by the weights' hash
    shutil.rmtree(bench.models["m0"])
    with pytest.raises(UserError, match=r"plan.yaml: line 3: models.m0: there is no folder"):
        submit(bench.plan)
    assert bench.ran() == ["m0/a", "m0/a"]


def test_places_are_cut_from_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(devices, "_may_have_gpus", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))

    def settings(resources: Resources) -> list[tuple[str, str]]:
        found = [place.settings for place in places(resources, tmp_path)]
        return [(each["CUDA_VISIBLE_DEVICES"], each["OMP_NUM_THREADS"]) for each in found]

    assert settings(Resources()) == [("4", "2"), ("5", "2"), ("6", "2"), ("7", "2")]
    assert settings(Resources(gpus_per_job=2)) == [("4,5", "4"), ("6,7", "4")]
    assert settings(Resources(gpus_per_job=0, jobs_at_once=2)) == [("", "4"), ("", "4")]
    with pytest.raises(UserError, match="3 jobs at once with 2 GPUs each need 6, and 4 can be seen"):
        places(Resources(gpus_per_job=2, jobs_at_once=3), tmp_path)


def test_slurms_queue_through_submitits_local_executor(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"a": {"do": "once"}, "b": {"do": "user"}, "c": {}}, retries=1)
    store = JobStore(bench.output)
    jobs = [store.add("m0", str(bench.models["m0"]), suite) for suite in bench.plan.suites]
    queue = SlurmQueue(bench.output / "slurm", Slurm(gpus=0), 1, label="evaluate", cluster="local")
    queue.advance(jobs)
    queue.advance(jobs)  # what Slurm has is not given to it again
    until(lambda: all(job.now().final for job in jobs))
    queue.advance(jobs)
    assert bench.ran() == ["m0/a", "m0/a", "m0/b", "m0/c"]
    assert [job.read().state for job in jobs] == ["done", "failed", "done"]


def test_without_slurms_commands_its_queue_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no srun here"):
        SlurmQueue(tmp_path / "slurm", Slurm(), 1, label="evaluate")


@pytest.mark.slow
def test_the_script_beside_a_code_py(tmp_path: Path) -> None:
    """The standard library has a module of that name, which the debugger, and so torch, imports."""
    scripts = tmp_path / "evaluation"
    scripts.mkdir()
    shutil.copy(ROOT / "evaluation" / "jobs.py", scripts)
    (scripts / "code.py").write_text("raise SystemExit('the wrong code')")
    bench = Bench(tmp_path, {"a": {}, "code": {"driver": str(scripts / "code.py")}}, retries=0)

    done = subprocess.run(
        [sys.executable, str(scripts / "jobs.py"), "submit", str(bench.file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "error: 1 of 2 jobs failed" in done.stderr and "m0/code: exit code 1: the wrong code" in done.stderr
    assert "1 done, 1 failed, 0 running" in done.stderr and "Traceback" not in done.stderr
