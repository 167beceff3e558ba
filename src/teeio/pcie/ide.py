"""One IDE stream at one port: key sets, counters, sealing and opening of TLPs (PCIe Base 6.33).

Left out: partial header encryption, Local prefixes, the Flit Mode trailer and OHC-C, UIO.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from teeio.errors import Misuse
from teeio.pcie.ide_frame import FORBIDDEN, PR, Part, StreamSettings, is_message, opened, parse, without_pcrc
from teeio.pcie.ide_key import (
    INVOCATIONS,
    PCRC_SIZE,
    IdeCheckFailed,
    KeySlot,
    SlotState,
    StaleKey,
    associated_data,
    pcrc,
)
from teeio.pcie.ide_tlp import (
    K_FLAG,
    M_FLAG,
    P_FLAG,
    PREFIX_TYPE,
    SUB_STREAM_SHIFT,
    ide_escort,
    ide_sync,
    sync_counters,
)
from teeio.pcie.tlp import MessageCode, SubStream, Tlp

__all__ = ["MAX_UNIT", "MAX_UNIT_PAYLOAD", "SYNC_AT", "Direction", "KeySet", "Stream", "StreamSettings"]

MAX_UNIT = 8
MAX_UNIT_PAYLOAD = 4 * 256
SYNC_AT = 245


class KeySet(IntEnum):
    """The two key sets, told apart by the K bit."""

    K0 = 0
    K1 = 1


class Direction(IntEnum):
    """Direction as this port sees it."""

    RX = 0
    TX = 1


_UNSET = StreamSettings(stream_id=0)


class Stream:
    """One stream at one port: Secure when it is enabled and all six keys of a set are in use (PCIe Base 6.33.3)."""

    def __init__(self) -> None:
        self.settings = _UNSET
        self.enabled = False
        self.secure = False
        self.failed = False
        self._slots = [[[KeySlot() for _ in SubStream] for _ in KeySet] for _ in Direction]
        self._rx = self._slots[Direction.RX]
        self._classes = _UNSET.classes
        self._clear()

    def _clear(self) -> None:
        self._tx_set = KeySet.K0
        self._tx_flags = [0, 0, 0]
        self._rx_set: list[int | None] = [None, None, None]
        self._sent = [0, 0]
        self._received = [0, 0]
        self._pending: tuple[list[Part], ...] = ([], [], [])

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
        if slot.state not in (SlotState.PROGRAMMED, SlotState.READY):
            return False
        slot.state = SlotState.READY
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
        self._classes = settings.classes
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
                    self._rx_set = [ready[0]] * 3
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
        prefix = bytes((PREFIX_TYPE, sent, self.settings.stream_id, prefix_flags | M_FLAG))
        associated = associated_data(prefix, tlp)
        return associated + self._tx[sub_stream].seal(payload, associated)

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
            clear.append(associated_data(bytes((PREFIX_TYPE, sent, self.settings.stream_id, prefix_flags)), tlp))
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
        value = sent[sub_stream - 1]
        sent[sub_stream - 1] = 0
        return sub_stream, self._tx_flags[sub_stream] | t_bit, value

    @property
    def sync_due(self) -> bool:
        """Whether an IDE Sync, or on a stream that has them the escorts, must go out now."""
        return self._sent[0] >= SYNC_AT or self._sent[1] >= SYNC_AT

    def seal_sync(self, requester_id: int, destination: int | None, traffic_class: int = 0) -> bytes:
        """Protect an IDE Sync, which carries both counters, itself included, and resets them."""
        npr, cpl = self._sent
        frame = self.seal(ide_sync(requester_id, destination, npr + 1, cpl + 1, traffic_class))
        self._sent = [0, 0]
        return frame

    def seal_escorts(self, requester_id: int, destination: int | None, traffic_class: int = 0) -> list[bytes]:
        """Protect one IDE Escort for NPR and one for CPL; each takes its counter along as a TLP of its sub-stream would."""
        tlp, frames = ide_escort(requester_id, destination, traffic_class), []
        for sub_stream in (SubStream.NPR, SubStream.CPL):
            sent, self._sent[sub_stream - 1] = self._sent[sub_stream - 1], 0
            prefix = bytes((PREFIX_TYPE, sent, self.settings.stream_id, self._tx_flags[sub_stream] | M_FLAG))
            associated = associated_data(prefix, tlp)
            frames.append(associated + self._tx[sub_stream].seal(b"", associated))
        return frames

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

    def receive(self, frame: bytes) -> list[tuple[Tlp, bool]]:
        """Take the next frame of the stream; give the TLPs that its MAC confirms, none while their unit is open.

        Raises as `open` does.
        """
        if not self.secure:
            raise Misuse(f"IDE stream {self.settings.stream_id} is Insecure")
        try:
            part = parse(frame, self.settings, self._classes)
            clear, _, flags, ciphertext, mac = part
            sub_stream = flags >> SUB_STREAM_SHIFT
            key_set = 1 if flags & K_FLAG else 0
            if key_set != self._rx_set[sub_stream]:
                self._follow_key_set(sub_stream, key_set)
            self._count(sub_stream, frame[1])
            pending = self._pending[sub_stream]
            if not flags & M_FLAG:
                pending.append(part)
                if len(pending) >= MAX_UNIT:
                    raise IdeCheckFailed(f"{MAX_UNIT} TLPs without a MAC", "PCIe Base 6.33.6")
                return []
            if pending:
                found = self._finish([*pending, part])
                pending.clear()
            else:
                found = [opened(part, self._decrypt(flags, ciphertext, mac, clear))]
            for tlp, _ in found:
                if is_message(tlp.header):
                    self._synchronize(tlp)
            return found
        except IdeCheckFailed:
            self.fail()
            raise

    def _follow_key_set(self, sub_stream: int, key_set: int) -> None:
        """Accept a change of the K bit: only on the first TLP of a unit, to a ready set (PCIe Base 6.33.3)."""
        current = self._rx_set[sub_stream]
        slot = self._rx[key_set][sub_stream]
        if slot.state is SlotState.RETIRED:
            raise StaleKey("the TLP uses a key set that its sub-stream has left", "PCIe Base 6.33.3")
        if self._pending[sub_stream]:
            raise IdeCheckFailed("K changed inside a unit", "PCIe Base 6.33.6")
        if slot.state is not SlotState.READY:
            raise IdeCheckFailed(f"K names a key set that is {slot.state.value}", "PCIe Base 6.33.3")
        if current is not None:
            self._rx[current][sub_stream].erase(SlotState.RETIRED)
        self._rx_set[sub_stream] = key_set

    def _count(self, sub_stream: int, carried: int) -> None:
        """Check that no TLP passed the Posted ones before it (PCIe Base 6.33.7)."""
        received = self._received
        if sub_stream == PR:
            received[0] += 1
            received[1] += 1
            if received[0] >= INVOCATIONS or received[1] >= INVOCATIONS:
                raise IdeCheckFailed("a PR_Received_Counter overflows", "PCIe Base 6.33.7")
            return
        received[sub_stream - 1] -= carried
        if received[sub_stream - 1] < 0:
            raise IdeCheckFailed("a TLP overtook Posted TLPs, or they are lost", "PCIe Base 6.33.7")

    def _decrypt(self, flags: int, ciphertext: bytes, mac: bytes, clear: bytes) -> bytes:
        """Check and open a unit; `flags` are its last TLP's. Raises `IdeCheckFailed`, `PcrcCheckFailed`."""
        slot = self._rx[1 if flags & K_FLAG else 0][flags >> SUB_STREAM_SHIFT]
        plaintext = slot.open(ciphertext, mac, clear)
        if plaintext and self.settings.pcrc:
            plaintext = without_pcrc(plaintext, bool(flags & P_FLAG))
        return plaintext

    def _finish(self, parts: list[Part]) -> list[tuple[Tlp, bool]]:
        ciphertext = b"".join([part[3] for part in parts])
        if len(ciphertext) > MAX_UNIT_PAYLOAD + PCRC_SIZE:
            raise IdeCheckFailed("a unit carries more than 256 DW", "PCIe Base 6.33.6")
        _, _, flags, _, mac = parts[-1]
        plaintext = self._decrypt(flags, ciphertext, mac, b"".join([part[0] for part in parts]))
        found, at = [], 0
        for part in parts:
            size = len(part[3])
            found.append(opened(part, plaintext[at : at + size]))
            at += size
        return found

    def _synchronize(self, tlp: Tlp) -> None:
        """Take the counters of an IDE Sync off those received.

        That is what lets TLPs pass Posted ones unseen: with a Sync held back, those after it rely on less than was sent.
        """
        if tlp.header[7] != MessageCode.IDE_SYNC:
            return
        if self.settings.escorts:
            raise IdeCheckFailed("an IDE Sync on a stream that has escorts", "IDE TLP Reordering Enhancement")
        for index, carried in enumerate(sync_counters(tlp)):
            self._received[index] -= carried
            if self._received[index] < 0:
                raise IdeCheckFailed("IDE Sync counts Posted TLPs that did not come", "PCIe Base 6.33.7")
