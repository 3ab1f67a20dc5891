"""A free port, and a server on it until Ctrl+C."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from ..errors import RoteqError, UsageError

PORT, TRIED = 8420, 20
CONNECTIONS = 256
GRACE = 1  # s for what is on its way when the server stops


def listen(host: str, port: int | None = None) -> socket.socket:
    """A socket that listens already. port: None for 8420, or the next free one of 20; 0 for any free one.

    Raises: RoteqError if the port is in use or not allowed, UsageError if the host is none of this machine.
    """
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host: no address of this machine is called {host!r}; 127.0.0.1 is always one") from None
    for one in [port] if port is not None else range(PORT, PORT + TRIED + 1):
        try:
            found = socket.create_server((str(address), one), family=family, backlog=128)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # without it every answer takes 40 ms more
            return found
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"--host: {host} is no address of this machine; 127.0.0.1 is always one") from None
            if error.errno == errno.EACCES:
                raise RoteqError(f"--port: {one} is not allowed for this user; take one above 1023") from None
            if error.errno != errno.EADDRINUSE:
                raise RoteqError(f"--host, --port: {host}, {one}: {error.strerror}") from None
    if port is None:
        raise RoteqError(f"--port: {PORT} to {PORT + TRIED} are all in use; give another, or 0 for any free one")
    raise RoteqError(f"--port: {port} is in use; give another, 0 for any free one, or stop what runs there")


def is_open_to_others(listening: socket.socket) -> bool:
    return not _ip(listening).is_loopback


def is_for_all(listening: socket.socket) -> bool:
    """At every address of this machine, so that its names are not known."""
    return _ip(listening).is_unspecified


def _ip(listening: socket.socket) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(str(listening.getsockname()[0]).partition("%")[0])


def address_of(listening: socket.socket, host: str, token: str | None = None) -> str:
    """What to type into a browser. A server for all addresses is called by the name of the machine."""
    name = socket.gethostname() if is_for_all(listening) else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")


def serve(app: Starlette, listening: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Until Ctrl+C, which is passed on as KeyboardInterrupt. ready: called when it answers."""
    server_of(app, ready).run(sockets=[listening])


def server_of(app: Starlette, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """For an application of `create_app`."""
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config, ready)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What waits for the worker is told at once, else the connections would stay open until it is done."""
        await asyncio.to_thread(self.config.app.state.worker.stop)  # type: ignore[union-attr]
        await super().shutdown(sockets)
