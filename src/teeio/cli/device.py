"""`teeio device`: serve the accelerator's DSM on a socket, by the emulator's protocol or as SPDM over TCP."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from teeio.cli.algorithm_options import NegotiationOptions
from teeio.cli.device_options import (
    MutualOptions,
    PresentedOptions,
    ProvisioningOptions,
    ReachOptions,
    SessionOptions,
    TellingOptions,
)
from teeio.cli.option_groups import grouped
from teeio.cli.outcome import reported

WRITTEN = "What is written"


@grouped
def device(
    reach: ReachOptions,
    presented: PresentedOptions,
    negotiation: NegotiationOptions,
    sessions: SessionOptions,
    mutual: MutualOptions,
    provisioning: ProvisioningOptions,
    telling: TellingOptions,
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
    from teeio.cli.offering import make_offer
    from teeio.cli.recording import Recording
    from teeio.cli.serving import DeviceServer
    from teeio.crypto.entropy import SeededEntropy, system_entropy

    console = Console(highlight=False, quiet=quiet)

    def say(text: str) -> None:
        # What a peer named is no markup.
        console.print(text, markup=False, soft_wrap=True)

    transport, seed = reach.transport, presented.seed
    entropy = system_entropy if seed is None else SeededEntropy(seed.to_bytes(16, "little", signed=True))
    with reported(), Recording(keylog, None, transport) as recording:
        transport.check_tcp_only(plain=reach.plain, role_inquiry=reach.role_inquiry)
        offer = make_offer(
            Choices.of(negotiation),
            transport,
            entropy,
            time.time(),
            presented=presented,
            sessions=sessions,
            mutual=mutual,
            provisioning=provisioning,
            telling=telling,
            say=say,
        )
        server = DeviceServer(
            transport,
            entropy,
            time.time(),
            recording,
            say,
            offer,
            plain=reach.plain,
            doe_connections=reach.doe_connection_id or (),
        )
        if root is not None:
            root.write_text(server.roots_pem())
        at = transport.default_port if reach.port is None else reach.port
        serving = server.visit(reach.host, at) if reach.role_inquiry else server.serve(reach.host, at, once=reach.once)
        try:
            asyncio.run(serving)
        except KeyboardInterrupt:
            console.print("stopped")
