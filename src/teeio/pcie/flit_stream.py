"""An IDE stream at a port whose link is in Flit Mode: OHC-C and trailer in the prefix's place (PCIe Base 6.x 6.33).

A is header base and all OHC words, P the payload, in both modes in the order in which they travel; so keys, counters, units
and the order of checks are those of `Stream`. What the M and P bits of the prefix say, the trailer field TS says here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from teeio.errors import DecodeError
from teeio.pcie.flit_decoding import Taken, decode_head, ide_place, take
from teeio.pcie.flit_encoding import encode_head
from teeio.pcie.flit_headers import OhcC
from teeio.pcie.flit_types import Trailer
from teeio.pcie.ide import Stream
from teeio.pcie.ide_frame import NO_UNITS, Shape, check_sub_stream, cutting
from teeio.pcie.ide_key import IdeCheckFailed
from teeio.pcie.ide_tlp import ESCORTED_FLAG, K_FLAG, M_FLAG, P_FLAG, SUB_STREAM_SHIFT, T_FLAG, message_code
from teeio.pcie.tlp import Tlp

_TRAILERS = {0: Trailer.NONE, M_FLAG: Trailer.MAC, M_FLAG | P_FLAG: Trailer.PCRC_AND_MAC}
"""What follows the payload, by the M and P bits that a prefix would have."""


@dataclass(frozen=True, slots=True)
class FlitShape(Shape):
    """What header base and OHC say about a frame, and the TLP that they are, without its payload."""

    tlp: Tlp


class FlitStream(Stream):
    """One stream at one port, in Flit Mode, on a link of `segment`."""

    def __init__(self, segment: int = 0, keys: Stream | None = None) -> None:
        super().__init__(keys)
        self.segment = segment

    def _associated(self, tlp: Tlp, sent: int, flags: int) -> bytes:
        """Give header base and OHC; IDE requests name their segment, but for those to configuration space."""
        named = not (tlp.type.is_completion or tlp.type.is_configuration)
        ohc_c = OhcC(
            segment=self.segment if named else 0,
            segment_valid=int(named),
            pr_sent_counter=sent,
            stream_id=self.settings.stream_id,
            sub_stream=flags >> SUB_STREAM_SHIFT & 7,
            escorted=int(flags & ESCORTED_FLAG > 0),
            k=int(flags & K_FLAG > 0),
            t=int(flags & T_FLAG > 0),
        ).encode()
        return encode_head(tlp, self.segment, ohc_c, _TRAILERS[flags & (M_FLAG | P_FLAG)], ide=True)

    def _shape_of(self, frame: bytes) -> Shape:
        """Work out the shape of a frame; it is not remembered (`header` is 0), since no few bytes at one place determine it."""
        try:
            taken = take(frame)
            tlp = decode_head(taken, self.segment)
        except DecodeError as error:
            raise IdeCheckFailed(str(error), "PCIe Base 6.33.5") from None
        at = ide_place(frame)
        if at < 0 or taken.trailer is Trailer.ECRC:
            raise IdeCheckFailed("no OHC-C of an IDE TLP, or a trailer that no IDE TLP has", "PCIe Base 6.33.5")
        return self._shape(taken, tlp, at, frame[at + 3])

    def _shape(self, taken: Taken, tlp: Tlp, at: int, flags: int) -> Shape:
        sub_stream, with_pcrc = flags >> SUB_STREAM_SHIFT & 7, taken.trailer is Trailer.PCRC_AND_MAC
        check_sub_stream(self.settings, taken.row.first_byte, sub_stream)
        if with_pcrc and not self.settings.pcrc:
            raise IdeCheckFailed("there is a PCRC, although PCRC is off", "PCIe Base 6.33.5")
        last = taken.trailer is not Trailer.NONE
        if not last and not self.settings.takes_units:
            raise IdeCheckFailed(NO_UNITS, "PCIe Base 6.33.6")
        return FlitShape(
            sub_stream=sub_stream,
            key_set=int(flags & K_FLAG > 0),
            t_bit=flags & T_FLAG > 0,
            last=last,
            pcrc=with_pcrc,
            message=message_code(tlp) is not None and not taken.payload,
            escorted=self.settings.escorts and flags & ESCORTED_FLAG > 0,
            header=0,
            simple=False,  # whose TLPs `receive` makes by the rules of Non-Flit Mode
            counter=at + 1,
            split=cutting(taken.head, taken.payload, last, with_pcrc),
            tlp=tlp,
        )

    def _opened(self, shape: Shape, associated: bytes, payload: bytes) -> tuple[Tlp, bool]:
        """Give the TLP and its T bit."""
        return cast(FlitShape, shape).tlp._replace(payload=payload), shape.t_bit
