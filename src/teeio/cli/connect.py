"""`teeio connect`: drive a responder through its trusted life, or through the operations that it is given."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from teeio.cli import algorithm_options as options
from teeio.cli.outcome import reported
from teeio.cli.transports import DEFAULT_PORT, TCP_PORT, Transport
from teeio.errors import Misuse

if TYPE_CHECKING:
    from teeio.cli.choices import Choices
    from teeio.spdm.state import Settings
    from teeio.transport.platform_port import PlatformPortClient
    from teeio.transport.tcp import TcpClient

REACHED = "How it is reached"
DONE = "What is done"
WRITTEN = "What is written"


def _address(text: str, default_port: int) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        host, port = text, str(default_port)
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT, for example 127.0.0.1:{default_port}")
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
    peer: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT",
            help=f"Where the responder listens; the port is {DEFAULT_PORT} by default, over TCP {TCP_PORT}.",
        ),
    ],
    transport: Annotated[
        Transport, typer.Option(help="Transport binding of both sides.", rich_help_panel=REACHED)
    ] = Transport.PCI_DOE,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="SPDM over TCP by DSP0287, without the emulator's framing.", rich_help_panel=REACHED
        ),
    ] = False,
    role_inquiry: Annotated[
        bool,
        typer.Option(
            "--role-inquiry",
            help="Listen at HOST:PORT until a responder connects and asks for a requester (TCP).",
            rich_help_panel=REACHED,
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for each answer.", rich_help_panel=REACHED)
    ] = 10.0,
    operations: Annotated[
        str | None,
        typer.Option(
            help="Do these, in this order: discovery, negotiate, digests, certificate, challenge, measurements, mel, "
            "endpoint-info, session, psk, heartbeat, key-update, ide, tdisp, ide-stop, end. By default the whole trusted life.",
            rich_help_panel=DONE,
            metavar="NAME,...",
        ),
    ] = None,
    slot: Annotated[
        int, typer.Option(min=0, max=7, help="Certificate slot to authenticate.", rich_help_panel=DONE)
    ] = 0,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(help="Root certificate to trust (DER or PEM); may be repeated.", rich_help_panel=DONE),
    ] = None,
    measurements: Annotated[
        str, typer.Option(help="Which to read: all, or indices.", rich_help_panel=DONE, metavar="all|INDEX,...")
    ] = "all",
    raw: Annotated[bool, typer.Option("--raw", help="Ask for raw measurements.", rich_help_panel=DONE)] = False,
    unsigned: Annotated[
        bool, typer.Option("--no-signature", help="Ask for unsigned measurements.", rich_help_panel=DONE)
    ] = False,
    interface: Annotated[
        str, typer.Option(help="FUNCTION_ID of the TDI, for example 0xbeef.", rich_help_panel=DONE)
    ] = "0xbeef",
    ide_port: Annotated[int, typer.Option(min=0, max=255, help="PortIndex for IDE_KM.", rich_help_panel=DONE)] = 1,
    stream: Annotated[
        int, typer.Option(min=0, max=255, help="IDE stream to key and to lock with.", rich_help_panel=DONE)
    ] = 0,
    versions: options.VersionOption = None,
    asym: options.AsymOption = None,
    pqc_asym: options.PqcAsymOption = None,
    base_hash: options.HashOption = None,
    dhe: options.DheOption = None,
    kem: options.KemOption = None,
    aead: options.AeadOption = None,
    measurement_hash: options.MeasurementHashOption = None,
    capabilities: options.CapabilitiesOption = None,
    clear_handshake: options.ClearHandshakeOption = False,
    data_transfer_size: options.TransferSizeOption = None,
    psk: options.PskOption = None,
    keylog: Annotated[
        Path | None,
        typer.Option(help="Write the session secrets here, for teeio decode.", rich_help_panel=WRITTEN),
    ] = None,
    pcap: Annotated[
        Path | None, typer.Option(help="Write the traffic here as a capture.", rich_help_panel=WRITTEN)
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document instead of the steps.", rich_help_panel=WRITTEN),
    ] = False,
) -> None:
    """Drive a responder: discovery, authentication, measurements, a session, IDE_KM, TDISP up to RUN and back.

    Example: teeio connect 127.0.0.1:2323 --transport pci_doe
    """
    from teeio.cli.choices import Choices, named_measurement_hashes, parse_psks
    from teeio.cli.connecting import Plan, Visit, visit_responder
    from teeio.cli.operations import Performance, parse_measurements, parse_operations
    from teeio.cli.recording import Recording
    from teeio.crypto.entropy import system_entropy
    from teeio.spdm.requester import Requester
    from teeio.transport.carrier import Carrier

    host, port = _address(peer, transport.default_port)
    console = Console(stderr=as_json, highlight=False)
    choices = Choices(
        versions=versions,
        asym=asym,
        pqc_asym=pqc_asym,
        base_hash=base_hash,
        dhe=dhe,
        kem=kem,
        aead=aead,
        capabilities=capabilities,
        clear_handshake=clear_handshake,
        data_transfer_size=data_transfer_size,
    )
    with reported():
        transport.check_tcp_only(plain=plain, role_inquiry=role_inquiry)
        wanted = None if operations is None else parse_operations(operations)
        psks = parse_psks(psk or [])
        if len(psks) > 1:
            raise Misuse(f"--psk: {len(psks)} keys for one responder", remedy="give one HINT=HEX")
        plan = Plan(
            slot=slot,
            port_index=ide_port,
            stream_id=stream,
            function_id=_number(interface),
            anchors=_anchors(anchor or []),
            at_time=time.time(),
            psk=next(iter(psks.items()), None),
            measurements=parse_measurements(measurements),
            raw=raw,
            signed=not unsigned,
            measurement_hashes=named_measurement_hashes(measurement_hash),
        )
        settings = _settings(choices, transport, with_psk=bool(psks))
        recording = Recording(keylog, pcap, transport)
        with recording, _client(host, port, transport, timeout, plain, role_inquiry) as client:
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
                lambda title, note: console.print(f"[green]✓[/] {title:<22} [dim]{escape(note)}[/]", soft_wrap=True),
            )
            performance = Performance(visit)
            if wanted is None:
                visit_responder(
                    visit,
                    discovery=transport is Transport.PCI_DOE,
                    sessions=transport.has_sessions,
                    streams=transport.has_streams,
                )
            else:
                performance.perform(wanted)
        if as_json:
            found = {"peer": f"{host}:{port}", "transport": transport.value, **visit.found}
            if wanted is not None:
                found["operations"] = performance.log
            typer.echo(json.dumps(found, indent=2))


def _settings(choices: Choices, transport: Transport, *, with_psk: bool) -> Settings:
    from teeio.cli.choices import check_requester_flags
    from teeio.spdm.constants import Capability
    from teeio.spdm.state import Settings

    settings = transport.limited(choices.applied(Settings(), Capability.PSK if with_psk else Capability(0)))
    check_requester_flags(settings.capabilities)
    return settings


def _client(
    host: str, port: int, transport: Transport, timeout: float, plain: bool, role_inquiry: bool
) -> AbstractContextManager[PlatformPortClient | TcpClient]:
    from teeio.transport.platform_port import PlatformPortClient
    from teeio.transport.tcp import TcpClient, await_inquiry

    connection = await_inquiry(host, port, timeout) if role_inquiry else None
    if plain:
        return TcpClient(host, port, timeout=timeout, connection=connection)
    return PlatformPortClient(host, port, transport.type, timeout=timeout, connection=connection)
