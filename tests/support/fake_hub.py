"""A Hugging Face Hub on loopback: folders served as repositories, at a chosen speed, with faults on demand.

It implements the part of the Hub's protocol that huggingface_hub needs to list and download repositories: the model
info, the tree with sizes and hashes, and `resolve` with ranges, which with `cdn=True` redirects the client to another
server with a signed URL, like the real Hub. It records its requests and counts the file bytes it sent.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.fake_hub_faults import Fault, Wire

_LARGE, _LARGE_KINDS = 1 << 20, (".safetensors", ".gguf")  # stored outside git, named by its sha256


@dataclass(frozen=True)
class ServedFile:
    """One file of a repository."""

    path: str
    source: Path
    size: int
    sha256: str
    git_sha1: str

    @property
    def is_large(self) -> bool:
        """Whether its bytes are stored outside git (LFS)."""
        return self.size >= _LARGE or self.path.endswith(_LARGE_KINDS)

    @property
    def etag(self) -> str:
        """The ETag, which is also the name of its blob in a cache."""
        return self.sha256 if self.is_large else self.git_sha1

    def entry(self) -> dict[str, Any]:
        """Its entry in the tree."""
        entry: dict[str, Any] = {"type": "file", "path": self.path, "size": self.size, "oid": self.git_sha1}
        if self.is_large:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 130}
        return entry


@dataclass(frozen=True)
class Repo:
    """A repository at one commit. `info` is added to its model info, `extra` to its tree."""

    files: Mapping[str, ServedFile]
    commit: str
    info: Mapping[str, Any]
    extra: tuple[Mapping[str, Any], ...] = ()


def serve_folder(folder: Path, *extra: Mapping[str, Any], leave_out: Set[str] = frozenset(), **info: Any) -> Repo:
    """A repository of all files below `folder`, except those with these names."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in leave_out)
    served = {path.relative_to(folder).as_posix(): _served(path.relative_to(folder).as_posix(), path) for path in paths}
    content = "".join(f"{file.path} {file.etag}\n" for file in served.values())
    return Repo(served, hashlib.sha1(content.encode()).hexdigest(), info, extra)  # noqa: S324 - git's hash


def _served(name: str, path: Path) -> ServedFile:
    size = path.stat().st_size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())  # noqa: S324 - git's hash
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            sha256.update(piece)
            sha1.update(piece)
    return ServedFile(name, path, size, sha256.hexdigest(), sha1.hexdigest())


