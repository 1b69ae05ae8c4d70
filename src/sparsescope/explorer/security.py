"""Which requests are answered: our own host, our own pages, and those who have the token where one is asked for.

A request must name this server as its host, so that a foreign name which was made to resolve to this machine (DNS
rebinding) reaches nothing. Other sites may link here, but neither embed nor fetch anything. A request that changes
or computes anything carries the token of this server's own pages besides. Where the server listens for other
machines, everybody shows the token of the one who started it: once in the address, then in a cookie.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from ..errors import ConfigurationError

LARGEST = 256 * 1024
"""Bytes that the body of a request may have."""
SHORTEST = 16
"""Characters that a token must have at least."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Guard:
    """Who may ask. `hosts` are the values of the Host header that are answered, empty for any (an access token then
    protects against foreign names); `page_token` is in the served pages; `access` is the token that visitors show.
    """

    hosts: frozenset[str]
    access: str | None = None
    cookie: str = "sparsescope"
    page_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))


def guard_for(host: str, port: int, access: str | None) -> Guard:
    """The guard of a server at an address. Raises `ConfigurationError` where a token is needed, or is too short."""
    local = host in _LOOPBACK
    if not local and access is None:
        raise ConfigurationError(
            f"--host {host} lets other machines in: give --token TOKEN too, of {SHORTEST} characters or more, which "
            "every visitor then needs."
        )
    if access is not None and (len(access) < SHORTEST or not (access.isascii() and access.isprintable())):
        raise ConfigurationError(
            f"--token needs {SHORTEST} or more printable ASCII characters, this has {len(access)}."
        )
    names = {host, "127.0.0.1", "localhost"} if local else ()
    spelled = [f"[{name}]" if ":" in name else name for name in names]
    hosts = {f"{name}:{port}" for name in spelled} | (set(spelled) if port == 80 else set())  # which browsers leave out
    # Browsers share cookies between the ports of a host, hence the port in the name.
    return Guard(frozenset(hosts), access, f"sparsescope-{port}")


class Guarded:
    """An ASGI application behind a guard: refuses, limits bodies, adds the headers, and answers HEAD as GET.

    A refusal is plain text: whoever is refused learns nothing of the run, nor the token of its pages.
    """

    def __init__(self, app: App, guard: Guard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _finished(send, scope["method"] == "HEAD")
        headers = _headers(scope["headers"])
        complaint = self._complaint(scope["method"], headers)
        if complaint is None and self.guard.access is not None and not self._admitted(headers):
            moved = self._admission(scope)
            if moved is not None:
                await _answer(send, 303, b"", moved)
                return
            complaint = 403, "This server asks for a token: open the address with /?token=TOKEN once."
        if complaint is not None:
            await _answer(
                send, complaint[0], f"{complaint[1]}\n".encode(), [(b"content-type", b"text/plain; charset=utf-8")]
            )
            return
        await self.app(scope, receive, send)

    def _complaint(self, method: str, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        """Status and words of the refusal, None where there is nothing to complain of."""
        hosts = headers.get("host", [])
        if len(hosts) != 1 or (self.guard.hosts and hosts[0].lower() not in self.guard.hosts):
            return 403, "This server answers to its own address only: use the one that was printed at its start."
        if method not in ("GET", "HEAD", "POST"):
            return 405, "Pages are read with GET or HEAD; only the live parts take POST."
        fetched = headers.get("sec-fetch-site", ["none"])[-1]
        if method != "POST":
            visit = headers.get("sec-fetch-mode", ["navigate"])[-1] == "navigate"
            framed = headers.get("sec-fetch-dest", ["document"])[-1] not in ("document", "empty")
            if fetched in ("cross-site", "same-site") and (not visit or framed):
                return 403, "The request came from a page of another site."
            return None
        origins = headers.get("origin", [])
        if fetched not in ("same-origin", "none") or any(
            each.lower() != f"http://{hosts[0].lower()}" for each in origins
        ):
            return 403, "The request came from a page of another site."
        given = headers.get("x-sparsescope-token", [""])[-1]
        if not hmac.compare_digest(given.encode(), self.guard.page_token.encode()):
            return 403, "This page is from before the server was started again: reload it and go on."
        length = headers.get("content-length", [""])[-1]
        if not (length.isascii() and length.isdigit() and len(length) < 12):
            return 411, "The request does not say how long it is."
        return (413, f"A request may have {LARGEST:,} bytes.") if int(length) > LARGEST else None

    def _admitted(self, headers: dict[str, list[str]]) -> bool:
        # Cookies of other servers on this machine come too, in any spelling: only ours is looked at.
        pairs = [each.strip().partition("=") for each in "; ".join(headers.get("cookie", [])).split(";")]
        known = _cookie_value(self.guard.access or "")
        return any(name == self.guard.cookie and _same(value, known) for name, _, value in pairs)

    def _admission(self, scope: Scope) -> list[tuple[bytes, bytes]] | None:
        """To the same address without the token in it, with a cookie; None where the token is absent or wrong."""
        if scope["method"] == "POST":
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not any(name == "token" and _same(value, self.guard.access or "") for name, value in query):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"], errors="replace")
        # A path that begins with two slashes would name another host.
        target = "/" + scope.get("raw_path", b"/").decode("latin-1").split("?")[0].lstrip("/\\")
        cookie = f"{self.guard.cookie}={_cookie_value(self.guard.access or '')}; HttpOnly; SameSite=Lax; Path=/"
        return [
            (b"location", (f"{target}?{rest}" if rest else target).encode("latin-1")),
            (b"set-cookie", cookie.encode("latin-1")),
        ]


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), known.encode())


def _cookie_value(access: str) -> str:
    """The token as a cookie may hold it: not itself, so that nobody reads it from the browser's store."""
    return hmac.new(access.encode(), b"sparsescope", "sha256").hexdigest()


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _finished(send: Send, headless: bool) -> Send:
    """`send` with our headers added, and no body for HEAD."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in message.get("headers", [])}
            more = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in own]
            if b"cache-control" not in own:
                more.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message.get("headers", []), *more]}
        elif headless and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sent


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
