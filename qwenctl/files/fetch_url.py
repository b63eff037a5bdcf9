"""Download a small file from a URL that a file or a web page may have named: limits of time and size, and of addresses.

A URL comes in, bytes go out. Whoever wrote the URL must not reach what only this machine can: private, local and other
special addresses are refused, also after a redirect. A name is resolved once, and the connection goes to the address
that was checked, so that a second answer of the name server cannot lead elsewhere.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwenctl.errors import ExitCode, QwenctlError

if TYPE_CHECKING:
    import httpx2

_MAX_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class FetchLimits:
    """Limits of a download: bytes, seconds for all of it, and seconds without a byte."""

    max_bytes: int
    total_seconds: float = 120.0
    idle_seconds: float = 30.0


@dataclass(frozen=True)
class _Transfer:
    """A download in its thread, which fails at the first chunk after the `deadline`, a `time.monotonic()`."""

    url: str
    limits: FetchLimits
    private_host: str | None  # the one host that may have a private address
    deadline: float


def fetch_url(url: str, limits: FetchLimits, *, allows_private: bool) -> bytes:
    """Download `url`, at most one chunk more than `limits.max_bytes`, which the caller refuses.

    If `allows_private`, its own host may have a private address, but not the host of a redirect. Raises QwenctlError.
    """
    import httpx2

    # In a thread, because neither the name server nor a slow header can be interrupted: what lingers ends with its own
    # idle limit, and never holds up the program's end.
    results: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
    private_host = _host(url) if allows_private else None
    transfer = _Transfer(url, limits, private_host, time.monotonic() + limits.total_seconds)

    def run() -> None:
        try:
            results.put(_follow(transfer))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits for it
            results.put(error)

    threading.Thread(target=run, daemon=True, name="fetch").start()
    try:
        found = results.get(timeout=limits.total_seconds)
    except queue.Empty:
        raise _late(transfer) from None
    if isinstance(found, (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError, ValueError)):
        raise _failure(url, str(found) or type(found).__name__) from found
    if isinstance(found, BaseException):
        raise found
    return found


def is_public_address(text: str) -> bool:
    """Whether an IP address, IPv4 or IPv6, belongs to the public internet; addresses inside others are unwrapped."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public_address(str(inner))
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _follow(transfer: _Transfer) -> bytes:
    """The content of a URL, after redirects. Raises QwenctlError, httpx2's errors, OSError and ValueError."""
    import httpx2

    url = httpx2.URL(transfer.url)
    for _ in range(_MAX_REDIRECTS + 1):
        proxy = _proxy(url)
        # With a proxy, which the user has chosen, it is the proxy that resolves the name and connects.
        address = _checked_address(url, transfer) if not proxy or _is_literal(url.host) else ""
        with (
            httpx2.Client(
                verify=httpx2.create_ssl_context(),
                trust_env=False,
                proxy=proxy or None,
                timeout=transfer.limits.idle_seconds,
            ) as client,
            closing(client.send(_request(client, url, "" if proxy else address), stream=True)) as response,
        ):
            if not response.has_redirect_location:
                response.raise_for_status()
                return _read(response, transfer)
            url = url.join(response.headers["Location"])
    raise ValueError(f"more than {_MAX_REDIRECTS} redirects")


def _request(client: httpx2.Client, url: httpx2.URL, address: str) -> httpx2.Request:
    """A request for `url` that connects to `address`, or where the name leads if there is none."""
    headers = {"Accept-Encoding": "identity"}
    if not address:
        return client.build_request("GET", url, headers=headers)
    headers["Host"] = url.netloc.decode("ascii")
    # The certificate is still checked for the name.
    names = {"sni_hostname": url.raw_host.decode("ascii")}
    return client.build_request("GET", url.copy_with(host=address), headers=headers, extensions=names)


def _read(response: httpx2.Response, transfer: _Transfer) -> bytes:
    """The body, in time that is linear in its size. Raises QwenctlError after the deadline."""
    parts, size = [], 0
    for chunk in response.iter_bytes():
        parts.append(chunk)
        size += len(chunk)
        if time.monotonic() > transfer.deadline:
            raise _late(transfer)
        if size > transfer.limits.max_bytes:
            break
    return b"".join(parts)


def _checked_address(url: httpx2.URL, transfer: _Transfer) -> str:
    """The address to connect to for `url`. Raises QwenctlError if the name leads to a private one, and OSError."""
    if url.scheme not in _PORTS:
        raise _failure(transfer.url, f"it leads to {url.scheme or 'no'}:, which is neither http nor https")
    found = socket.getaddrinfo(url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme], type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if url.host != transfer.private_host:
        # One private address is enough to refuse the name: the public ones beside it may be a disguise.
        for address in addresses:
            if not is_public_address(address):
                hint = "--allow-private-url, if it is yours" if url.host == _host(transfer.url) else ""
                what = f"{transfer.url} is not downloaded: {url.host} is the private address {address}"
                raise QwenctlError(what, hint, ExitCode.NO_PERMISSION)
    return addresses[0]


def _proxy(url: httpx2.URL) -> str:
    """The proxy that the environment names for `url`; "" if there is none."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all") or ""
    return "" if not found or proxy_bypass(url.host) else found if "://" in found else f"http://{found}"


def _is_literal(host: str) -> bool:
    """Whether the host of a URL is an address already, or this machine itself."""
    name = host.rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        with suppress(OSError):
            return bool(socket.inet_aton(name))  # 127.1, 0x7f000001 and the like
        return name == "localhost" or name.endswith(".localhost")
    return True


def _host(url: str) -> str | None:
    import httpx2

    try:
        return httpx2.URL(url).host
    except (httpx2.InvalidURL, ValueError):
        return None


def _late(transfer: _Transfer) -> QwenctlError:
    return _failure(transfer.url, f"it took more than {transfer.limits.total_seconds:g} s")


def _failure(url: str, why: str) -> QwenctlError:
    return QwenctlError(f"{url} cannot be downloaded: {' '.join(why.split())}", "", ExitCode.NETWORK)
