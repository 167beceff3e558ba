"""What lasts: the settings of a side, the facts of a connection, and a session with its keys."""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

from teeio.crypto.algorithms import (
    Aead,
    BaseAsym,
    BaseHash,
    Dhe,
    Kem,
    MeasurementHash,
    OpaqueDataFormat,
    PqcAsym,
    Suite,
)
from teeio.crypto.keys import Asym, PublicKey
from teeio.errors import Misuse
from teeio.observe import MessageMoved, Observer, SecretDerived, StateChanged, heard, ignore
from teeio.spdm.byte_order import ByteOrder, nonce_order
from teeio.spdm.chunking import LargeMessages
from teeio.spdm.constants import FIRST_SESSION_HALF, Capability, Version
from teeio.spdm.key_schedule import HandshakeSecrets, KeySchedule
from teeio.spdm.messages import Facts, NegotiateAlgorithms, name_of
from teeio.spdm.opaque import SECURED_VERSIONS
from teeio.spdm.record import MAX_RECORDS, MIN_RECORDS, RecordKey, RecordTerms
from teeio.spdm.rules import Phase, Place

REQUESTER_CAPABILITIES = (
    Capability.ENCRYPT | Capability.MAC | Capability.KEY_EX | Capability.HBEAT | Capability.KEY_UPD | Capability.CHUNK
)
"""What a requester without mutual authentication offers."""

MUTUAL_CAPABILITIES = Capability.CERT | Capability.CHAL | Capability.MUT_AUTH | Capability.ENCAP
"""What both sides offer besides for mutual authentication."""

RESPONDER_CAPABILITIES = (
    Capability.CERT
    | Capability.CHAL
    | Capability.MEAS_SIG
    | Capability.MEAS_FRESH
    | Capability.ENCRYPT
    | Capability.MAC
    | Capability.KEY_EX
    | Capability.HBEAT
    | Capability.KEY_UPD
    | Capability.CHUNK
)
"""What a TDISP device's responder offers."""


ENCAPSULATION_OVERHEAD = 8
"""Bytes of DELIVER_ENCAPSULATED_RESPONSE and ENCAPSULATED_RESPONSE_ACK before the message inside, at most."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one side offers. Tuples are in order of preference, best first."""

    versions: tuple[int, ...] = (Version.V1_3, Version.V1_2)
    capabilities: Capability = REQUESTER_CAPABILITIES
    base_hash: tuple[BaseHash, ...] = (BaseHash.SHA_384, BaseHash.SHA_256)
    base_asym: tuple[BaseAsym, ...] = (BaseAsym.ECDSA_P384, BaseAsym.ECDSA_P256)
    pqc_asym: tuple[PqcAsym, ...] = ()
    req_base_asym: tuple[BaseAsym, ...] = (BaseAsym.ECDSA_P384, BaseAsym.ECDSA_P256)
    req_pqc_asym: tuple[PqcAsym, ...] = ()
    dhe: tuple[Dhe, ...] = (Dhe.SECP384R1, Dhe.SECP256R1)
    kem: tuple[Kem, ...] = ()
    aead: tuple[Aead, ...] = (Aead.AES_256_GCM, Aead.AES_128_GCM)
    measurement_hash: tuple[MeasurementHash, ...] = (MeasurementHash.SHA_384, MeasurementHash.SHA_256)
    ct_exponent: int = 20
    data_transfer_size: int = 0x1200
    max_message_size: int = 0x28000
    heartbeat_period: int = 0
    max_sessions: int = 4
    multi_key: bool = False
    """As requester: let the responder use several keys of an algorithm, if it leaves the choice (MULTI_KEY_NEG)."""
    secured_versions: tuple[int, ...] = SECURED_VERSIONS
    """Versions of secured messages (DSP0277) as they travel: 0x1100 is 1.1."""
    signature_order: ByteOrder = ByteOrder.BIG
    """How signatures of RSA and ECDSA lie in 1.0 and 1.1 (see `byte_order`)."""
    nonce_order: ByteOrder = ByteOrder.LITTLE
    """How sequence numbers enter the nonces of secured messages 1.0 and 1.1 (see `byte_order`)."""
    records_per_key: int = MAX_RECORDS
    """How many records one key may protect; before that the requester updates the keys (DSP0277, sequence numbers)."""

    def __post_init__(self) -> None:
        if self.records_per_key < MIN_RECORDS:
            raise Misuse(
                f"{self.records_per_key} records per key leave no room to update it",
                remedy=f"allow {MIN_RECORDS} at least",
            )

    def record_terms(self, secured_version: int) -> RecordTerms:
        """Give the terms of a session with a version of secured messages, as it travels."""
        return RecordTerms(nonce_order(secured_version, self.nonce_order), self.records_per_key)

    def message_limit(self, flags: Capability) -> int:
        """Give MaxSPDMmsgSize as it must be with these capability flags: no more than DataTransferSize without CHUNK."""
        return self.max_message_size if flags & Capability.CHUNK else self.data_transfer_size

    def with_suite(self, suite: Suite) -> Settings:
        """Offer one suite only."""
        return replace(
            self,
            base_hash=(suite.base_hash,),
            base_asym=(suite.base_asym,),
            pqc_asym=(),
            dhe=(suite.dhe,),
            kem=(),
            aead=(suite.aead,),
            measurement_hash=(suite.measurement_hash,),
        )


