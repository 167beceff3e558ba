"""A CXL target that answers the TEE Security Protocol (CXL 3.1, "TSP"): configure, lock, report, set TE states.

The first session that speaks TSP is the primary one; others may only read version and capabilities. No additional
secondary sessions are offered. Left out: memory encryption keys and delayed completion, which are answered
UNSUPPORTED_REQUEST.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from teeio.cxl import STANDARD_ID, VENDOR_ID
from teeio.cxl.tsp_messages import (
    BY_CODE,
    HEADER_SIZE,
    MAX_RANGES,
    PROTOCOL_ID,
    UNUSED_LENGTH_INDEX,
    VERSION_1_0,
    Configuration,
    ConfigurationFeatures,
    ConfigurationReport,
    EncryptionAlgorithms,
    EncryptionFeatures,
    ErrorCode,
    ErrorResponse,
    GetTargetCapabilities,
    GetTargetCapabilitiesResponse,
    GetTargetConfiguration,
    GetTargetConfigurationReport,
    GetTargetConfigurationReportResponse,
    GetTargetConfigurationResponse,
    GetTargetTspVersion,
    GetTargetTspVersionResponse,
    Granularity,
    LockTargetConfiguration,
    LockTargetConfigurationResponse,
    MemoryRange,
    Message,
    Opcode,
    SetTargetConfiguration,
    SetTargetConfigurationResponse,
    SetTargetTeState,
    SetTargetTeStateResponse,
    TeStateFeatures,
    TspState,
)
from teeio.errors import DecodeError, Reject
from teeio.observe import Observer, Refused, StateChanged, ignore

_UNLOCKED, _LOCKED = TspState.CONFIG_UNLOCKED, TspState.CONFIG_LOCKED
_CLAUSE = "CXL 3.1 TSP"
_LENGTH_INDICES = 8
_ADDRESS_SPACE = 1 << 64


@dataclass(frozen=True, slots=True)
class TspRule:
    """One request: where it is legal, the error elsewhere, and whether only the primary session may send it."""

    legal: frozenset[TspState]
    error: ErrorCode = ErrorCode.INVALID_SECURITY_STATE
    primary_only: bool = True


_ANY = frozenset(TspState)
TSP_RULES: Mapping[Opcode, TspRule] = MappingProxyType(
    {
        Opcode.GET_TARGET_TSP_VERSION: TspRule(_ANY, primary_only=False),
        Opcode.GET_TARGET_CAPABILITIES: TspRule(_ANY, primary_only=False),
        Opcode.SET_TARGET_CONFIGURATION: TspRule(frozenset({_UNLOCKED})),
        Opcode.GET_TARGET_CONFIGURATION: TspRule(frozenset({_UNLOCKED, _LOCKED})),
        Opcode.GET_TARGET_CONFIGURATION_REPORT: TspRule(frozenset({_UNLOCKED, _LOCKED})),
        Opcode.LOCK_TARGET_CONFIGURATION: TspRule(frozenset({_UNLOCKED}), ErrorCode.ALREADY_LOCKED),
        Opcode.SET_TARGET_TE_STATE: TspRule(frozenset({_LOCKED})),
    }
)
"""The rules by request."""


@dataclass(frozen=True, slots=True)
class TspCapabilities:
    """What the target supports; the defaults are consistent with one another."""

    encryption_features: EncryptionFeatures = EncryptionFeatures.ENCRYPTION
    encryption_algorithms: EncryptionAlgorithms = EncryptionAlgorithms.AES_XTS_256
    te_state_features: TeStateFeatures = (
        TeStateFeatures.READ_ACCESS_CONTROL
        | TeStateFeatures.IMPLICIT_TE_STATE_CHANGE
        | TeStateFeatures.EXPLICIT_IB_TE_STATE_CHANGE
    )
    ib_granularities: int = 0x1
    configuration_features: ConfigurationFeatures = ConfigurationFeatures.LOCKED_TARGET_FW_UPDATE


class CxlTspResponder:
    """Answers TSP messages for one target. `range_limit` bounds the memory ranges whose TE state is kept."""

    standard_id = STANDARD_ID
    vendor_id = VENDOR_ID
    protocol_id = PROTOCOL_ID

    def __init__(
        self, capabilities: TspCapabilities | None = None, *, range_limit: int = 1024, observer: Observer = ignore
    ) -> None:
        self.capabilities = capabilities or TspCapabilities()
        self._range_limit = range_limit
        self._observer = observer
        self._state = _UNLOCKED
        self._forget()

    def _forget(self) -> None:
        self._primary: int | None = None
        self._configuration = Configuration()
        self._granularities = (Granularity(),) * _LENGTH_INDICES
        self._te_states: dict[tuple[int, int], int] = {}

    @property
    def state(self) -> TspState:
        """The target's state."""
        return self._state

    @property
    def te_states(self) -> Mapping[tuple[int, int], int]:
        """The TE state last set for each range, by (start, length)."""
        return MappingProxyType(self._te_states)

    def respond(self, session_id: int, message: bytes, now: float) -> bytes:
        """Answer one message that came over the SPDM session `session_id`. Never raises on what the peer sends."""
        try:
            return self._answer(session_id, bytes(message)).encode()
        except Reject as refusal:
            self._observer(Refused("CXL target", bytes(message[1:2]).hex(), refusal.clause))
            return ErrorResponse(code=ErrorCode(refusal.code), data=refusal.data).encode()

    def session_ended(self, session_id: int) -> None:
        """Unlock the target, with nothing kept, when its primary session ends.

        UNCONFIRMED: whether the configuration outlives its primary session. Here it does not, so nothing trusted is
        left behind.
        """
        if session_id == self._primary:
            self._forget()
            self._enter(_UNLOCKED, "the primary session ended")

    def _answer(self, session_id: int, message: bytes) -> Message:
        request = self._decode(message)
        if self._primary is None:
            self._primary = session_id
        rule = TSP_RULES[Opcode(request.CODE)]
        if rule.primary_only and session_id != self._primary:
            raise Reject(ErrorCode.NO_PRIVILEGE, f"{request.NAME} needs the primary session ({_CLAUSE})")
        if self._state not in rule.legal:
            raise Reject(rule.error, f"{request.NAME} is illegal in {self._state.name} ({_CLAUSE})")
        handler: Callable[[CxlTspResponder, Any], Message] = _HANDLERS[type(request)]
        return handler(self, request)

    def _decode(self, message: bytes) -> Message:
        if len(message) < HEADER_SIZE:
            raise Reject(ErrorCode.INVALID_REQUEST, f"{len(message)} bytes are less than a header ({_CLAUSE})")
        cls = BY_CODE.get(message[1])
        if cls is None or cls not in _HANDLERS:
            raise Reject(ErrorCode.UNSUPPORTED_REQUEST, f"opcode {message[1]:#04x} is not supported ({_CLAUSE})")
        try:
            request: Message = cls.decode(bytes([VERSION_1_0]) + message[1:])
        except DecodeError as error:
            raise Reject(ErrorCode.INVALID_REQUEST, f"{error} ({_CLAUSE})") from error
        if message[0] != VERSION_1_0:
            raise Reject(ErrorCode.VERSION_MISMATCH, f"version {message[0]:#04x} is not 0x10 ({_CLAUSE})")
        return request

    # -- handlers ----------------------------------------------------------------------------------------------------

    def _get_version(self, request: GetTargetTspVersion) -> Message:
        return GetTargetTspVersionResponse(versions=(VERSION_1_0,))

    def _get_capabilities(self, request: GetTargetCapabilities) -> Message:
        return GetTargetCapabilitiesResponse(
            encryption_features=self.capabilities.encryption_features,
            encryption_algorithms=self.capabilities.encryption_algorithms,
            te_state_features=self.capabilities.te_state_features,
            ib_granularities=self.capabilities.ib_granularities,
            configuration_features=self.capabilities.configuration_features,
        )

    def _set_configuration(self, request: SetTargetConfiguration) -> Message:
        for problem in _problems(request, self.capabilities):
            raise Reject(ErrorCode.INVALID_REQUEST, f"{problem} ({_CLAUSE})")
        self._configuration = Configuration(**_configured(request))
        self._granularities = request.ib_granularities
        return SetTargetConfigurationResponse()

    def _get_configuration(self, request: GetTargetConfiguration) -> Message:
        return GetTargetConfigurationResponse(
            **_configured(self._configuration), state=self._state, ib_granularities=self._granularities
        )

    def _get_report(self, request: GetTargetConfigurationReport) -> Message:
        report = ConfigurationReport(valid_fields=0).encode()
        if request.offset >= len(report) or request.length == 0:
            raise Reject(ErrorCode.INVALID_REQUEST, f"the report has {len(report)} bytes ({_CLAUSE})")
        end = min(request.offset + request.length, len(report))
        return GetTargetConfigurationReportResponse(
            portion=report[request.offset : end], remainder_length=len(report) - end
        )

    def _lock(self, request: LockTargetConfiguration) -> Message:
        self._enter(_LOCKED, "LOCK_TARGET_CONFIGURATION")
        return LockTargetConfigurationResponse()

    def _set_te_state(self, request: SetTargetTeState) -> Message:
        if not 0 < len(request.ranges) <= MAX_RANGES:
            raise Reject(ErrorCode.INVALID_REQUEST, f"{len(request.ranges)} ranges, not 1 to {MAX_RANGES} ({_CLAUSE})")
        for item in request.ranges:
            if item.length == 0 or item.start + item.length > _ADDRESS_SPACE:
                raise Reject(
                    ErrorCode.INVALID_REQUEST, f"a range of {item.length} bytes at {item.start:#x} ({_CLAUSE})"
                )
        self._keep(request.ranges, request.te_state)
        return SetTargetTeStateResponse()

    def _keep(self, ranges: tuple[MemoryRange, ...], te_state: int) -> None:
        changed = {**self._te_states, **{(item.start, item.length): te_state for item in ranges}}
        if len(changed) > self._range_limit:
            raise Reject(ErrorCode.UNSPECIFIED, f"no room for more than {self._range_limit} ranges ({_CLAUSE})")
        self._te_states = changed

    def _enter(self, state: TspState, cause: str) -> None:
        old, self._state = self._state, state
        if old is not state:
            self._observer(StateChanged("CXL target", old.name, state.name, cause))


