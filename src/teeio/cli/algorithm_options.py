"""Options that `teeio device` and `teeio connect` share: versions, algorithms, capabilities, sizes, how sessions are protected.

Names are those that teeio prints. A list is in order of preference; what is not given stays as it is by default. What the
options mean is in `choices`, apart from here so that `--help` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from teeio.spdm.constants import MIN_DATA_TRANSFER_SIZE

NEGOTIATION = "What is negotiated"
SESSIONS = "How sessions are protected"
"""Panels of --help."""

MAX_TRANSFER = 0xFF00
"""Largest DataTransferSize: a secured message counts its bytes with 16 bits, framing included."""

MAX_MESSAGE = 1 << 24
"""Largest MaxSPDMmsgSize that can be asked for here: more would only let a peer fill our memory."""


def _names(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, help=text, rich_help_panel=NEGOTIATION, metavar="NAME,...")
    return option


MAX_RECORDS = (1 << 63) - 1
"""Most that --records-per-key takes; without it a key lasts as long as DSP0277 lets it."""


class Order(Enum):
    """Values of --signature-order and --nonce-order."""

    BIG = "big"
    LITTLE = "little"
    EITHER = "either"


@dataclass(frozen=True)
class NegotiationOptions:
    """The shared options as they were given; None is the default."""

    versions: Annotated[
        str | None,
        typer.Option(
            "--ver",
            help="SPDM versions, 1.0 to 1.4; by default 1.3,1.2.",
            rich_help_panel=NEGOTIATION,
            metavar="X.Y,...",
        ),
    ] = None
    asym: Annotated[str | None, _names("--asym", "Signatures: ECDSA_P384, RSAPSS_3072, ED25519, ...")] = None
    pqc_asym: Annotated[
        str | None, _names("--pqc-asym", "Post-quantum signatures (1.4): ML_DSA_44, ML_DSA_65, ML_DSA_87.")
    ] = None
    req_asym: Annotated[str | None, _names("--req-asym", "Signatures of the requester, for mutual authentication.")] = (
        None
    )
    req_pqc_asym: Annotated[str | None, _names("--req-pqc-asym", "Post-quantum signatures of the requester.")] = None
    base_hash: Annotated[str | None, _names("--hash", "Base hashes: SHA_384, SHA3_256, ...")] = None
    dhe: Annotated[str | None, _names("--dhe", "Diffie-Hellman groups: SECP384R1, FFDHE_3072, ...")] = None
    kem: Annotated[str | None, _names("--kem", "Key encapsulation (1.4): ML_KEM_768, ML_KEM_1024.")] = None
    aead: Annotated[str | None, _names("--aead", "AES_256_GCM, AES_128_GCM, CHACHA20_POLY1305.")] = None
    measurement_hash: Annotated[str | None, _names("--meas-hash", "Measurement hashes: SHA_384, RAW_ONLY, ...")] = None
    capabilities: Annotated[
        str | None,
        typer.Option(
            help="Capability flags: +NAME adds, -NAME removes, names alone replace all.",
            rich_help_panel=NEGOTIATION,
            metavar="+NAME,-NAME",
        ),
    ] = None
    data_transfer_size: Annotated[
        int | None,
        typer.Option(
            min=MIN_DATA_TRANSFER_SIZE,
            max=MAX_TRANSFER,
            help="Bytes of a message taken at once; larger ones come in chunks.",
            rich_help_panel=NEGOTIATION,
        ),
    ] = None
    max_message_size: Annotated[
        int | None,
        typer.Option(
            min=MIN_DATA_TRANSFER_SIZE,
            max=MAX_MESSAGE,
            help="Bytes of the largest message, all its chunks together.",
            rich_help_panel=NEGOTIATION,
        ),
    ] = None
    secured_versions: Annotated[
        str | None,
        typer.Option(
            help="Versions of secured messages (DSP0277); by default 1.2,1.1,1.0.",
            rich_help_panel=SESSIONS,
            metavar="X.Y,...",
        ),
    ] = None
    clear_handshake: Annotated[
        bool,
        typer.Option(
            "--clear-handshake", help="Offer FINISH in the clear (HANDSHAKE_IN_THE_CLEAR).", rich_help_panel=SESSIONS
        ),
    ] = False
    mac_only: Annotated[
        bool,
        typer.Option(
            "--mac-only", help="Authenticate records without encrypting them (no ENCRYPT).", rich_help_panel=SESSIONS
        ),
    ] = False
    signature_order: Annotated[
        Order | None,
        typer.Option(
            help="Byte order of RSA and ECDSA signatures in SPDM 1.0 and 1.1; by default big.",
            rich_help_panel=NEGOTIATION,
        ),
    ] = None
    nonce_order: Annotated[
        Order | None,
        typer.Option(
            help="Byte order of sequence numbers in the nonces of secured messages 1.0 and 1.1; by default little.",
            rich_help_panel=SESSIONS,
        ),
    ] = None
    records_per_key: Annotated[
        int | None,
        typer.Option(
            min=4,
            max=MAX_RECORDS,
            metavar="N",
            help="Records that one key may protect: the requester updates the keys before, or the session ends.",
            rich_help_panel=SESSIONS,
        ),
    ] = None


def device_class_option(panel: str) -> typer.models.OptionInfo:
    """Give the option that names device classes, in a panel of --help."""
    option: typer.models.OptionInfo = typer.Option(
        help="Tell this device class as endpoint information, all in hex. Repeatable.",
        metavar="REGISTRY:VENDOR[:ID...]",
        rich_help_panel=panel,
    )
    return option


PskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--psk",
        help="Pre-shared key by its hint, in hex or from a file; \\0 and \\xNN stand for bytes. Repeatable.",
        rich_help_panel=SESSIONS,
        metavar="HINT=HEX|HINT=@FILE",
    ),
]
