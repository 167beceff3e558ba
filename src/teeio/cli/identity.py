"""`teeio identity`: make device identities as files, and show what a chain says and what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from teeio.cli.outcome import Exit, reported
from teeio.errors import DecodeError, Misuse

if TYPE_CHECKING:
    from teeio.crypto.certificates.describe import Description
    from teeio.crypto.certificates.hierarchy import Hierarchy, Names

identity = typer.Typer(
    name="identity",
    help="Make certificates and keys of a device, and examine certificate chains.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DAY = 86_400


class Model(Enum):
    """Values of --model."""

    DEVICE = "device"
    ALIAS = "alias"
    GENERIC = "generic"


@identity.command("make")
def make(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the folders of identities go.")],
    asym: Annotated[
        str | None,
        typer.Option(
            "--asym", help="Signature algorithms, such as ECDSA_P384, ML_DSA_65; by default all.", metavar="NAME,..."
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="The device's name.", metavar="MAKER:PRODUCT:SERIAL")
    ] = "teeio:accelerator:000001",
    pci: Annotated[
        str | None,
        typer.Option(
            help="PCI identifiers for the CMA name; by default the accelerator's.",
            metavar="Vendor=..:Device=..:CC=..:REV=..",
        ),
    ] = None,
    intermediates: Annotated[int, typer.Option(min=0, max=8, help="Authorities between root and device.")] = 1,
    svn: Annotated[int, typer.Option(min=0, help="Security version number in DICE TcbInfo.")] = 7,
    firmware: Annotated[
        Path | None,
        typer.Option(help="Firmware image whose digest goes into DICE TcbInfo; by default the accelerator's."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="First day of validity; by default yesterday.", metavar="YYYY-MM-DD")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=36500, help="Days of validity.")] = 3650,
    seed: Annotated[int | None, typer.Option(help="Make keys reproducible (RSA's are not).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make root, intermediates, device, alias and requester identities, laid out as the reference emulator reads them.

    Example: teeio identity make keys --asym ECDSA_P384,ML_DSA_65
    """
    from teeio import identity_files as files
    from teeio.cli.choices import parse_algorithms
    from teeio.crypto.certificates import Validity
    from teeio.crypto.certificates.hierarchy import Hierarchy
    from teeio.crypto.entropy import SeededEntropy, system_entropy

    console = Console(highlight=False, quiet=as_json)
    entropy = system_entropy if seed is None else SeededEntropy(seed.to_bytes(16, "little", signed=True))
    with reported():
        wanted = None if asym is None else {files.folder_of(one) for one in parse_algorithms("--asym", asym)}
        begin = int(time.time()) - _DAY if since is None else _day(since)
        validity = Validity(begin, begin + days * _DAY)
        written = []
        for kind, algorithms in files.FOLDERS:
            if wanted is not None and kind not in wanted:
                continue
            hierarchies = [
                Hierarchy.found(f"{maker} {kind}", algorithms[0], entropy, validity, intermediates=intermediates)
                for maker in (_maker(name), f"{_maker(name)} second")
            ]
            made = files.make(hierarchies[0], hierarchies[1], _names(name, pci, svn, firmware, hierarchies[0]))
            paths = files.write(folder / kind, made)
            console.print(f"[green]✓[/] {folder / kind}: {len(paths)} files", soft_wrap=True)
            written.append(
                {
                    "folder": str(folder / kind),
                    "algorithms": [one.name for one in algorithms],
                    "root": str(folder / kind / "ca.cert.der"),
                    "chain": str(folder / kind / "bundle_responder.certchain.der"),
                    "key": str(folder / kind / "end_responder.key"),
                    "files": sorted(path.name for path in paths),
                }
            )
        if as_json:
            typer.echo(json.dumps(written, indent=2))


class Cause(Enum):
    """Values of --reason, as RFC 5280 section 5.3.1 names them."""

    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


