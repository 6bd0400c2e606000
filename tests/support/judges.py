"""A judge behind an OpenAI-compatible address on loopback, that answers as a test says and notes what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Reply = tuple[int, Any]
"""HTTP status, and what is sent as JSON."""


class Asked(NamedTuple):
    """A request."""

    path: str
    authorization: str | None
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """What the judge was asked."""
        return str(self.body["messages"][0]["content"])


class JudgeServer(ThreadingHTTPServer):
    """While it runs, `url` is its address and `asked` what came, in order; `headers` go with every reply."""

    daemon_threads = True

    def __init__(self, reply: Callable[[Asked], Reply], headers: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.headers = reply, headers
        self.asked: list[Asked] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path, self.headers.get("Authorization"), body)
        self.server.asked.append(asked)
        status, value = self.server.reply(asked)
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**self.server.headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def judge_server(reply: Callable[[Asked], Reply], headers: dict[str, str] | None = None) -> Iterator[JudgeServer]:
    """A judge's server, for as long as this is open."""
    server = JudgeServer(reply, headers or {})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def said(content: str | None) -> Reply:
    """A chat completion."""
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}}]}


def answers_of(asked: Asked) -> Sequence[str]:
    """Answer A and answer B of a comparison."""
    _, _, both = asked.text.partition("\n# Answer A\n")
    first, _, second = both.partition("\n\n# Answer B\n")
    return first, second.removesuffix("\n")
