"""What jobs run on, as the YAML files of jobs and of experiments say it."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_dist.fields import flat_section, line_of
from sparsepo_dist.files import Entry

BACKENDS = ("local", "slurm")
LEAST_MINUTES = 5
"""submitit has Slurm signal a job 90 s before its time limit, which ends it; a driver takes a while to begin."""


@dataclass(frozen=True)
class Resources:
    """What jobs run on."""

    backend: str = "local"
    """`local`: here, by a queue over the devices. `slurm`: each job is one of Slurm's, through submitit."""
    jobs_at_once: int | None = None
    """On this machine; by default as many as its GPUs allow, without GPUs one."""
    gpus_per_job: int | None = None
    """By default one where there are GPUs."""
    threads_per_job: int | None = None
    """CPU threads; by default the cores over jobs_at_once."""
    retries: int = 1
    """How often a job that dies is started again. One that ends with code 2, a mistake of the user, is not."""


@dataclass(frozen=True)
class Slurm:
    """What a job asks of Slurm."""

    partition: str | None = None
    minutes: int = 240
    """Time limit; at least LEAST_MINUTES."""
    gpus: int = 1
    cpus: int = 4
    memory_gb: int = 32
    """Of the host, in Slurm's GB."""
    account: str | None = None
    nodes: int = 1
    """Of each training of an experiment; `gpus`, `cpus` and `memory_gb` are of one node."""


def read_resources(section: Entry | None) -> Resources:
    """The section `resources`. Raises ValueError for what cannot be, with its line."""
    resources = flat_section(Resources, section)
    if section is None:
        return resources
    if resources.backend not in BACKENDS:
        line = line_of(section, "backend")
        raise ValueError(f"line {line}: resources.backend: {resources.backend!r} is not one of {', '.join(BACKENDS)}")
    if resources.jobs_at_once == 0:
        raise ValueError(f"line {line_of(section, 'jobs_at_once')}: resources.jobs_at_once: 0 runs nothing")
    return resources


def read_slurm(section: Entry | None) -> Slurm:
    """The section `slurm`. Raises ValueError for what cannot be, with its line."""
    slurm = flat_section(Slurm, section)
    if section is not None and slurm.minutes < LEAST_MINUTES:
        raise ValueError(
            f"line {line_of(section, 'minutes')}: slurm.minutes: {slurm.minutes} cannot work: jobs are signalled 90 s "
            f"before their time limit, and end; give {LEAST_MINUTES} or more"
        )
    return slurm
