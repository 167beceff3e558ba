"""Options of `teeio device` alone, by subject; what they mean is in `offering`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from teeio.cli.algorithm_options import SESSIONS, PskOption, device_class_option
from teeio.transport.kinds import DEFAULT_PORT, TCP_PORT, Transport

REACHED = "How it is reached"
PRESENTED = "What it presents"
REQUESTERS = "Which requesters it lets in (mutual authentication)"
PROVISIONED = "How it can be provisioned"
TOLD = "What it tells and asks besides"


class Mutual(Enum):
    """Values of --mutual: how a session authenticates the requester."""

    NONE = "none"
    PLAIN = "plain"
    ENCAPSULATED = "encapsulated"
    DIGESTS = "digests"


class Provisioned(Enum):
    """Values of --provisioning: when a change takes effect."""

    NOW = "now"
    RESET = "reset"


class MultiKey(Enum):
    """Values of --multi-key."""

    OFFERED = "offered"
    ONLY = "only"


class EndpointInfo(Enum):
    """Values of --endpoint-info."""

    UNSIGNED = "unsigned"
    SIGNED = "signed"


class Wanted(Enum):
    """Values of --ask: what the device asks of its requester."""

    KEY_UPDATE = "key-update"
    ENDPOINT_INFO = "endpoint-info"


@dataclass(frozen=True)
class ReachOptions:
    """How the device is reached."""

    transport: Annotated[Transport, typer.Option(help="Transport binding.", rich_help_panel=REACHED)] = (
        Transport.PCI_DOE
    )
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"Port to listen on, by default {DEFAULT_PORT}, over TCP {TCP_PORT}; 0 takes a free one.",
            rich_help_panel=REACHED,
        ),
    ] = None
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=REACHED)] = "127.0.0.1"
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
            help="Connect to a requester that listens at --host and --port and ask it to begin (TCP).",
            rich_help_panel=REACHED,
        ),
    ] = False
    doe_connection_id: Annotated[
        list[int] | None,
        typer.Option(
            help="Serve one more SPDM connection through the DOE mailbox, with this id (data object types 3, 4). Repeatable.",
            rich_help_panel=REACHED,
        ),
    ] = None
    once: Annotated[bool, typer.Option("--once", help="Serve one connection, then exit.", rich_help_panel=REACHED)] = (
        False
    )


@dataclass(frozen=True)
class PresentedOptions:
    """What the device presents itself with."""

    identity: Annotated[
        Path | None,
        typer.Option(
            help="Use the identities in this folder: made by teeio identity, or the reference emulator's.",
            rich_help_panel=PRESENTED,
            metavar="DIR",
        ),
    ] = None
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="Be known by public keys, not by certificates, and write them here (PEM).",
            rich_help_panel=PRESENTED,
            metavar="FILE",
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="Make keys, certificates and answers reproducible.", rich_help_panel=PRESENTED)
    ] = None


@dataclass(frozen=True)
class SessionOptions:
    """What sessions are like."""

    psk: PskOption = None
    heartbeat: Annotated[
        int | None,
        typer.Option(min=0, max=255, help="Heartbeat period in seconds; 0 for none.", rich_help_panel=SESSIONS),
    ] = None
    max_sessions: Annotated[
        int, typer.Option(min=1, max=255, help="Sessions of one connection at a time.", rich_help_panel=SESSIONS)
    ] = 4


@dataclass(frozen=True)
class MutualOptions:
    """Which requesters are let in."""

    mutual: Annotated[
        Mutual,
        typer.Option(
            help="How a session makes the requester prove its identity: none, plain (its chain is known), "
            "encapsulated, or digests (the same with GET_DIGESTS implied).",
            rich_help_panel=REQUESTERS,
            metavar="MODE",
        ),
    ] = Mutual.NONE
    basic_mutual: Annotated[
        bool,
        typer.Option("--basic-mutual", help="Ask for its identity after CHALLENGE too.", rich_help_panel=REQUESTERS),
    ] = False
    optional: Annotated[
        bool,
        typer.Option(
            "--mutual-optional", help="Let requesters in that cannot prove any identity.", rich_help_panel=REQUESTERS
        ),
    ] = False
    refuse_psk: Annotated[
        bool,
        typer.Option(
            "--refuse-psk",
            help="Refuse sessions on a pre-shared key: they prove no identity.",
            rich_help_panel=REQUESTERS,
        ),
    ] = False
    requester_anchor: Annotated[
        list[Path] | None,
        typer.Option(
            help="Root certificate trusted for requesters (DER or PEM). Repeatable.", rich_help_panel=REQUESTERS
        ),
    ] = None
    requester_chain: Annotated[
        Path | None,
        typer.Option(help="The requester's chain, known beforehand, for plain.", rich_help_panel=REQUESTERS),
    ] = None
    requester_key: Annotated[
        list[Path] | None,
        typer.Option(
            help="A public key of requesters that are known by theirs. Repeatable.", rich_help_panel=REQUESTERS
        ),
    ] = None
    requester_slot: Annotated[
        int, typer.Option(min=0, max=7, help="The requester's slot to prove.", rich_help_panel=REQUESTERS)
    ] = 0


@dataclass(frozen=True)
class ProvisioningOptions:
    """How the device can be provisioned."""

    provisioning: Annotated[
        Provisioned | None,
        typer.Option(
            help="Take GET_CSR, SET_CERTIFICATE and key pair requests; changes take effect at once or at a reset.",
            rich_help_panel=PROVISIONED,
        ),
    ] = None
    trusted_environment: Annotated[
        bool,
        typer.Option(
            "--trusted-environment",
            help="Let anybody change slot 0, and the others outside sessions, as in a factory.",
            rich_help_panel=PROVISIONED,
        ),
    ] = False
    multi_key: Annotated[
        MultiKey | None,
        typer.Option(help="Let certificate slots have keys of their own (1.3).", rich_help_panel=PROVISIONED),
    ] = None
    spare_keys: Annotated[
        int,
        typer.Option(min=0, max=64, help="Key pairs without a key, to generate one in.", rich_help_panel=PROVISIONED),
    ] = 0
    reset_on_disconnect: Annotated[
        bool,
        typer.Option(
            "--reset-on-disconnect",
            help="Reset the device when a peer goes, so that what waits for a reset takes effect.",
            rich_help_panel=PROVISIONED,
        ),
    ] = False


@dataclass(frozen=True)
class TellingOptions:
    """What the device tells and asks besides."""

    events: Annotated[
        bool, typer.Option("--events", help="Raise events that sessions can subscribe to (1.3).", rich_help_panel=TOLD)
    ] = False
    endpoint_info: Annotated[
        EndpointInfo | None, typer.Option(help="Tell the device class (1.3).", rich_help_panel=TOLD)
    ] = None
    device_class: Annotated[list[str] | None, device_class_option(TOLD)] = None
    mel: Annotated[
        bool, typer.Option("--mel", help="Keep a measurement extension log (1.3).", rich_help_panel=TOLD)
    ] = False
    update_firmware: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Update the firmware so many seconds after a peer connects: measurements change.",
            rich_help_panel=TOLD,
            metavar="SECONDS",
        ),
    ] = None
    delay: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=3600.0,
            help="Measure for so long after a peer connects; until then answer ResponseNotReady.",
            rich_help_panel=TOLD,
            metavar="SECONDS",
        ),
    ] = 0.0
    ask: Annotated[
        list[Wanted] | None,
        typer.Option(
            help="Ask the requester when it lets us: key-update, endpoint-info. Repeatable.",
            rich_help_panel=TOLD,
            metavar="WISH",
        ),
    ] = None
