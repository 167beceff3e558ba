"""What the options of `algorithm_options` mean: names become algorithms and flags, or a message that lists what is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import TypeVar

from teeio.crypto.aead import AEAD_IMPLEMENTED
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash, PqcAsym
from teeio.crypto.key_exchange import DHE_IMPLEMENTED, KEM_IMPLEMENTED
from teeio.crypto.keys import BASE_SCHEMES, HASHES_IMPLEMENTED, PQC_SCHEMES, Asym
from teeio.errors import Misuse
from teeio.spdm.constants import Capability, Version
from teeio.spdm.negotiation import REQUESTER_FLAG_RULES
from teeio.spdm.state import Settings

F = TypeVar("F", bound=IntFlag)

NO_CAPABILITIES = Capability(0)

NONE = "none"
"""The name that offers nothing of a kind."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The shared options as they were given; None is the default."""

    versions: str | None = None
    asym: str | None = None
    pqc_asym: str | None = None
    base_hash: str | None = None
    dhe: str | None = None
    kem: str | None = None
    aead: str | None = None
    measurement_hash: str | None = None
    capabilities: str | None = None
    clear_handshake: bool = False
    data_transfer_size: int | None = None

    def applied(self, settings: Settings, extra: Capability = NO_CAPABILITIES) -> Settings:
        """Give `settings` with these choices and the `extra` capabilities. Raises `Misuse` naming what is known."""
        if self.clear_handshake:
            extra |= Capability.HANDSHAKE_IN_THE_CLEAR
        capabilities = edited_capabilities(self.capabilities, settings.capabilities | extra)
        chosen = replace(
            settings,
            versions=self._versions(settings),
            capabilities=capabilities,
            data_transfer_size=self.data_transfer_size or settings.data_transfer_size,
            max_message_size=max(settings.max_message_size, self.data_transfer_size or 0),
        )
        if self.base_hash is not None:
            chosen = replace(chosen, base_hash=named("--hash", self.base_hash, _HASHES))
        if self.aead is not None:
            chosen = replace(chosen, aead=named("--aead", self.aead, _AEADS))
        if self.measurement_hash is not None:
            chosen = replace(chosen, measurement_hash=named("--meas-hash", self.measurement_hash, _MEASUREMENT_HASHES))
        return self._with_groups(self._with_signatures(chosen))

    def _with_signatures(self, settings: Settings) -> Settings:
        # Who names post-quantum algorithms only wants no traditional one: of two, the traditional one would be taken.
        base_asym = settings.base_asym if self.pqc_asym is None else ()
        return replace(
            settings,
            base_asym=base_asym if self.asym is None else named("--asym", self.asym, _ASYMS),
            pqc_asym=settings.pqc_asym if self.pqc_asym is None else named("--pqc-asym", self.pqc_asym, _PQC_ASYMS),
        )

    def _with_groups(self, settings: Settings) -> Settings:
        dhe = settings.dhe if self.kem is None else ()
        return replace(
            settings,
            dhe=dhe if self.dhe is None else named("--dhe", self.dhe, _GROUPS),
            kem=settings.kem if self.kem is None else named("--kem", self.kem, _KEMS),
        )

    def _versions(self, settings: Settings) -> tuple[int, ...]:
        later = [option for option, value in (("--pqc-asym", self.pqc_asym), ("--kem", self.kem)) if value]
        if self.versions is None:
            return (Version.V1_4,) if later else settings.versions
        versions = parse_versions(self.versions)
        if later and Version.V1_4 not in versions:
            raise Misuse(
                f"{later[0]} needs SPDM 1.4, which --ver {self.versions} leaves out", remedy="add 1.4 to --ver"
            )
        return versions


def parse_versions(text: str) -> tuple[int, ...]:
    """Read --ver; the highest version comes first. Raises `Misuse`."""
    known = {version.text: int(version) for version in Version}
    wanted = [part.strip() for part in text.split(",")]
    unknown = [part for part in wanted if part not in known]
    if unknown:
        raise Misuse(f"--ver {', '.join(unknown)}: not a known SPDM version", remedy=f"known are {', '.join(known)}")
    return tuple(sorted({known[part] for part in wanted}, reverse=True))


