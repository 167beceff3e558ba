import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from spdm_pair import Pair, PlainBinding
from teeio.errors import TransportError
from teeio.spdm import flows
from teeio.transport.carrier import Carrier
from teeio.transport.platform_port import (
    MAX_PAYLOAD,
    Command,
    Packet,
    PlatformPortClient,
    PlatformPortServer,
    TransportType,
    parse_header,
)
from transport.rough_peer import peer_that


@contextmanager
def served(handler: Callable[[bytes], bytes | None], *, once: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Serve on a free port in a thread; the list tells what happened to connections."""
    told: list[str] = []
    ready = threading.Event()
    port = 0

    def accept() -> tuple[Callable[[bytes], bytes | None], Callable[[], None]]:
        told.append("opened")
        return handler, lambda: told.append("closed")

    async def main() -> None:
        nonlocal stop, loop
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def listening(actual: int) -> None:
            nonlocal port
            port = actual
            ready.set()

        server = asyncio.create_task(
            PlatformPortServer(TransportType.MCTP, accept, once=once).serve("127.0.0.1", 0, listening)
        )
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({server, waiting}, return_when=asyncio.FIRST_COMPLETED)
        server.cancel()
        waiting.cancel()

    stop: asyncio.Event
    loop: asyncio.AbstractEventLoop
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(5)
    try:
        yield port, told
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        assert not thread.is_alive()


def test_a_conversation_carries_frames_both_ways() -> None:
    with served(lambda frame: frame[::-1]) as (port, told):
        for _ in range(2):
            with PlatformPortClient("127.0.0.1", port, TransportType.MCTP) as client:
                assert client.exchange(b"abc") == b"cba"
                assert client.exchange(b"") == b""
    assert told == ["opened", "closed"] * 2


def test_once_ends_the_server_after_one_connection() -> None:
    with (
        served(lambda frame: frame, once=True) as (port, _),
        PlatformPortClient("127.0.0.1", port, TransportType.MCTP) as client,
    ):
        assert client.exchange(b"x") == b"x"


def test_a_command_that_the_peer_does_not_know_is_told() -> None:
    with (
        served(lambda frame: frame, once=True) as (port, _),
        PlatformPortClient("127.0.0.1", port, TransportType.MCTP) as client,
    ):
        with pytest.raises(TransportError, match="answered OOB_ENCAP_KEY_UPDATE with command 0xffff"):
            client.tell(Command.OOB_ENCAP_KEY_UPDATE, bytes(4))
        client.tell(Command.TEST)
        assert client.exchange(b"frame") == b"frame"


def test_the_wrong_transport_is_told() -> None:
    with (
        served(lambda frame: frame) as (port, _),
        PlatformPortClient("127.0.0.1", port, TransportType.PCI_DOE) as client,
        pytest.raises(TransportError, match="closed the connection"),
    ):
        client.exchange(b"x")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak|announces a packet"),
        (lambda c: c.sendall(Packet(Command.TEST, 1, b"Hello?").encode()), "does not speak"),
        (lambda c: c.close(), "closed the connection"),
        (lambda c: c.sendall(b"\0" * 5), "closed the connection"),
        (lambda c: threading.Event().wait(1), "did not answer in 0.3 s"),
    ],
    ids=["http", "other hello", "closes", "half a header", "silent"],
)
def test_a_peer_that_is_no_emulator(answer: Callable[[socket.socket], None], message: str) -> None:
    with peer_that(answer) as port, pytest.raises(TransportError, match=message):
        with PlatformPortClient("127.0.0.1", port, TransportType.MCTP, timeout=0.3):
            pass


def test_a_closed_port_is_told_with_what_to_do() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(TransportError, match=r"cannot connect to 127\.0\.0\.1") as caught:
            PlatformPortClient("127.0.0.1", unused.getsockname()[1], TransportType.MCTP)
    assert "start the responder" in caught.value.remedy


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = PlatformPortServer(TransportType.MCTP, lambda: (lambda frame: frame, lambda: None))
        with pytest.raises(TransportError, match="cannot listen"):
            asyncio.run(server.serve("127.0.0.1", taken.getsockname()[1], lambda port: None))


def test_an_oversized_packet_is_refused_before_it_is_read() -> None:
    with pytest.raises(TransportError, match="at most"):
        parse_header((1).to_bytes(4, "big") + (1).to_bytes(4, "big") + (MAX_PAYLOAD + 1).to_bytes(4, "big"))


def test_peers_that_stall_flood_or_vanish_cost_the_others_nothing() -> None:
    with served(lambda frame: frame) as (port, told):
        stalled = socket.create_connection(("127.0.0.1", port))
        stalled.sendall(b"\0\0\0\1\0\0")
        flooding = socket.create_connection(("127.0.0.1", port))
        flooding.sendall(b"\0\0\0\1\0\0\0\1\xff\xff\xff\xff" + bytes(1 << 16))
        vanished = socket.create_connection(("127.0.0.1", port))
        vanished.close()
        with PlatformPortClient("127.0.0.1", port, TransportType.MCTP) as client:
            assert client.exchange(b"still here") == b"still here"
        stalled.close()
        flooding.close()
    assert told.count("opened") == told.count("closed") == 4


def test_a_carrier_runs_flows_over_a_transport() -> None:
    pair = Pair()
    carrier = Carrier(pair.requester, lambda frame: pair.responder.respond(frame) or b"")
    assert carrier.run(flows.connect(pair.requester)).version == 0x12
    binding = PlainBinding()
    broken = Carrier(pair.requester, lambda frame: binding.wrap(b"\x12\x7f\x07\x81", secured=False))
    for _ in range(2):  # a failed flow leaves the requester ready for the next
        with pytest.raises(Exception, match="UNSUPPORTED_REQUEST"):
            broken.run(flows.get_digests())
