"""The server of the rating page: this machine only, and only for pages that it served itself.

It listens on 127.0.0.1. A request must name this server as its host, so that a foreign name which was made
to resolve to this machine (DNS rebinding) reaches nothing. A request that changes anything must also carry the token
of this server's own pages, and no foreign origin. No path of a request is ever used as the name of a file.
"""

import hmac
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

from ... import report
from ...errors import ConfigurationError, StorageError
from .page import finished_page, refusal_page, start_page, step_page
from .session import RatingSession, UnusableAnswer, checked_name

ADDRESS = "127.0.0.1"
LARGEST_FORM = 64 * 1024  # bytes
MOST_FIELDS = 20
PATIENCE = 30.0  # seconds that a connection may be silent

_HERE, _REPORT = Path(__file__).parent, Path(report.__file__).parent
_FILES = {
    "/page.css": (_REPORT / "page.css", "text/css"),
    "/rating.css": (_HERE / "rating.css", "text/css"),
    "/rating.js": (_HERE / "rating.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class RatingServer(ThreadingHTTPServer):
    """Serves a rating session until `shutdown`. With `rater`, everybody who comes is that person.

    Port 0 takes a free one; `url` says which. Raises `ConfigurationError` for a port that is taken, or a
    name that cannot be one.
    """

    daemon_threads = True

    def __init__(self, session: RatingSession, *, rater: str | None = None, port: int = 0) -> None:
        self.session = session
        try:
            self.rater = None if rater is None else checked_name(rater)
        except UnusableAnswer as error:
            raise ConfigurationError(f"rater {rater!r}: {error}") from None
        self.token = secrets.token_urlsafe(32)
        self.raters: dict[str, str] = {}  # who is behind which cookie
        self.lock = threading.Lock()  # one answer at a time: the database connection is shared
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"port {port} of {ADDRESS} cannot be used ({error}): choose another, or 0 for any that is free."
            ) from error
        self.url = f"http://{ADDRESS}:{self.server_port}/"
        self.hosts = {f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"}
        self.cookie = f"sparsescope-{self.server_port}"  # browsers share cookies between the ports of a host

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle of an answer is no news; pages report what else goes wrong."""


class _Refusal(Exception):
    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: RatingServer
    server_version, sys_version = "sparsescope", ""
    timeout = PATIENCE

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: standard error belongs to the command."""

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def _answered(self, work: Callable[[], None]) -> None:
        """Do the work, or say on a page why not."""
        try:
            self._check_host()
            work()
        except _Refusal as refusal:
            self._page(refusal_page("This request was refused", str(refusal)), refusal.status)
        except StorageError as error:
            self._page(refusal_page("Your answer could not be kept", str(error)), HTTPStatus.INTERNAL_SERVER_ERROR)
        except Exception as error:  # the page must say so: nobody sees this server's standard error
            text = f"{type(error).__name__}: {error}. Earlier answers are kept."
            self._page(refusal_page("Something went wrong here", text), HTTPStatus.INTERNAL_SERVER_ERROR)

    def _get(self) -> None:
        path = self.path.split("?")[0]
        if path in _FILES:
            file, kind = _FILES[path]
            self._send(file.read_bytes(), f"{kind}; charset=utf-8")
        elif path == "/":
            self._page(self._current())
        else:
            raise _Refusal(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _post(self) -> None:
        form = self._form()
        if self.path == "/rater":
            self._begin(form)
        elif self.path == "/leave":
            self.server.raters.pop(self._cookie(), None)
            self._redirect()
        elif self.path == "/answer":
            self._keep(form)
        else:
            raise _Refusal(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _begin(self, form: dict[str, str]) -> None:
        try:
            name = checked_name(form.get("name", ""))
        except UnusableAnswer as complaint:
            self._page(start_page(self.server.token, str(complaint)), HTTPStatus.UNPROCESSABLE_ENTITY)
            return
        key = secrets.token_urlsafe(32)
        self.server.raters[key] = name
        self._redirect(f"{self.server.cookie}={key}; HttpOnly; SameSite=Strict; Path=/")

    def _keep(self, form: dict[str, str]) -> None:
        rater = self._rater()
        if rater is None:
            self._redirect()
            return
        try:
            with self.server.lock:
                self.server.session.answer(rater, form)
        except UnusableAnswer as complaint:
            self._page(self._current(str(complaint), form), HTTPStatus.UNPROCESSABLE_ENTITY)
            return
        self._redirect()

    def _current(self, complaint: str = "", given: dict[str, str] | None = None) -> str:
        """The page for whoever asks: the start, the question they are at, or the end."""
        rater, token = self._rater(), self.server.token
        if rater is None:
            return start_page(token, complaint)
        fixed = self.server.rater is not None
        with self.server.lock:
            step = self.server.session.step(rater)
        if step is None:
            return finished_page(len(self.server.session.assigned(rater)), rater, token, fixed)
        return step_page(step, rater, token, fixed, complaint, given or {})

    def _rater(self) -> str | None:
        return self.server.rater or self.server.raters.get(self._cookie())

    def _cookie(self) -> str:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    def _check_host(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            raise _Refusal(HTTPStatus.FORBIDDEN, f"This server answers to {self.server.url} only.")

    def _form(self) -> dict[str, str]:
        """The fields of a form that one of our own pages sent."""
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self.server.hosts}:
            raise _Refusal(HTTPStatus.FORBIDDEN, "The request came from a page of another site.")
        if self.headers.get_content_type() != "application/x-www-form-urlencoded":
            raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Only forms are read here.")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 9):
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "The request does not say how long it is.")
        if int(length) > LARGEST_FORM:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A form may have {LARGEST_FORM:,} bytes.")
        body = self.rfile.read(int(length)).decode("utf-8", "replace")
        try:
            fields = parse_qs(body, max_num_fields=MOST_FIELDS)
        except ValueError:
            raise _Refusal(HTTPStatus.BAD_REQUEST, f"A form may have {MOST_FIELDS} fields.") from None
        form = {name: values[-1] for name, values in fields.items()}
        if not hmac.compare_digest(form.get("token", "").encode(), self.server.token.encode()):
            raise _Refusal(
                HTTPStatus.FORBIDDEN, "This page is from before the server was started again: reload it and go on."
            )
        return form

    def _redirect(self, cookie: str | None = None) -> None:
        self._head(HTTPStatus.SEE_OTHER, {"Location": "/", **({"Set-Cookie": cookie} if cookie else {})}, 0)

    def _page(self, text: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(text.encode("utf-8", "replace"), "text/html; charset=utf-8", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._head(status, {"Content-Type": kind}, len(body))
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, more: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **more, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
