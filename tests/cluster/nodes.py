"""Two nodes on one machine: network namespaces with an ssh server, a host name and process ids of their own each.

Between them are two links: `eth0`, by which ssh and Slurm reach them, and `eth1`, which training takes and tests cut.
Nothing outside is reachable from either. A process-id namespace of their own keeps the `pkill -f` by which DeepSpeed's
runner ends a run on every node from other people's trainings.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODES = (1, 2)
_PACKAGES = {
    "ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "pdsh": "pdsh", "mpirun": "openmpi-bin",
    "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge",
}  # fmt: skip
_SSH = Path("/etc/ssh/ssh_config.d/sparsepo-test.conf")
_START_SECONDS = 30.0


def missing() -> str | None:
    """Why there can be no nodes here; None where there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "two nodes on one machine need Linux and root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = sorted({package for command, package in _PACKAGES.items() if shutil.which(command, path=path) is None})
    if absent:
        return f"two nodes on one machine need the Debian packages {' '.join(absent)}"
    if subprocess.run(["unshare", "--net", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        return "this machine gives no namespaces, as many containers"
    return None


class Nodes:
    """`sparsepo1` and `sparsepo2`, called node1 and node2 by each other.

    Args:
        folder: empty; keys, configuration and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = {number: f"10.77.0.{number}" for number in NODES}
        self._servers: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Nodes:
        for name in ("id", "hostkey"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        shutil.copy(self.folder / "id.pub", self.folder / "authorized_keys")
        (self.folder / "authorized_keys").chmod(0o600)
        Path("/run/sshd").mkdir(exist_ok=True)
        # pdsh and deepspeed call plain ssh, which only its own configuration reaches.
        _SSH.write_text(
            f"Host node1 node2\n  IdentityFile {self.folder}/id\n  UserKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking no\n  LogLevel ERROR\n"
        )
        for number in NODES:
            _run("ip", "netns", "add", _name(number))
        for link in ("eth0", "eth1"):
            _run("ip", "link", "add", link, "netns", _name(1), "type", "veth", "peer", "name", link, "netns", _name(2))
        for number in NODES:
            self._start(number)
        for number in NODES:
            self._await(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in NODES:
            self.stop(number)
            subprocess.run(["ip", "netns", "del", _name(number)], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / _name(number), ignore_errors=True)
        _SSH.unlink(missing_ok=True)

    def _start(self, number: int) -> None:
        inside = ["ip", "netns", "exec", _name(number)]
        for link, network in (("lo", None), ("eth0", "10.77.0"), ("eth1", "10.77.1")):
            if network is not None:
                subprocess.run(
                    [*inside, "ip", "addr", "add", f"{network}.{number}/24", "dev", link],
                    capture_output=True,
                    check=False,
                )
            _run(*inside, "ip", "link", "set", link, "up")
        hosts = Path("/etc/netns") / _name(number) / "hosts"  # `ip netns exec` binds it over /etc/hosts
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text("127.0.0.1 localhost\n10.77.0.1 node1\n10.77.0.2 node2\n")
        config = self.folder / f"sshd{number}.conf"
        config.write_text(
            f"Port 22\nListenAddress {self.address[number]}\nHostKey {self.folder}/hostkey\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPidFile none\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nStrictModes no\nUsePAM no\nMaxStartups 100\n"
        )
        serve = f"hostname node{number}; exec /usr/sbin/sshd -D -f {config} -E {self.folder}/sshd{number}.log"
        # Killing this one process ends everything that runs on the node.
        namespaces = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        self._servers[number] = subprocess.Popen(
            [*inside, *namespaces, "sh", "-c", serve],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _await(self, number: int) -> None:
        until = time.monotonic() + _START_SECONDS
        while subprocess.run(self._ssh(number, "true"), capture_output=True, check=False).returncode:
            if time.monotonic() > until:
                log = (self.folder / f"sshd{number}.log").read_text()
                raise AssertionError(f"node{number} does not answer: {log[-500:]}")
            time.sleep(0.1)

    def stop(self, number: int) -> None:
        """Let a node go, with all that runs on it."""
        server = self._servers.pop(number, None)
        if server is not None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def come_back(self, number: int) -> None:
        """Start a node that went."""
        self._start(number)
        self._await(number)

    def cut(self, *, again: bool = False) -> None:
        """Cut the link that training takes, or mend it."""
        _run("ip", "netns", "exec", _name(1), "ip", "link", "set", "eth1", "up" if again else "down")

    def inside(self, number: int, *command: str) -> list[str]:
        """Words that run a command in a node's network, but with this machine's processes."""
        return ["ip", "netns", "exec", _name(number), *command]

    def _ssh(self, number: int, command: str) -> list[str]:
        return self.inside(1, "ssh", f"node{number}", command)

    def popen(self, number: int, command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """A shell command on a node, in the project's folder and environment."""
        python = Path(sys.executable).parent
        known = {
            "PATH": f"{python}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "eth1", **(environment or {}),
        }  # fmt: skip
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in known.items())
        return subprocess.Popen(
            self._ssh(number, f"cd {shlex.quote(str(ROOT))} && export {exports} && {command}"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(
        self, number: int, command: str, environment: Mapping[str, str] | None = None, timeout: float = 300
    ) -> tuple[int, str]:
        """Exit code and output of a shell command on a node."""
        process = self.popen(number, command, environment)
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            raise AssertionError(f"not done in {timeout} s: {command}\n{said[-3000:]}") from None
        return process.returncode, said


def _name(number: int) -> str:
    return f"sparsepo{number}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
