"""Options that `teeio device` and `teeio connect` share: versions, algorithms, capabilities, sizes, keys.

Names are those that teeio prints. A list is in order of preference; what is not given stays as it is by default. What the
options mean is in `choices`, apart from here so that `--help` is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from teeio.spdm.constants import MIN_DATA_TRANSFER_SIZE

NEGOTIATION = "What is negotiated"
"""Panel of --help."""

MAX_TRANSFER = 0xFF00
"""Largest DataTransferSize: a secured message counts its bytes with 16 bits, framing included."""


def _option(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, help=text, rich_help_panel=NEGOTIATION, metavar="NAME,...")
    return option


VersionOption = Annotated[
    str | None,
    typer.Option(
        "--ver", help="SPDM versions, 1.0 to 1.4; by default 1.3,1.2.", rich_help_panel=NEGOTIATION, metavar="X.Y,..."
    ),
]
AsymOption = Annotated[str | None, _option("--asym", "Signature algorithms, such as ECDSA_P384, RSAPSS_3072, ED25519.")]
PqcAsymOption = Annotated[
    str | None, _option("--pqc-asym", "Post-quantum signatures (1.4): ML_DSA_44, ML_DSA_65, ML_DSA_87.")
]
HashOption = Annotated[str | None, _option("--hash", "Base hashes, such as SHA_384, SHA3_256.")]
DheOption = Annotated[str | None, _option("--dhe", "Diffie-Hellman groups, such as SECP384R1, FFDHE_3072.")]
KemOption = Annotated[str | None, _option("--kem", "Key encapsulation (1.4): ML_KEM_768, ML_KEM_1024.")]
AeadOption = Annotated[str | None, _option("--aead", "AES_256_GCM, AES_128_GCM, CHACHA20_POLY1305.")]
MeasurementHashOption = Annotated[str | None, _option("--meas-hash", "Measurement hashes, such as SHA_384, RAW_ONLY.")]
CapabilitiesOption = Annotated[
    str | None,
    typer.Option(
        help="Capability flags: +NAME adds, -NAME removes, names alone replace all.",
        rich_help_panel=NEGOTIATION,
        metavar="+NAME,-NAME",
    ),
]
ClearHandshakeOption = Annotated[
    bool,
    typer.Option(
        "--clear-handshake", help="Offer FINISH in the clear (HANDSHAKE_IN_THE_CLEAR).", rich_help_panel=NEGOTIATION
    ),
]
TransferSizeOption = Annotated[
    int | None,
    typer.Option(
        "--data-transfer-size",
        min=MIN_DATA_TRANSFER_SIZE,
        max=MAX_TRANSFER,
        help="Bytes of a message taken at once; larger ones come in chunks.",
        rich_help_panel=NEGOTIATION,
    ),
]
PskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--psk",
        help="Pre-shared key by its hint; \\0 and \\xNN stand for bytes. May be repeated.",
        rich_help_panel=NEGOTIATION,
        metavar="HINT=HEX",
    ),
]
