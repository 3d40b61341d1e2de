"""The process: it listens, says where, and on SIGTERM or Ctrl-C answers what it accepted and ends."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from coterie.errors import UserError
from coterie.serving.app import Server, create_app
from coterie.serving.networks import Served
from coterie.serving.options import ServingOptions

DRAIN_SECONDS = 25.0
"""How long accepted requests have to be answered when the server is told to stop."""

_LOOK = 0.02  # seconds between two looks whether all are answered


def serve(served: Served, options: ServingOptions, host: str, port: int, say: Callable[[str], None]) -> None:
    """Answer until SIGTERM or Ctrl-C; then requests that were accepted are answered, and new ones refused.

    Args:
        served: The networks.
        options: The limits.
        host: The address to listen at.
        port: 0 for any that is free.
        say: Is told where the server listens, and that it stops.

    Raises:
        UserError: It cannot listen there.
    """
    listener = _listen(host, port)
    app = create_app(served, options)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    process = _Process(config, app.state.server, say)
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{listener.getsockname()[1]}/ (stop with Ctrl-C or SIGTERM)")
    asyncio.run(process.serve([listener]))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except socket.gaierror as error:
        raise UserError(f"⟨host {host}⟩: no such address; give the one to listen at, such as 127.0.0.1") from error
    except OSError as error:
        reason = error.strerror or "refused"
        raise UserError(f"⟨port {port}⟩: cannot listen at {host} ({reason}); choose another ⟨port⟩") from error
    return listener


class _Process(uvicorn.Server):
    """uvicorn's server, with signals that drain before it closes anything."""

    def __init__(self, config: uvicorn.Config, server: Server, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._coterie, self._say = server, say
        self._draining: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Inside, the first SIGTERM or SIGINT drains and the second ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def note(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._stop, number)

        before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int) -> None:
        if self._draining is not None:
            self.force_exit = self.should_exit = True
            return
        waiting = self._coterie.places.used
        self._say(f"{signal.Signals(number).name}: stops when {waiting} accepted images are answered")
        self._coterie.state = "stopping"
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Refuse new requests in words while accepted ones are answered; only then close the door."""
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN_SECONDS
        while self._coterie.places.used and loop.time() < until:
            await asyncio.sleep(_LOOK)
        self.should_exit = True
