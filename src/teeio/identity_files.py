"""Identities as files: a folder for each kind of key, laid out as the DMTF reference emulator reads it.

`bundle_responder.certchain.der` is root, intermediates and leaf one after the other (slot 0), `...certchain1.der` the chain of
slot 1 below another root with the same leaf key, `...certchain4.der` that of slot 4 with a second key;
`end_responder.key` is the leaf's private key (PEM). The same names with `requester` are for mutual authentication.
Beside the certificate of every authority lies its revocation list, `.crl.der`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from teeio.crypto.algorithms import BaseAsym, PqcAsym
from teeio.crypto.certificates import CertificateModel, DeviceIdentity
from teeio.crypto.certificates.describe import certificates_of
from teeio.crypto.certificates.hierarchy import Hierarchy, Names
from teeio.crypto.keys import Asym, SigningKey, signing_key_from_pem, signing_key_pem
from teeio.errors import Misuse, TeeioError
from teeio.spdm.device_state import Identity, Slot

FOLDERS: tuple[tuple[str, tuple[Asym, ...]], ...] = (
    ("rsa2048", (BaseAsym.RSASSA_2048, BaseAsym.RSAPSS_2048)),
    ("rsa3072", (BaseAsym.RSASSA_3072, BaseAsym.RSAPSS_3072)),
    ("rsa4096", (BaseAsym.RSASSA_4096, BaseAsym.RSAPSS_4096)),
    ("ecp256", (BaseAsym.ECDSA_P256,)),
    ("ecp384", (BaseAsym.ECDSA_P384,)),
    ("ecp521", (BaseAsym.ECDSA_P521,)),
    ("ed25519", (BaseAsym.ED25519,)),
    ("ed448", (BaseAsym.ED448,)),
    ("mldsa44", (PqcAsym.ML_DSA_44,)),
    ("mldsa65", (PqcAsym.ML_DSA_65,)),
    ("mldsa87", (PqcAsym.ML_DSA_87,)),
)
"""Folder names of the reference emulator, and the algorithms that each one's key serves."""

SLOTS = {0: "", 1: "1", 4: "4"}
"""The suffix of the files of a slot."""

_ALIAS = "_alias"
"""The suffix of the chain of the Alias model."""

CERTIFICATE, KEY, LIST = ".cert.der", ".key", ".crl.der"
"""How the names of certificates, private keys and revocation lists end."""

_PRIVATE = 0o600


def folder_of(algorithm: Asym) -> str:
    """Give the folder of a signature algorithm. Raises `Misuse`."""
    for folder, algorithms in FOLDERS:
        if any(type(one) is type(algorithm) and one == algorithm for one in algorithms):
            return folder
    raise Misuse(f"{algorithm!r} has no folder of identities", remedy="choose an algorithm that is implemented")


# -- writing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """The identities of one kind of key: two hierarchies, and what stands below them."""

    first: Hierarchy
    second: Hierarchy
    responder: DeviceIdentity
    requester: DeviceIdentity
    alias: DeviceIdentity
    other_slots: dict[int, DeviceIdentity]


def make(first: Hierarchy, second: Hierarchy, names: Names) -> Made:
    """Make all identities of one kind of key."""
    responder = first.responder(names)
    others = {1: second.responder(names, responder.key), 4: first.responder(names)}
    return Made(first, second, responder, first.requester(names), first.alias(names), others)


