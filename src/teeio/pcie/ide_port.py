"""IDE at a port: its streams bound to the IDE capability registers, TLPs in and out, errors (PCIe Base 6.33).

The port picks the stream of a TLP, seals and opens, sends IDE Sync when it is due, and turns a stream Insecure when a
rule is broken: keys erased, status register and AER bit set, IDE Fail to the partner, callback to the owner.

A key that was installed once at a port is never installed again there, in whatever slot: with the slots' counters
that makes a second use of a key and IV impossible. The digests of used keys are kept until a conventional reset.

Left out: Flow-Through (there are no switches here), Configuration requests on a Selective stream at an endpoint,
segments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from teeio.errors import DecodeError
from teeio.observe import Observer, Refused, StateChanged, ignore
from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.ide import SECURE, IdeCapability, StreamBlock
from teeio.pcie.ide import Direction, KeySet, Stream, StreamSettings
from teeio.pcie.ide_key import FIRST_INVOCATION, KEY_SIZE, IdeCheckFailed, PcrcCheckFailed, SlotState, StaleKey
from teeio.pcie.ide_tlp import PREFIX_SIZE, failed_stream, ide_fail, is_ide, message_code
from teeio.pcie.registers import Register
from teeio.pcie.tlp import MessageCode, SubStream, Tlp, TlpType

MAX_KEYS = 1 << 16
"""Keys that a port takes between two conventional resets: its memory of used keys is bounded."""


class InsecureCause(Enum):
    """Why a stream left Secure."""

    DISABLED = "enable bit cleared"
    CHECK_FAILED = "IDE check failed"
    FAIL_RECEIVED = "IDE Fail received"
    RECONFIGURED = "reconfigured while enabled"
    BAD_SETTINGS = "enabled without a valid RID association or with an unknown algorithm"
    RESET = "reset"
    FUNCTION_RESET = "reset of the function that holds the IDE registers"
    ORDERED = "ordered by the device"


_NO_REUSE = "no key and IV twice (PCIe Base 6.33.5)"
_SYNC_FORM = "an IDE Sync is always an IDE TLP (PCIe Base 6.33.7)"
_INSECURE = "an Insecure stream carries nothing (PCIe Base 6.33.3)"
_NO_MESSAGE = {InsecureCause.DISABLED, InsecureCause.FAIL_RECEIVED, InsecureCause.RESET}


class ProgramResult(Enum):
    """What became of a key; only OK installed it."""

    OK = "installed"
    UNKNOWN_STREAM = "no stream block has this Stream ID"
    BAD_KEY = "the key has the wrong size"
    BAD_IFV = "the initial invocation field must be 1"
    IN_USE = "the slot is in use"
    KEY_REUSED = "the key was installed before"
    TOO_MANY_KEYS = "the port remembers no more used keys until the next conventional reset"


class Received(NamedTuple):
    """A TLP that came in: its T bit, the stream it came on (None without IDE).

    `admitted` is False if the stream is bound to other requester IDs: a request is then Unsupported, a completion
    Unexpected.
    """

    tlp: Tlp
    t_bit: bool = False
    stream_id: int | None = None
    admitted: bool = True


@dataclass(slots=True)
class _Bound:
    """A stream, its registers, and the associations sampled when it was enabled."""

    block: StreamBlock
    stream: Stream = field(default_factory=Stream)
    rids: range | None = None
    addresses: list[AddressRange] = field(default_factory=list)
    default: bool = False
    tee_limited: bool = False
    configuration: bool = False
    traffic_class: int = 0

    @property
    def id(self) -> int:
        return self.stream.settings.stream_id if self.stream.enabled else self.block.field("stream_id")

    def serves(self, tlp: Tlp) -> bool:
        """Tell whether the associations name this TLP's destination (PCIe Base 6.33.4)."""
        kind, rids = tlp.type, self.rids or range(0)
        if kind.is_completion:
            return tlp.requester_id in rids
        if kind in (TlpType.CFGRD1, TlpType.CFGWR1):
            return self.configuration and tlp.configuration().target_id in rids
        if kind in (TlpType.MSG_ID, TlpType.MSGD_ID):
            return int.from_bytes(tlp.header[8:10], "big") in rids
        if kind.is_message or not kind.value.selective:
            return False
        address = tlp.memory().address
        return any(associated.holds(address) for associated in self.addresses)


