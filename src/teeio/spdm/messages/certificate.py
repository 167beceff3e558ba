"""GET_CERTIFICATE and CERTIFICATE (DSP0274); SET_CERTIFICATE and GET_CSR are in `provisioning`."""

from __future__ import annotations

from teeio.spdm.constants import Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import bits, blob, length_of, reserved_bits, u16, u32


@message(0x82, "GET_CERTIFICATE")
class GetCertificate(Request["Certificate"]):
    """Ask for a portion of a certificate chain."""

    slot: int = bits(4, "SlotID", of=1)
    _param1: None = reserved_bits(3)
    large: int = bits(1, "Large form", since=Version.V1_4, default=0)
    slot_size_requested: int = bits(1, "SlotSizeRequested", of=1, since=Version.V1_3, default=0)
    _param2: None = reserved_bits(7)
    offset: int = u16("Offset; 0 in the large form", default=0)
    length: int = u16("Length; 0 in the large form", default=0)
    large_offset: int = u32("LargeOffset", when="large", since=Version.V1_4, default=0)
    large_length: int = u32("LargeLength", when="large", since=Version.V1_4, default=0)


@message(0x02, "CERTIFICATE")
class Certificate(Response):
    """Answer GET_CERTIFICATE with a portion and what remains."""

    slot: int = bits(4, "SlotID", of=1)
    _param1: None = reserved_bits(3)
    large: int = bits(1, "Large form", since=Version.V1_4, default=0)
    certificate_model: int = bits(3, "Certificate model", of=1, since=Version.V1_3, default=0)
    _param2: None = reserved_bits(5)
    portion_length: None = length_of("portion", 2)
    remainder_length: int = u16("RemainderLength", default=0)
    large_portion_length: None = length_of("large_portion", 4, when="large", since=Version.V1_4)
    large_remainder_length: int = u32("LargeRemainderLength", when="large", since=Version.V1_4, default=0)
    portion: bytes = blob("portion_length", "Portion of the chain", default=b"")
    large_portion: bytes = blob(
        "large_portion_length", "Portion of the chain", when="large", since=Version.V1_4, default=b""
    )


def portion_offset(*, large: bool) -> int:
    """Give the bytes of CERTIFICATE before the portion, in the small or in the large form."""
    return 16 if large else 8
