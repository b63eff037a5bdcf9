"""A chat completions server on loopback that answers, refuses, disconnects or hangs as the prompt says.

A prompt such as "a [429 half ok]" gives the outcomes of its first, second and third attempt; the last one repeats. The
answer is the prompt itself, so every record's answer is known.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_STATUS = {"429": 429, "500": 500, "503": 503, "400": 400, "401": 401}


@dataclass
class FakeServer:
    """Its address, the requests it received, and how many it answered at the same time."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """A running server; it is stopped with the context."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake.lock:
                fake.at_once += 1
                fake.most_at_once = max(fake.most_at_once, fake.at_once)
            try:
                _answer(fake, self, body)
            finally:
                with fake.lock:
                    fake.at_once -= 1

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library calls it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        fake.stop.set()
        server.shutdown()
        server.server_close()


def _answer(fake: FakeServer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    prompt = body["messages"][-1]["content"]
    with fake.lock:
        fake.bodies.append(body)
        fake.headers.append(dict(handler.headers))
        attempt = fake.attempts[prompt]
        fake.attempts[prompt] += 1
    script = (re.search(r"\[(.*)\]", prompt) or ["", "ok"])[1].split()
    how = script[min(attempt, len(script) - 1)]
    content = json.dumps(
        {
            "choices": [
                {"message": {"content": prompt, "reasoning_content": "hm"}, "finish_reason": "stop", "index": 0}
            ],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": 2},
        }
    ).encode()
    if how == "hang":
        fake.stop.wait(60)
    elif how == "nonsense":
        _send(handler, 200, b"<html>a captive portal</html>")
    elif how == "half":
        _send(handler, 200, content, len(content) // 2)
    elif how in _STATUS:
        _send(handler, _STATUS[how], b'{"error": {"message": "not now"}}')
    else:
        _send(handler, 200, content)


def _send(handler: BaseHTTPRequestHandler, status: int, content: bytes, most: int | None = None) -> None:
    """Send a response, or only its first `most` bytes if that is given, and close the connection."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    if status == 429:
        handler.send_header("Retry-After", "0.2")
    handler.end_headers()
    handler.wfile.write(content[:most])
    if most is not None:
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.close()