class FakeHub:
    """The server, a context manager. `rate` is in bytes per second for each connection, `rtt` in seconds."""

    def __init__(
        self, repos: Mapping[str, Repo], *, rtt: float = 0, rate: float = 0, cdn: bool = False, token: str = ""
    ) -> None:
        self.repos, self.rtt, self.rate, self.token = dict(repos), rtt, rate, token
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str]] = []  # method, path, range
        self.leaked: list[str] = []  # requests to the other server that leaked the token
        self.known = 0  # requests to this server with the token
        self.sent = 0
        self.link_lives = 1 << 30  # requests after which a signed URL is refused
        self.lock = threading.Lock()
        self.servers = [_Server(self) for _ in range(2 if cdn else 1)]

    def __enter__(self) -> FakeHub:
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.servers[0].server_port}"

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://{self.host}"

    def break_with(self, *faults: Fault) -> None:
        """Apply these faults from now on, and no others."""
        with self.lock:
            self.faults = list(faults)

    def fault(self, on: str, path: str) -> Fault | None:
        """The fault that applies to this request, if any."""
        with self.lock:
            return next((fault for fault in self.faults if fault.hits(on, path)), None)

    def count(self, n_bytes: int) -> None:
        """Record that `n_bytes` of a file have been sent."""
        with self.lock:
            self.sent += n_bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of clients that disconnect, as they do in many tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Bytes in the buffers of a broken connection count as sent, so the buffers are as small as the rate allows.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        time.sleep(self.server.hub.rtt)  # the handshake

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """Quiet."""

    def do_HEAD(self) -> None:
        """Answer where a file is."""
        self._answer()

    def do_GET(self) -> None:
        """Answer the API, or the bytes of a file."""
        self._answer()

    def _answer(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        path = unquote(url.path)
        with hub.lock:
            hub.requests.append((self.command, path, self.headers.get("Range", "")))
            hub.known += self.server is hub.servers[0] and "Authorization" in self.headers
        time.sleep(hub.rtt)
        if self.server is not hub.servers[0]:
            self._store(path, parse_qs(url.query))
        elif hub.token and self.headers.get("Authorization", "") not in ("", f"Bearer {hub.token}"):
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self._api(*found.groups())
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        else:
            self._send(404, {"X-Error-Code": "EntryNotFound"})

    def _send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self._head(status, {"Content-Length": str(len(body)), **headers})
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def _is_broken(self, fault: Fault | None) -> bool:
        """Send the fault's response in place of the right one; whether the fault has such a response."""
        match fault.kind if fault else "":
            case "status":
                self._send(fault.status, fault.headers)
            case "portal":
                self._send(200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>Log in</title>")
            case "loop":
                self._send(302, {"Location": self.path})
            case _:
                return False
        return True

    def _repo(self, name: str, revision: str | None) -> Repo | None:
        repo, known = self.server.hub.repos.get(name), bool(self.headers.get("Authorization"))
        if repo is None:
            self._send(404 if known else 401, {"X-Error-Code": "RepoNotFound"})
        elif repo.info.get("gated"):
            self._send(403 if known else 401, {"X-Error-Code": "GatedRepo"})
        elif revision not in (None, "main", repo.commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def _api(self, name: str, what: str | None, revision: str | None) -> None:
        if self._is_broken(self.server.hub.fault("api", name)):
            return
        if repo := self._repo(name, revision):
            info = {"id": name, "sha": repo.commit, "siblings": [], **repo.info}
            tree = [*(file.entry() for file in repo.files.values()), *repo.extra]
            self._send(200, {"Content-Type": "application/json"}, json.dumps(tree if what == "tree" else info).encode())

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo, hub = self._repo(name, revision), self.server.hub
        if repo is None:
            return
        fault = hub.fault("HEAD", path) if self.command == "HEAD" else None
        file = repo.files.get(path)
        if self._is_broken(fault):
            return
        if file is None:
            self._send(404, {"X-Error-Code": "EntryNotFound"})
            return
        etag = "0" * 64 if fault and fault.kind == "etag" else file.etag
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(file.size)} if file.is_large else {}
        if len(hub.servers) > 1 and file.is_large:
            store = f"http://127.0.0.1:{hub.servers[1].server_port}/{name}/{quote(path)}?signed={len(hub.requests)}"
            self._send(302, {**headers, "Location": store})
        elif self.command == "HEAD":
            self._head(200, {**headers, "Content-Length": str(file.size)})
        else:
            self._body(file, headers)

    def _store(self, path: str, query: Mapping[str, list[str]]) -> None:
        hub = self.server.hub
        if "Authorization" in self.headers:
            hub.leaked.append(path)
        _, owner, name, file_path = path.split("/", 3)
        if len(hub.requests) - int(query["signed"][0]) > hub.link_lives:
            self._send(403, {})
        else:
            self._body(hub.repos[f"{owner}/{name}"].files[file_path], {"ETag": '"of-the-store"'})

    def _body(self, file: ServedFile, headers: Mapping[str, str]) -> None:
        """Send the requested bytes, with the faults that apply."""
        hub = self.server.hub
        fault = hub.fault("GET", file.path)
        if self._is_broken(fault):
            return
        kind = fault.kind if fault else ""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        whole = not asked or kind == "ignore range"
        start = 0 if whole else int(asked[1]) - (kind == "wrong range")
        end = min(file.size, int(asked[2]) + 1) if not whole and asked[2] else file.size
        end -= (end - start) // 2 if kind == "short" else 0
        if start >= file.size > 0:
            self._send(416, {"Content-Range": f"bytes */{file.size}"})
            return
        length = end - start + (1 << 16 if kind == "long" else 0)
        place = {} if whole else {"Content-Range": f"bytes {start}-{end - 1}/{file.size}"}
        self._head(200 if whole else 206, {**headers, "Content-Length": str(length), **place})
        if not Wire(self.connection, hub.rate, hub.count).send(file.source, start, end, fault):
            self.close_connection = True
