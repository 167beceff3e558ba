"""`teeio connect`: drive a responder on the emulator's socket protocol through its trusted life."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from teeio.cli.outcome import reported
from teeio.cli.transports import DEFAULT_PORT, Transport
from teeio.errors import Misuse


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        host, port = text, str(DEFAULT_PORT)
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT, for example 127.0.0.1:{DEFAULT_PORT}")
    return host, int(port)


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise Misuse(f"--interface {text!r} is not a number", remedy="give it as 0xbeef or as 48879") from None


def _anchors(files: list[Path]) -> list[bytes]:
    from teeio.crypto.certificates.chain import load_anchor

    return [load_anchor(file.read_bytes(), file.name) for file in files]


def connect(
    peer: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the responder listens.")],
    transport: Annotated[Transport, typer.Option(help="Transport binding of both sides.")] = Transport.PCI_DOE,
    versions: Annotated[str, typer.Option("--ver", help="SPDM versions to offer, comma-separated.")] = "1.3,1.2",
    slot: Annotated[int, typer.Option(min=0, max=7, help="Certificate slot to authenticate.")] = 0,
    anchor: Annotated[
        list[Path] | None, typer.Option(help="Root certificate to trust (DER or PEM); may be repeated.")
    ] = None,
    interface: Annotated[str, typer.Option(help="FUNCTION_ID of the TDI, for example 0xbeef.")] = "0xbeef",
    ide_port: Annotated[int, typer.Option(min=0, max=255, help="PortIndex for IDE_KM.")] = 1,
    stream: Annotated[int, typer.Option(min=0, max=255, help="IDE stream to key and to lock with.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each answer.")] = 10.0,
    keylog: Annotated[Path | None, typer.Option(help="Write the session secrets here, for teeio decode.")] = None,
    pcap: Annotated[Path | None, typer.Option(help="Write the traffic here as a capture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the steps.")] = False,
) -> None:
    """Drive a responder: discovery, authentication, measurements, a session, IDE_KM, TDISP up to RUN and back.

    Example: teeio connect 127.0.0.1:2323 --transport pci_doe
    """
    from teeio.cli.connecting import Plan, Visit, visit_responder
    from teeio.cli.recording import Recording
    from teeio.crypto.entropy import system_entropy
    from teeio.spdm.requester import Requester
    from teeio.spdm.state import Settings
    from teeio.transport.carrier import Carrier
    from teeio.transport.platform_port import PlatformPortClient

    host, port = _address(peer)
    console = Console(stderr=as_json, highlight=False)
    with reported():
        plan = Plan(
            slot=slot,
            port_index=ide_port,
            stream_id=stream,
            function_id=_number(interface),
            anchors=_anchors(anchor or []),
            at_time=time.time(),
        )
        settings = Settings(versions=_versions(versions))
        recording = Recording(keylog, pcap, transport)
        with recording, PlatformPortClient(host, port, transport.type, timeout=timeout) as client:
            requester = Requester(
                transport.binding,
                settings,
                system_entropy,
                recording,
                peer=f"{host}:{port}",
            )
            visit = Visit(
                Carrier(requester, client.exchange, recording),
                client.exchange,
                plan,
                system_entropy,
                lambda title, note: console.print(f"[green]✓[/] {title:<22} [dim]{note}[/]", soft_wrap=True),
            )
            visit_responder(visit, discovery=transport is Transport.PCI_DOE)
        if as_json:
            typer.echo(json.dumps({"peer": f"{host}:{port}", "transport": transport.value, **visit.found}, indent=2))


def _versions(text: str) -> tuple[int, ...]:
    known = {f"{version >> 4}.{version & 15}": int(version) for version in (0x11, 0x12, 0x13, 0x14)}
    wanted = [part.strip() for part in text.split(",")]
    unknown = [part for part in wanted if part not in known]
    if unknown:
        raise Misuse(f"--ver {', '.join(unknown)}: not a known SPDM version", remedy=f"known are {', '.join(known)}")
    return tuple(sorted((known[part] for part in wanted), reverse=True))