def named(option: str, text: str, known: Mapping[str, F | None]) -> tuple[F, ...]:
    """Read a list of names in order of preference; "none" is the empty list. Raises `Misuse` naming what is known.

    A name that stands for None is defined by the specification and not implemented.
    """
    if text.strip().lower() == NONE:
        return ()
    found: list[F] = []
    for part in text.split(","):
        name = _canonical(part)
        usable = ", ".join(key for key, value in known.items() if value is not None)
        if name not in known:
            raise Misuse(f"{option} {part.strip()!r} is not known", remedy=f"known are {usable}, or {NONE}")
        value = known[name]
        if value is None:
            raise Misuse(f"{option} {name} is defined, but not implemented here", remedy=f"implemented are {usable}")
        # Flags of different kinds are equal as integers, so the kind is compared too.
        if not any(type(one) is type(value) and one == value for one in found):
            found.append(value)
    return tuple(found)


def _canonical(name: str) -> str:
    return name.strip().upper().replace("-", "_")


def _table(kind: type[F], implemented: Iterable[F]) -> dict[str, F | None]:
    usable = set(implemented)
    return {str(member.name): member if member in usable else None for member in kind}


_ASYMS = _table(BaseAsym, BASE_SCHEMES)
_PQC_ASYMS = _table(PqcAsym, PQC_SCHEMES)
_HASHES = _table(BaseHash, HASHES_IMPLEMENTED)
_GROUPS = _table(Dhe, DHE_IMPLEMENTED)
_KEMS = _table(Kem, KEM_IMPLEMENTED)
_AEADS = _table(Aead, AEAD_IMPLEMENTED)
_MEASUREMENT_HASHES = _table(
    MeasurementHash,
    [MeasurementHash.RAW_ONLY, *(MeasurementHash[str(one.name)] for one in HASHES_IMPLEMENTED)],
)


def parse_algorithms(option: str, text: str) -> tuple[Asym, ...]:
    """Read a list of signature algorithms of both kinds. Raises `Misuse` naming what is known."""
    return named(option, text, {**_ASYMS, **_PQC_ASYMS})


def named_measurement_hashes(text: str | None) -> tuple[MeasurementHash, ...]:
    """Read --meas-hash as a requester means it: the hashes that it accepts. Raises `Misuse` naming what is known."""
    return () if text is None else named("--meas-hash", text, _MEASUREMENT_HASHES)


def edited_capabilities(text: str | None, flags: Capability) -> Capability:
    """Apply --capabilities to `flags`. Raises `Misuse` naming the flags that there are."""
    if text is None:
        return flags
    edits = [part.strip() for part in text.split(",") if part.strip()]
    signed = [part[0] in "+-" for part in edits]
    if not all(signed):
        if any(signed):
            raise Misuse(
                "--capabilities mixes names with and without a sign",
                remedy="give +NAME and -NAME to edit the flags, or names alone to replace them",
            )
        flags = Capability(0)
    for part in edits:
        flag = _capability(part.lstrip("+-"))
        flags = flags & ~flag if part.startswith("-") else flags | flag
    return flags


def _capability(name: str) -> Capability:
    canonical = _canonical(name)
    if canonical not in Capability.__members__:
        known = ", ".join(Capability.__members__)
        raise Misuse(f"--capabilities {name!r} is not a capability flag", remedy=f"known are {known}")
    return Capability[canonical]


def check_requester_flags(flags: Capability) -> None:
    """Refuse flags that contradict each other, as every responder would. Raises `Misuse`."""
    for text, holds in REQUESTER_FLAG_RULES:
        if not holds(flags):
            raise Misuse(f"these capabilities contradict each other: {text} (DSP0274)", remedy="see --capabilities")


def parse_psks(texts: Iterable[str]) -> dict[bytes, bytes]:
    """Read --psk options into keys by hint. Raises `Misuse`."""
    found: dict[bytes, bytes] = {}
    for text in texts:
        hint, separator, key = text.rpartition("=")
        try:
            secret = bytes.fromhex(key)
        except ValueError:
            secret = b""
        if not separator or not secret:
            # The text itself is not shown: it holds a key.
            raise Misuse("--psk is not HINT=HEX", remedy="for example 'TestPskHint\\0=5465737450736b4461746100'")
        found[_unescaped(hint)] = secret
    return found


def _unescaped(text: str) -> bytes:
    def byte(match: re.Match[str]) -> str:
        return chr(int(match[1] or "0", 16))

    try:
        return re.sub(r"\\(?:0|x([0-9a-fA-F]{2}))", byte, text).encode("latin-1")
    except UnicodeEncodeError:
        raise Misuse("the hint of --psk has characters beyond one byte", remedy="write them as \\xNN") from None
