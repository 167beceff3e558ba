"""DOE discovery beside a responder: answered where there is DOE, passed on where there is not."""

import pytest

from teeio.pcie import doe
from teeio.transport.discovery import PROTOCOLS, with_discovery
from teeio.transport.kinds import Transport


def _asked(index: int) -> bytes:
    return doe.encode_object(doe.DISCOVERY, doe.DiscoveryRequest(index=index).encode())


def test_discovery_lists_every_protocol() -> None:
    handle = with_discovery(Transport.PCI_DOE, lambda frame: None)
    found, index = [], 0
    while not found or index:
        answer = handle(_asked(index))
        assert answer is not None
        entry = doe.DiscoveryResponse.decode(doe.decode_object(answer).payload)
        found.append(doe.DoeProtocol(entry.vendor_id, entry.type))
        index = entry.next_index
    assert tuple(found) == PROTOCOLS


@pytest.mark.parametrize("transport", Transport, ids=lambda transport: transport.value)
def test_other_frames_and_transports_are_the_responders(transport: Transport) -> None:
    handle = with_discovery(transport, lambda frame: b"responder: " + frame[:1])
    spdm = doe.encode_object(doe.SPDM, b"\x10\x84\0\0")
    assert handle(spdm) == b"responder: \x01"
    answered = handle(_asked(0))
    assert (answered == b"responder: \x01") is (transport is not Transport.PCI_DOE)


def test_a_broken_request_has_no_answer() -> None:
    handle = with_discovery(Transport.PCI_DOE, lambda frame: b"responder")
    assert handle(_asked(0)[:-1]) is None
