"""What the options of `algorithm_options` mean: names become algorithms and flags, or a message that lists what is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntFlag
from pathlib import Path
from typing import TypeVar

from teeio.cli.algorithm_options import NegotiationOptions
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash, PqcAsym
from teeio.crypto.availability import why_not
from teeio.crypto.keys import Asym
from teeio.errors import Misuse
from teeio.spdm.byte_order import ByteOrder
from teeio.spdm.constants import Capability, Version
from teeio.spdm.messages import DeviceClass, SubordinateId
from teeio.spdm.negotiation import REQUESTER_FLAG_RULES, contradiction
from teeio.spdm.opaque import SECURED_VERSIONS
from teeio.spdm.state import Settings

F = TypeVar("F", bound=IntFlag)

NO_CAPABILITIES = Capability(0)

_BYTE = 0xFF

NONE = "none"
"""The name that offers nothing of a kind."""


@dataclass(frozen=True)
class Choices(NegotiationOptions):
    """The shared options with what they mean."""

    @classmethod
    def of(cls, options: NegotiationOptions) -> Choices:
        """Take the options as a command got them."""
        return cls(**vars(options))

    def applied(self, settings: Settings, extra: Capability = NO_CAPABILITIES) -> Settings:
        """Give `settings` with these choices and the `extra` capabilities. Raises `Misuse` naming what is known."""
        if self.clear_handshake:
            extra |= Capability.HANDSHAKE_IN_THE_CLEAR
        flags = (settings.capabilities | extra) & ~(Capability.ENCRYPT if self.mac_only else NO_CAPABILITIES)
        capabilities = edited_capabilities(self.capabilities, flags)
        chosen = replace(
            settings,
            versions=self._versions(settings),
            capabilities=capabilities,
            data_transfer_size=self.data_transfer_size or settings.data_transfer_size,
            max_message_size=max(self.max_message_size or settings.max_message_size, self.data_transfer_size or 0),
        )
        if self.base_hash is not None:
            chosen = replace(chosen, base_hash=named("--hash", self.base_hash, BaseHash.__members__))
        if self.aead is not None:
            chosen = replace(chosen, aead=named("--aead", self.aead, Aead.__members__))
        if self.measurement_hash is not None:
            chosen = replace(
                chosen, measurement_hash=named("--meas-hash", self.measurement_hash, MeasurementHash.__members__)
            )
        return self._with_records(self._with_groups(self._with_requester(self._with_signatures(chosen))))

    def _with_records(self, settings: Settings) -> Settings:
        """Say how signatures and records lie, and how long keys last."""
        if self.secured_versions is not None:
            settings = replace(settings, secured_versions=parse_secured_versions(self.secured_versions))
        if self.signature_order is not None:
            settings = replace(settings, signature_order=ByteOrder(self.signature_order.value))
        if self.nonce_order is not None:
            settings = replace(settings, nonce_order=ByteOrder(self.nonce_order.value))
        return replace(settings, records_per_key=self.records_per_key or settings.records_per_key)

    def _with_signatures(self, settings: Settings) -> Settings:
        # Who names post-quantum algorithms only wants no traditional one: of two, the traditional one would be taken.
        base_asym = settings.base_asym if self.pqc_asym is None else ()
        return replace(
            settings,
            base_asym=base_asym if self.asym is None else named("--asym", self.asym, _ASYMS),
            pqc_asym=settings.pqc_asym if self.pqc_asym is None else named("--pqc-asym", self.pqc_asym, _PQC_ASYMS),
        )

    def _with_requester(self, settings: Settings) -> Settings:
        base, later = settings.req_base_asym if self.req_pqc_asym is None else (), settings.req_pqc_asym
        return replace(
            settings,
            req_base_asym=base if self.req_asym is None else named("--req-asym", self.req_asym, _ASYMS),
            req_pqc_asym=later if self.req_pqc_asym is None else named("--req-pqc-asym", self.req_pqc_asym, _PQC_ASYMS),
        )

    def _with_groups(self, settings: Settings) -> Settings:
        dhe = settings.dhe if self.kem is None else ()
        return replace(
            settings,
            dhe=dhe if self.dhe is None else named("--dhe", self.dhe, Dhe.__members__),
            kem=settings.kem if self.kem is None else named("--kem", self.kem, Kem.__members__),
        )

    def _versions(self, settings: Settings) -> tuple[int, ...]:
        later = [
            option
            for option, value in (
                ("--pqc-asym", self.pqc_asym),
                ("--req-pqc-asym", self.req_pqc_asym),
                ("--kem", self.kem),
            )
            if value
        ]
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


def parse_secured_versions(text: str) -> tuple[int, ...]:
    """Read --secured-versions, as they travel. Raises `Misuse`."""
    known = {f"{version >> 12}.{version >> 8 & 0xF}": version for version in SECURED_VERSIONS}
    wanted = [part.strip() for part in text.split(",")]
    unknown = [part for part in wanted if part not in known]
    if unknown:
        raise Misuse(
            f"--secured-versions {', '.join(unknown)}: not a known version of secured messages",
            remedy=f"known are {', '.join(known)}",
        )
    return tuple(sorted({known[part] for part in wanted}))


def named(option: str, text: str, known: Mapping[str, F]) -> tuple[F, ...]:
    """Read a list of names in order of preference; "none" is the empty list.

    Raises `Misuse` naming what is known, and for what DSP0274 defines and is not provided here, why.
    """
    if text.strip().lower() == NONE:
        return ()
    found: list[F] = []
    for part in text.split(","):
        name = _canonical(part)
        usable = ", ".join(key for key, value in known.items() if not why_not(value))
        if name not in known:
            raise Misuse(f"{option} {part.strip()!r} is not known", remedy=f"known are {usable}, or {NONE}")
        value = known[name]
        reason = why_not(value)
        if reason:
            raise Misuse(
                f"{option} {name} is defined, but not implemented here: {reason}", remedy=f"implemented are {usable}"
            )
        # Flags of different kinds are equal as integers, so the kind is compared too.
        if not any(type(one) is type(value) and one == value for one in found):
            found.append(value)
    return tuple(found)


def _canonical(name: str) -> str:
    return name.strip().upper().replace("-", "_")


_ASYMS: Mapping[str, BaseAsym] = {**BaseAsym.__members__, "SM2_P256": BaseAsym.SM2}
_PQC_ASYMS: Mapping[str, PqcAsym] = PqcAsym.__members__


def parse_algorithms(option: str, text: str) -> tuple[Asym, ...]:
    """Read a list of signature algorithms of both kinds. Raises `Misuse` naming what is known."""
    return named(option, text, {**_ASYMS, **_PQC_ASYMS})


def named_measurement_hashes(text: str | None) -> tuple[MeasurementHash, ...]:
    """Read --meas-hash as a requester means it: the hashes that it accepts. Raises `Misuse` naming what is known."""
    return () if text is None else named("--meas-hash", text, MeasurementHash.__members__)


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
    broken = contradiction(flags, REQUESTER_FLAG_RULES)
    if broken:
        raise Misuse(f"these capabilities contradict each other: {broken} (DSP0274)", remedy="see --capabilities")


def parse_device_classes(texts: Iterable[str]) -> tuple[DeviceClass, ...]:
    """Read --device-class options. Raises `Misuse`."""
    return tuple(_device_class(text) for text in texts)


def _device_class(text: str) -> DeviceClass:
    try:
        registry, vendor, *identifiers = text.split(":")
        number = int(registry, 16)
        parts = [bytes.fromhex(part) for part in (vendor, *identifiers)]
        if not 0 <= number <= _BYTE or any(len(part) > _BYTE for part in parts):
            raise ValueError
    except ValueError:
        raise Misuse(
            f"--device-class {text!r} is not REGISTRY:VENDOR[:ID...]",
            remedy="for example 3:8680:570d for PCI-SIG's registry, in hex",
        ) from None
    return DeviceClass(
        registry=number, vendor=parts[0], subordinates=tuple(SubordinateId(identifier=part) for part in parts[1:])
    )


def parse_psks(texts: Iterable[str]) -> dict[bytes, bytes]:
    """Read --psk options into keys by hint. Raises `Misuse`."""
    found: dict[bytes, bytes] = {}
    for text in texts:
        hint, separator, file = text.partition("=@")
        if separator:
            secret = _file(file)
        else:
            hint, separator, key = text.rpartition("=")
            secret = _hex(key)
        if not separator or not secret:
            # The text itself is not shown: it holds a key.
            raise Misuse(
                "--psk is not HINT=HEX or HINT=@FILE, or the key is empty",
                remedy="for example 'TestPskHint\\0=5465737450736b4461746100'",
            )
        found[_unescaped(hint)] = secret
    return found


def _file(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        raise Misuse(f"--psk: the key file {name!r} cannot be read: {error}", remedy="give HINT=@FILE") from None


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _unescaped(text: str) -> bytes:
    def byte(match: re.Match[str]) -> str:
        return chr(int(match[1] or "0", 16))

    try:
        return re.sub(r"\\(?:0|x([0-9a-fA-F]{2}))", byte, text).encode("latin-1")
    except UnicodeEncodeError:
        raise Misuse("the hint of --psk has characters beyond one byte", remedy="write them as \\xNN") from None
