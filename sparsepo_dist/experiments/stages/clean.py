"""Frees the disk of what an experiment's stages left."""

from __future__ import annotations

from sparsepo_dist.disk import remove
from sparsepo_dist.experiments.stages.temporary import Temporary
from sparsepo_dist.experiments.stages.work import Work
from sparsepo_dist.queueing.job import State


def clean(work: Work, *, results: bool) -> str:
    """Remove weights, checkpoints and caches that only stages need, and with `results` all that stages gave. What
    somebody is at work on stays.

    Returns:
        what was done, in words.

    Raises:
        OSError: something cannot be removed.
    """
    temporary = Temporary(work)
    lent = [name for name, stage in work.stages.items() if stage.temporary and work.output(name).is_dir()]
    in_use = [name for name in lent if not temporary.release(name)]
    read = {need for name, job in work.jobs.items() if job.held() for need in work.stages[name].needs}
    in_use += sorted(read - set(in_use))
    removed = 0
    for name, job in work.jobs.items() if results else ():
        if not job.folder.is_dir():
            continue
        claim = None if name in in_use else job.claim()
        if claim is None:
            in_use.append(name)
            continue
        with claim:
            job.write(State())  # first: results that are gone must not be taken for done
            remove(job.results)
            removed += 1
    told = f"Results of {removed} stages are removed" if results else "Weights and caches that are left are removed"
    return told + (f"; in use, and not touched: {', '.join(dict.fromkeys(in_use))}" if in_use else "")
