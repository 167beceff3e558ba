"""`teeio device`: serve the accelerator's DSM on the emulator's socket protocol."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from teeio.cli.outcome import reported
from teeio.cli.transports import DEFAULT_PORT, Transport


def device(
    transport: Annotated[Transport, typer.Option(help="Transport binding.")] = Transport.PCI_DOE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    once: Annotated[bool, typer.Option("--once", help="Serve one connection, then exit.")] = False,
    seed: Annotated[int | None, typer.Option(help="Make keys, certificates and answers reproducible.")] = None,
    root: Annotated[Path | None, typer.Option(help="Write the device's root certificates here (PEM).")] = None,
    keylog: Annotated[Path | None, typer.Option(help="Write session and IDE secrets here at the end.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Serve the device's DSM (SPDM, IDE_KM, TDISP); several can run at once on different ports.

    Example: teeio device --transport pci_doe --port 2323
    """
    from teeio.cli.recording import Recording
    from teeio.cli.serving import DeviceServer
    from teeio.crypto.entropy import SeededEntropy, system_entropy

    console = Console(highlight=False, quiet=quiet)
    entropy = system_entropy if seed is None else SeededEntropy(seed.to_bytes(16, "little", signed=True))
    with reported(), Recording(keylog, None, transport) as recording:
        server = DeviceServer(transport, entropy, time.time(), recording, console.print)
        if root is not None:
            root.write_text(server.roots_pem())
        try:
            asyncio.run(server.serve(host, port, once=once))
        except KeyboardInterrupt:
            console.print("stopped")
