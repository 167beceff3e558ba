"""Identities as files: a folder for each kind of key, laid out as the DMTF reference emulator reads it.

`bundle_responder.certchain.der` is root, intermediates and leaf one after the other (slot 0), `...certchain1.der` the chain of
slot 1 below another root with the same leaf key, `...certchain4.der` that of slot 4 with a second key;
`end_responder.key` is the leaf's private key (PEM). The same names with `requester` are for mutual authentication.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from teeio.crypto.algorithms import BaseAsym, PqcAsym
from teeio.crypto.certificates import DeviceIdentity
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
    ("mldsa44", (PqcAsym.ML_DSA_44,)),
    ("mldsa65", (PqcAsym.ML_DSA_65,)),
    ("mldsa87", (PqcAsym.ML_DSA_87,)),
)
"""Folder names of the reference emulator, and the algorithms that each one's key serves."""

SLOTS = {0: "", 1: "1", 4: "4"}
"""The suffix of the files of a slot."""

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
        root, *below = hierarchy.authorities
        files[f"ca{suffix}.cert.der"] = root.path[-1]
        files[f"ca{suffix}.key"] = signing_key_pem(root.key)
        for number, authority in enumerate(below):
            name = f"inter{suffix}" if not number else f"inter{suffix}-{number + 1}"
            files[f"{name}.cert.der"] = authority.path[-1]
            files[f"{name}.key"] = signing_key_pem(authority.key)
    files |= _end("responder", made.responder, 0) | _end("requester", made.requester, 0)
    for slot, identity in made.other_slots.items():
        files |= _end("responder", identity, slot)
    files["bundle_responder.certchain_alias.der"] = b"".join(made.alias.path)
    files["device_alias.cert.der"] = made.alias.path[-2]
    files["end_responder_alias.cert.der"] = made.alias.leaf
    files["end_responder_alias.key"] = signing_key_pem(made.alias.key)
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


def read(folder: Path, algorithms: Iterable[Asym], slots: Sequence[int] = (0, 1)) -> tuple[Identity, ...]:
    """Read the identities of those algorithms that the folder has files for. Raises `Misuse` if there is none.

    `folder` holds the folders of kinds of keys, or is one of them.
    """
    if not folder.is_dir():
        raise Misuse(f"--identity {folder} is not a folder", remedy="make one with teeio identity make")
    found = []
    for algorithm in algorithms:
        name = folder_of(algorithm)
        place = next((each for each in (folder / name, folder) if each.name == name and _has_identity(each)), None)
        if place is not None:
            found.append(
                Identity({slot: _slot(place, slot, algorithm) for slot in slots if _chain(place, slot).is_file()})
            )
    if not found:
        wanted = ", ".join(dict.fromkeys(folder_of(algorithm) for algorithm in algorithms))
        raise Misuse(
            f"--identity {folder} has none of the folders {wanted} with bundle_responder.certchain.der",
            remedy="make one with teeio identity make, or choose another --asym",
        )
    return tuple(found)


def _chain(place: Path, slot: int) -> Path:
    return place / f"bundle_responder.certchain{SLOTS[slot]}.der"


def _has_identity(place: Path) -> bool:
    return _chain(place, 0).is_file()


def _slot(place: Path, slot: int, algorithm: Asym) -> Slot:
    chain = _chain(place, slot)
    certificates, _ = certificates_of(chain.read_bytes(), str(chain))
    own = place / f"end_responder{SLOTS[slot]}.key"
    # The emulator's slot 1 certifies the key of slot 0 again and has no key file of its own.
    key = _key(own if own.is_file() else place / "end_responder.key", algorithm)
    return Slot(tuple(certificates), key)


def _key(path: Path, algorithm: Asym) -> SigningKey:
    try:
        return signing_key_from_pem(path.read_bytes(), algorithm)
    except TeeioError as error:
        raise Misuse(f"{path}: {error}", remedy="give an unencrypted PEM key that fits the certificate") from None
