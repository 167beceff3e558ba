"""Flit Mode: TLPs with header base and OHC words, IDE in OHC-C and the trailer (PCIe Base 6.x 2.2, 6.33).

All of header base and OHC is in A, so that IDE protects what in Non-Flit Mode its prefix says: OHC-C has counter, stream,
sub-stream, K and T, and the trailer field TS has the M and P bits' part, a MAC or PCRC and MAC.

Left out: packing into flits, with their CRC and FEC; partial header encryption; UIO.
"""

from __future__ import annotations

from teeio.errors import DecodeError, Misuse
from teeio.pcie.flit_decoding import decode_head, ide_place, take
from teeio.pcie.flit_encoding import carries, encode_head
from teeio.pcie.flit_headers import OhcC
from teeio.pcie.flit_stream import FlitStream
from teeio.pcie.flit_types import FLIT_TYPES, NON_IDE, Trailer
from teeio.pcie.ide import Stream
from teeio.pcie.ide_tlp import K_FLAG, SUB_STREAM_SHIFT, T_FLAG
from teeio.pcie.link_mode import IdeFields, LinkMode
from teeio.pcie.tlp import Tlp, TlpType

_MACS = (Trailer.MAC, Trailer.PCRC_AND_MAC)
_HEADER_LOG = 16


class FlitMode(LinkMode):
    """Flit Mode on a link of one segment."""

    name = "Flit Mode"
    is_flit = True

    def __init__(self, segment: int = 0) -> None:
        if not 0 <= segment <= 0xFF:
            raise Misuse(f"segment {segment:#x} in Flit Mode", remedy="its fields have room for 0 to 255")
        self.segment = segment
        self._beside = OhcC(segment=segment, segment_valid=1, sub_stream=NON_IDE).encode()

    def encode(self, tlp: Tlp) -> bytes:
        """Give the frame of a TLP without IDE. A message names its segment, in an OHC-C that does not make it an IDE TLP."""
        ohc_c = self._beside if tlp.type.is_message else b""
        return encode_head(tlp, self.segment, ohc_c) + tlp.payload

    def decode(self, frame: bytes) -> Tlp:
        """Read a frame without IDE. Raises `DecodeError`."""
        taken = take(frame)
        if taken.trailer is not Trailer.NONE:
            raise DecodeError(
                "FlitCommon", "trailer", 2, f"{taken.trailer.name} on a TLP without IDE is not known here"
            )
        if len(frame) != taken.head + taken.payload:
            left = len(frame) - taken.head
            raise DecodeError("FlitTlp", "payload", taken.head, f"has {left} bytes, its header says {taken.payload}")
        tlp = decode_head(taken, self.segment)._replace(payload=frame[taken.head :])
        tlp.check()
        return tlp

    def carries(self, tlp: Tlp) -> bool:
        """Tell whether a TLP can travel in this mode."""
        return carries(tlp)

    def heading(self, frame: bytes) -> Tlp:
        """Read what of an IDE TLP is in the clear. Raises `DecodeError`."""
        return decode_head(take(frame), self.segment)

    def stream_of(self, frame: bytes) -> int | None:
        """Give the Stream ID of an IDE TLP, None of any other frame, one that is cut short included."""
        at = ide_place(frame)
        return None if at < 0 else frame[at + 2]

    def ide_fields(self, frame: bytes) -> IdeFields | None:
        """Read OHC-C and TS."""
        at = ide_place(frame)
        if at < 0:
            return None
        _, counter, stream_id, flags = frame[at : at + 4]
        return IdeFields(
            stream_id,
            flags >> SUB_STREAM_SHIFT & 7,
            counter,
            flags & T_FLAG > 0,
            int(flags & K_FLAG > 0),
            frame[2] >> 5 in _MACS,
        )

    def type_of(self, frame: bytes) -> TlpType | None:
        """Say what TLP a frame is."""
        row = FLIT_TYPES.get(frame[0]) if frame else None
        return None if row is None else row.kind

    def logged(self, frame: bytes) -> bytes:
        """Give header base and OHC as far as the log has room for them; of what has none, what stands in their place."""
        try:
            head = take(frame).head
        except DecodeError:
            head = _HEADER_LOG
        return frame[: min(head, _HEADER_LOG)]

    def header_of(self, tlp: Tlp) -> bytes:
        """Give header base and OHC as they are without IDE, and without prefixes that have no place there."""
        return encode_head(tlp if carries(tlp) else tlp._replace(prefixes=b""), self.segment)[:_HEADER_LOG]

    def stream(self, keys: Stream) -> Stream:
        """Give a stream of Flit Mode."""
        return FlitStream(self.segment, keys)