_DEFAULT_TYPES = {TlpType.MRD, TlpType.MRDLK, TlpType.MWR, TlpType.DMWR, TlpType.FETCH_ADD, TlpType.SWAP, TlpType.CAS}
_DEFAULT_TYPES |= {TlpType.MSG_ROOT, TlpType.MSGD_ROOT}


class IdePort:
    """The streams of one port; without a capability it has none and carries plain TLPs only.

    `emit` sends a frame on the link; `requester_id` names the function that holds the capability; `on_insecure` hears
    of every stream that leaves Secure; `checks_all_rids` is for a Root Port, which binds every Selective stream to
    its requester IDs, where an endpoint exempts its Default Stream.
    """

    def __init__(
        self,
        capability: IdeCapability | None,
        emit: Callable[[bytes], None],
        requester_id: Callable[[], int],
        *,
        aer: AerCapability | None = None,
        checks_all_rids: bool = False,
        on_insecure: Callable[[int, InsecureCause], None] | None = None,
        name: str = "port",
        observer: Observer = ignore,
    ) -> None:
        self.capability = capability
        self.name = name
        self.on_insecure = on_insecure
        self._emit = emit
        self._requester_id = requester_id
        self._aer = aer
        self._checks_all_rids = checks_all_rids
        self._observer = observer
        self._used_keys: set[bytes] = set()
        self._bound = [_Bound(block) for block in capability.streams] if capability else []
        for bound in self._bound:
            for register in bound.block.registers():
                bound.block.block.watch(register, self._watcher(bound))

    # -- what the registers say

    def _watcher(self, bound: _Bound) -> Callable[[Register, int, int], None]:
        def written(register: Register, old: int, new: int) -> None:
            if register is not bound.block.control:
                if bound.stream.enabled and old != new:
                    self._insecure(bound, InsecureCause.RECONFIGURED)
                return
            self._control_written(bound, old, new)

        return written

    def _control_written(self, bound: _Bound, old: int, new: int) -> None:
        register = bound.block.control
        was, now = register.get(old, "enable"), register.get(new, "enable")
        if now and not was:
            self._enable(bound)
        elif was and not now:
            self._insecure(bound, InsecureCause.DISABLED)
            bound.stream.disable()
        elif now and old != new:
            self._insecure(bound, InsecureCause.RECONFIGURED)
        elif register.get(old, "stream_id") != register.get(new, "stream_id"):
            bound.stream.erase()

    def _enable(self, bound: _Bound) -> None:
        block = bound.block
        counts = [1 << block.field(name) for name in ("pr_aggregation", "npr_aggregation", "cpl_aggregation")]
        bound.rids, bound.addresses = block.rid_range(), block.address_ranges()
        bound.default, bound.tee_limited = bool(block.field("default")), bool(block.field("tee_limited"))
        bound.configuration, bound.traffic_class = bool(block.field("configuration")), block.field("traffic_class")
        bound.stream.enable(
            StreamSettings(
                block.field("stream_id"), block.selective, bool(block.field("pcrc")), (counts[0], counts[1], counts[2])
            )
        )
        if (block.selective and bound.rids is None) or block.field("algorithm"):
            self._insecure(bound, InsecureCause.BAD_SETTINGS)
        self._show(bound, "enabled")

    def _show(self, bound: _Bound, cause: str) -> None:
        """Bring the status register up to date and tell of a change."""
        state = SECURE if bound.stream.secure else 0
        before = bound.block.block.get(bound.block.status, "state")
        bound.block.block.set(bound.block.status, state=state)
        if state != before:
            names = {0: "Insecure", SECURE: "Secure"}
            subject = f"IDE stream {bound.id} at {self.name}"
            self._observer(StateChanged(subject, names[before], names[state], cause))

    # -- keys and state, for IDE_KM and TDISP

    def _named(self, stream_id: int) -> _Bound | None:
        """Find a stream by its ID; of several an enabled one, then one with a valid RID association."""
        found = [bound for bound in self._bound if bound.id == stream_id]
        found.sort(key=lambda bound: (not bound.stream.enabled, bound.block.rid_range() is None))
        return found[0] if found else None

    def program(
        self, stream_id: int, key_set: KeySet, direction: Direction, sub_stream: SubStream, key: bytes, ifv: int
    ) -> ProgramResult:
        """Install a key (KEY_PROG); `direction` is as this port sees it. Anything but OK installed nothing."""
        bound = self._named(stream_id)
        if bound is None:
            return ProgramResult.UNKNOWN_STREAM
        if len(key) != KEY_SIZE:
            return ProgramResult.BAD_KEY
        if ifv != FIRST_INVOCATION:
            return ProgramResult.BAD_IFV
        digest = hashlib.sha256(key).digest()[:16]
        if self.was_used(digest):
            self._observer(Refused(self.name, f"a key for IDE stream {stream_id}", _NO_REUSE))
            return ProgramResult.KEY_REUSED
        if len(self._used_keys) >= MAX_KEYS:
            return ProgramResult.TOO_MANY_KEYS
        if not bound.stream.program(key_set, direction, sub_stream, key):
            return ProgramResult.IN_USE
        self._used_keys.add(digest)
        return ProgramResult.OK

    def was_used(self, digest: bytes) -> bool:
        """Tell whether the key with this digest was installed before: under it IVs would come twice."""
        return digest in self._used_keys

    def set_go(self, stream_id: int, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> bool:
        """Let a key be used (K_SET_GO); False if there is no such stream or key."""
        bound = self._named(stream_id)
        if bound is None or not bound.stream.set_go(key_set, direction, sub_stream):
            return False
        self._show(bound, "keys in use")
        return True

    def set_stop(self, stream_id: int, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> bool:
        """Erase a key (K_SET_STOP); False if there is no such stream."""
        bound = self._named(stream_id)
        if bound is None:
            return False
        bound.stream.set_stop(key_set, direction, sub_stream)
        return True

    def slot_state(self, stream_id: int, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> SlotState:
        """Tell what the slot that `program` would fill holds; EMPTY if there is no such stream."""
        bound = self._named(stream_id)
        return bound.stream.slot(key_set, direction, sub_stream).state if bound else SlotState.EMPTY

    def block(self, stream_id: int) -> StreamBlock | None:
        """Find the registers of the stream that `program` would address."""
        bound = self._named(stream_id)
        return bound.block if bound else None

    def is_secure(self, stream_id: int) -> bool:
        """Tell whether the stream is Secure."""
        bound = self._named(stream_id)
        return bound is not None and bound.stream.secure

    def keyed(self, stream_id: int) -> bool:
        """Tell whether one key set of the stream holds all six keys."""
        bound = self._named(stream_id)
        return bound is not None and bound.stream.keyed()

    def default_stream(self) -> int | None:
        """Give the ID of the enabled Default Stream."""
        return next((bound.id for bound in self._bound if bound.stream.enabled and bound.default), None)

    def make_insecure(self, stream_id: int, cause: InsecureCause = InsecureCause.ORDERED) -> None:
        """Turn a stream Insecure and erase its keys: session ended, debug on, function reset."""
        bound = self._named(stream_id)
        if bound is not None:
            self._insecure(bound, cause)

    def erase_keys(self, cause: InsecureCause = InsecureCause.ORDERED) -> None:
        """Erase all keys of all streams: those that are Secure turn Insecure."""
        for bound in self._bound:
            self._insecure(bound, cause)

    def reset(self, *, conventional: bool = False) -> None:
        """Turn all streams Insecure; a conventional reset also forgets which keys were used.

        Reset the registers first: a stream whose Enable bit is still set stays enabled, and drops what it should carry.
        """
        for bound in self._bound:
            self._insecure(bound, InsecureCause.RESET)
            if not bound.block.field("enable"):
                bound.stream.disable()
        if conventional:
            self._used_keys.clear()

    def _insecure(self, bound: _Bound, cause: InsecureCause, why: str = "") -> None:
        # A stream that failed its own check has erased its keys already; the register still says Secure.
        was_secure = bound.stream.secure or bool(bound.block.block.get(bound.block.status, "state"))
        bound.stream.fail()
        self._show(bound, why or cause.value)
        if not was_secure:
            return
        if cause not in _NO_MESSAGE:
            self._send_fail(bound)
        if self.on_insecure is not None:
            self.on_insecure(bound.id, cause)

    def _send_fail(self, bound: _Bound) -> None:
        destination = bound.rids.start if bound.rids else None
        if destination is None and bound.block.selective:
            return
        tlp = ide_fail(self._requester_id(), destination, bound.id, bound.traffic_class)
        self._emit(tlp.encode())

    def check_failed(self, stream_id: int, why: str) -> None:
        """Report a check that only the transaction layer can make: a completion on another stream than its request."""
        bound = self._named(stream_id)
        if bound is not None:
            self._record(Uncorrectable.IDE_CHECK_FAILED, b"", why)
            self._insecure(bound, InsecureCause.CHECK_FAILED, why)

    def _record(self, error: Uncorrectable, header: bytes, why: str) -> None:
        if self._aer is not None:
            self._aer.record(error, header)
        self._observer(Refused(self.name, why, error.name))

    # -- the transmitter

    def select(self, tlp: Tlp, t_bit: bool = False) -> int | None:
        """Give the ID of the stream that a TLP to send belongs to; None if it goes without IDE."""
        bound = self._select(tlp, t_bit)
        return bound.id if bound else None

    def _select(self, tlp: Tlp, t_bit: bool) -> _Bound | None:
        usable = [bound for bound in self._bound if bound.stream.enabled and (t_bit or not bound.tee_limited)]
        selective = [bound for bound in usable if bound.block.selective]
        if tlp.type.value.selective:
            for bound in selective:
                if bound.serves(tlp):
                    return bound
            for bound in selective:
                if bound.default and tlp.type in _DEFAULT_TYPES:
                    return bound
        links = (bound for bound in usable if not bound.block.selective and bound.traffic_class == tlp.traffic_class)
        return next(links, None)

    def transmit(self, tlp: Tlp, t_bit: bool = False, stream_id: int | None = None) -> bool:
        """Send a TLP, on its stream if it has one; `stream_id` overrides the associations.

        False if it was dropped: its stream is Insecure, or T=1 was asked and it has no stream.
        """
        return self.transmit_unit([tlp], t_bit, stream_id)

    def transmit_unit(self, tlps: Sequence[Tlp], t_bit: bool = False, stream_id: int | None = None) -> bool:
        """Send TLPs of one sub-stream as one unit, under one MAC; as `transmit` otherwise."""
        bound = self._select(tlps[0], t_bit) if stream_id is None else self._named(stream_id)
        if bound is None and not t_bit and stream_id is None:
            for tlp in tlps:
                self.transmit_plain(tlp)
            return True
        if bound is None:
            what = f"{tlps[0].type.value.label} with T={int(t_bit)} and no stream for it"
            self._observer(Refused(self.name, what, "T=1 needs a Secure IDE stream"))
            return False
        if not bound.stream.secure:
            self._observer(Refused(self.name, f"{tlps[0].type.value.label} on IDE stream {bound.id}", _INSECURE))
            return False
        try:
            frames = [bound.stream.seal(tlps[0], t_bit)] if len(tlps) == 1 else bound.stream.seal_unit(tlps, t_bit)
        except IdeCheckFailed as error:
            self._insecure(bound, InsecureCause.CHECK_FAILED, str(error))
            return False
        for frame in frames:
            self._emit(frame)
        if bound.stream.secure and bound.stream.sync_due:
            destination = bound.rids.start if bound.rids else None
            self._emit(bound.stream.seal_sync(self._requester_id(), destination, bound.traffic_class))
        return True

    def transmit_plain(self, tlp: Tlp) -> bool:
        """Send a TLP without IDE whatever the associations say: a completion to a request that came without."""
        self._emit(tlp.encode())
        return True

    # -- the receiver

    def receive(self, frame: bytes) -> list[Received]:
        """Take a frame from the link; give the TLPs for the transaction layer. No frame makes it raise."""
        try:
            return list(self._receive(frame))
        except DecodeError as error:
            self._record(Uncorrectable.MALFORMED_TLP, frame[:16], str(error))
            return []

    def _receive(self, frame: bytes) -> Iterator[Received]:
        if not is_ide(frame):
            tlp = Tlp.decode(frame)
            if not self._consumed(tlp, protected=False):
                yield Received(tlp)
            return
        if len(frame) < PREFIX_SIZE:
            raise DecodeError("IdePrefix", "(end)", len(frame), "the prefix is cut short")
        bound = next((bound for bound in self._bound if bound.stream.enabled and bound.id == frame[2]), None)
        if bound is None:
            self._record(Uncorrectable.MISROUTED_IDE_TLP, frame[4:20], f"IDE TLP of unknown stream {frame[2]}")
            return
        for tlp, t_bit in self._open(bound, frame):
            tlp.check()
            if not self._consumed(tlp, protected=True):
                yield Received(tlp, t_bit, bound.id, self._admits(bound, tlp))

    def _open(self, bound: _Bound, frame: bytes) -> list[tuple[Tlp, bool]]:
        if not bound.stream.secure:
            self._observer(Refused(self.name, f"IDE TLP of stream {bound.id}", _INSECURE))
            return []
        try:
            return bound.stream.receive(frame)
        except IdeCheckFailed as error:
            self._record(Uncorrectable.IDE_CHECK_FAILED, frame[4:20], str(error))
            self._insecure(bound, InsecureCause.CHECK_FAILED, str(error))
        except PcrcCheckFailed as error:
            self._record(Uncorrectable.PCRC_CHECK_FAILED, frame[4:20], str(error))
        except StaleKey as error:
            self._observer(Refused(self.name, "IDE TLP", str(error)))
        return []

    def _consumed(self, tlp: Tlp, *, protected: bool) -> bool:
        """Act on the messages that are IDE's own business."""
        code = message_code(tlp)
        if code == MessageCode.IDE_SYNC:
            if not protected:
                self._observer(Refused(self.name, "IDE Sync without IDE", _SYNC_FORM))
            return True
        if code != MessageCode.IDE_FAIL:
            return False
        stream_id = failed_stream(tlp)
        for bound in self._bound:
            if bound.stream.enabled and bound.id == stream_id:
                bound.block.block.set(bound.block.status, fail_received=1)
                self._insecure(bound, InsecureCause.FAIL_RECEIVED)
        return True

    def _admits(self, bound: _Bound, tlp: Tlp) -> bool:
        """Tell whether requester or completer belongs to the partner port (PCIe Base 6.33.4)."""
        if not bound.block.selective or (bound.default and not self._checks_all_rids):
            return True
        return int.from_bytes(tlp.header[4:6], "big") in (bound.rids or range(0))