def _configured(source: Configuration) -> dict[str, Any]:
    return {f.name: getattr(source, f.name) for f in fields(Configuration)}


def _problems(request: SetTargetConfiguration, supported: TspCapabilities) -> list[str]:
    """List what is wrong with a configuration."""
    encrypting = bool(request.encryption_features & EncryptionFeatures.ENCRYPTION)
    indices = [g.length_index for g in request.ib_granularities if g.length_index != UNUSED_LENGTH_INDEX]
    checks = {
        "memory encryption features not supported": request.encryption_features & ~supported.encryption_features,
        "an algorithm without encryption": not encrypting and request.encryption_algorithm,
        "not one algorithm chosen": encrypting and request.encryption_algorithm.bit_count() != 1,
        "the algorithm is not supported": request.encryption_algorithm & ~supported.encryption_algorithms,
        "TE state features not supported": request.te_state_features & ~supported.te_state_features,
        "an out-of-band granularity without that feature": request.oob_granularity,
        "CKIDs without CKID-based encryption": request.number_of_ckids,
        "a length index above 7": any(index >= _LENGTH_INDICES for index in indices),
        "a length index given twice": len(set(indices)) != len(indices),
        "keys for secondary sessions, of which there are none": request.validity_flags,
    }
    return [text for text, wrong in checks.items() if wrong]


_HANDLERS: dict[type[Any], Callable[..., Message]] = {
    GetTargetTspVersion: CxlTspResponder._get_version,
    GetTargetCapabilities: CxlTspResponder._get_capabilities,
    SetTargetConfiguration: CxlTspResponder._set_configuration,
    GetTargetConfiguration: CxlTspResponder._get_configuration,
    GetTargetConfigurationReport: CxlTspResponder._get_report,
    LockTargetConfiguration: CxlTspResponder._lock,
    SetTargetTeState: CxlTspResponder._set_te_state,
}
