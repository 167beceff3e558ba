"""`teeio device`: serve the accelerator's DSM on a socket, by the emulator's protocol or as SPDM over TCP."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from teeio.cli import algorithm_options as options
from teeio.cli.outcome import reported
from teeio.cli.transports import DEFAULT_PORT, TCP_PORT, Transport

REACHED = "How it is reached"
PRESENTED = "What it presents"
WRITTEN = "What is written"


def device(
    transport: Annotated[
        Transport, typer.Option(help="Transport binding.", rich_help_panel=REACHED)
    ] = Transport.PCI_DOE,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"Port to listen on, by default {DEFAULT_PORT}, over TCP {TCP_PORT}; 0 takes a free one.",
            rich_help_panel=REACHED,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=REACHED)] = "127.0.0.1",
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
            help="Connect to a requester that listens at --host and --port and ask it to begin (TCP).",
            rich_help_panel=REACHED,
        ),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Serve one connection, then exit.", rich_help_panel=REACHED)
    ] = False,
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
    identity: Annotated[
        Path | None,
        typer.Option(
            help="Use the identities in this folder: made by teeio identity, or the reference emulator's.",
            rich_help_panel=PRESENTED,
        ),
    ] = None,
    psk: options.PskOption = None,
    heartbeat: Annotated[
        int | None,
        typer.Option(min=0, max=255, help="Heartbeat period in seconds; 0 for none.", rich_help_panel=PRESENTED),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Make keys, certificates and answers reproducible.", rich_help_panel=PRESENTED),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Write the device's root certificates here (PEM).", rich_help_panel=WRITTEN)
    ] = None,
    keylog: Annotated[
        Path | None, typer.Option(help="Write session and IDE secrets here at the end.", rich_help_panel=WRITTEN)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.", rich_help_panel=WRITTEN)] = False,
) -> None:
    """Serve the device's DSM (SPDM, IDE_KM, TDISP); several can run at once on different ports.

    Example: teeio device --transport pci_doe --port 2323
    """
    from teeio.cli.choices import Choices
    from teeio.cli.recording import Recording
    from teeio.cli.serving import DeviceServer, make_offer
    from teeio.crypto.entropy import SeededEntropy, system_entropy

    console = Console(highlight=False, quiet=quiet)

    def say(text: str) -> None:
        # What a peer named is no markup.
        console.print(text, markup=False, soft_wrap=True)

    entropy = system_entropy if seed is None else SeededEntropy(seed.to_bytes(16, "little", signed=True))
    choices = Choices(
        versions=versions,
        asym=asym,
        pqc_asym=pqc_asym,
        base_hash=base_hash,
        dhe=dhe,
        kem=kem,
        aead=aead,
        measurement_hash=measurement_hash,
        capabilities=capabilities,
        clear_handshake=clear_handshake,
        data_transfer_size=data_transfer_size,
    )
    with reported(), Recording(keylog, None, transport) as recording:
        transport.check_tcp_only(plain=plain, role_inquiry=role_inquiry)
        offer = make_offer(
            choices, transport, entropy, time.time(), identity=identity, psks=psk or [], heartbeat=heartbeat
        )
        server = DeviceServer(transport, entropy, time.time(), recording, say, offer, plain=plain)
        if root is not None:
            root.write_text(server.roots_pem())
        at = transport.default_port if port is None else port
        serving = server.visit(host, at) if role_inquiry else server.serve(host, at, once=once)
        try:
            asyncio.run(serving)
        except KeyboardInterrupt:
            console.print("stopped")