@dataclass(frozen=True)
class Connection:
    """What version, capability and algorithm negotiation have agreed on so far.

    After basic mutual authentication the responder knows `requester_key`, and `requester_chain` unless the key was provisioned.
    """

    phase: Phase = Phase.START
    version: int = Version.V1_0
    requester_capabilities: Capability = Capability(0)
    responder_capabilities: Capability = Capability(0)
    peer_data_transfer_size: int = 0
    peer_max_message_size: int = 0
    base_hash: BaseHash = BaseHash(0)
    base_asym: BaseAsym = BaseAsym(0)
    pqc_asym: PqcAsym = PqcAsym(0)
    req_base_asym: BaseAsym = BaseAsym(0)
    req_pqc_asym: PqcAsym = PqcAsym(0)
    dhe: Dhe = Dhe(0)
    kem: Kem = Kem(0)
    aead: Aead = Aead(0)
    measurement_hash: MeasurementHash = MeasurementHash(0)
    opaque_format: OpaqueDataFormat = OpaqueDataFormat(0)
    multi_key: bool = False
    requester_multi_key: bool = False
    mel_specification: int = 0
    offered_by_responder: NegotiateAlgorithms | None = None
    requester_chain: bytes = field(default=b"", repr=False)
    requester_key: PublicKey | None = field(default=None, repr=False)
    state_cleared: bool = False
    """An END_SESSION of this connection has cleared the negotiated state: later ones no longer preserve it (as the DMTF reference)."""
    encapsulated: bool = False

    @property
    def common_capabilities(self) -> Capability:
        """Flags that both sides set."""
        return self.requester_capabilities & self.responder_capabilities

    @property
    def peer_message_limit(self) -> int:
        """Largest message that the peer takes in one piece or, where both sides can, in chunks; 0 for no limit (before 1.2)."""
        chunks = self.common_capabilities & Capability.CHUNK
        return self.peer_max_message_size if chunks else self.peer_data_transfer_size

    @property
    def preservable(self) -> Connection | None:
        """What END_SESSION preserves: the negotiated state without what authentication has found out; None without CACHE."""
        if self.state_cleared or not self.responder_capabilities & Capability.CACHE:
            return None
        return replace(self, requester_chain=b"", requester_key=None)

    @property
    def asym(self) -> Asym:
        """The responder's signature algorithm: at most one of the two kinds is selected."""
        return self.pqc_asym or self.base_asym

    @property
    def req_asym(self) -> Asym:
        """The requester's signature algorithm for mutual authentication, or 0."""
        return self.req_pqc_asym or self.req_base_asym

    @property
    def group(self) -> Dhe | Kem:
        """What KEY_EXCHANGE uses: at most one of the two kinds is selected."""
        return self.kem or self.dhe

    @property
    def outside(self) -> Place:
        """Where a message outside sessions travels, for the legality rules."""
        return Place.OUTSIDE | Place.CLEAR_HANDSHAKE if self.facts.handshake_in_the_clear else Place.OUTSIDE

    @cached_property
    def facts(self) -> Facts:
        """What the message layouts need; asked for with every message, so it is put together once."""
        exchange = self.dhe.exchange_size if self.dhe else 0
        return Facts(
            version=self.version,
            hash_size=self.base_hash.size if self.base_hash else 0,
            signature_size=self.asym.signature_size if self.asym else 0,
            req_signature_size=self.req_asym.signature_size if self.req_asym else 0,
            request_exchange_size=self.kem.request_size if self.kem else exchange,
            response_exchange_size=self.kem.response_size if self.kem else exchange,
            handshake_in_the_clear=bool(self.common_capabilities & Capability.HANDSHAKE_IN_THE_CLEAR),
            multi_key=self.multi_key,
        )

    def mirrored(self) -> Connection:
        """Give the connection as encapsulated requests see it: the roles of the two sides are exchanged.

        What a side takes at once becomes what an encapsulated response may have, since its wrapper may be sent in chunks.
        """
        limit = max(0, self.peer_message_limit - ENCAPSULATION_OVERHEAD)
        return replace(
            self,
            requester_capabilities=self.responder_capabilities,
            responder_capabilities=self.requester_capabilities,
            peer_data_transfer_size=limit,
            peer_max_message_size=limit,
            base_asym=self.req_base_asym,
            pqc_asym=self.req_pqc_asym,
            req_base_asym=self.base_asym,
            req_pqc_asym=self.pqc_asym,
            multi_key=self.requester_multi_key,
            requester_multi_key=self.multi_key,
            encapsulated=not self.encapsulated,
        )

    @property
    def key_schedule(self) -> KeySchedule:
        """The key schedule of sessions on this connection."""
        return KeySchedule(self.version, self.base_hash, self.aead)


