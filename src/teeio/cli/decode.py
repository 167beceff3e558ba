"""`teeio decode`: read a capture, decrypt it with a key log, show every message and check every signature."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teeio.cli.outcome import Exit, complain, reported

if TYPE_CHECKING:
    from teeio.crypto.keys import PublicKey


def decode(
    file: Annotated[Path, typer.Argument(help="Capture (pcap or pcapng, link type 291 MCTP or 292 PCI DOE).")],
    keys: Annotated[
        Path | None, typer.Option(help="Key log of teeio, or a JSON file with the sessions' secrets.")
    ] = None,
    responder_key: Annotated[
        list[Path] | None,
        typer.Option(
            help="Public key of a responder that is known by its key, not by certificates (PEM or DER). Repeatable."
        ),
    ] = None,
    requester_key: Annotated[
        list[Path] | None, typer.Option(help="The same of a requester, for mutual authentication. Repeatable.")
    ] = None,
    brief: Annotated[bool, typer.Option("--brief", help="One line a message, without the fields.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line for each SPDM message, then one with the summary.")
    ] = False,
) -> None:
    """Read a capture and print each message with its fields; signatures and verify data are checked.

    Example: teeio decode run.pcap --keys run.keys
    """
    from teeio.capture.chains import ProvisionedKeys
    from teeio.capture.dissect import decode_capture
    from teeio.capture.render import json_lines, summary, summary_dict, text_lines

    with reported():
        provisioned = ProvisionedKeys(_public_keys(responder_key), _public_keys(requester_key))
        dissection = decode_capture(file.read_bytes(), None if keys is None else _text(keys), provisioned)
        for line in json_lines(dissection) if as_json else text_lines(dissection, with_fields=not brief):
            sys.stdout.write(line + "\n")
        if as_json:
            sys.stdout.write(json.dumps({"summary": summary_dict(dissection)}) + "\n")
        else:
            sys.stdout.write("\n" + "\n".join(summary(dissection)) + "\n")
        sys.stdout.flush()
        for remark in (*dissection.problems, *dissection.notes):
            complain(remark)
        if dissection.problems:
            raise typer.Exit(Exit.BAD_INPUT)
        for frame, finding in dissection.wrong():
            complain(f"frame {frame}: {finding}")
        if dissection.wrong():
            raise typer.Exit(Exit.FAILED)


def _public_keys(files: list[Path] | None) -> tuple[PublicKey, ...]:
    from teeio.crypto.public_key_files import load_public_keys

    return tuple(key for file in files or [] for key in load_public_keys(file.read_bytes(), file.name))


def _text(path: Path) -> str:
    from teeio.errors import DecodeError

    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise DecodeError(
            "KeyLog", "text", error.start, "is not text", remedy="give a key log, not a capture"
        ) from None
