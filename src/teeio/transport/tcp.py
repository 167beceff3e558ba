"""SPDM over TCP as DSP0287 has it, plain on a socket: frames one after the other, nothing around them.

Either side may connect. Whoever listens is the requester or the responder as it was set up; a responder that connects says so
with a Role-Inquiry first, and a peer that asks us for a role that we do not have is told.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from teeio.errors import DecodeError, TransportError
from teeio.tcp_binding import HEADER_SIZE, MessageType, decode_frame, encode_notice, frame_size
from teeio.transport.sockets import FrameHandler, Listener, connect, receive_exactly, send_all

_INQUIRY = encode_notice(MessageType.ROLE_INQUIRY)


class TcpClient:
    """A blocking requester's end of one connection; use it as a context manager.

    `connection` is a socket that is connected already (see `await_inquiry`).
    """

    def __init__(self, host: str, port: int, *, timeout: float = 10.0, connection: socket.socket | None = None) -> None:
        self._where = f"{host}:{port}"
        self._socket = connection or connect(host, port, timeout)

    def __enter__(self) -> TcpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def exchange(self, frame: bytes) -> bytes:
        """Send a frame and give the one that answers. Raises `TransportError`."""
        send_all(self._socket, frame, self._where)
        header = receive_exactly(self._socket, HEADER_SIZE, self._where)
        try:
            size = frame_size(header)
        except DecodeError as error:
            raise TransportError(
                f"{self._where} does not speak SPDM over TCP: {error}", remedy="check the port number and --plain"
            ) from None
        return header + receive_exactly(self._socket, size - HEADER_SIZE, self._where)


class TcpServer(Listener):
    """Serves responders, one for each connection."""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: FrameHandler) -> None:
        """Answer frames until the peer goes away. Raises `DecodeError` at bytes that are no frame."""
        while True:
            header = await reader.readexactly(HEADER_SIZE)
            frame = header + await reader.readexactly(frame_size(header) - HEADER_SIZE)
            answer = _refusal(frame) or handler(frame)
            if answer is not None:
                writer.write(answer)
                await writer.drain()


def _refusal(frame: bytes) -> bytes | None:
    """Answer what a responder does not take: the wish that it be the requester, and message types that nobody knows."""
    kind = decode_frame(frame).message_type
    if kind == MessageType.ROLE_INQUIRY:
        return encode_notice(MessageType.CANNOT_BE_REQUESTER)
    known = (MessageType.SPDM, MessageType.SECURED_SPDM)
    # An error is never answered with an error: two sides that do so would not stop.
    return None if kind in known or kind >= MessageType.TOO_LARGE else encode_notice(MessageType.NOT_SUPPORTED)


def await_inquiry(host: str, port: int, timeout: float) -> socket.socket:
    """Listen until a responder connects and sends its Role-Inquiry; give the connection. Raises `TransportError`."""
    try:
        with socket.create_server((host, port)) as listener:
            listener.settimeout(timeout)
            connection, peer = listener.accept()
    except TimeoutError:
        raise TransportError(
            f"no responder connected to {host}:{port} in {timeout:g} s",
            remedy="start the responder, or raise --timeout",
        ) from None
    except OSError as error:
        raise TransportError(
            f"cannot listen on {host}:{port}: {error.strerror}", remedy="choose another port"
        ) from error
    connection.settimeout(timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    where = f"{peer[0]}:{peer[1]}"
    try:
        greeting = receive_exactly(connection, HEADER_SIZE, where)
        if greeting != _INQUIRY:
            with suppress(TransportError):
                send_all(connection, encode_notice(MessageType.CANNOT_BE_RESPONDER), where)
            raise TransportError(f"{where} began with {greeting.hex(' ')}, not with a Role-Inquiry (DSP0287)")
    except BaseException:
        connection.close()
        raise
    return connection


async def inquire(host: str, port: int, server: Listener) -> None:
    """Connect to a requester that listens, send a Role-Inquiry, and serve it as `server` does. Raises `TransportError`."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise TransportError(
            f"cannot connect to {host}:{port}: {error.strerror or error}", remedy="start the requester first"
        ) from error
    writer.write(_INQUIRY)
    await server.serve_connection(reader, writer)
