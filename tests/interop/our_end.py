"""Serving one connection of ours in a thread, for a peer that is another process."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from teeio.cli.serving import discovery
from teeio.cli.transports import Transport
from teeio.transport.platform_port import PlatformPortServer

Handler = Callable[[bytes], bytes | None]


@contextmanager
def serving(transport: Transport, respond: Handler) -> Iterator[int]:
    """Answer frames with `respond`, and DOE discovery besides, on the port given; what `respond` raises comes out at the end."""
    ready, ports, raised = threading.Event(), [], []

    def handle(frame: bytes) -> bytes | None:
        if transport is Transport.PCI_DOE and frame[:4] == b"\x01\x00\x00\x00":
            return discovery(frame)
        return respond(frame)

    def serve() -> None:
        def listening(port: int) -> None:
            ports.append(port)
            ready.set()

        server = PlatformPortServer(transport.type, lambda: (handle, lambda: None), once=True)
        try:
            asyncio.run(server.serve("127.0.0.1", 0, listening))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(5)
    yield ports[0]
    thread.join(20)
    assert not thread.is_alive()
    assert not raised
