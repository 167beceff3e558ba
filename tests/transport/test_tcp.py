"""SPDM over TCP on real sockets: conversations, role inquiry both ways, and peers that do not behave."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from spdm_pair import Pair
from teeio.errors import TransportError
from teeio.spdm import flows
from teeio.tcp_binding import MessageType, TcpBinding, encode_notice
from teeio.transport.carrier import Carrier
from teeio.transport.platform_port import PlatformPortClient, PlatformPortServer, TransportType
from teeio.transport.sockets import Listener
from teeio.transport.tcp import TcpClient, TcpServer, await_inquiry, inquire
from transport.rough_peer import peer_that

BINDING = TcpBinding()
HELLO = BINDING.wrap(b"hello", secured=False)
INQUIRY = encode_notice(MessageType.ROLE_INQUIRY)


def echo(frame: bytes) -> bytes:
    return BINDING.wrap(BINDING.unwrap(frame)[0][::-1], secured=False)


@contextmanager
def served(handler: Callable[[bytes], bytes | None]) -> Iterator[tuple[int, list[str]]]:
    """Serve one connection on a free port in a thread; the list tells what happened to it."""
    told: list[str] = []
    ready, ports = threading.Event(), []

    def accept() -> tuple[Callable[[bytes], bytes | None], Callable[[], None]]:
        told.append("opened")
        return handler, lambda: told.append("closed")

    def listening(port: int) -> None:
        ports.append(port)
        ready.set()

    server = TcpServer(accept, once=True)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve("127.0.0.1", 0, listening)), daemon=True)
    thread.start()
    assert ready.wait(5)
    yield ports[0], told
    thread.join(5)
    assert not thread.is_alive()


def test_frames_go_both_ways() -> None:
    with served(echo) as (port, told), TcpClient("127.0.0.1", port) as client:
        assert BINDING.unwrap(client.exchange(HELLO)) == (b"olleh", False)
        assert BINDING.unwrap(client.exchange(BINDING.wrap(b"", secured=False))) == (b"", False)
    assert told == ["opened", "closed"]


def test_a_whole_conversation() -> None:
    pair = Pair()
    pair.requester.binding = pair.responder.binding = BINDING
    with served(pair.responder.respond) as (port, _), TcpClient("127.0.0.1", port) as client:
        run: Any = Carrier(pair.requester, client.exchange).run
        run(flows.connect(pair.requester))
        run(flows.get_certificate(pair.requester))
        run(flows.end_session(pair.requester, run(flows.key_exchange(pair.requester))))


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(INQUIRY, MessageType.CANNOT_BE_REQUESTER), (b"\x02\0\x01\x42", MessageType.NOT_SUPPORTED)],
    ids=["role inquiry", "unknown type"],
)
def test_a_responder_says_what_it_is_not(sent: bytes, answer: MessageType) -> None:
    with served(echo) as (port, _), TcpClient("127.0.0.1", port) as client:
        assert client.exchange(sent) == encode_notice(answer)
        assert BINDING.unwrap(client.exchange(HELLO)) == (b"olleh", False)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x01\0\x01\x05", b"\xff\xff\x01\x05abc"])
def test_garbage_ends_the_connection(garbage: bytes) -> None:
    with served(echo) as (port, told), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    assert told == ["opened", "closed"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak SPDM over TCP"),
        (lambda c: c.close(), "closed the connection"),
        (lambda c: c.sendall(b"\x06\0\x01"), "closed the connection"),
        (lambda c: threading.Event().wait(1), "did not answer in 0.3 s"),
    ],
    ids=["http", "closes", "half a header", "silent"],
)
def test_a_responder_that_does_not_behave(answer: Callable[[socket.socket], None], message: str) -> None:
    with (
        peer_that(answer) as port,
        TcpClient("127.0.0.1", port, timeout=0.3) as client,
        pytest.raises(TransportError, match=message),
    ):
        client.exchange(HELLO)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def _inquire_when_there(port: int, server: Listener) -> None:
    for _ in range(200):
        try:
            return await inquire("127.0.0.1", port, server)
        except TransportError:
            await asyncio.sleep(0.02)
    raise AssertionError("nobody listens")


@pytest.mark.parametrize("plain", [True, False])
def test_a_responder_that_connects_is_served_by_a_requester_that_listens(plain: bool) -> None:
    port, closed = free_port(), threading.Event()
    accept = lambda: (echo, closed.set)  # noqa: E731

    def respond() -> None:
        server = TcpServer(accept) if plain else PlatformPortServer(TransportType.TCP, accept)
        asyncio.run(_inquire_when_there(port, server))

    thread = threading.Thread(target=respond, daemon=True)
    thread.start()
    connection = await_inquiry("127.0.0.1", port, 5)
    client: Any = (
        TcpClient("127.0.0.1", port, connection=connection)
        if plain
        else PlatformPortClient("127.0.0.1", port, TransportType.TCP, connection=connection)
    )
    with client:
        assert BINDING.unwrap(client.exchange(HELLO)) == (b"olleh", False)
    thread.join(5)
    assert closed.is_set()


def test_a_peer_that_does_not_inquire_is_told() -> None:
    port, answers = free_port(), []

    def request() -> None:
        for _ in range(200):
            try:
                connection = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                threading.Event().wait(0.02)
        with connection:
            connection.sendall(HELLO[:4])
            answers.append(connection.recv(100))

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    with pytest.raises(TransportError, match="not with a Role-Inquiry"):
        await_inquiry("127.0.0.1", port, 5)
    thread.join(5)
    assert answers == [encode_notice(MessageType.CANNOT_BE_RESPONDER)]


def test_nobody_connects() -> None:
    with pytest.raises(TransportError, match=r"no responder connected .* in 0.1 s"):
        await_inquiry("127.0.0.1", free_port(), 0.1)


def test_nobody_listens() -> None:
    with pytest.raises(TransportError, match="cannot connect"):
        asyncio.run(inquire("127.0.0.1", free_port(), TcpServer(lambda: (echo, lambda: None))))
