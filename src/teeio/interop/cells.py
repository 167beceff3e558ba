"""A cell of the grid: what one run negotiates and does. Both ends' options follow from it.

The unit of the grid is a run of one of our roles against the emulator's other one, under exactly these options.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash
from teeio.crypto.keys import Asym
from teeio.spdm.constants import PUBLIC_KEY_SLOT, Capability, MutualAuth, SummaryType, Version
from teeio.transport.kinds import Transport

NONE = Capability(0)


class Role(Enum):
    """Which of the two sides is ours."""

    REQUESTER = "requester"
    RESPONDER = "responder"


class Grid(Enum):
    """The parts of the grid."""

    MAIN = "main"
    MUTUAL = "mutual"
    SPECIAL = "special"


class Step(Enum):
    """What a requester does; the values are the emulator's names in --exe_conn and --exe_session."""

    DIGESTS = "DIGEST"
    CERTIFICATE = "CERT"
    CHALLENGE = "CHAL"
    MEASUREMENTS = "MEAS"
    MEASUREMENT_LOG = "MEL"
    ENDPOINT_INFO = "EP_INFO"
    KEY_PAIR_INFO = "GET_KEY_PAIR_INFO"
    KEY_EXCHANGE = "KEY_EX"
    PSK_EXCHANGE = "PSK"
    HEARTBEAT = "HEARTBEAT"
    KEY_UPDATE = "KEY_UPDATE"
    NO_END = "NO_END"


class KeyUpdates(Enum):
    """Which keys KEY_UPDATE replaces, as --key_upd names it; RSP is asked for by the responder, encapsulated."""

    REQUESTER = "REQ"
    BOTH = "ALL"
    RESPONDER = "RSP"


class Feature(Enum):
    """What not every build of the emulator has: cells that need it run if the emulator's two sides can do it."""

    SHA3 = "SHA3"
    ED25519 = "Ed25519"
    ED448 = "Ed448"
    ML_DSA = "ML-DSA and ML-KEM"


@dataclass(frozen=True, slots=True)
class Flags:
    """Capability flags that one side offers besides its usual ones, or leaves out of them."""

    added: Capability = NONE
    removed: Capability = NONE

    def of(self, usual: Capability) -> Capability:
        """Give the flags that are offered."""
        return usual & ~self.removed | self.added


AS_USUAL = Flags()
CONNECTION = (Step.DIGESTS, Step.CERTIFICATE, Step.CHALLENGE, Step.MEASUREMENTS)
IN_SESSION = (Step.HEARTBEAT, Step.KEY_UPDATE, Step.MEASUREMENTS)
SESSION = (Step.KEY_EXCHANGE, Step.PSK_EXCHANGE, *IN_SESSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run. `measurement_hash` None is that of the base hash; `any_version` is the side that offers every version.

    With `public_keys` both sides have the responder's public key in place of certificates. `peer_skips` are steps that the
    emulator's requester leaves out of its own accord here: it measures only after it has read a certificate, and asks for signed
    endpoint information only.
    """

    grid: Grid
    case: str
    version: Version
    transport: Transport
    asym: Asym = BaseAsym.ECDSA_P384
    group: Dhe | Kem = Dhe.SECP384R1
    aead: Aead = Aead.AES_256_GCM
    base_hash: BaseHash = BaseHash.SHA_384
    measurement_hash: MeasurementHash | None = None
    clear: bool = True
    mode: MutualAuth = MutualAuth.NONE
    basic: bool = False
    req_asym: Asym | None = None
    requester: Flags = AS_USUAL
    responder: Flags = AS_USUAL
    connection: tuple[Step, ...] = CONNECTION
    session: tuple[Step, ...] = SESSION
    key_updates: KeyUpdates = KeyUpdates.BOTH
    summary: SummaryType = SummaryType.ALL
    raw: bool = False
    secured_version: int | None = None
    slot_count: int | None = None
    public_keys: bool = False
    peer_skips: tuple[Step, ...] = ()
    any_version: str = ""
    needs: Feature | None = None

    @property
    def has_sessions(self) -> bool:
        """Tell whether sessions are set up."""
        return self.version > Version.V1_0 and self.transport.has_sessions and bool(self.session)

    @property
    def offers_identity(self) -> bool:
        """Tell whether the requester could authenticate itself; `mode` and `basic` say whether the responder asks for it."""
        return self.req_asym is not None

    @property
    def slot(self) -> int:
        """The responder's slot that is used."""
        return PUBLIC_KEY_SLOT if self.public_keys else 0

    @property
    def hashes(self) -> MeasurementHash:
        """The hash of measurements."""
        return self.measurement_hash or MeasurementHash[str(self.base_hash.name)]

    @property
    def signed_measurements(self) -> bool:
        """Tell whether the responder signs measurements."""
        return not self.responder.added & Capability.MEAS_NO_SIG

    @property
    def name(self) -> str:
        """What the cell is called in results; no other cell has the same."""
        parts = [self.grid.value, self.case, self.version.text, self.transport.value, str(self.asym.name)]
        if self.has_sessions:
            parts += [str(self.group.name), str(self.aead.name)]
        parts.append(str(self.base_hash.name))
        if self.offers_identity:
            parts += [
                MUTUAL_NAMES[self.mode] + ("+BASIC" if self.basic else ""),
                str(self.req_asym and self.req_asym.name),
            ]
        if self.has_sessions:
            parts.append("clear" if self.clear else "encrypted handshake")
        return " ".join(part for part in parts if part)


MUTUAL_NAMES = {
    MutualAuth.NONE: "NO",
    MutualAuth.PLAIN: "WO_ENCAP",
    MutualAuth.ENCAPSULATED: "W_ENCAP",
    MutualAuth.IMPLICIT_DIGESTS: "DIGESTS",
}
"""The modes as --mut_auth names them."""
