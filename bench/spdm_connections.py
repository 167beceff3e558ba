"""Sessions a second of one responder process, by the number of connections; memory of a connection."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from figures import Figures

from load_client import Client
from teeio.crypto.entropy import SeededEntropy
from teeio.device.profiles import emulator_device
from teeio.mctp import MctpBinding
from teeio.spdm import flows
from teeio.transport.platform_port import PlatformPortServer, TransportType

CONNECTIONS = (1, 16, 256)
SESSIONS = 512


def serve() -> None:
    """Be the responder process: say the port, serve until standard input ends."""
    device = emulator_device(SeededEntropy(b"bench"), time.time())

    def accept() -> tuple[Callable[[bytes], bytes | None], Callable[[], None]]:
        responder = device.dsm.responder(MctpBinding())
        return (lambda frame: responder.respond(frame, time.monotonic())), lambda: device.dsm.disconnect(responder)

    async def main() -> None:
        server = asyncio.create_task(
            PlatformPortServer(TransportType.MCTP, accept).serve("127.0.0.1", 0, lambda port: print(port, flush=True))
        )
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.cancel()

    asyncio.run(main())


class Server:
    """The responder process, seen from outside."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self.process.stdout is None:
            raise SystemExit("no standard output")
        self.port = int(self.process.stdout.readline())

    def cpu(self) -> float:
        """Give its CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Give its resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(10)


async def sessions(server: Server, connections: int) -> tuple[float, float, float]:
    """Open and end sessions on so many connections at once; give wall and responder's CPU seconds of one, bytes of a connection."""
    warm = await Client.connect(server.port, -1)
    await warm.live()
    await warm.close()
    before = server.memory()
    clients = [await Client.connect(server.port, number) for number in range(connections)]
    await asyncio.gather(*(client.authenticate() for client in clients))
    opened = await asyncio.gather(*(client.run(flows.key_exchange(client.requester)) for client in clients))
    memory = (server.memory() - before) / connections
    for client, session in zip(clients, opened, strict=True):
        await client.run(flows.end_session(client.requester, session))
    each = max(1, SESSIONS // connections)

    async def work(client: Client) -> None:
        for _ in range(each):
            session = await client.run(flows.key_exchange(client.requester))
            await client.run(flows.end_session(client.requester, session))

    wall, used = time.perf_counter(), server.cpu()
    await asyncio.gather(*(work(client) for client in clients))
    count = each * connections
    result = (time.perf_counter() - wall) / count, (server.cpu() - used) / count, memory
    for client in clients:
        await client.close()
    return result


def connection_figures(figures: Figures) -> None:
    """Measure sessions a second of one responder process, by connections, and memory of a connection."""
    if not Path("/proc/self/statm").exists():
        figures.note("sessions a second: there is no /proc")
        return
    rates = {}
    for connections in CONNECTIONS:
        server = Server()
        try:
            wall, used, memory = asyncio.run(sessions(server, connections))
        finally:
            server.close()
        rates[connections] = 1 / used
        figures.measure(f"sessions, {connections} connections", 1 / wall, "a second, client beside it")
        figures.measure(f"sessions by CPU, {connections} connections", 1 / used, "a second of responder's CPU")
        if connections > 1:
            figures.measure(f"memory of a connection, of {connections}", memory / 1024, "KiB, one session open")
    for connections in CONNECTIONS[1:]:
        name = f"sessions by CPU with {connections} connections, to one connection"
        figures.ratio(name, rates[connections] / rates[1], "at least 0.8")


if __name__ == "__main__":
    serve()
