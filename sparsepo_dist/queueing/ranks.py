"""Becomes a script's ranks on the nodes of a Slurm allocation: `python -m ... RANKS_OF_A_NODE SCRIPT ARGUMENTS`.

srun starts each rank itself, as launch/slurm/train.sbatch has it, so that signals and exit codes are passed on.
"""

from __future__ import annotations

import os
import subprocess
import sys

_PORTS = 20_000
_RANK = 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"'
_GRACE_SECONDS = 300  # ranks that lost another end by themselves, with codes that say why


def main() -> None:
    """Never returns; runs within an allocation alone."""
    ranks, *script = sys.argv[1:]
    number, nodes = os.environ["SLURM_JOB_ID"], os.environ["SLURM_JOB_NODELIST"]
    hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    cpus = max(1, int(os.environ.get("SLURM_CPUS_PER_TASK", "1")) // int(ranks))
    names = hosts.stdout.split()
    line = [
        "srun", "--overlap", "--kill-on-bad-exit=0", f"--wait={_GRACE_SECONDS}", f"--nodes={len(names)}",
        f"--ntasks={len(names) * int(ranks)}", f"--ntasks-per-node={ranks}", f"--cpus-per-task={cpus}",
        "bash", "-c", _RANK, "rank", sys.executable, *script,
    ]  # fmt: skip
    port = _PORTS + int(number) % _PORTS
    os.environ |= {"MASTER_ADDR": names[0], "MASTER_PORT": str(port)}
    os.execvp("srun", line)


if __name__ == "__main__":
    main()
