"""BigCode's evaluation harness: found, driven as a child process for generation only, and what it wrote.

It gives prompts, sampling, post-processing and tests. It never executes a program here: it runs them in its own
process with the user's rights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from sparsepo_dist.disk import write_whole
from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.code.generation import Generation
from sparsepo_dist.evaluation.code.tasks import BENCHMARKS, Problem
from sparsepo_dist.evaluation.hub_mirror import check_dataset, mirror_environment
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.files import read_json
from sparsepo_dist.queueing.lineage import ended_with_this
from sparsepo_dist.queueing.locks import lock

PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_MAX_LENGTH = 512
_LOCK = ".lock"
_HOW = (
    "get it with `git clone https://github.com/bigcode-project/bigcode-evaluation-harness` and name the folder with "
    "--harness DIR, or install that folder with `pip install --editable DIR`; or use --backend lm-eval"
)


def find_harness(given: Path | None) -> Path:
    """Its main.py: of a checkout, or of the one that is installed.

    Raises:
        UserError: there is none; says how to get it.
    """
    if given is not None:
        main = given / "main.py"
        if not main.is_file() or not (given / "bigcode_eval").is_dir():
            raise UserError(
                f"--harness: {given} is no checkout of BigCode's harness (no main.py beside bigcode_eval/): {_HOW}"
            )
        return main.resolve()
    found = importlib.util.find_spec("bigcode_eval")
    if found is None or not found.submodule_search_locations:
        raise UserError(f"BigCode's evaluation harness is not installed: {_HOW}")
    main = Path(next(iter(found.submodule_search_locations))).parent / "main.py"
    if not main.is_file():
        raise UserError(f"the installed bigcode_eval came without its main.py ({main} is not there): {_HOW}")
    return main.resolve()


class Harness(NamedTuple):
    """The harness with what it is to do, whatever the task."""

    main: Path
    target: Target
    generation: Generation
    batch_size: int
    """Programs sampled at once."""
    mirror: Path | None
    output: Path
    """Folder in which it keeps unfinished work."""

    def generate(self, task: str) -> list[Problem]:
        """Programs and tests of a task's problems. Killed, it goes on after the problems it has finished.

        Raises:
            UserError: the mirror lacks the dataset, or another process is at it.
            RunError: the harness failed; its own messages went to standard error.
        """
        check_dataset(BENCHMARKS[task].harness_dataset, self.mirror, needed_by=BENCHMARKS[task].title)
        folder = self._working_folder(task)
        alone = lock(folder / _LOCK)
        if alone is None:
            raise UserError(f"another process generates programs for {task} in {folder}; wait for it, or end it")
        with alone:
            command = self.command(task, folder, self._resumed(task, folder))
            code = subprocess.run(
                command, cwd=folder, env=mirror_environment(self.mirror), check=False, preexec_fn=ended_with_this(),
                pass_fds=[alone.fileno()],  # held as long as anything that it started may write there
            ).returncode  # fmt: skip
        if code:
            raise RunError(
                f"BigCode's harness ended with code {code} on {task}; its messages are above. The problems it has "
                f"finished are in {folder}: the same command goes on from there"
            )
        try:
            programs, tests = (read_json(folder / f"{part}_{task}.json") for part in ("generations", "references"))
            sizes = {len(samples) for samples in programs}
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"BigCode's harness left nothing readable of {task} in {folder}: {error}") from None
        if len(programs) != len(tests) or sizes != {self.generation.n_samples}:
            raise RunError(
                f"BigCode's harness wrote {len(programs)} problems and {len(tests)} tests for {task} in {folder}, with "
                f"{sorted(sizes)} samples a problem where {self.generation.n_samples} were asked for"
            )
        shutil.rmtree(folder)
        return [Problem(samples, test) for samples, test in zip(programs, tests, strict=True)]

    @property
    def commit(self) -> str | None:
        """Of the checkout; None where it is none of git's."""
        asked = ["git", "-C", str(self.main.parent), "rev-parse", "HEAD"]
        try:
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    def command(self, task: str, folder: Path, resumed: Path | None) -> list[str]:
        """The command line, run in `folder`; it has no --allow_code_execution."""
        it = self.generation
        command = [
            sys.executable, str(self.main), "--model", self.target.model, "--tasks", task,
            "--n_samples", str(it.n_samples), "--batch_size", str(min(self.batch_size, it.n_samples)),
            "--max_length_generation", str(it.max_length_generation or _MAX_LENGTH),
            "--precision", PRECISIONS[it.dtype], "--seed", str(it.seed), "--generation_only",
            "--save_generations", "--save_generations_path", str(folder / "generations.json"),
            "--save_references", "--save_every_k_tasks", str(self._steps_per_problem()),
        ]  # fmt: skip
        if it.temperature:
            command += ["--do_sample", "True", "--temperature", str(it.temperature), "--top_p", str(it.top_p)]
        else:
            command += ["--do_sample", "False"]
        if self.target.adapter is not None:
            command += ["--peft_model", self.target.adapter]
        if it.limit is not None:
            command += ["--limit", str(it.limit)]
        if resumed is not None:
            command += ["--load_generations_intermediate_paths", str(resumed)]
        return command

    def _steps_per_problem(self) -> int:
        # It counts batches: saved at another number, the last problem would lack samples, and be taken for whole.
        return math.ceil(self.generation.n_samples / min(self.batch_size, self.generation.n_samples))

    def _working_folder(self, task: str) -> Path:
        """One for these settings of this model. It reads and writes there: the mirror's datasets are there as links."""
        identity = json.dumps([self.target.model, self.target.adapter, self.target.sha256, *self.generation])
        folder = self.output / f".harness-{task}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        for dataset in self.mirror.resolve().iterdir() if self.mirror is not None else ():
            link = folder / dataset.name
            if not link.is_symlink():
                link.symlink_to(dataset)
        return folder.resolve()

    def _resumed(self, task: str, folder: Path) -> Path | None:
        """A file of the problems that an earlier start has finished."""
        try:
            earlier = read_json(folder / f"generations_{task}_intermediate.json")
        except (OSError, ValueError):  # none, or killed while it was written
            return None
        whole = [samples for samples in earlier if len(samples) >= self.generation.n_samples]
        # It fails where nothing is left to do, and does not say how many problems there are: one is done again.
        whole = whole[:-1]
        if not whole:
            return None
        path = folder / "resumed.json"
        write_whole(path, json.dumps(whole))
        return path
