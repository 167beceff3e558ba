"""Options of `teeio connect` alone, by subject; what they mean is in `connecting`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from teeio.cli.algorithm_options import PskOption, device_class_option
from teeio.transport.kinds import Transport

REACHED = "How it is reached"
DONE = "What is done"
PROVEN = "Who proves what"
PROVISIONED = "How it is provisioned"
TDI = "Which stream and interface"


class Model(Enum):
    """Values of --model."""

    DEVICE = "device"
    ALIAS = "alias"
    GENERIC = "generic"


@dataclass(frozen=True)
class ReachOptions:
    """How the responder is reached."""

    transport: Annotated[Transport, typer.Option(help="Transport binding of both sides.", rich_help_panel=REACHED)] = (
        Transport.PCI_DOE
    )
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="SPDM over TCP by DSP0287, without the emulator's framing.", rich_help_panel=REACHED
        ),
    ] = False
    role_inquiry: Annotated[
        bool,
        typer.Option(
            "--role-inquiry",
            help="Listen at HOST:PORT until a responder connects and asks for a requester (TCP).",
            rich_help_panel=REACHED,
        ),
    ] = False
    doe_connection_id: Annotated[
        int | None,
        typer.Option(
            help="Be the SPDM connection of this id through the DOE mailbox (data object types 3, 4).",
            rich_help_panel=REACHED,
        ),
    ] = None
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for each answer.", rich_help_panel=REACHED)
    ] = 10.0


@dataclass(frozen=True)
class WorkOptions:
    """What is done."""

    operations: Annotated[
        str | None,
        typer.Option(
            help="Do these, in this order; they are listed below. By default the whole trusted life.",
            rich_help_panel=DONE,
            metavar="NAME[:ARGUMENT],...",
        ),
    ] = None
    measurements: Annotated[
        str, typer.Option(help="Which to read: all, or indices.", rich_help_panel=DONE, metavar="all|INDEX,...")
    ] = "all"
    raw: Annotated[bool, typer.Option("--raw", help="Ask for raw measurements.", rich_help_panel=DONE)] = False
    unsigned: Annotated[
        bool,
        typer.Option("--no-signature", help="Ask for unsigned measurements, endpoint info.", rich_help_panel=DONE),
    ] = False
    session_policy: Annotated[
        int, typer.Option(min=0, max=255, help="SessionPolicy; 2 subscribes to all events.", rich_help_panel=DONE)
    ] = 0


@dataclass(frozen=True)
class ProofOptions:
    """Who proves what to whom."""

    anchor: Annotated[
        list[Path] | None,
        typer.Option(help="Root certificate to trust (DER or PEM). Repeatable.", rich_help_panel=PROVEN),
    ] = None
    crl: Annotated[
        list[Path] | None,
        typer.Option(
            help="Revocation list (DER or PEM) of each authority of the chain; with it nothing may be revoked or unknown. Repeatable.",
            rich_help_panel=PROVEN,
        ),
    ] = None
    slot: Annotated[
        int, typer.Option(min=0, max=7, help="Certificate slot to authenticate.", rich_help_panel=PROVEN)
    ] = 0
    responder_key: Annotated[
        list[Path] | None,
        typer.Option(
            help="The responder's public key, known beforehand in place of certificates (slot 0xFF). Repeatable.",
            rich_help_panel=PROVEN,
        ),
    ] = None
    identity: Annotated[
        Path | None,
        typer.Option(
            help="Our own identity, for mutual authentication: a folder of teeio identity or of the reference emulator.",
            rich_help_panel=PROVEN,
            metavar="DIR",
        ),
    ] = None
    public_key: Annotated[
        bool,
        typer.Option(
            "--public-key", help="Be known by the public key of --identity, not by its chain.", rich_help_panel=PROVEN
        ),
    ] = False
    device_class: Annotated[list[str] | None, device_class_option(PROVEN)] = None
    psk: PskOption = None


@dataclass(frozen=True)
class ProvisionOptions:
    """How the responder is provisioned."""

    multi_key: Annotated[
        bool,
        typer.Option("--multi-key", help="Take a multi-key connection where the responder offers one.",
                     rich_help_panel=PROVISIONED),
    ] = False  # fmt: skip
    key_pair: Annotated[
        int,
        typer.Option(min=0, max=255, help="KeyPairID, on a multi-key connection.", rich_help_panel=PROVISIONED),
    ] = 0
    model: Annotated[
        Model | None,
        typer.Option(help="Certificate model, expected and asked for.", rich_help_panel=PROVISIONED),
    ] = None


@dataclass(frozen=True)
class TdiOptions:
    """Which stream and which interface."""

    interface: Annotated[str, typer.Option(help="FUNCTION_ID of the TDI, for example 0xbeef.", rich_help_panel=TDI)] = (
        "0xbeef"
    )
    ide_port: Annotated[int, typer.Option(min=0, max=255, help="PortIndex for IDE_KM.", rich_help_panel=TDI)] = 1
    stream: Annotated[
        int, typer.Option(min=0, max=255, help="IDE stream to key and to lock with.", rich_help_panel=TDI)
    ] = 0
