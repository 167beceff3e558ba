"""What `teeio connect` and `teeio device` do when things are not as they should be; the good case is in interop."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from teeio.cli.app import app
from teeio.transport.platform_port import Command, Packet, TransportType

runner = CliRunner()


@pytest.fixture
def nonsense() -> Iterator[int]:
    """A peer that greets well and then answers every frame with garbage."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(Packet(Command.TEST, TransportType.PCI_DOE, b"Server Hello!\0").encode())
                while connection.recv(4096):
                    connection.sendall(Packet(Command.NORMAL, TransportType.PCI_DOE, b"\x01\x02\x03").encode())

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_a_closed_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = runner.invoke(app, ["connect", f"127.0.0.1:{unused.getsockname()[1]}"])
    assert result.exit_code == 4
    assert result.stderr.startswith("teeio: no connection: cannot connect")


def test_a_peer_that_answers_nonsense(nonsense: int) -> None:
    result = runner.invoke(app, ["connect", f"127.0.0.1:{nonsense}"])
    assert result.exit_code == 3
    assert "teeio: cannot be decoded: " in result.stderr
    assert "Traceback" not in result.output


def test_a_silent_peer() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        result = runner.invoke(app, ["connect", f"127.0.0.1:{server.getsockname()[1]}", "--timeout", "0.2"])
    assert result.exit_code == 4
    assert "did not answer in 0.2 s" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["connect", "127.0.0.1:99999"], "HOST:PORT"),
        (["connect", "127.0.0.1:1", "--ver", "1.9"], "not a known SPDM version"),
        (["connect", "127.0.0.1:1", "--interface", "vf0"], "is not a number"),
        (["connect", "127.0.0.1:1", "--transport", "carrier-pigeon"], "carrier-pigeon"),
        (["connect", "127.0.0.1:0", "--transport", "tcp"], "127.0.0.1:4194"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], message: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_an_anchor_that_is_no_certificate(tmp_path: Path) -> None:
    anchor = tmp_path / "anchor.pem"
    anchor.write_text("hello")
    result = runner.invoke(app, ["connect", "127.0.0.1:1", "--anchor", str(anchor)])
    assert result.exit_code == 3
    assert "anchor.pem" in result.stderr


def test_every_command_has_help_with_an_example() -> None:
    for command in ("run", "device", "connect", "decode"):
        result = runner.invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert f"Example: teeio {command}" in result.stdout


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = runner.invoke(app, ["device", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 4
    assert "choose another --port" in result.stderr
