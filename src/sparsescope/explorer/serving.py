"""Serving the explorer until it is interrupted."""

import socket
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..errors import ConfigurationError
from .app import make_app
from .explored import Explored
from .security import guard_for

if TYPE_CHECKING:
    from uvicorn import Server

    from .live.lab import Lab

PATIENCE = 3
"""Seconds that requests under way have to end in when the server stops."""


class ExplorerServer:
    """A server that listens already: `url` says where. `run` answers until Ctrl-C, or `stop` from another thread.

    Port 0 takes a free one. Raises `ConfigurationError` for an address that cannot be had, and where other machines
    could come in without a token.

        with ExplorerServer(Explored("runs/demo"), None) as server:
            server.run()
    """

    def __init__(
        self,
        explored: Explored,
        lab: "Lab | None" = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
    ) -> None:
        guard_for(host, port, token)  # complains before anything is opened
        self._socket = _listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.guard = guard_for(host, self.port, token)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/" + (f"?token={quote(token, safe='')}" if token else "")
        self._server = _server(make_app(explored, self.guard, lab))

    def __enter__(self) -> "ExplorerServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def started(self) -> bool:
        """Whether requests are answered."""
        return self._server.started

    def run(self) -> None:
        """Answer requests, until Ctrl-C or `stop`; the requests under way are answered still."""
        try:
            self._server.run(sockets=[self._socket])
        except KeyboardInterrupt:
            return

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._server.should_exit = True


def _server(app: object) -> "Server":
    from uvicorn import Config, Server

    config = Config(
        app,  # type: ignore[arg-type]
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=PATIENCE,
    )
    return Server(config)


def _listening(host: str, port: int) -> socket.socket:
    """A socket at that address. Raises `ConfigurationError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns off Nagle's algorithm: answers in two pieces wait 40 ms else.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigurationError(
            f"port {port} of {host} cannot be used ({error}): choose another, or 0 for any that is free."
        ) from None
    return listening
