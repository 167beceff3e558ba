"""What every protocol on a socket does: connect, send, receive a known number of bytes, listen and serve each connection."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable

from teeio.errors import DecodeError, TransportError

FrameHandler = Callable[[bytes], bytes | None]
"""Answers a transport frame, or has nothing to say."""

Accept = Callable[[], tuple[FrameHandler, Callable[[], None]]]
"""Makes the handler of a new connection, and what is called when the connection has ended, however it ended."""


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """Connect to a peer; `timeout` in seconds holds for every later wait too. Raises `TransportError`."""
    try:
        connection = socket.create_connection((host, port), timeout)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        raise TransportError(
            f"cannot connect to {host}:{port}: {reason}", remedy="start the responder first and check host and port"
        ) from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send_all(connection: socket.socket, data: bytes, where: str) -> None:
    """Send. Raises `TransportError` naming the peer `where`."""
    try:
        connection.sendall(data)
    except OSError as error:
        raise TransportError(f"{where} closed the connection: {error.strerror or error}") from error


def receive_exactly(connection: socket.socket, size: int, where: str) -> bytes:
    """Receive `size` bytes. Raises `TransportError` naming the peer `where`."""
    parts: list[bytes] = []
    while size:
        try:
            part = connection.recv(min(size, 1 << 16))
        except TimeoutError as error:
            raise TransportError(
                f"{where} did not answer in {connection.gettimeout():g} s", remedy="raise --timeout"
            ) from error
        except OSError as error:
            raise TransportError(f"{where} closed the connection: {error.strerror or error}") from error
        if not part:
            raise TransportError(
                f"{where} closed the connection", remedy="check that both sides use the same --transport"
            )
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Listener(ABC):
    """Listens, and serves a responder on each connection; how a connection is spoken on is `converse`."""

    def __init__(self, accept: Accept, *, once: bool = False) -> None:
        self._accept = accept
        self._once = once
        self._server: asyncio.Server | None = None
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: FrameHandler) -> None:
        """Speak with one peer until the conversation is over."""

    async def serve(self, host: str, port: int, ready: Callable[[int], None]) -> None:
        """Listen until cancelled, or with `once` until the first connection has ended. `ready` is told the port.

        Raises `TransportError` if the port cannot be had.
        """
        try:
            server = await asyncio.start_server(self._connected, host, port)
        except OSError as error:
            raise TransportError(
                f"cannot listen on {host}:{port}: {error.strerror}", remedy="choose another --port"
            ) from error
        self._server = server
        try:
            ready(server.sockets[0].getsockname()[1])
            await self._done.wait()
        finally:
            # Not `async with server`: leaving that waits for connections that only we can end.
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end; whatever the peer does, nothing of it stays behind."""
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handler, closed = self._accept()
        try:
            await self.converse(reader, writer, handler)
        except (asyncio.IncompleteReadError, ConnectionError, TransportError, DecodeError, asyncio.CancelledError):
            pass  # the peer vanished or talks something else: its connection ends, nothing stays behind
        finally:
            closed()
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._once and self._server is not None:
            if not self._server.is_serving():  # two came at the same time: the first one is the one
                writer.close()
                return
            self._server.close()
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            await self.serve_connection(reader, writer)
        finally:
            if task is not None:
                self._tasks.discard(task)
            if self._once:
                self._done.set()
