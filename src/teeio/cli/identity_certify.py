"""`teeio identity certify`: sign a certificate request of a device, as the owner of a slot does between GET_CSR and SET_CERTIFICATE."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from teeio.cli.outcome import reported

DAY = 86_400


def certify(
    request: Annotated[Path, typer.Argument(metavar="CSR", help="The request (DER), as get-csr writes it.")],
    authority: Annotated[
        Path,
        typer.Option(help="A folder of one kind of key of teeio identity make: its authority signs.", metavar="DIR"),
    ],
    out: Annotated[Path, typer.Option(help="Where the chain goes: root, intermediates, leaf, in DER.", metavar="FILE")],
    name: Annotated[
        str, typer.Option(help="The device's name.", metavar="MAKER:PRODUCT:SERIAL")
    ] = "teeio:accelerator:000001",
    days: Annotated[int, typer.Option(min=1, max=36500, help="Days of validity.")] = 3650,
    alias: Annotated[
        bool, typer.Option("--alias", help="Let the device sign its own leaf below, as the Alias model has it.")
    ] = False,
) -> None:
    """Check a certificate request and certify its key; set-certificate writes the result into a slot.

    Example: teeio identity certify new.csr --authority keys/ecp384 --out new.chain.der
    """
    from teeio.cli.certifying import certified, read_authority
    from teeio.crypto.certificates import Validity

    with reported():
        issuer = read_authority(authority)
        since = int(time.time()) - DAY
        chain = certified(request.read_bytes(), issuer, name, Validity(since, since + days * DAY), alias=alias)
        out.write_bytes(b"".join(chain))
        typer.echo(f"{out}: {len(chain)} certificates, of which the last certifies the key of {request}")
