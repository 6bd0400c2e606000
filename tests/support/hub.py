"""A hub on this machine's loopback: what huggingface_hub asks of one to make a repository and commit to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

TOKEN = "hf_" + "x" * 34


class Hub(ThreadingHTTPServer):
    """Repositories of models; what it refuses is set by status code, for all that is asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.refuses: int | None = None
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str | None] = {}
        self.commits: list[str] = []
        self.large: dict[str, bytes] = {}
        """Content by SHA-256, uploaded and not yet, or not ever, committed."""


@contextmanager
def hub() -> Iterator[Hub]:
    """One that answers until the block ends."""
    server = Hub()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refuses is not None:
            self._answer(self.server.refuses, {"error": f"no, {self.headers.get('Authorization')}"})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        else:
            self._act(body)

    def do_GET(self) -> None:
        self._answer(self.server.refuses or 404, {"error": "not here"})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.large[digest] = content
        self._answer(200, {})

    def _act(self, body: bytes) -> None:
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            modes = [
                {"path": file["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular"}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            self._answer(200 if found[1] in self.server.repositories else 404, {"files": modes})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": self.path})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        there = name in self.server.repositories
        if not there:
            self.server.repositories[name] = {}
            self.server.visibility[name] = asked.get("visibility")
        self._answer(409 if there else 200, {"url": f"{self.server.address}/{name}", "name": name, "error": "exists"})

    def _validate(self, card: str) -> None:
        base = yaml.safe_load(card.split("---")[1]).get("base_model", "a/b")
        wrong = [] if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else [{"message": f'"base_model" {base} is not valid'}]
        self._answer(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.large[value["oid"]]
        url = f"{self.server.address}/{name}/commit/{'0' * 40}"
        self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": url})

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is asked is looked at in the repositories."""
