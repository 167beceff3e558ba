"""Certifying a device's key by the authority of a folder that `teeio identity make` wrote."""

from __future__ import annotations

from pathlib import Path

from teeio.crypto.certificates import Authority, DeviceInfo, Validity, check_request, leaf_extensions
from teeio.crypto.certificates.chain import split_certificates
from teeio.crypto.certificates.describe import algorithm_of, describe
from teeio.crypto.certificates.hierarchy import Names, device_authority, usual_hash
from teeio.crypto.entropy import system_entropy
from teeio.crypto.keys import signing_key_from_pem
from teeio.device.identity import Manufacture
from teeio.errors import DecodeError, Misuse

BUNDLE = "bundle_responder.certchain.der"


def read_authority(folder: Path) -> Authority:
    """Read the authority that signed the responder of `folder`, with the certificates from the root down to its own. Raises `Misuse`."""
    bundle = folder / BUNDLE
    if not bundle.is_file():
        raise Misuse(
            f"--authority {folder} has no {BUNDLE}", remedy="give a folder such as ecp384 of teeio identity make"
        )
    path = tuple(split_certificates(bundle.read_bytes())[:-1])
    for file in sorted(folder.glob("*.cert.der")):
        key = file.with_name(file.name.removesuffix(".cert.der") + ".key")
        if file.read_bytes() == path[-1] and key.is_file():
            algorithm = algorithm_of(path[-1])
            subject = describe(path[-1]).subject.removeprefix("CN=")
            return Authority(subject, signing_key_from_pem(key.read_bytes(), algorithm), usual_hash(algorithm), path)
    raise Misuse(f"--authority {folder} has no key of {describe(path[-1]).subject}", remedy="make one with its keys")


def certified(
    request: bytes, issuer: Authority, name: str, validity: Validity, *, alias: bool = False
) -> tuple[bytes, ...]:
    """Certify the key of a DER request that it signs itself, as that of the device `name`; give the chain, root first.

    With `alias` the device may sign its own leaf below (the Alias model).

    Raises `DecodeError`, `AuthenticationFailed` if the request is not signed by its key, `Misuse` for a name that is none.
    """
    public = check_request(request)
    try:
        info = DeviceInfo.parse(name)
    except DecodeError as error:
        raise Misuse(error.reason, remedy="write --name as MAKER:PRODUCT:SERIAL") from None
    made = Manufacture()
    names = Names(info, made.pci, made.tcb(issuer.base_hash))
    extensions = device_authority(names) if alias else leaf_extensions(names.device, names.pci, names.tcb)
    return (*issuer.path, issuer.certify(str(info)[:64], public, extensions, system_entropy, validity))
