"""GET_CAPABILITIES and CAPABILITIES (DSP0274)."""

from __future__ import annotations

from teeio.spdm.constants import Capability, Version
from teeio.spdm.messages.algorithms import SupportedAlgorithms
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import bits, part, reserved, reserved_bits, u8, u32


@message(0xE1, "GET_CAPABILITIES")
class GetCapabilities(Request["Capabilities"]):
    """Tell the requester's capabilities and ask for the responder's. In 1.0 it is a bare header."""

    supported_algorithms: int = bits(1, "Supported-algorithms block wanted", of=1, since=Version.V1_3, default=0)
    _param1: None = reserved_bits(7)
    _param2: None = reserved(1)
    _reserved: None = reserved(1, since=Version.V1_1)
    ct_exponent: int = u8("Crypto timeout is 2^CTExponent microseconds", since=Version.V1_1, default=0)
    _reserved2: None = reserved(2, since=Version.V1_1)
    flags: Capability = u32("Flags", enum=Capability, since=Version.V1_1, default=Capability(0))
    data_transfer_size: int = u32("Largest transfer the requester accepts", since=Version.V1_2, default=0)
    max_message_size: int = u32("MaxSPDMmsgSize", since=Version.V1_2, default=0)


@message(0x61, "CAPABILITIES")
class Capabilities(Response):
    """Answer GET_CAPABILITIES."""

    supported_algorithms: int = bits(1, "Supported-algorithms block present", of=1, since=Version.V1_3, default=0)
    _param1: None = reserved_bits(7)
    _param2: None = reserved(1)
    _reserved: None = reserved(1)
    ct_exponent: int = u8("Crypto timeout is 2^CTExponent microseconds", default=0)
    ext_flags: int = bits(16, "ExtFlags: bit 0 SLOT_MGMT", of=2, since=Version.V1_4, default=0)
    flags: Capability = u32("Flags", enum=Capability)
    data_transfer_size: int = u32("Largest transfer the responder accepts", since=Version.V1_2, default=0)
    max_message_size: int = u32("MaxSPDMmsgSize", since=Version.V1_2, default=0)
    algorithms_block: SupportedAlgorithms | None = part(
        SupportedAlgorithms,
        "Supported-algorithms block",
        when="supported_algorithms",
        since=Version.V1_3,
        default=None,
    )
