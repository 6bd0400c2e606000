"""The process that has imported what takes long, and forks itself for tests/support/warm.py."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.pretended import pretend_processor
from tests.support.warm import PASSED_ON, run_target

IMPORTED = (
    "torch.distributed.run", "deepspeed", "transformers", "peft", "bitsandbytes", "tensorboard.summary",
    "sparsepo_dist.runs.run", "sparsepo_dist.commands.cache", "sparsepo_dist.report.pages.build",
    "sparsepo_dist.report.figures",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "gpt2", "gptj", "gpt_neox")),
)  # fmt: skip


@dataclass
class Child:
    """A fork, and who asked for it."""

    number: int
    asker: socket.socket


def serve(address: str) -> list[str]:
    """Fork for everyone who asks, until standard input ends. Returns in the forks alone: the command to become."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    for name in IMPORTED:
        importlib.import_module(name)
    pretend_processor()
    gc.collect()
    gc.freeze()
    events = selectors.DefaultSelector()
    events.register(sys.stdin.fileno(), selectors.EVENT_READ)
    events.register(listener, selectors.EVENT_READ)
    children: list[Child] = []
    while True:
        for key, _ in events.select():
            if key.fileobj == sys.stdin.fileno():
                for child in children:
                    os.kill(child.number, signal.SIGKILL)
                shutil.rmtree(Path(address).parent)
                sys.exit()
            if key.fileobj is listener:
                found = _fork(listener, events)
                if not isinstance(found, Child):
                    return found
                children.append(found)
                _watch(found, events)
            else:
                _follow(key.fileobj, key.data, events, children)


def _fork(listener: socket.socket, events: selectors.BaseSelector) -> Child | list[str]:
    asker, _ = listener.accept()
    length, streams, _, _ = socket.recv_fds(asker, 4, 3)
    message = b""
    while len(message) < int.from_bytes(length, "big"):
        message += asker.recv(1 << 16)
    request = json.loads(message)
    number = os.fork()
    if number:
        for stream in streams:
            os.close(stream)
        with contextlib.suppress(ConnectionError):  # it was killed meanwhile, and its child will be
            asker.sendall(str(number).encode())
        return Child(number, asker)
    for key in list(events.get_map().values()):
        os.close(key.fd)
    events.close()
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    _become(request)
    return request["command"]


def _become(request: dict[str, Any]) -> None:
    import torch

    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    for number in PASSED_ON:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else usual)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  (launchers start Python without a buffer)
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and int(threads) != torch.get_num_threads():
        torch.set_num_threads(int(threads))


def _watch(child: Child, events: selectors.BaseSelector) -> None:
    events.register(child.asker, selectors.EVENT_READ, child)
    events.register(os.pidfd_open(child.number), selectors.EVENT_READ, child)


def _follow(source: Any, child: Child, events: selectors.BaseSelector, children: list[Child]) -> None:
    """The child has ended, which its asker is told; or the asker is gone, and the child with it."""
    if source is child.asker:
        if source.fileno() >= 0 and _is_gone(source):
            events.unregister(source)
            if child in children:
                os.kill(child.number, signal.SIGKILL)
        return
    _, status = os.waitpid(child.number, 0)
    children.remove(child)
    events.unregister(source)
    os.close(source)
    try:
        child.asker.sendall(str(status).encode())
        events.unregister(child.asker)
    except (OSError, KeyError):  # the asker was killed
        pass
    child.asker.close()


def _is_gone(asker: socket.socket) -> bool:
    try:
        return asker.recv(1) == b""
    except ConnectionError:  # it was killed with the answer unread
        return True


if __name__ == "__main__":
    run_target(serve(sys.argv[1]))
