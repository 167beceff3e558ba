"""One IDE stream at one port: key sets, counters, sealing and opening of TLPs (PCIe Base 6.33).

Left out: partial header encryption, Local prefixes, UIO. Frames of Flit Mode are made in `flit_stream`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TypeAlias

from teeio.errors import Misuse
from teeio.pcie.ide_frame import (
    FORBIDDEN,
    FRONT,
    PR,
    Shape,
    Splitter,
    StreamSettings,
    WrongLength,
    opened,
    shape_of,
    without_pcrc,
)
from teeio.pcie.ide_inbound import MAX_UNIT, MAX_UNIT_PAYLOAD, Inbound, Part
from teeio.pcie.ide_key import IdeCheckFailed, KeySlot, SlotState, associated_data, pcrc
from teeio.pcie.ide_tlp import (
    ESCORTED_FLAG,
    K_FLAG,
    M_FLAG,
    P_FLAG,
    PREFIX_SIZE,
    PREFIX_TYPE,
    SUB_STREAM_SHIFT,
    escorted_sub_stream,
    ide_escort,
    ide_sync,
    sync_counters,
)
from teeio.pcie.tlp import MessageCode, SubStream, Tlp

__all__ = ["MAX_UNIT", "MAX_UNIT_PAYLOAD", "SYNC_AT", "Direction", "KeySet", "Stream", "StreamSettings"]

SYNC_AT = 245
MAX_SHAPES = 1024
"""Shapes of frames that a stream remembers: its partner sends few, who tampers with the link may send any."""


class KeySet(IntEnum):
    """The two key sets, told apart by the K bit."""

    K0 = 0
    K1 = 1


class Direction(IntEnum):
    """Direction as this port sees it."""

    RX = 0
    TX = 1


Known: TypeAlias = tuple[Splitter, Inbound, int, bool, bool, bool, Shape]
"""What a frame's beginning says: splitter, receiver of the sub-stream, key set, whether Posted, whether simple, T bit; then the shape.