def write(folder: Path, made: Made) -> list[Path]:
    """Write all files of one kind of key; private keys only their owner can read."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    for suffix, hierarchy in (("", made.first), ("1", made.second)):
        for level, authority in enumerate(hierarchy.authorities):
            name = f"inter{suffix}-{level}" if level > 1 else f"{'inter' if level else 'ca'}{suffix}"
            files[f"{name}{CERTIFICATE}"] = authority.path[-1]
            files[f"{name}{KEY}"] = signing_key_pem(authority.key)
            files[f"{name}{LIST}"] = authority.revoke([], 1, hierarchy.validity)
    files |= _end("responder", made.responder, 0) | _end("requester", made.requester, 0)
    for slot, identity in made.other_slots.items():
        files |= _end("responder", identity, slot)
    files["bundle_responder.certchain_alias.der"] = b"".join(made.alias.path)
    files["device_alias.cert.der"] = made.alias.path[-2]
    files["end_responder_alias.cert.der"] = made.alias.leaf
    files["end_responder_alias.key"] = signing_key_pem(made.alias.key)
    if made.alias.device_key is not None:
        files["device_alias.key"] = signing_key_pem(made.alias.device_key)
    return [_write(folder / name, content) for name, content in files.items()]


def _end(role: str, identity: DeviceIdentity, slot: int) -> dict[str, bytes]:
    suffix = SLOTS[slot]
    return {
        f"bundle_{role}.certchain{suffix}.der": b"".join(identity.path),
        f"end_{role}{suffix}.cert.der": identity.leaf,
        f"end_{role}{suffix}.key": signing_key_pem(identity.key),
    }


def _write(path: Path, content: bytes) -> Path:
    if path.suffix == ".key":
        # Never readable for others, not even for the moment between making and restricting it.
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "wb") as file:
            file.write(content)
    else:
        path.write_bytes(content)
    return path


# -- reading -----------------------------------------------------------------------------------------------------------


def read(
    folder: Path,
    algorithms: Iterable[Asym],
    slots: Sequence[int] = (0, 1),
    *,
    role: str = "responder",
    alias: bool = False,
) -> tuple[Identity, ...]:
    """Read the identities of those algorithms that the folder has files for. Raises `Misuse` if there is none.

    `folder` holds the folders of kinds of keys, or is one of them; `role` is "responder" or "requester". `alias` takes a responder's
    chain of the Alias model, for slot 0 alone.
    """
    if not folder.is_dir():
        raise Misuse(f"--identity {folder} is not a folder", remedy="make one with teeio identity make")
    found, slots = [], (0,) if alias else slots
    for algorithm in algorithms:
        name = folder_of(algorithm)
        places = (each for each in (folder / name, folder) if each.name == name)
        place = next((each for each in places if _chain(each, 0, role, alias).is_file()), None)
        if place is not None:
            there = [slot for slot in slots if _chain(place, slot, role, alias).is_file()]
            found.append(Identity({slot: _slot(place, slot, algorithm, role, alias) for slot in there}))
    if not found:
        option = "--asym" if role == "responder" else "--req-asym"
        wanted = ", ".join(dict.fromkeys(folder_of(algorithm) for algorithm in algorithms))
        raise Misuse(
            f"--identity {folder} has none of the folders {wanted} with {_chain(Path(), 0, role, alias)}",
            remedy=f"make one with teeio identity make, or choose another {option}",
        )
    return tuple(found)


def _chain(place: Path, slot: int, role: str, alias: bool) -> Path:
    return place / f"bundle_{role}.certchain{_ALIAS if alias else SLOTS[slot]}.der"


def _slot(place: Path, slot: int, algorithm: Asym, role: str, alias: bool) -> Slot:
    chain = _chain(place, slot, role, alias)
    certificates, _ = certificates_of(chain.read_bytes(), str(chain))
    if alias:
        return _alias_slot(place, tuple(certificates), algorithm)
    own = place / f"end_{role}{SLOTS[slot]}.key"
    # The emulator's slot 1 certifies the key of slot 0 again and has no key file of its own.
    key = _key(own if own.is_file() else place / f"end_{role}.key", algorithm)
    return Slot(tuple(certificates), key)


def _alias_slot(place: Path, certificates: tuple[bytes, ...], algorithm: Asym) -> Slot:
    # The emulator's alias leaf certifies the key of its device leaf, and its device key has a name of its own.
    own, emulators = place / "end_responder_alias.key", place / "end_responder.key"
    device_keys = (place / "device_alias.key", place / "end_responder_alias_partial.key")
    return Slot(
        certificates,
        _key(own if own.is_file() else emulators, algorithm),
        model=CertificateModel.ALIAS,
        device_key=next((_key(path, algorithm) for path in device_keys if path.is_file()), None),
    )


def _key(path: Path, algorithm: Asym) -> SigningKey:
    try:
        return signing_key_from_pem(path.read_bytes(), algorithm)
    except TeeioError as error:
        raise Misuse(f"{path}: {error}", remedy="give an unencrypted PEM key that fits the certificate") from None