@identity.command("revoke")
def revoke(
    file: Annotated[
        Path, typer.Argument(metavar="CERT", help="Certificate to revoke, in the folder where it was made.")
    ],
    reason: Annotated[Cause, typer.Option(help="Why.")] = Cause.KEY_COMPROMISE,
    days: Annotated[int, typer.Option(min=1, max=36500, help="Days that the new list is good for.")] = 3650,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Revoke a certificate: its authority signs a new revocation list, for teeio connect --crl.

    Example: teeio identity revoke keys/ecp384/end_responder.cert.der --reason keyCompromise
    """
    from teeio.cli.revoking import revoke as put_on_list
    from teeio.crypto.certificates import Validity
    from teeio.crypto.certificates.issue import Reason

    with reported():
        now = int(time.time())
        done = put_on_list(file, Reason(reason.value), Validity(now, now + days * _DAY))
        if as_json:
            found = {"subject": done.subject, "serial": done.serial, "list": str(done.list), "number": done.number}
            typer.echo(json.dumps(found, indent=2))
        else:
            Console(highlight=False).print(
                f"[green]✓[/] {done.list}: list {done.number} names {escape(done.subject)}, serial number {done.serial}",
                soft_wrap=True,
            )


def _maker(name: str) -> str:
    return name.partition(":")[0]


def _names(name: str, pci: str | None, svn: int, firmware: Path | None, hierarchy: Hierarchy) -> Names:
    from teeio.crypto.certificates import DeviceInfo, PciIdentity
    from teeio.crypto.certificates.hierarchy import Names
    from teeio.device.identity import Firmware, Manufacture

    try:
        info = DeviceInfo.parse(name)
        identifiers = Manufacture().pci if pci is None else PciIdentity.parse(pci)
    except DecodeError as error:
        raise Misuse(f"{error.reason}", remedy="see --help for --name and --pci") from None
    image = Firmware().image if firmware is None else firmware.read_bytes()
    manufacture = Manufacture(info=info, pci=identifiers, firmware=Firmware(image=image, svn=svn))
    return Names(info, identifiers, manufacture.tcb(hierarchy.issuer.base_hash))


def _day(text: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise Misuse(f"{text!r} is not a day", remedy="write it as 2026-01-31") from None


@identity.command("show")
def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="PEM, DER certificates one after the other, or an SPDM chain.")
    ],
    anchor: Annotated[
        list[Path] | None,
        typer.Option(help="Root certificate to trust (DER or PEM); without one the chain's own root stands in."),
    ] = None,
    crl: Annotated[
        list[Path] | None,
        typer.Option(help="Revocation list (DER or PEM) of each authority of the chain; may be repeated."),
    ] = None,
    model: Annotated[Model, typer.Option(help="Certificate model expected.")] = Model.DEVICE,
    requester: Annotated[bool, typer.Option("--requester", help="Expect a requester's chain.")] = False,
    version: Annotated[str, typer.Option("--ver", help="SPDM version whose rules hold.", metavar="X.Y")] = "1.3",
    at: Annotated[str | None, typer.Option(help="Validate as of this day.", metavar="YYYY-MM-DD")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show a certificate chain and every finding of its validation; the exit code is 1 if one is an error.

    Example: teeio identity show keys/ecp384/bundle_responder.certchain.der --anchor keys/ecp384/ca.cert.der
    """
    from teeio.cli.choices import parse_versions
    from teeio.crypto.certificates import CertificateModel, chain_structure, errors, validate_chain
    from teeio.crypto.certificates.chain import load_anchor
    from teeio.crypto.certificates.describe import algorithm_of, certificates_of, describe
    from teeio.crypto.certificates.hierarchy import usual_hash
    from teeio.crypto.certificates.revocation import load_list, revocation_findings

    with reported():
        data = file.read_bytes()
        certificates, given_hash = certificates_of(data, file.name)
        descriptions = [describe(der) for der in certificates]
        algorithm = algorithm_of(certificates[-1])
        base_hash = given_hash or usual_hash(algorithm)
        anchors = [load_anchor(path.read_bytes(), path.name) for path in anchor or []]
        chain = data if given_hash else chain_structure(certificates[0], certificates[1:], base_hash)
        findings = validate_chain(
            chain,
            anchors or certificates[:1],
            base_hash,
            algorithm,
            time.time() if at is None else _day(at),
            model=CertificateModel[model.name],
            version=parse_versions(version)[0],
            requester=requester,
        )
        if crl:
            lists = [load_list(path.read_bytes(), path.name) for path in crl]
            at_time = time.time() if at is None else _day(at)
            findings += revocation_findings(chain, anchors or certificates[:1], base_hash, at_time, lists)
        trust = "validated to a given anchor" if anchors else "not trusted: its own root stands in for an anchor"
        if as_json:
            found = {
                "file": str(file),
                "algorithm": algorithm.name,
                "trust": trust,
                "certificates": [dataclasses.asdict(one) for one in descriptions],
                "findings": [
                    {"check": one.check, "severity": one.severity.value, "message": one.message, "clause": one.clause}
                    for one in findings
                ],
            }
            typer.echo(json.dumps(found, indent=2))
        else:
            _print(descriptions, [str(finding) for finding in findings], trust)
        if errors(findings):
            raise typer.Exit(Exit.FAILED)


def _print(descriptions: list[Description], findings: list[str], trust: str) -> None:
    console = Console(highlight=False)
    for number, one in enumerate(descriptions):
        console.print(f"[bold]{number}[/] {escape(one.subject)}", soft_wrap=True)
        rows = {
            "issuer": one.issuer,
            "valid": f"{one.not_before} to {one.not_after}",
            "key": f"{one.key}{', authority' if one.authority else ''}",
            "device": one.device,
            "PCI (CMA)": one.pci,
            "roles": ", ".join(one.roles),
            "SPDM": ", ".join(one.identifiers),
            "DICE": " ".join(one.tcb),
            "SHA-256": one.fingerprint,
        }
        for title, value in rows.items():
            if value:
                console.print(f"    {title:<10} {value}", markup=False, soft_wrap=True)
    console.print(trust, soft_wrap=True)
    for finding in findings:
        console.print(finding, markup=False, soft_wrap=True)
    if not findings:
        console.print("no findings")