It is what every TLP needs, and unpacking it takes half the time of looking it up in the shape.
"""

Opened: TypeAlias = tuple[tuple[Tlp, bool], ...]
"""TLPs whose MAC is good, each with its T bit."""

_OWED = -1
"""Of a sub-stream: its next TLP needs an IDE Escort, which has not gone yet."""

_UNSET = StreamSettings(stream_id=0)
_HEADER = slice(PREFIX_SIZE, None)
_new = tuple.__new__


class Stream:
    """One stream at one port: Secure when it is enabled and all six keys of a set are in use (PCIe Base 6.33.3).

    Its frames are those of Non-Flit Mode, as a `FlitStream`'s are those of Flit Mode. With `keys` it takes over the key slots of
    another stream, which is not used any more.
    """

    def __init__(self, keys: Stream | None = None) -> None:
        self.settings = _UNSET
        self.enabled = False
        self.secure = False
        self.failed = False
        fresh = [[[KeySlot() for _ in SubStream] for _ in KeySet] for _ in Direction]
        self._slots: list[list[list[KeySlot]]] = keys._slots if keys else fresh
        self._inbound = [Inbound(slots) for slots in zip(*self._slots[Direction.RX], strict=True)]
        self._classes = _UNSET.classes
        self._known: dict[bytes, Known] = {}
        self._clear()

    def _clear(self) -> None:
        self._tx_set = KeySet.K0
        self._tx_flags = [0, 0, 0]
        self._sent = [0, 0]
        self._escorts = [0, 0]
        self._posted = 0
        for inbound in self._inbound:
            inbound.clear()

    # -- keys and state

    def slot(self, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> KeySlot:
        """Give one of the twelve key slots."""
        return self._slots[direction][key_set][sub_stream]

    def _all(self, key_set: KeySet, *states: SlotState) -> bool:
        return all(slot.state in states for slots in self._slots for slot in slots[key_set])

    def keyed(self) -> bool:
        """Tell whether one key set has all six keys."""
        return any(self._all(key_set, SlotState.PROGRAMMED, SlotState.READY) for key_set in KeySet)

    def program(self, key_set: KeySet, direction: Direction, sub_stream: SubStream, key: bytes) -> bool:
        """Install a key; False if the slot is in use."""
        slot = self.slot(key_set, direction, sub_stream)
        if self.secure and slot.state is SlotState.READY:
            return False
        slot.install(key)
        return True

    def set_go(self, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> bool:
        """Let a programmed slot be used; False if it holds no key.

        The transmitter changes over to a key set when all three of its sub-streams may be used.
        """
        slot = self.slot(key_set, direction, sub_stream)
        if not slot.go():
            return False
        self._settle()
        return True

    def set_stop(self, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> None:
        """Erase a slot; a later use of it makes the stream Insecure."""
        slot = self.slot(key_set, direction, sub_stream)
        if slot.state is not SlotState.RETIRED:
            slot.erase(SlotState.STOPPED)

    def enable(self, settings: StreamSettings) -> None:
        """Take the settings and become Secure as soon as the keys are ready."""
        if not 0 <= settings.stream_id <= 255 or any(count not in (1, 2, 4, 8) for count in settings.aggregation):
            raise Misuse(f"{settings} cannot be")
        self.settings = settings
        self.enabled, self.failed = True, False
        self._classes, self._known = settings.classes, {}
        self._settle()

    def disable(self) -> None:
        """Become Insecure because Enable was cleared: all keys are gone."""
        self.fail()
        self.enabled = self.failed = False

    def fail(self) -> None:
        """Become Insecure: all keys are gone, and only Enable=0, new keys and Enable=1 lead back."""
        self.erase()
        self.failed = self.enabled

    def erase(self) -> None:
        """Forget all keys."""
        self.secure = False
        for slots in self._slots:
            for slot in (*slots[0], *slots[1]):
                slot.erase()
        self._clear()

    def _settle(self) -> None:
        if not self.enabled or self.failed:
            return
        if not self.secure:
            ready = [key_set for key_set in KeySet if self._all(key_set, SlotState.READY)]
            if ready:
                self._clear()
                self.secure = True
                self._transmit_with(ready[0])
                if len(ready) == 1:
                    # Nobody can begin with the other set, so one that comes later is a change that ends this one.
                    for inbound in self._inbound:
                        inbound.clear(int(ready[0]))
            return
        following = KeySet(1 - self._tx_set)
        if all(slot.state is SlotState.READY for slot in self._slots[Direction.TX][following]):
            for slot in self._tx:
                slot.erase(SlotState.RETIRED)
            self._transmit_with(following)

    def _transmit_with(self, key_set: KeySet) -> None:
        self._tx_set = key_set
        self._tx = self._slots[Direction.TX][key_set]
        self._tx_flags = [sub << SUB_STREAM_SHIFT | key_set * K_FLAG for sub in SubStream]

    # -- the transmitter

    def seal(self, tlp: Tlp, t_bit: bool = False) -> bytes:
        """Protect one TLP as a unit of its own; give the frame: prefix, header, ciphertext, MAC.

        Raises `Misuse` if the stream is Insecure or may not carry the TLP, `IdeCheckFailed` if its key was stopped.
        """
        sub_stream, prefix_flags, sent = self._take(tlp, t_bit)
        payload = tlp.payload
        if payload and self.settings.pcrc:
            payload += pcrc(payload)
            prefix_flags |= P_FLAG
        associated = self._associated(tlp, sent, prefix_flags | M_FLAG)
        return associated + self._tx[sub_stream].seal(payload, associated)

    def _associated(self, tlp: Tlp, sent: int, flags: int) -> bytes:
        """Give what of a frame goes before the payload, which is the TLP's part of A."""
        return associated_data(bytes((PREFIX_TYPE, sent, self.settings.stream_id, flags)), tlp)

    def seal_unit(self, tlps: Sequence[Tlp], t_bit: bool = False) -> list[bytes]:
        """Protect up to 8 TLPs of one sub-stream under one MAC, which the last frame carries (PCIe Base 6.33.6)."""
        limit = self.settings.aggregation[tlps[0].sub_stream] if tlps else 0
        size = sum(len(tlp.payload) for tlp in tlps)
        if not 0 < len(tlps) <= limit or len({tlp.sub_stream for tlp in tlps}) != 1:
            raise Misuse(f"a unit has 1 to {limit} TLPs of one sub-stream here, not {len(tlps)}")
        if len(tlps) > 1 and size > MAX_UNIT_PAYLOAD:
            raise Misuse(f"a unit carries {MAX_UNIT_PAYLOAD} bytes at most, not {size}")
        with_pcrc = bool(size) and self.settings.pcrc
        clear = []
        for number, tlp in enumerate(tlps, 1):
            _, prefix_flags, sent = self._take(tlp, t_bit)
            if number == len(tlps):
                prefix_flags |= M_FLAG | P_FLAG * with_pcrc
            clear.append(self._associated(tlp, sent, prefix_flags))
        plaintext = b"".join(tlp.payload for tlp in tlps)
        sealed = self._tx[tlps[0].sub_stream].seal(plaintext + (pcrc(plaintext) if with_pcrc else b""), b"".join(clear))
        frames, at = [], 0
        for associated, tlp in zip(clear, tlps, strict=True):
            frames.append(associated + sealed[at : at + len(tlp.payload)])
            at += len(tlp.payload)
        frames[-1] += sealed[at:]
        return frames

    def _take(self, tlp: Tlp, t_bit: bool) -> tuple[int, int, int]:
        """Give sub-stream, prefix flags and PR_Sent_Counter of the next TLP, and count it (PCIe Base 6.33.7)."""
        if not self.secure:
            raise Misuse(f"IDE stream {self.settings.stream_id} is Insecure")
        sub_stream = self._classes[tlp.header[0]]
        sent = self._sent
        if sub_stream == PR:
            if sent[0] >= 255 or sent[1] >= 255:
                raise Misuse("the PR_Sent_Counters are full", remedy="send seal_sync() when sync_due says so")
            sent[0] += 1
            sent[1] += 1
            return sub_stream, self._tx_flags[0] | t_bit, 0
        if sub_stream == FORBIDDEN:
            raise Misuse(f"a {tlp.type.name} may not travel on a Selective stream")
        escorted = self._escorts[sub_stream - 1]
        if escorted:
            if escorted == _OWED:
                raise Misuse("an IDE Escort must go first", remedy="send seal_escort() when owes_escort() says so")
            self._escorts[sub_stream - 1] = 0
        value = sent[sub_stream - 1]
        sent[sub_stream - 1] = 0
        return sub_stream, self._tx_flags[sub_stream] | t_bit | escorted, value

    @property
    def sync_due(self) -> bool:
        """Whether an IDE Sync must go out now."""
        return self._sent[0] >= SYNC_AT or self._sent[1] >= SYNC_AT

    def seal_sync(self, requester_id: int, destination: int | None, traffic_class: int = 0) -> bytes:
        """Protect an IDE Sync, which carries both counters, itself included, and resets them."""
        npr, cpl = self._sent
        frame = self.seal(ide_sync(requester_id, destination, npr + 1, cpl + 1, traffic_class))
        self._sent = [0, 0]
        if self.settings.escorts:
            self._owe_escorts()
        return frame

    def _owe_escorts(self) -> None:
        """Note that the counters start anew, so that the next NPR and the next CPL say too little of what is before them."""
        self._escorts = [_OWED, _OWED]

    def owes_escort(self, tlp: Tlp) -> bool:
        """Tell whether an IDE Escort must go right before this TLP."""
        return _OWED in self._escorts and tlp.sub_stream != PR and self._escorts[tlp.sub_stream - 1] == _OWED

    def seal_escort(
        self, requester_id: int, destination: int | None, sub_stream: SubStream, traffic_class: int = 0
    ) -> bytes:
        """Protect the IDE Escort that goes right before the next TLP of a sub-stream, NPR or CPL; that TLP says so."""
        frame = self.seal(ide_escort(requester_id, destination, sub_stream, traffic_class))
        self._escorts[sub_stream - 1] = ESCORTED_FLAG
        return frame

    # -- the receiver

    def open(self, frame: bytes) -> tuple[Tlp, bool]:
        """Open a unit of one TLP; give it and its T bit.

        Raises `IdeCheckFailed` (the stream has become Insecure), `PcrcCheckFailed` or `StaleKey` (the TLP is dropped).
        """
        found = self.receive(frame)
        if not found:
            self.fail()
            raise IdeCheckFailed("M is clear on a unit of one TLP", "PCIe Base 6.33.6")
        return found[0]

    def receive(self, frame: bytes) -> Opened:
        """Take the next frame of the stream; give the TLPs that its MAC confirms, none while their unit is open.

        Raises as `open` does.
        """
        if not self.secure:
            raise Misuse(f"IDE stream {self.settings.stream_id} is Insecure")
        try:
            known = self._known.get(frame[FRONT]) or self._learn(frame)
            split, inbound, key_set, posted, simple, t_bit, shape = known
            associated, ciphertext, mac = split(frame)
            if key_set != inbound.key_set:
                inbound.follow(key_set)
            if posted:
                self._posted += 1
            else:
                inbound.rely(frame[shape.counter], self._posted)
                if shape.escorted:
                    inbound.claim_escort()
            if inbound.pending or not simple:
                return self._gathered(inbound, (shape, associated, ciphertext), mac)
            payload = inbound.slot.open(ciphertext, mac, associated)
            # As `opened` does for any frame, without the time that a function and `Tlp()` take.
            return ((_new(Tlp, (associated[_HEADER], payload, b"")), t_bit),)
        except WrongLength:
            self.fail()
            raise IdeCheckFailed(f"{len(frame)} bytes are not what the header says", "PCIe Base 6.33.5") from None
        except IdeCheckFailed:
            self.fail()
            raise

    _opened = staticmethod(opened)

    def _learn(self, frame: bytes) -> Known:
        """Work out the shape of a frame, and remember it for those that begin alike."""
        shape = self._shape_of(frame)
        inbound = self._inbound[shape.sub_stream]
        posted = shape.sub_stream == PR
        known = shape.split, inbound, shape.key_set, posted, shape.simple, shape.t_bit, shape
        if shape.header == PREFIX_SIZE:
            if len(self._known) >= MAX_SHAPES:
                self._known.clear()
            self._known[frame[FRONT]] = known
        return known

    def _shape_of(self, frame: bytes) -> Shape:
        """Work out the shape of a frame. Raises `IdeCheckFailed`."""
        return shape_of(frame, self.settings)

    def _gathered(self, inbound: Inbound, part: Part, mac: bytes) -> Opened:
        """Take a TLP that is not simple, or of a unit of several; give all of the unit when its MAC has come and is good."""
        unit = inbound.gather(part)
        if not unit:
            return ()
        whole = b"".join([ciphertext for _, _, ciphertext in unit])
        payload = inbound.slot.open(whole, mac, b"".join([associated for _, associated, _ in unit]))
        if payload and self.settings.pcrc:
            payload = without_pcrc(payload, part[0].pcrc)
        found, at = [], 0
        for shape, associated, ciphertext in unit:
            found.append(self._opened(shape, associated, payload[at : at + len(ciphertext)]))
            at += len(ciphertext)
            if shape.message:
                self._heed(found[-1][0])
        return tuple(found)

    def _heed(self, tlp: Tlp) -> None:
        """Take the counters of an IDE Sync off those received, and count IDE Escorts.

        A Sync alone lets TLPs pass Posted ones unseen: while it is held back, those after it rely on less than was sent.
        """
        code = tlp.header[7]
        if code == MessageCode.IDE_ESCORT and escorted_sub_stream(tlp) in (SubStream.NPR, SubStream.CPL):
            self._inbound[escorted_sub_stream(tlp)].escorts += 1
        if code != MessageCode.IDE_SYNC:
            return
        for inbound, carried in zip(self._inbound[1:], sync_counters(tlp), strict=True):
            inbound.rely(carried, self._posted, "IDE Sync counts Posted TLPs that did not come")
