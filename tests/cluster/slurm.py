"""A real Slurm on the two nodes: munged, slurmctld on node1, a slurmd on each. No system file of Slurm's is touched."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.cluster.nodes import NODES, Nodes

_START_SECONDS = 60.0
_CONFIGURATION = """\
ClusterName=two
SlurmctldHost=node1(10.77.0.1)
AuthType=auth/munge
AuthInfo=socket={d}/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool.%n
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd.%n.pid
SlurmctldLogFile={d}/log/slurmctld
SlurmdLogFile={d}/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
MpiDefault=none
ReturnToService=2
KillWait=30
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName=node1 NodeAddr=10.77.0.1 CPUs={cores} RealMemory=8000 State=UNKNOWN
NodeName=node2 NodeAddr=10.77.0.2 CPUs={cores} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""
"""A requeued job waits `cred_expire` before it may start again, by default two minutes."""


class Slurm:
    """The cluster.

    Args:
        nodes: that it runs on.
        folder: empty; configuration, state, logs.
    """

    def __init__(self, nodes: Nodes, folder: Path) -> None:
        self.nodes, self.folder = nodes, folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Slurm:
        d = self.folder
        for name in ("munge", "state", "spool.node1", "spool.node2", "log"):
            (d / name).mkdir()
        key = d / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        (d / "slurm.conf").write_text(_CONFIGURATION.format(d=d, cores=os.cpu_count() or 1))
        (d / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        munge = d / "munge"
        self._serve(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self._serve(*self._on(1, "slurmctld", "-D", "-f", f"{d}/slurm.conf"))
        for number in NODES:
            self._serve(*self._on(number, "slurmd", "-D", "-f", f"{d}/slurm.conf", "-N", f"node{number}"))
        until = time.monotonic() + _START_SECONDS
        while "idle" not in self.ask("sinfo", "-h", "-o", "%T"):
            assert time.monotonic() < until, (d / "log" / "slurmctld").read_text()[-1500:]
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self.ask("scancel", "--user=root", "--signal=KILL")
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(20)

    def _serve(self, *command: str) -> None:
        environment = {
            **os.environ,
            "SLURM_CONF": f"{self.folder}/slurm.conf",
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        with (self.folder / "log" / "said").open("ab") as said:
            self._daemons.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, start_new_session=True
                )
            )

    def _on(self, number: int, *command: str) -> list[str]:
        named = f'hostname node{number}; exec "$@"'
        return self.nodes.inside(number, "unshare", "--uts", "sh", "-c", named, "sh", *command)

    def environment(self) -> dict[str, str]:
        """What commands of Slurm need to find it."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf"}

    def ask(self, *command: str) -> str:
        """What a command of Slurm says on node1."""
        done = subprocess.run(
            self._on(1, *command), capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, **self.environment()},
        )  # fmt: skip
        return done.stdout + done.stderr
