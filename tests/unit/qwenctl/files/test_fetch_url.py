"""Downloads end in time and at a size, and reach no address that only this machine can."""

from __future__ import annotations

import http.server
import ipaddress
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.fetch_url import FetchLimits, fetch_url, is_public_address
from qwenctl.files.media_files import MediaSource
from tests.support.pictures import RED

LIMITS = FetchLimits(1 << 20, total_seconds=20.0, idle_seconds=10.0)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves a picture, redirects, and bodies and headers without end."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
        elif self.path == "/large":
            self.send_response(200)
            self.end_headers()
            self._write_on(bytes(1 << 16), 0)
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            self._write_on(b"x", 0.05)
        elif self.path == "/header":
            self._write_on(b"HTTP/1.1 200 OK\r\nX-Long: ", 0)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(RED.read_bytes() if self.path == "/red.png" else self.headers["Host"].encode())

    def _write_on(self, piece: bytes, pause_s: float) -> None:
        try:
            for number in itertools.count():
                self.wfile.write(piece if number == 0 or self.path != "/header" else b"x")
                self.wfile.flush()
                time.sleep(pause_s if self.path != "/header" else 0.05)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def seen() -> list[str]:
    """The paths that the server has been asked for."""
    return []


@pytest.fixture
def server(seen: list[str]) -> Iterator[str]:
    """The URL of a server on this machine."""
    kind = type("Seeing", (Handler,), {"seen": seen})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def refusal(url: str, limits: FetchLimits = LIMITS, *, allows_private: bool = True) -> tuple[str, ExitCode]:
    with pytest.raises(QwenctlError) as caught:
        fetch_url(url, limits, allows_private=allows_private)
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.code


# ------------------------------------------------------------------ addresses

PRIVATE = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "0.0.0.0",  # noqa: S104 - nothing is bound to it
    "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "64:ff9b::7f00:1", "2002:7f00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_special_address_is_not_public(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_address_of_the_internet_is_public(address: str) -> None:
    assert is_public_address(address)


@given(st.ip_addresses(v=4))
def test_address_inside_another_is_as_public_as_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for outer in ((0xFFFF << 32) + number, (0x64FF9B << 96) + number, (0x2002 << 112) + (number << 80)):
        assert is_public_address(str(ipaddress.IPv6Address(outer))) == is_public_address(str(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "127.1"]
)
def test_private_host_is_refused_before_it_is_contacted(host: str, server: str, seen: list[str]) -> None:
    url = server.replace("127.0.0.1", host) + "/red.png"
    message, code = refusal(url, allows_private=False)
    assert code == ExitCode.NO_PERMISSION or "cannot be downloaded" in message
    assert seen == []


def test_hint_names_the_option(server: str) -> None:
    with pytest.raises(QwenctlError, match=r"is not downloaded: 127\.0\.0\.1 is the private address") as caught:
        fetch_url(f"{server}/red.png", LIMITS, allows_private=False)
    assert caught.value.hint == "--allow-private-url, if it is yours"


def test_private_host_that_the_user_typed_is_read_with_its_redirects(server: str) -> None:
    assert fetch_url(f"{server}/red.png", LIMITS, allows_private=True) == RED.read_bytes()
    assert fetch_url(f"{server}/to?/red.png", LIMITS, allows_private=True) == RED.read_bytes()
    assert fetch_url(f"{server}/to?{server}/to?/red.png", LIMITS, allows_private=True) == RED.read_bytes()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]", "169.254.169.254", "10.0.0.1"])
def test_redirect_to_another_private_host_is_refused(host: str, server: str, seen: list[str]) -> None:
    target = f"http://{host}:{server.rpartition(':')[2]}/red.png"
    message, code = refusal(f"{server}/to?{target}")
    assert code == ExitCode.NO_PERMISSION or "cannot be downloaded" in message  # without IPv6, ::1 has no address
    assert seen == [f"/to?{target}"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/", "data:,a"])
def test_redirect_to_another_scheme_is_refused(target: str, server: str) -> None:
    message, code = refusal(f"{server}/to?{target}")
    assert ("neither http nor https" in message or "cannot be downloaded" in message, code) == (True, 69)


def test_redirects_without_end_are_refused(server: str) -> None:
    assert refusal(f"{server}/to?{'/to?' * 9}/red.png") == (
        f"{server}/to?{'/to?' * 9}/red.png cannot be downloaded: more than 5 redirects", 69
    )  # fmt: skip


def test_name_is_resolved_once_and_the_checked_address_is_used(
    server: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers with a public address first and a private one then (DNS rebinding) gains nothing."""
    real, asked = socket.getaddrinfo, []

    def answer(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        if host != "rebinding.example":
            return real(host, port, *rest, **named)
        asked.append(host)
        address = "192.0.2.1" if len(asked) > 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    url = server.replace("127.0.0.1", "rebinding.example")
    assert fetch_url(f"{url}/host", LIMITS, allows_private=True).decode() == url.removeprefix("http://")
    assert (asked, seen) == (["rebinding.example"], ["/host"])
    asked.clear()
    assert refusal(f"{url}/red.png", allows_private=False)[1] == ExitCode.NO_PERMISSION
    assert seen == ["/host"]


def test_name_with_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    message, _ = refusal("http://mixed.example/a.png", allows_private=False)
    assert message.endswith("mixed.example is the private address 10.0.0.1")


# ------------------------------------------------------------------ limits


def test_body_without_end_stops_just_above_the_limit(server: str) -> None:
    limit = FetchLimits(1 << 20, total_seconds=60.0)
    assert 1 << 20 < len(fetch_url(f"{server}/large", limit, allows_private=True)) < 2 << 20


@pytest.mark.parametrize("path", ["/drip", "/header"])
def test_download_that_always_sends_a_little_ends_in_time(path: str, server: str) -> None:
    message, code = refusal(server + path, FetchLimits(1 << 20, total_seconds=0.5, idle_seconds=10.0))
    assert (message, code) == (f"{server}{path} cannot be downloaded: it took more than 0.5 s", 69)


@given(
    st.text(max_size=30).map("http://{}".format) | st.sampled_from(["http://", "http://[", "http://a:b/", "http://\0/"])
)
def test_any_url_is_refused_in_one_line(url: str) -> None:
    host = url[7:].split("/")[0]
    if not host.isascii() or "." not in host:  # else it might exist
        with pytest.raises(QwenctlError):
            fetch_url(f"http://127.0.0.1:1/{url}" if host.isalnum() else url, LIMITS, allows_private=False)


def test_media_from_a_private_url_need_permission(server: str, tmp_path: Path) -> None:
    url = f"{server}/red.png"
    with pytest.raises(QwenctlError, match="is not downloaded without --allow-url"):
        MediaSource(tmp_path).resolve(url)
    with pytest.raises(QwenctlError, match="private address"):
        MediaSource(tmp_path, allows_urls=True).resolve(url)
    assert MediaSource(tmp_path, allows_urls=True, allows_private=True).resolve(url).name == "red.png"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433"])
@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9"])
def test_this_machine_is_refused_however_it_is_spelled(host: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(QwenctlError, match="is the private address"):
        fetch_url(f"http://{host}/x.png", FetchLimits(1000), allows_private=False)
