"""Two nodes on one machine: each a network and a host name of its own, with one cable between them that can be cut."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

LINK = "eth0"
_STARTING_SECONDS = 10


class Nodes:
    """Nodes 1 and 2: what runs on them has the host names node1 and node2, and reaches the other by `LINK` alone.

    Args:
        keepers: the process that keeps each node there.
    """

    def __init__(self, keepers: Sequence[int]) -> None:
        self._keepers = keepers

    def on(self, node: int, command: Sequence[str]) -> list[str]:
        """The command that runs another on a node, counted from 1, as the same process."""
        return ["nsenter", f"--target={self._keepers[node - 1]}", "--net", "--uts", *command]

    def set_link(self, node: int, state: str) -> None:
        """Take a node's end of the cable `down`, which takes it from both, or `up` again."""
        _run(self.on(node, ["ip", "link", "set", LINK, state]))


def address(node: int) -> str:
    """A node's, between the two."""
    return f"10.77.0.{node}"


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """Two nodes while open. Linux, root and iproute2 are needed; nothing of the machine's own network is touched.

    Raises:
        SystemExit: the machine does not let them be made.
    """
    if os.geteuid() != 0:
        raise SystemExit("two nodes on one machine need root, for network namespaces")
    with ExitStack() as stack:
        # A keeper ends with its standard input, however this process ends.
        keepers = [
            stack.enter_context(
                subprocess.Popen(["unshare", "--net", "--uts", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            )
            for _ in (1, 2)
        ]
        for keeper in keepers:
            _await_namespace(keeper)
        first, second = (str(keeper.pid) for keeper in keepers)
        _run(["ip", "link", "add", LINK, "netns", first, "type", "veth", "peer", "name", LINK, "netns", second])
        nodes = Nodes([keeper.pid for keeper in keepers])
        for node in (1, 2):
            for command in (
                f"hostname node{node}", "ip link set lo up", f"ip addr add {address(node)}/24 dev {LINK}",
                f"ip link set {LINK} up",
            ):  # fmt: skip
                _run(nodes.on(node, command.split()))
        yield nodes


def _await_namespace(keeper: subprocess.Popen[bytes]) -> None:
    own = Path("/proc/self/ns/uts").readlink()  # the last of the two
    until = time.monotonic() + _STARTING_SECONDS
    while Path(f"/proc/{keeper.pid}/ns/uts").readlink() == own:
        if keeper.poll() is not None or time.monotonic() > until:
            raise SystemExit("this machine does not let network namespaces be made; is CAP_SYS_ADMIN there?")
        time.sleep(0.01)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
