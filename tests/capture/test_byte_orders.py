"""Captures of SPDM 1.0 and 1.1 do not say which byte orders the sides have agreed on: either is read."""

import pytest

from capture_files import Recorder
from teeio.capture.dissect import decode_capture
from teeio.capture.findings import Verdict
from teeio.capture.pcap import LinkType
from teeio.spdm import flows
from teeio.spdm.byte_order import ByteOrder
from teeio.spdm.constants import Version


@pytest.mark.parametrize("signatures", [ByteOrder.BIG, ByteOrder.LITTLE], ids=lambda order: order.value)
@pytest.mark.parametrize("nonces", [ByteOrder.BIG, ByteOrder.LITTLE], ids=lambda order: order.value)
@pytest.mark.parametrize("link_type", list(LinkType), ids=lambda link: link.name)
def test_either_byte_order_is_read(link_type: LinkType, nonces: ByteOrder, signatures: ByteOrder) -> None:
    orders = {"nonce_order": nonces, "signature_order": signatures, "secured_versions": (0x1100,)}
    pair = Recorder(
        link_type,
        version=Version.V1_1,
        responder_changes={"versions": (Version.V1_1,), **orders},
        requester_changes=orders,
    )
    pair.authenticate()
    pair.run(flows.challenge(pair.requester))
    sessions = [pair.run(flows.key_exchange(pair.requester)) for _ in range(2)]
    for session in sessions * 3:
        pair.run(flows.heartbeat(session))
    pair.run(flows.key_update(pair.requester, sessions[0]))
    for session in sessions * 2:
        pair.run(flows.heartbeat(session))
    dissection = decode_capture(*pair.files())
    assert dissection.problems == []
    assert {finding.verdict for _, finding in dissection.findings()} == {Verdict.OK}
    assert all(message.message is not None for message in dissection.messages)
