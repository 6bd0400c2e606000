"""The stages of an experiment as jobs: where each one's results are, by the identity of all that they depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsepo_dist.disk import write_whole
from sparsepo_dist.experiments.stages.code import code_hash
from sparsepo_dist.experiments.stages.contents import Contents
from sparsepo_dist.experiments.stages.stage import OUTPUT, Stage, filled
from sparsepo_dist.queueing.job import DONE, FAILED, JOB, Job, record

CODES = ("source", "version")
_SHOWN = 16  # of a hash's 64 digits, in names of folders


class Work:
    """Stages in an order in which each comes after those that it needs.

    Args:
        stages: likewise.
        root: folder of all results, which experiments share.
        code: one of CODES: stages depend on the source that they import, or on the package's version alone.
    """

    def __init__(self, stages: Sequence[Stage], root: Path, code: str = CODES[0]) -> None:
        self._code = code
        self.root = root.absolute()
        self.stages = {stage.name: stage for stage in stages}
        self._users: dict[str, list[str]] = {stage.name: [] for stage in stages}
        contents = Contents(self.root / "contents.json")
        self.identities: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        self.commands: dict[str, list[str]] = {}
        for stage in stages:
            for need in dict.fromkeys(stage.needs):
                self._users[need].append(stage.name)
            identity = self.identities[stage.name] = self._identity(stage, contents)
            self.jobs[stage.name] = Job(self.root / stage.kind / identity[:_SHOWN], stage.name)
            folders = {OUTPUT: str(self.output(stage.name)), **{name: str(self.output(name)) for name in stage.needs}}
            self.commands[stage.name] = filled(list(stage.command), folders)

    def _identity(self, stage: Stage, contents: Contents) -> str:
        known = {name: f"stage:{self.identities[name]}" for name in stage.needs}
        described = {
            "kind": stage.kind,
            "configuration": contents.instead_of_paths(filled(stage.configuration, known)),
            "code": self._code_of(stage),
            "needs": sorted(known.values()),
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def output(self, name: str) -> Path:
        """The folder that a stage writes."""
        return self.jobs[name].results

    def described(self, name: str) -> dict[str, Any]:
        """What is kept of a stage beside its results."""
        stage = self.stages[name]
        return {
            "stage": name, "identity": self.identities[name], "command": self.commands[name],
            "nodes": stage.nodes, "configuration": dict(stage.configuration), "code": self._code_of(stage),
            "needs": {need: self.identities[need] for need in stage.needs},
        }  # fmt: skip

    def _code_of(self, stage: Stage) -> str:
        return code_hash(stage.code) if self._code == CODES[0] else importlib.metadata.version("sparsepo_dist")

    def write(self) -> None:
        """Make every stage's folder, with its command. Raises UserError where one cannot be read."""
        for name, job in self.jobs.items():
            described = self.described(name)
            file = job.folder / JOB
            if not file.is_file() or record(file).get("command") != described["command"]:
                write_whole(file, json.dumps(described, indent=1, ensure_ascii=False) + "\n")

    def users(self, name: str) -> Sequence[str]:
        """Stages that need one."""
        return self._users[name]

    def lacks(self, name: str) -> bool:
        """Whether temporary outputs of a stage that was done are gone."""
        return any(not (self.output(name) / part).exists() for part in self.stages[name].temporary[:1])

    def open(self, states: Mapping[str, str]) -> set[str]:
        """Stages that are to be run: not done, or done and needed by one of those after their output was removed."""
        found: set[str] = set()
        for name in reversed(self.stages):
            again = self.lacks(name) and any(user in found for user in self.users(name))
            if states[name] != DONE or again:
                found.add(name)
        return found

    def blocked(self, states: Mapping[str, str]) -> dict[str, str]:
        """Stages that cannot be run -> the failed one that they need, perhaps by way of others."""
        found: dict[str, str] = {}
        for name, stage in self.stages.items():
            failed = next((need for need in stage.needs if states[need] == FAILED or need in found), None)
            if failed is not None and states[name] != DONE:
                found[name] = found.get(failed, failed)
        return found
