"""An asyncio requester on the emulator's socket protocol, so that one process can hold hundreds of connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from teeio.crypto.entropy import SeededEntropy
from teeio.flow import Action, Done, Flow, Send
from teeio.mctp import MctpBinding
from teeio.spdm import flows
from teeio.spdm.requester import Requester
from teeio.spdm.state import Settings
from teeio.transport.platform_port import HELLO_CLIENT, Command, Packet, TransportType, parse_header

HEADER_SIZE = 12


class Client:
    """One connection with a requester on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.requester = Requester(MctpBinding(), Settings(), SeededEntropy(f"client {number}".encode()))

    @classmethod
    async def connect(cls, port: int, number: int) -> Client:
        """Connect and greet."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port), number)
        await client.packet(Command.TEST, HELLO_CLIENT)
        return client

    async def packet(self, command: Command, payload: bytes = b"") -> bytes:
        """Send a packet and give the payload of the one that answers."""
        self.writer.write(Packet(command, TransportType.MCTP, payload).encode())
        answered, _, size = parse_header(await self.reader.readexactly(HEADER_SIZE))
        assert answered == command
        return await self.reader.readexactly(size)

    async def run(self, flow: Flow[Any]) -> Any:
        """Run a flow to its end."""
        clock = asyncio.get_running_loop().time
        action: Action = self.requester.start(flow, clock())
        try:
            while not isinstance(action, Done):
                if isinstance(action, Send):
                    action = self.requester.receive(await self.packet(Command.NORMAL, action.frame), clock())
                else:
                    await asyncio.sleep(max(0.0, action.until - clock()))
                    action = self.requester.wake(clock())
        finally:
            self.requester.cancel()
        return action.result

    async def authenticate(self) -> None:
        """Negotiate and read the chain."""
        await self.run(flows.connect(self.requester))
        digests = await self.run(flows.get_digests())
        await self.run(flows.get_certificate(self.requester))
        flows.check_digest(self.requester, digests)

    async def live(self, meanwhile: Callable[[], Any] | None = None) -> None:
        """Authenticate, open a session, use it, end it; `meanwhile` is awaited while the session is open."""
        await self.authenticate()
        session = await self.run(flows.key_exchange(self.requester))
        await self.run(flows.heartbeat(session))
        if meanwhile is not None:
            await meanwhile()
        await self.run(flows.get_measurements(self.requester, session=session.session_id, signed=False))
        await self.run(flows.end_session(self.requester, session))

    async def close(self) -> None:
        """Shut the conversation down."""
        await self.packet(Command.SHUTDOWN)
        self.writer.close()
