"""One HTTP request with the standard library: a deadline for the whole of it, no redirects, proxies as configured.

`http.client` and not `urllib.request`: the latter follows redirects with the key still in the headers, and its
timeout is for each read, so that a server which sends a byte now and then is waited for without end.
"""

import base64
import http.client
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

LARGEST = 64 << 20
"""Bytes that an answer may have."""
_HERE = ("localhost", "127.0.0.1", "::1")  # a proxy would look for these on its own machine


@dataclass(frozen=True)
class Reply:
    """What a server sent; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unreachable(OSError):
    """No connection: nothing was sent."""


def post(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Reply:
    """Send `body` and read the whole answer within `timeout` seconds, from the connection to the last byte.

    Raises `Unreachable` when there is no connection, `TimeoutError` at the deadline, and `OSError` when the
    connection breaks or what comes is cut short, too long or not HTTP.
    """
    parts = urlsplit(url)
    connection, target, extra = _connection(parts, timeout)
    expired, opened = threading.Event(), list[socket.socket]()
    timer = threading.Timer(timeout, _cut, (opened, expired))
    timer.daemon = True
    timer.start()
    try:
        try:
            connection.connect()
            opened.append(connection.sock)  # the connection forgets it once an answer begins that ends with it
        except OSError as error:
            raise Unreachable(f"cannot connect to {parts.netloc}: {error}") from None
        connection.request("POST", target, body, {**headers, **extra})
        return _read(connection)
    except (OSError, http.client.HTTPException) as error:
        if expired.is_set() or isinstance(error, TimeoutError):
            raise TimeoutError(f"no whole answer within {timeout:g} seconds") from None
        if isinstance(error, Unreachable):
            raise
        raise OSError(f"the connection broke: {type(error).__name__}") from None
    finally:
        timer.cancel()
        connection.close()


def _read(connection: http.client.HTTPConnection) -> Reply:
    response = connection.getresponse()
    data = response.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(f"more than {LARGEST:,} bytes")
    declared = response.getheader("Content-Length")
    if declared is not None and declared.isdigit() and len(data) < int(declared):
        raise OSError("the answer was cut short")  # a read with a limit does not notice by itself
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, data)


def _cut(opened: list[socket.socket], expired: threading.Event) -> None:
    """End whatever a connection waits for. Until it is open, its own timeout does that."""
    expired.set()
    for sock in opened:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _connection(parts: SplitResult, timeout: float) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """A connection that is not open yet, what to ask it for, and the headers that a proxy wants."""
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    host, proxy = parts.hostname or "", getproxies().get(parts.scheme)
    if proxy is None or host in _HERE or proxy_bypass(host):
        return kind(host, parts.port, timeout=timeout), parts.path, {}
    through = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    allowed = {}
    if through.username:
        pair = f"{unquote(through.username)}:{unquote(through.password or '')}"
        allowed["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    connection = kind(through.hostname or "", through.port, timeout=timeout)
    if parts.scheme == "https":
        connection.set_tunnel(host, parts.port, allowed)
        return connection, parts.path, {}
    return connection, parts.geturl(), allowed
