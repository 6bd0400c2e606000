"""The YAML of evaluation jobs: what it becomes, and mistakes named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.jobs.spec import Plan, read_plan
from sparsepo_dist.queueing.resources import Resources, Slurm

WHOLE = """\
output: out
models:
  sft: runs/sft
  base: EleutherAI/pythia-70m
suites:
  leaderboard: {tasks: [bbh, ifeval], limit: 10, quiet: false, trust_remote_code: true}
  cold: {driver: leaderboard, seed: -1}
  none:
    driver: own.py
    temperature: 0.10
resources: {backend: slurm, retries: 0}
slurm: {partition: long, minutes: 90, gpus: 2, memory_gb: 64}
keep_exported: true
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    for name in ("leaderboard", "summary", "jobs"):
        (folder / f"{name}.py").touch()
    (tmp_path / "own.py").touch()
    monkeypatch.chdir(tmp_path)
    return folder


def read(text: str, scripts: Path) -> Plan:
    file = scripts.parent / "plan.yaml"
    file.write_text(text)
    return read_plan(file, scripts)


def test_a_whole_plan(scripts: Path) -> None:
    plan = read(WHOLE, scripts)
    assert plan.output == scripts.parent / "out"
    assert plan.models == {"sft": "runs/sft", "base": "EleutherAI/pythia-70m"}
    first, cold, own = plan.suites
    assert first.driver == cold.driver == scripts / "leaderboard.py" and own.driver == scripts.parent / "own.py"
    assert first.options == ("--tasks", "bbh", "ifeval", "--limit=10", "--trust_remote_code")
    assert cold.options == ("--seed=-1",) and own.options == ("--temperature=0.10",)
    assert plan.resources == Resources(backend="slurm", retries=0)
    assert plan.slurm == Slurm(partition="long", minutes=90, gpus=2, memory_gb=64)
    assert plan.keep_exported


def test_models_as_a_list_name_themselves(scripts: Path) -> None:
    plan = read("output: out\nmodels: [runs/sft, runs/dpo/final, a/b]\nsuites: {leaderboard: }\n", scripts)
    assert plan.models == {"sft": "runs/sft", "dpo": "runs/dpo/final", "b": "a/b"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("output: out", "outputs: out", "line 1: there is no field outputs; did you mean output?"),
        ("output: out\n", "", "output is missing"),
        ("output: out", "output: [a]", "line 1: output: text is wanted, found a section or list"),
        ("  sft: runs/sft", "  sft: {path: x}", "line 3: models.sft: text is wanted, found a section or list"),
        ("  sft: runs/sft", "  sft:", "line 3: models.sft: text is wanted, found nothing"),
        ("  sft:", "  ../sft:", "line 3: models: '../sft' cannot name a folder of results"),
        ("  base:", "  sft:", "line 4: sft stands there twice (also in line 3)"),
        ("  cold:", "  ..:", "line 7: suites: '..' cannot name a folder of results"),
        ("driver: leaderboard", "driver: leaderbord", "line 7: suites.cold: there is no driver leaderbord; did"),
        ("driver: leaderboard", "driver: jobs", "line 7: suites.cold: there is no driver jobs; there are leaderboard"),
        ("driver: own.py", "driver: no.py", "line 9: suites.none: there is no driver no.py"),
        ("limit: 10", "limit: {a: 1}", "line 6: suites.leaderboard.limit: text, a number, true, false or a list"),
        ("limit: 10", "limit:", "line 6: suites.leaderboard.limit: text"),
        ("limit: 10", "model: x", "line 6: suites.leaderboard.model: every job is given its own; remove it"),
        ("{driver: leaderboard, seed: -1}", "fast", "line 7: suites.cold must hold options"),
        ("backend: slurm", "backend: slrum", "line 11: resources.backend: 'slrum' is not one of local, slurm"),
        ("retries: 0", "retries: many", "line 11: resources.retries: a whole number, 0 or more is wanted, found many"),
        ("retries: 0", "retries: -1", "line 11: resources.retries: a whole number, 0 or more is wanted, found -1"),
        ("retries: 0", "jobs_at_once: 0", "line 11: resources.jobs_at_once: 0 runs nothing"),
        ("retries: 0", "retry: 1", "line 11: there is no field resources.retry; did you mean retries?"),
        ("slurm: {", "slurm: [", "line 12"),
        ("minutes: 90", "minutes: 4", "line 12: slurm.minutes: 4 cannot work: jobs are signalled 90 s before"),
        ("partition: long", 'partition: "a\\n#SBATCH -x"', r"line 12: slurm.partition: holds the control character"),
        ("partition: long", 'account: "a\\x1b[0m"', r"line 12: slurm.account: holds the control character '\x1b'"),
        ("limit: 10", 'limit: "1\\0"', r"line 6: suites.leaderboard.limit: holds the control character '\x00'"),
        ("output: out", 'output: "o\\r"', r"line 1: output: holds the control character '\r'"),
        ("  sft: runs/sft", "  <<: {sft: runs/sft}", "line 3: `<<`, YAML's merge key, is not followed"),
        ("keep_exported: true", "keep_exported: 1", "line 13: keep_exported: true or false is wanted, found 1"),
        (WHOLE, "", "it must hold output, models and suites"),
        (WHOLE, "models: [a/final, b/a]\noutput: x\nsuites: {leaderboard: }", "line 1: models: two are called a"),
    ],
)  # fmt: skip
def test_mistakes_are_named(scripts: Path, old: str, new: str, message: str) -> None:
    assert old in WHOLE
    with pytest.raises(UserError) as told:
        read(WHOLE.replace(old, new, 1), scripts)
    assert message in str(told.value) and str(told.value).startswith(str(scripts.parent / "plan.yaml"))


def test_a_file_that_is_not_there(scripts: Path) -> None:
    with pytest.raises(UserError, match="nowhere.yaml cannot be read: No such file"):
        read_plan(Path("nowhere.yaml"), scripts)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("limit: 10", "limt: 10", r"line 6: suites.leaderboard: .* --limt=10; did you mean --limit\?"),
        ("limit: 10", "limit: 0", "line 6: suites.leaderboard: .* --limit: 0 is not a number of at least 1"),
        ("cold: {driver: leaderboard, seed: -1}", "cold: {driver: summary}", "line 7: suites.cold: .* --prompts"),
    ],
)
def test_options_that_a_driver_does_not_take_are_found_before_any_job(
    scripts: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(WHOLE.replace(old, new, 1), scripts)


def test_options_of_other_tasks_and_imported_programs_are_known_at_submission(scripts: Path) -> None:
    (scripts / "code.py").touch()
    text = (
        "output: out\nmodels: [runs/sft]\nsuites:\n"
        "  math: {driver: leaderboard, tasks: [gsm8k], num_fewshot: [5, gsm8k=0], system_instruction: Be brief., "
        "log_samples: true}\n"
        "  code: {tasks: [humaneval], generations: g.json, k: [1, 5], log_samples: true}\n"
    )
    math, code = read(text, scripts).suites
    assert math.options == (
        "--tasks", "gsm8k", "--num_fewshot", "5", "gsm8k=0", "--system_instruction=Be brief.", "--log_samples",
    )  # fmt: skip
    assert code.options == ("--tasks", "humaneval", "--generations=g.json", "--k", "1", "5", "--log_samples")
    with pytest.raises(UserError, match="line 5: suites.code: code does not take its options: .*--k"):
        read(text.replace("k: [1, 5]", "k: [1, 0]"), scripts)
