"""Chat completions from an OpenAI-compatible address, asked again where the server is busy; the key is never told."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sparsepo_dist.errors import RunError, UserError, shortened

ATTEMPTS = 6
TIMEOUT_SECONDS = 120.0
_LONGEST_PAUSE = 60.0
_MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class Endpoint:
    """A model behind an address."""

    url: str
    """Up to and without /chat/completions."""
    model: str
    key: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else each request holds, such as temperature."""
    pause: float = 1.0
    """Seconds before the second attempt; twice as many before each further one, or what the server asks for."""

    def answer(self, message: str) -> str:
        """What the model says to a user's message; empty where it says nothing.

        Raises:
            UserError: the server refuses the request or the key, or is no such server.
            RunError: it is out of reach or busy, after ATTEMPTS attempts.
        """
        body = {"model": self.model, "messages": [{"role": "user", "content": message}], **self.options}
        for attempt in range(ATTEMPTS):
            try:
                return self._content(self._asked(json.dumps(body).encode()))
            except _BusyError as busy:
                reason, wanted = str(busy), busy.seconds
            if attempt + 1 < ATTEMPTS:
                time.sleep(min(_LONGEST_PAUSE, max(self.pause * 2**attempt, wanted)))
        raise RunError(
            f"the judge at {self.url} gave no answer in {ATTEMPTS} attempts ({reason}); what it answered before is "
            "kept: start again to go on"
        )

    def _asked(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers)
        try:
            with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
                found: bytes = response.read(_MOST_BYTES)
                return found
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise _BusyError(self._without_key(str(reason) or type(error).__name__)) from None

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        if error.code in (408, 409, 429) or error.code >= 500:
            return _BusyError(f"HTTP {error.code}", _seconds(error.headers.get("Retry-After")))
        if error.code in (401, 403):  # servers repeat part of a wrong key
            how = "the key is not taken" if self.key is not None else "it wants a key (--judge_key_env)"
            return UserError(f"--judge_url {self.url}: HTTP {error.code}: {how}")
        if 300 <= error.code < 400:
            return UserError(f"--judge_url {self.url} leads elsewhere (HTTP {error.code}), where no key is taken along")
        said = self._without_key(error.read(2000).decode("utf-8", "replace"))
        return UserError(f"--judge_url {self.url}: HTTP {error.code} for {self.model}: {shortened(said, 300)}")

    def _content(self, answer: bytes) -> str:
        try:
            content = json.loads(answer)["choices"][0]["message"].get("content")
            if not isinstance(content, str | None):
                raise TypeError("content is no text")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"--judge_url {self.url}: what it answers is no chat completion ({type(error).__name__}); give the "
                "address up to /v1"
            ) from None
        return self._without_key(content or "")

    def _without_key(self, text: str) -> str:
        return text if self.key is None else text.replace(self.key, "<key>")


def endpoint(url: str, model: str, key_variable: str | None, options: Mapping[str, Any]) -> Endpoint:
    """The model of a judge's options.

    Args:
        key_variable: the environment variable that holds the key; None: no key is sent.

    Raises:
        UserError: no address, or the variable is not set or holds no key.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UserError("--judge_url: an address like https://HOST/v1 is wanted")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "--judge_url: an address without user, password or query is wanted; a key goes to --judge_key_env"
        )
    key = None
    if key_variable is not None:
        key = os.environ.get(key_variable)
        if not key:
            raise UserError("--judge_key_env: the environment variable that it names is not set")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(
                "--judge_key_env: the variable's value has blanks, line ends or other than ASCII, as no key has"
            )
    return Endpoint(url.rstrip("/").removesuffix("/chat/completions"), model, key, dict(options))


class _BusyError(Exception):
    """What may go well the next time."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


def _seconds(header: str | None) -> float:
    """A Retry-After in seconds; 0 for a date or none, for which our own pauses do."""
    return float(header) if header is not None and header.isdecimal() else 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would take the key along to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
