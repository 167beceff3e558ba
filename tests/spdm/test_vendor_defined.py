"""VENDOR_DEFINED in both forms, with every registry, beyond 64 KiB."""

from typing import Any

import pytest

from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import ErrorResponse, PeerViolation
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, Version
from teeio.spdm.messages.vendor_defined import StandardsBody
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session
from teeio.spdm.vendor import vendor_exchange


class Reversing:
    """Answers with what it was sent, backwards."""

    def __init__(self, standard_id: int, vendor_id: bytes, protocol_id: int = 7) -> None:
        self.standard_id, self.vendor_id, self.protocol_id = standard_id, vendor_id, protocol_id

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        return bytes([self.protocol_id]) + message[::-1]

    def session_ended(self, session_id: int) -> None:
        return None


def speaking(*protocols: Reversing, version: Version = Version.V1_4, **changes: Any) -> tuple[Pair, Session]:
    large = Capability.LARGE_RESP
    pair = Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES | large, **changes},
        {"capabilities": REQUESTER_CAPABILITIES | large, **changes},
        vendor_protocols=protocols,
    )
    return pair, pair.open_session()


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("body", list(StandardsBody), ids=lambda body: body.name)
def test_every_registry_in_both_forms(body: StandardsBody, large: bool) -> None:
    vendor = {StandardsBody.DMTF: b"", StandardsBody.IANA: b"\1\2\3\4"}.get(body, b"\1\0")
    pair, session = speaking(Reversing(int(body), vendor))
    flow = vendor_exchange(body, vendor, b"\x07abc", large=large)
    assert pair.run(flow, session.session_id) == b"\x07\x07cba"


def test_protocols_of_one_vendor_are_told_apart() -> None:
    pair, session = speaking(Reversing(3, b"\1\0", 1), Reversing(3, b"\1\0", 2), Reversing(3, b"\2\0", 1))
    for vendor, protocol in ((b"\1\0", 2), (b"\2\0", 1), (b"\1\0", 1)):
        payload = bytes([protocol]) + b"x"
        assert pair.run(vendor_exchange(3, vendor, payload), session.session_id) == bytes([protocol] * 2) + b"x"
    for standard, vendor, protocol in ((3, b"\2\0", 2), (7, b"\1\0", 1), (3, b"\1", 1)):
        with pytest.raises(ErrorResponse, match="UNSUPPORTED_REQUEST"):
            pair.run(vendor_exchange(standard, vendor, bytes([protocol])), session.session_id)


def test_the_large_form_carries_more_than_64_kib_both_ways() -> None:
    pair, session = speaking(Reversing(3, b"\1\0"), max_message_size=0x28000)
    data = bytes(range(256)) * 300
    assert pair.run(vendor_exchange(3, b"\1\0", b"\x07" + data, large=True), session.session_id) == (
        b"\x07\x07" + data[::-1]
    )


def test_a_response_of_another_vendor_is_a_violation() -> None:
    pair, session = speaking(Reversing(3, b"\1\0"))
    flow = vendor_exchange(3, b"\1\0", b"\x07abc")
    theirs = pair.responder.sessions[session.session_id]
    other = m.VendorDefinedResponse(standard_id=3, vendor_id=b"\2\0", payload=b"\x07x")

    def carry(frame: bytes) -> bytes:
        binding = pair.requester.binding
        message = other.encode(pair.requester.connection.facts)
        record = theirs.response_key.seal(session.session_id, message, binding, pair.responder.entropy)
        return binding.wrap(record, secured=True)

    pair.carry = carry  # type: ignore[method-assign]
    with pytest.raises(PeerViolation, match="vendor 0200"):
        pair.run(flow, session.session_id)
