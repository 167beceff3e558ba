"""Many connections to one served responder: all complete, and peers that stall, flood or vanish cost the others nothing."""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from load_client import Client
from teeio.crypto.entropy import SeededEntropy
from teeio.device.dsm import Dsm
from teeio.device.profiles import emulator_device
from teeio.mctp import MctpBinding
from teeio.observe import Event, StateChanged
from teeio.spdm import flows
from teeio.spdm.responder import Responder
from teeio.transport.platform_port import Command, Packet, PlatformPortServer, TransportType

NOW = 1.8e9


@dataclass
class Served:
    """A device's DSM on a socket, with what happened to its connections."""

    port: int = 0
    opened: int = 0
    closed: int = 0
    events: list[Event] = field(default_factory=list)
    dsm: Dsm = field(default_factory=lambda: emulator_device(SeededEntropy(b"load"), NOW).dsm)

    def accept(self) -> tuple[Callable[[bytes], bytes | None], Callable[[], None]]:
        self.opened += 1
        clock = asyncio.get_running_loop().time
        responder = self.dsm.responder(MctpBinding(), observer=self.events.append)

        def ended() -> None:
            self.closed += 1
            self.dsm.disconnect(responder)

        return (lambda frame: responder.respond(frame, clock())), ended

    def ended_sessions(self) -> tuple[int, int]:
        """How many sessions were established, and how many ended."""
        states = [event for event in self.events if isinstance(event, StateChanged)]
        begun = sum(event.new == "established" for event in states)
        return begun, sum(event.new == "ended" and event.old == "established" for event in states)

    async def settle(self) -> None:
        """Wait until every connection that was opened has been closed."""
        for _ in range(500):
            if self.opened == self.closed:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.opened - self.closed} of {self.opened} connections stayed behind")


def alive() -> int:
    """How many responders there are in the process."""
    gc.collect()
    return sum(isinstance(found, Responder) for found in gc.get_objects())


def serving(story: Callable[[Served], Any]) -> Served:
    """Play a story against a served device; no connection and no responder of it may stay behind."""

    async def main() -> Served:
        served = Served()
        ready = asyncio.Event()

        def listening(port: int) -> None:
            served.port = port
            ready.set()

        server = asyncio.create_task(
            PlatformPortServer(TransportType.MCTP, served.accept).serve("127.0.0.1", 0, listening)
        )
        await ready.wait()
        before = alive()
        try:
            await asyncio.wait_for(story(served), 120)
            await served.settle()
            assert alive() == before, "a responder outlives its connection"
        finally:
            server.cancel()
        return served

    return asyncio.run(main())


async def stall(served: Served, over: asyncio.Event) -> None:
    """Say half of a packet, and nothing more until everybody else is done."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(Packet(Command.NORMAL, 1, bytes(100)).encode()[:40])
    await over.wait()
    writer.close()


async def stall_in_handshake(served: Served, number: int, over: asyncio.Event) -> None:
    """Begin a session and never finish it."""
    client = await Client.connect(served.port, number)
    await client.authenticate()
    action = client.requester.start(flows.key_exchange(client.requester))
    await client.packet(Command.NORMAL, action.frame)  # type: ignore[union-attr]
    client.requester.cancel()
    await over.wait()
    client.writer.close()


async def flood(served: Served, over: asyncio.Event) -> None:
    """Send requests without ever reading an answer, until the others are done or the server has had enough."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    packets = Packet(Command.NORMAL, 1, b"\x05\x10\x84\0\0").encode() * 64
    try:
        while not over.is_set():
            writer.write(packets)
            try:
                await asyncio.wait_for(writer.drain(), 0.05)
            except TimeoutError:
                await asyncio.sleep(0.02)  # the server reads no further: it waits for us to read
            if writer.transport.get_write_buffer_size() > 1 << 20:
                await over.wait()
    except ConnectionError:
        return
    writer.transport.abort()


async def announce_too_much(served: Served) -> None:
    """Announce a packet of 4 GiB and send of it what goes."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(b"\0\0\0\1\0\0\0\1\xff\xff\xff\xff" + bytes(1 << 16))
        await writer.drain()
    except ConnectionError:
        return
    writer.close()


async def vanish(served: Served, number: int) -> None:
    """Break off in the middle of a session, without a word."""
    client = await Client.connect(served.port, number)
    await client.authenticate()
    await client.run(flows.key_exchange(client.requester))
    client.writer.transport.abort()


@pytest.mark.slow
def test_256_connections_complete_at_once_with_bad_peers_among_them() -> None:
    count, bad = 256, 8
    together = asyncio.Event()
    waiting = 0

    async def all_open() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == count:
            together.set()
        await together.wait()

    async def live(served: Served, number: int) -> None:
        client = await Client.connect(served.port, number)
        await client.live(all_open)
        await client.close()

    async def story(served: Served) -> None:
        over = asyncio.Event()
        troubles = [asyncio.create_task(stall(served, over)) for _ in range(bad)]
        troubles += [asyncio.create_task(stall_in_handshake(served, 1000 + n, over)) for n in range(bad)]
        troubles += [asyncio.create_task(flood(served, over)) for _ in range(2)]
        troubles += [asyncio.create_task(announce_too_much(served)) for _ in range(bad)]
        troubles += [asyncio.create_task(vanish(served, 2000 + n)) for n in range(bad)]
        try:
            await asyncio.gather(*(live(served, number) for number in range(count)))
        finally:
            over.set()
        await asyncio.gather(*troubles)

    served = serving(story)
    assert waiting == count
    assert served.opened == served.closed == count + 4 * bad + 2
    assert served.ended_sessions() == (count + bad, count + bad)


def test_bad_peers_leave_nothing_behind() -> None:
    async def story(served: Served) -> None:
        over = asyncio.Event()
        troubles = [
            asyncio.create_task(task)
            for task in (
                stall(served, over),
                stall_in_handshake(served, 1, over),
                announce_too_much(served),
                vanish(served, 2),
            )
        ]
        client = await Client.connect(served.port, 3)
        await client.live()
        await client.close()
        over.set()
        await asyncio.gather(*troubles)

    served = serving(story)
    assert served.opened == served.closed == 5
    assert served.ended_sessions() == (2, 2)
