"""`teeio connect`: drive a responder through its trusted life, or through the operations that it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from teeio.cli.algorithm_options import NegotiationOptions
from teeio.cli.connect_options import ProofOptions, ProvisionOptions, ReachOptions, TdiOptions, WorkOptions
from teeio.cli.option_groups import grouped
from teeio.cli.outcome import reported
from teeio.transport.kinds import DEFAULT_PORT, TCP_PORT, Transport

WRITTEN = "What is written"


def _address(text: str, default_port: int) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        host, port = text, str(default_port)
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT, for example 127.0.0.1:{default_port}")
    return host, int(port)


@grouped
def connect(
    peer: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT",
            help=f"Where the responder listens; the port is {DEFAULT_PORT} by default, over TCP {TCP_PORT}.",
        ),
    ],
    reach: ReachOptions,
    work: WorkOptions,
    proof: ProofOptions,
    provision: ProvisionOptions,
    tdi: TdiOptions,
    negotiation: NegotiationOptions,
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
    from teeio.cli.choices import Choices
    from teeio.cli.connecting import make_client, make_plan, make_requester
    from teeio.cli.operations import Performance, parse_operations
    from teeio.cli.recording import Recording
    from teeio.cli.visits.life import visit_responder
    from teeio.cli.visits.visit import MessageCount, Visit
    from teeio.crypto.entropy import system_entropy
    from teeio.observe import fan_out
    from teeio.transport.carrier import Carrier

    transport = reach.transport
    host, port = _address(peer, transport.default_port)
    console = Console(stderr=as_json, highlight=False)

    def say(title: str, note: str) -> None:
        console.print(f"[green]✓[/] {title:<22} [dim]{escape(note)}[/]", soft_wrap=True)

    with reported():
        transport.check_tcp_only(plain=reach.plain, role_inquiry=reach.role_inquiry)
        choices = Choices.of(negotiation)
        wanted = () if work.operations is None else parse_operations(work.operations)
        plan = make_plan(choices, work, proof, provision, tdi)
        recording, messages = Recording(keylog, pcap, transport), MessageCount()
        requester = make_requester(
            choices,
            proof,
            provision,
            wanted,
            binding=transport.binding_of(reach.doe_connection_id),
            transport=transport,
            entropy=system_entropy,
            observer=fan_out((recording, messages)),
            peer=f"{host}:{port}",
        )
        client = make_client(host, port, reach)
        with recording, client as connected:
            carrier = Carrier(requester, connected.exchange, recording)
            visit = Visit(carrier, connected.exchange, plan, system_entropy, say, messages=messages)
            performance = Performance(visit)
            if work.operations is None:
                visit_responder(
                    visit,
                    discovery=transport is Transport.PCI_DOE,
                    with_sessions=transport.has_sessions,
                    with_streams=transport.has_streams,
                )
            else:
                performance.perform(wanted)
        if as_json:
            found = {"peer": f"{host}:{port}", "transport": transport.value, **visit.found}
            if wanted:
                found["operations"] = performance.log
            typer.echo(json.dumps(found, indent=2))
