"""Processes that need not import torch, transformers and DeepSpeed anew: forked from one that has them.

    python -m tests.support.warm MODULE_OR_SCRIPT ARGUMENTS

stands for `python -m MODULE ARGUMENTS` (or `python SCRIPT.py ARGUMENTS`), under any launcher: streams, environment,
working folder, signals and the way it ends are those of a process of its own. Where $WARM names no socket, it is one.

This half imports nothing that takes time; the process that forks is tests/support/hearth.py.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import FrameType

ADDRESS = "WARM"
_ROOT = Path(__file__).resolve().parents[2]
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def warm(*command: str) -> list[str]:
    """The command line of a warm process: a module's name or a script's path, and its arguments."""
    return [sys.executable, "-m", "tests.support.warm", *command]


@cache
def hearth() -> dict[str, str]:
    """What a warm process, and a launcher of such, needs in its environment. The hearth ends with this process."""
    address = str(Path(tempfile.mkdtemp(prefix="hearth-")) / "socket")
    held, kept = os.pipe()  # its end tells the hearth that nobody is left to ask it
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.Popen(
        [sys.executable, "-m", "tests.support.hearth", address],
        cwd=_ROOT, env=environment, stdin=held, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(held)
    atexit.register(os.close, kept)
    return {ADDRESS: address, "PYTHONPATH": str(_ROOT)}


def run_target(command: list[str]) -> None:
    """This process becomes the command."""
    sys.argv = command
    if command[0].endswith(".py") or os.sep in command[0]:
        sys.path.insert(0, str(Path(command[0]).resolve().parent))
        runpy.run_path(command[0], run_name="__main__")
    else:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _ask(address: str, command: list[str]) -> int:
    """Have the command run by a fork of the hearth; how it ended, as waitpid says it."""
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, address)
        ignored = [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]
        request = {
            "command": command, "environment": dict(os.environ), "folder": str(Path.cwd()), "ignored": ignored,
        }  # fmt: skip
        message = json.dumps(request).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(message)
        child = int(connection.recv(16))

        def pass_on(number: int, _: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
                os.kill(child, number)
                if number == signal.SIGTERM and _is_stopped(child):  # launchers would wait half a minute for it
                    os.kill(child, signal.SIGKILL)

        for number in set(PASSED_ON) - set(ignored):
            signal.signal(number, pass_on)
        return int(connection.recv(16) or signal.SIGKILL)  # the hearth itself was killed


def _is_stopped(number: int) -> bool:
    return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"


def _connect(connection: socket.socket, address: str) -> None:
    """The hearth listens before it imports anything, but not before it has started."""
    while True:
        try:
            return connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            if not Path(address).parent.is_dir():
                raise
            time.sleep(0.02)


def main() -> None:
    """Ends as the command ended, by a signal where that did."""
    address, command = os.environ.get(ADDRESS), sys.argv[1:]
    while command[0].startswith("--"):  # the deepspeed launcher puts its own option first
        command = [command[1], command[0], *command[2:]]
    if address is None:
        run_target(command)
        return
    status = _ask(address, command)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
