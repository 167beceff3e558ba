"""The socket protocol of the DMTF reference emulator ("platform port"), both sides.

A packet is three big-endian 32-bit words (command, transport, payload size) and the payload. A client says TEST "Client Hello!", the
server answers "Server Hello!", NORMAL packets then carry transport frames, and SHUTDOWN or CONTINUE ends the conversation.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from teeio.errors import TransportError
from teeio.transport.sockets import Accept, FrameHandler, Listener, connect, receive_exactly, send_all

MAX_PAYLOAD = 1 << 20
"""Largest payload taken from a peer: a DOE data object holds at most 2^18 dwords."""

HELLO_CLIENT = b"Client Hello!\0"
HELLO_SERVER = b"Server Hello!\0"
_HEADER = struct.Struct(">III")


class Command(IntEnum):
    """Commands of a packet."""

    NORMAL = 0x0001
    OOB_ENCAP_KEY_UPDATE = 0x8001
    OOB_ENCAP_ENDPOINT_INFO = 0x8002
    CONTINUE = 0xFFFD
    SHUTDOWN = 0xFFFE
    UNKNOWN = 0xFFFF
    TEST = 0xDEAD


class TransportType(IntEnum):
    """What the frames of NORMAL packets are."""

    NONE = 0
    MCTP = 1
    PCI_DOE = 2
    TCP = 3


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet."""

    command: int
    transport: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Give header and payload as one write, so that small packets do not wait for acknowledgements."""
        return _HEADER.pack(self.command, self.transport, len(self.payload)) + self.payload


def parse_header(data: bytes) -> tuple[int, int, int]:
    """Give command, transport and payload size. Raises `TransportError` for a size no packet has."""
    command, transport, size = _HEADER.unpack(data)
    if size > MAX_PAYLOAD:
        raise TransportError(
            f"the peer announces a packet of {size} bytes, at most {MAX_PAYLOAD} are allowed",
            remedy="check that the port speaks the emulator's socket protocol",
        )
    return command, transport, size


class PlatformPortServer(Listener):
    """Serves responders, one for each connection."""

    def __init__(self, transport: TransportType, accept: Accept, *, once: bool = False) -> None:
        super().__init__(accept, once=once)
        self._transport = transport

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: FrameHandler) -> None:
        """Answer packets until SHUTDOWN or CONTINUE."""
        while True:
            command, transport, size = parse_header(await reader.readexactly(_HEADER.size))
            payload = await reader.readexactly(size)
            if command == Command.TEST:
                answer: Packet | None = Packet(Command.TEST, transport, HELLO_SERVER)
            elif command in (Command.SHUTDOWN, Command.CONTINUE):
                answer = Packet(command, transport)
            elif transport != self._transport:
                return
            elif command == Command.NORMAL:
                frame = handler(payload)
                answer = None if frame is None else Packet(Command.NORMAL, transport, frame)
            else:
                answer = Packet(Command.UNKNOWN, transport)
            if answer is not None:
                writer.write(answer.encode())
                await writer.drain()
            if command in (Command.SHUTDOWN, Command.CONTINUE):
                return


class PlatformPortClient:
    """A blocking client for one conversation; use it as a context manager.

    `connection` is a socket that is connected already (see `transport.tcp.await_inquiry`).
    """

    def __init__(
        self,
        host: str,
        port: int,
        transport: TransportType,
        *,
        timeout: float = 10.0,
        connection: socket.socket | None = None,
    ) -> None:
        self._where = f"{host}:{port}"
        self._transport = transport
        self._socket = connection or connect(host, port, timeout)

    def __enter__(self) -> PlatformPortClient:
        try:
            if self._transport is not TransportType.NONE:  # the emulator greets on every transport but this one
                self._hello()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._send(Packet(Command.SHUTDOWN, self._transport))
            self._receive()
        except TransportError:
            pass  # it has gone already: there is nothing left to shut down
        self._socket.close()

    def _hello(self) -> None:
        self._send(Packet(Command.TEST, self._transport, HELLO_CLIENT))
        answer = self._receive()
        if answer.command != Command.TEST or not answer.payload.startswith(HELLO_SERVER[:12]):
            raise TransportError(
                f"{self._where} does not speak the emulator's socket protocol", remedy="check the port number"
            )

    def exchange(self, frame: bytes) -> bytes:
        """Send a transport frame and give the answer. Raises `TransportError`."""
        self._send(Packet(Command.NORMAL, self._transport, frame))
        answer = self._receive()
        if answer.command != Command.NORMAL or answer.transport != self._transport:
            raise TransportError(
                f"{self._where} answered with command {answer.command:#x}, transport {answer.transport}",
                remedy="use the same --transport on both sides",
            )
        return answer.payload

    def tell(self, command: Command, payload: bytes = b"") -> None:
        """Give the peer a command besides the frames, and wait until it has taken it. Raises `TransportError`."""
        self._send(Packet(command, self._transport, payload))
        answer = self._receive()
        if answer.command != command:
            raise TransportError(
                f"{self._where} answered {command.name} with command {answer.command:#x}",
                remedy="it does not know this command",
            )

    def _send(self, packet: Packet) -> None:
        send_all(self._socket, packet.encode(), self._where)

    def _receive(self) -> Packet:
        command, transport, size = parse_header(receive_exactly(self._socket, _HEADER.size, self._where))
        return Packet(command, transport, receive_exactly(self._socket, size, self._where))
