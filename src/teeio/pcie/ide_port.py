"""IDE at a port: its streams bound to the IDE capability registers, TLPs in and out, errors (PCIe Base 6.33).

The port picks the stream of a TLP, seals and opens, sends IDE Sync when it is due, and turns a stream Insecure when a
rule is broken: keys erased, status register and AER bit set, IDE Fail to the partner, callback to the owner.

Left out: Configuration requests on a Selective stream at an endpoint, segments. Flow-Through is the switch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from teeio.errors import DecodeError
from teeio.observe import Observer, Refused, ignore
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.ide import MAX_UNIT_PAYLOAD, Opened
from teeio.pcie.ide_association import BoundStream
from teeio.pcie.ide_key import IdeCheckFailed, PcrcCheckFailed, StaleKey
from teeio.pcie.ide_keyed import KeyedStreams
from teeio.pcie.ide_tlp import failed_stream, ide_fail, message_code
from teeio.pcie.ide_vocabulary import InsecureCause, ProgramResult
from teeio.pcie.link_mode import NON_FLIT, LinkMode
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.pcie.registers import Register
from teeio.pcie.tlp import MessageCode, SubStream, Tlp, TlpType

__all__ = ["IdePort", "InsecureCause", "ProgramResult", "Received"]

_SYNC_FORM = "an IDE Sync is always an IDE TLP (PCIe Base 6.33.7)"
_INSECURE = "an Insecure stream carries nothing (PCIe Base 6.33.3)"
_END_TO_END = (
    "T=1 counts on Selective streams alone: a Link stream ends at the next port, be it a switch's (PCIe Base 6.33.4)"
)
_NO_MESSAGE = {InsecureCause.DISABLED, InsecureCause.FAIL_RECEIVED, InsecureCause.RESET}


class Received(NamedTuple):
    """A TLP that came in: its T bit, the stream it came on (None without IDE).

    `admitted` is False if the stream is bound to other requester IDs, or if T is set on a Link stream: a request is then
    Unsupported, a completion Unexpected.
    """

    tlp: Tlp
    t_bit: bool = False
    stream_id: int | None = None
    admitted: bool = True


class IdePort(KeyedStreams):
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
        rules: LinkRules = CLOSED,
    ) -> None:
        super().__init__(capability, name, observer)
        self.capability = capability
        self.on_insecure = on_insecure
        self._emit = emit
        self._requester_id = requester_id
        self._aer = aer
        self._checks_all_rids = checks_all_rids
        self._rules = rules
        self.mode: LinkMode = NON_FLIT
        """What TLPs look like on the port's link."""
        self._aggregates = False
        self._selective = [bound for bound in self._bound if bound.block.selective]
        self._link = [bound for bound in self._bound if not bound.block.selective]
        for bound in self._bound:
            for register in bound.block.registers():
                bound.block.block.watch(register, self._watcher(bound))

    # -- what the registers say

    def _watcher(self, bound: BoundStream) -> Callable[[Register, int, int], None]:
        def written(register: Register, old: int, new: int) -> None:
            if register is not bound.block.control:
                if bound.stream.enabled and old != new:
                    self._insecure(bound, InsecureCause.RECONFIGURED)
                return
            self._control_written(bound, old, new)

        return written

    def _control_written(self, bound: BoundStream, old: int, new: int) -> None:
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

    def _enable(self, bound: BoundStream) -> None:
        if not bound.enable(self._rules, self.mode):
            self._insecure(bound, InsecureCause.BAD_SETTINGS)
        self._aggregates = any(max(one.stream.settings.aggregation) > 1 for one in self._bound)
        self._show(bound, "enabled")

    # -- errors and state

    def misrouted(self, header: bytes, why: str) -> None:
        """Report an IDE TLP that may not go where it would; the stream, if there is one, stays as it is (6.33.8).

        `header` is what is logged of it.
        """
        self._record(Uncorrectable.MISROUTED_IDE_TLP, header, why)

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

    def _insecure(self, bound: BoundStream, cause: InsecureCause, why: str = "") -> None:
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

    def _send_fail(self, bound: BoundStream) -> None:
        requester_id, destination = self._whose(bound)
        if destination is None and bound.block.selective:
            return
        tlp = ide_fail(requester_id, destination, bound.id, bound.traffic_class)
        self._emit(self.mode.encode(tlp))

    def check_failed(self, stream_id: int, why: str) -> None:
        """Report a check that only the transaction layer can make: a completion on another stream than its request."""
        bound = self._named(stream_id)
        if bound is not None:
            self._record(Uncorrectable.IDE_CHECK_FAILED, b"", why)
            self._insecure(bound, InsecureCause.CHECK_FAILED, why)

    def _record(self, error: Uncorrectable, header: bytes, why: str) -> None:
        if self._aer is not None:
            self._aer.record(error, header, flit=self.mode.is_flit)
        self._observer(Refused(self.name, why, error.name))

    # -- the transmitter

    @property
    def links_enabled(self) -> bool:
        """Whether a Link stream is enabled, which takes what no Selective stream does."""
        return bool(self._link) and any(bound.stream.enabled for bound in self._link)

    def select(self, tlp: Tlp, t_bit: bool = False) -> int | None:
        """Give the ID of the stream that a TLP to send belongs to; None if it goes without IDE."""
        bound = self._select(tlp, t_bit)
        return bound.id if bound else None

    def _select(self, tlp: Tlp, t_bit: bool) -> BoundStream | None:
        if tlp.type.selective:
            selective = [bound for bound in self._selective if bound.takes(t_bit)]
            for bound in selective:
                if bound.serves(tlp):
                    return bound
            for bound in selective:
                if bound.takes_by_default(tlp):
                    return bound
        for bound in self._link:
            if bound.takes(t_bit) and not t_bit and bound.traffic_class == tlp.traffic_class:
                return bound
        return None

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
        broken = _broken(bound, t_bit)
        if not broken and bound.stream.owes_escort(tlps[0]):
            self._escort(bound, tlps[0].sub_stream)
            broken = _broken(bound, t_bit)
        if broken:
            self._observer(Refused(self.name, f"{tlps[0].type.value.label} on IDE stream {bound.id}", broken))
            return False
        try:
            frames = [bound.stream.seal(tlps[0], t_bit)] if len(tlps) == 1 else bound.stream.seal_unit(tlps, t_bit)
        except IdeCheckFailed as error:
            self._insecure(bound, InsecureCause.CHECK_FAILED, str(error))
            return False
        for frame in frames:
            self._emit(frame)
        if bound.stream.secure and bound.stream.sync_due:
            self._synchronize(bound)
        return True

    def transmit_run(self, tlps: Sequence[Tlp], t_bit: bool = False, stream_id: int | None = None) -> bool:
        """Send TLPs of one sub-stream one after the other, in units as large as their streams have; as `transmit` otherwise."""
        at = 0
        while at < len(tlps):
            size = self._unit(tlps, at, t_bit, stream_id) if self._aggregates else 1
            if not self.transmit_unit(tlps[at : at + size], t_bit, stream_id):
                return False
            at += size
        return True

    def _unit(self, tlps: Sequence[Tlp], at: int, t_bit: bool, stream_id: int | None) -> int:
        """Give how many TLPs from `at` on can be one unit: of one stream, no more than it sends, with payload that fits."""
        bound = self._select(tlps[at], t_bit) if stream_id is None else self._named(stream_id)
        limit = bound.stream.settings.aggregation[tlps[at].sub_stream] if bound else 1
        size = payload = 0
        for tlp in tlps[at : at + limit]:
            payload += len(tlp.payload)
            if size and (payload > MAX_UNIT_PAYLOAD or (stream_id is None and self._select(tlp, t_bit) is not bound)):
                break
            size += 1
        return size

    def _escort(self, bound: BoundStream, sub_stream: SubStream) -> None:
        """Send the IDE Escort of the next TLP of a sub-stream; where it fails, here or at the partner, the stream is Insecure."""
        try:
            self._emit(bound.stream.seal_escort(*self._whose(bound), sub_stream, bound.traffic_class))
        except IdeCheckFailed as error:
            self._insecure(bound, InsecureCause.CHECK_FAILED, str(error))

    def _synchronize(self, bound: BoundStream) -> None:
        """Tell the partner how many Posted TLPs went, before the counters are full."""
        self._emit(bound.stream.seal_sync(*self._whose(bound), bound.traffic_class))

    def _whose(self, bound: BoundStream) -> tuple[int, int | None]:
        """Give sender and destination of the messages of a stream's own: RID Base, be the Limit below it."""
        return self._requester_id(), None if bound.rids is None else bound.rids.start

    def transmit_plain(self, tlp: Tlp) -> bool:
        """Send a TLP without IDE whatever the associations say: a completion to a request that came without."""
        self._emit(self.mode.encode(tlp))
        return True

    # -- the receiver

    def receive(self, frame: bytes) -> list[Received]:
        """Take a frame from the link; give the TLPs for the transaction layer. No frame makes it raise."""
        try:
            stream_id = self.mode.stream_of(frame)
            if stream_id is None:
                tlp = self.mode.decode(frame)
                consumed = tlp.type.is_message and self._consumed(tlp, protected=False)
                return [] if consumed else [Received(tlp)]
            return list(self._receive(frame, stream_id))
        except DecodeError as error:
            self._record(Uncorrectable.MALFORMED_TLP, self.mode.logged(frame), str(error))
            return []

    def _receive(self, frame: bytes, stream_id: int) -> Iterator[Received]:
        bound = next((bound for bound in self._bound if bound.stream.enabled and bound.id == stream_id), None)
        if bound is None:
            self.misrouted(self.mode.logged(frame), f"IDE TLP of unknown stream {stream_id}")
            return
        for tlp, t_bit in self._open(bound, frame):
            tlp.check()
            if not self._consumed(tlp, protected=True):
                yield Received(tlp, t_bit, bound.id, self._admits(bound, tlp, t_bit))

    def _open(self, bound: BoundStream, frame: bytes) -> Opened:
        if not bound.stream.secure:
            self._observer(Refused(self.name, f"IDE TLP of stream {bound.id}", _INSECURE))
            return ()
        try:
            return bound.stream.receive(frame)
        except IdeCheckFailed as error:
            self._record(Uncorrectable.IDE_CHECK_FAILED, self.mode.logged(frame), str(error))
            self._insecure(bound, InsecureCause.CHECK_FAILED, str(error))
        except PcrcCheckFailed as error:
            self._record(Uncorrectable.PCRC_CHECK_FAILED, self.mode.logged(frame), str(error))
        except StaleKey as error:
            self._observer(Refused(self.name, "IDE TLP", str(error)))
        return ()

    def _consumed(self, tlp: Tlp, *, protected: bool) -> bool:
        """Act on the messages that are IDE's own business."""
        code = message_code(tlp)
        if code is None or self._is_for_another(tlp):
            return False
        if code in (MessageCode.IDE_SYNC, MessageCode.IDE_ESCORT):
            if not protected:
                self._observer(Refused(self.name, f"{MessageCode(code).name} without IDE", _SYNC_FORM))
            return True
        if code != MessageCode.IDE_FAIL:
            return False
        stream_id = failed_stream(tlp)
        for bound in self._bound:
            if bound.stream.enabled and bound.id == stream_id:
                bound.block.block.set(bound.block.status, fail_received=1)
                self._insecure(bound, InsecureCause.FAIL_RECEIVED)
        return True

    def _is_for_another(self, tlp: Tlp) -> bool:
        """Tell whether a message is routed by ID, to another function than the one with this port's registers."""
        routed = tlp.type in (TlpType.MSG_ID, TlpType.MSGD_ID)
        return routed and int.from_bytes(tlp.header[8:10], "big") != self._requester_id()

    def _admits(self, bound: BoundStream, tlp: Tlp, t_bit: bool) -> bool:
        """Tell whether requester or completer belongs to the partner port (PCIe Base 6.33.4)."""
        if t_bit and not bound.block.selective:
            self._observer(Refused(self.name, f"{tlp.type.value.label} with T=1 on IDE stream {bound.id}", _END_TO_END))
            return False
        if not bound.block.selective or (bound.default and not self._checks_all_rids):
            return True
        return int.from_bytes(tlp.header[4:6], "big") in (bound.rids or range(0))


def _broken(bound: BoundStream, t_bit: bool) -> str:
    """Give the rule by which a stream cannot carry a TLP now, nothing if it can."""
    if t_bit and not bound.block.selective:
        return _END_TO_END
    return "" if bound.stream.secure else _INSECURE
