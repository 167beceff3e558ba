"""How much of the link is left for payload under IDE: counted on sealed frames, beside the formula.

    eff(P) = P / (P + 8 + H + I),  H = 16 (4 DW), I = 4 + 12 / n with IDE, else 0

P bytes of payload in each TLP, n TLPs under one MAC. Formula: Intel AN 855 for the part without IDE; prefix and MAC after
PCIe Base 6.33.5. A unit carries 256 DW at most (6.33.6), so of eight TLPs each has 128 bytes at most. IDE Sync messages are
not in it; the data paths count them. PCRC is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from teeio.costs import hardware as hw
from teeio.crypto.entropy import Entropy
from teeio.pcie.ide import MAX_UNIT_PAYLOAD, Direction, KeySet, Stream, StreamSettings
from teeio.pcie.ide_key import KEY_SIZE, MAC_SIZE
from teeio.pcie.ide_tlp import PREFIX_SIZE
from teeio.pcie.tlp import SubStream, Tlp, memory_write

PAYLOADS = (4, 16, 32, 64, 128, 256, 512, 1024, 4096)
UNITS = (1, 2, 4, 8)
FOUR_DW = 16
_ADDRESS = 1 << 32
"""From here on headers have 4 DW."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Payload's part of the link's bytes, without and with IDE; counted is None where a unit may not be that large."""

    payload: int
    unit: int
    plain_counted: float
    plain_formula: float
    ide_counted: float | None
    ide_formula: float

    @property
    def ratio_counted(self) -> float | None:
        """What IDE leaves of the efficiency, counted."""
        return None if self.ide_counted is None else self.ide_counted / self.plain_counted

    @property
    def ratio_formula(self) -> float:
        """What IDE leaves of the efficiency, by the formula."""
        return self.ide_formula / self.plain_formula

    def as_dict(self) -> dict[str, float | None]:
        """Give the row for JSON."""
        return {
            "payload": self.payload,
            "unit": self.unit,
            "plain_counted": self.plain_counted,
            "plain_formula": self.plain_formula,
            "ide_counted": self.ide_counted,
            "ide_formula": self.ide_formula,
            "ratio_counted": self.ratio_counted,
            "ratio_formula": self.ratio_formula,
        }


def formula(payload: int, unit: int | None) -> float:
    """Give the efficiency by the formula; `unit` None is without IDE."""
    ide = 0.0 if unit is None else PREFIX_SIZE + MAC_SIZE / unit
    return payload / (payload + hw.FRAMING.value + FOUR_DW + ide)


def efficiency(payload: int, unit: int, entropy: Entropy) -> Efficiency:
    """Seal `unit` writes of `payload` bytes as one unit, count their frames, and open them again."""
    tlps = [memory_write(0x100, 0, _ADDRESS + number * payload, entropy(payload)) for number in range(unit)]
    plain = [tlp.encode() for tlp in tlps]
    sealed = None
    if unit == 1 or unit * payload <= MAX_UNIT_PAYLOAD:
        sealed = _counted(_through_ide(tlps, unit, entropy), payload)
    return Efficiency(payload, unit, _counted(plain, payload), formula(payload, None), sealed, formula(payload, unit))


def efficiencies(
    entropy: Entropy, payloads: Sequence[int] = PAYLOADS, units: Sequence[int] = UNITS
) -> list[Efficiency]:
    """Give the whole table."""
    return [efficiency(payload, unit, entropy) for payload in payloads for unit in units]


def _counted(frames: list[bytes], payload: int) -> float:
    return len(frames) * payload / sum(len(frame) + hw.FRAMING.value for frame in frames)


def _through_ide(tlps: list[Tlp], unit: int, entropy: Entropy) -> list[bytes]:
    near, far = secure_pair(entropy, unit)
    frames = near.seal_unit(tlps, True)
    opened = [tlp for frame in frames for tlp, _ in far.receive(frame)]
    if opened != tlps:
        raise RuntimeError("what was sealed does not open to what it was")
    return frames


def secure_pair(entropy: Entropy, unit: int = 1) -> tuple[Stream, Stream]:
    """Make the two ends of a Secure stream whose units may have that many TLPs."""
    near, far = Stream(), Stream()
    for direction in Direction:
        for sub_stream in SubStream:
            key = entropy(KEY_SIZE)
            for stream, mine in ((near, direction), (far, Direction(1 - direction))):
                stream.program(KeySet.K0, mine, sub_stream, key)
                stream.set_go(KeySet.K0, mine, sub_stream)
    for stream in (near, far):
        stream.enable(StreamSettings(stream_id=1, aggregation=(unit, unit, unit)))
    return near, far
