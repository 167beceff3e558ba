"""GET_DIGESTS and DIGESTS (DSP0274)."""

from __future__ import annotations

from teeio.spdm.constants import Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import blob, repeat, reserved, u8


@message(0x81, "GET_DIGESTS")
class GetDigests(Request["Digests"]):
    """Ask for the digests of the responder's certificate chains."""

    _params: None = reserved(2)


@message(0x01, "DIGESTS")
class Digests(Response):
    """Answer GET_DIGESTS: digests lie in ascending slot order."""

    supported_slots: int = u8("SupportedSlotMask", since=Version.V1_3, held=True, default=0)
    provisioned_slots: int = u8("ProvisionedSlotMask")
    digests: bytes = blob("provisioned_slots.bit_count() * hash_size", "Digests, one after another")
    key_pair_ids: tuple[int, ...] = repeat(
        1, "KeyPairID per slot", count="provisioned_slots.bit_count() * multi_key", since=Version.V1_3, default=()
    )
    certificate_info: tuple[int, ...] = repeat(
        1, "CertificateInfo per slot", count="provisioned_slots.bit_count() * multi_key", since=Version.V1_3, default=()
    )
    key_usage: tuple[int, ...] = repeat(
        2, "KeyUsageMask per slot", count="provisioned_slots.bit_count() * multi_key", since=Version.V1_3, default=()
    )

    def slots(self) -> tuple[int, ...]:
        """Give the provisioned slot numbers, ascending."""
        return tuple(slot for slot in range(8) if self.provisioned_slots >> slot & 1)

    def of_slot(self, slot: int) -> bytes:
        """Give the digest of `slot`, or b"" if it is not provisioned."""
        slots = self.slots()
        if slot not in slots:
            return b""
        size = len(self.digests) // len(slots)
        return self.digests[slots.index(slot) * size :][:size]