def free_session_half(used: Collection[int]) -> int:
    """Give the first half of a session id that is not `used`."""
    return next(half for half in range(FIRST_SESSION_HALF, 0, -1) if half not in used)


class SessionPhase(Enum):
    """Phases of a session."""

    HANDSHAKE = "handshake"
    ESTABLISHED = "established"
    ENDED = "ended"


@dataclass(slots=True)
class Session:
    """One session, from KEY_EXCHANGE to its end. `transcript` is TH so far, in bytes.

    With mutual authentication `requester_slot` is the slot that FINISH must prove; the responder sets `requester_key`, by which it
    verifies that proof, when it has accepted the requester's chain (`requester_chain`) or has been provisioned with the key.
    """

    session_id: int
    schedule: KeySchedule
    observer: Observer = ignore
    encrypted: bool = True
    heartbeat_period: int = 0
    last_seen: float = 0.0
    transcript: bytes = field(default=b"", repr=False)
    phase: SessionPhase = SessionPhase.HANDSHAKE
    handshake: HandshakeSecrets = field(init=False, repr=False)
    request_key: RecordKey = field(init=False, repr=False)
    response_key: RecordKey = field(init=False, repr=False)
    previous_key: RecordKey | None = field(default=None, repr=False)
    update_unverified: bool = False
    psk: bool = False
    large: LargeMessages = field(default_factory=LargeMessages, repr=False)
    terms: RecordTerms = field(default_factory=RecordTerms)
    directions: tuple[str, str] = ("request", "response")
    requester_slot: int | None = None
    requester_chain: bytes = field(default=b"", repr=False)
    requester_key: PublicKey | None = field(default=None, repr=False)

    @property
    def place(self) -> Place:
        """Where a message of this session travels, for the legality rules."""
        return Place.ESTABLISHED if self.phase is SessionPhase.ESTABLISHED else Place.HANDSHAKE

    def enter_handshake(self, shared: bytes, *, psk: bool = False) -> None:
        """Derive the handshake secrets; `transcript` must be TH1."""
        self.psk = psk
        self.handshake = self.schedule.handshake(shared, self.transcript, psk=psk)
        self._use(self.handshake.request, self.handshake.response)
        self._tell("psk" if psk else "dhe_secret", shared)
        self._tell("handshake_secret", self.handshake.handshake)
        self._tell("request_handshake_secret", self.handshake.request)
        self._tell("response_handshake_secret", self.handshake.response)

    def enter_data(self) -> None:
        """Derive the application secrets; `transcript` must be TH2."""
        secrets = self.schedule.data(self.handshake.handshake, self.transcript)
        self._use(secrets.request, secrets.response)
        self._tell("master_secret", secrets.master)
        self._tell("request_data_secret", secrets.request)
        self._tell("response_data_secret", secrets.response)
        self._tell("export_master_secret", secrets.export_master)
        self.move(SessionPhase.ESTABLISHED, "FINISH")

    def mirrored(self) -> Session:
        """Give a copy in which the directions are exchanged, for a KEY_UPDATE that the responder asks for."""
        made = copy(self)
        made.request_key, made.response_key = self.response_key, self.request_key
        made.directions = (self.directions[1], self.directions[0])
        made.previous_key, made.update_unverified = None, False
        return made

    def _use(self, request: bytes, response: bytes) -> None:
        self.request_key = RecordKey(self.schedule, request, self.terms)
        self.response_key = RecordKey(self.schedule, response, self.terms)
        self.previous_key = None

    def move(self, phase: SessionPhase, cause: str) -> None:
        """Change phase and tell the observer."""
        old, self.phase = self.phase, phase
        self.observer(StateChanged(f"session {self.session_id:#010x}", old.value, phase.value, cause))

    def _tell(self, label: str, value: bytes) -> None:
        self.observer(SecretDerived(label, f"{self.session_id:08x}", value))


def tell_of(message: bytes, observer: Observer, source: str, target: str, session: Session | None) -> None:
    """Tell of an SPDM message, if anybody hears; one too short to have a code has no name either."""
    if heard(observer):
        name = name_of(message[1]) if len(message) > 1 else "(short)"
        observer(MessageMoved(source, target, "SPDM", name, len(message), session.session_id if session else None))
