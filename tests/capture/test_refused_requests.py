"""Requests that a responder cannot read reset no transcript, neither there nor in the dissector."""

import pytest

from capture_files import Recorder
from teeio.capture import effects
from teeio.capture.conversation import Exchange, Ledger
from teeio.capture.dissect import decode_capture
from teeio.capture.findings import Verdict
from teeio.capture.keylog import KeyLog
from teeio.capture.keyring import KeyRing
from teeio.capture.pcap import LinkType
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode, Version


def _say(pair: Recorder, request: bytes) -> bytes:
    """Send a request of the peer's outside sessions; give the answer."""
    return pair.responder.binding.unwrap(pair.carry(pair.responder.binding.wrap(request, secured=False)))[0]


def _recorded(request: bytes, link_type: LinkType, error: ErrorCode) -> list[Verdict]:
    """Record a connection with `request` before CHALLENGE; give the verdicts on CHALLENGE_AUTH's signature."""
    pair = Recorder(link_type)
    pair.authenticate()
    assert _say(pair, request)[1:3] == bytes([m.Error.CODE, error])
    pair.run(flows.challenge(pair.requester))
    found = decode_capture(*pair.files())
    return [finding.verdict for _, finding in found.findings() if finding.check == "CHALLENGE_AUTH signature"]


@pytest.mark.parametrize("link_type", list(LinkType), ids=lambda link: link.name)
@pytest.mark.parametrize(
    "request_",
    [
        bytes([Version.V1_2, m.KeyExchange.CODE, 0, 0, 1, 2]),
        bytes([Version.V1_2, m.GetDigests.CODE, 0, 0, *bytes(8)]),
        bytes([Version.V1_2, m.GetMeasurements.CODE, 1, 0xFF, 1]),
    ],
    ids=["KEY_EXCHANGE cut short", "GET_DIGESTS with a tail", "GET_MEASUREMENTS cut short"],
)
def test_an_unreadable_request_resets_nothing(request_: bytes, link_type: LinkType) -> None:
    assert _recorded(request_, link_type, ErrorCode.INVALID_REQUEST) == [Verdict.OK]


def test_an_unreadable_request_does_not_reset_measurements_of_before() -> None:
    """L goes on over a request that nobody can read; one that can be read ends it."""
    pair = Recorder(LinkType.MCTP)
    pair.authenticate()
    pair.run(flows.get_measurements(pair.requester, 1, signed=False))
    assert _say(pair, bytes([Version.V1_2, m.Challenge.CODE, 0, 0]))[1] == m.Error.CODE
    pair.run(flows.get_measurements(pair.requester))
    found = decode_capture(*pair.files())
    assert [finding.verdict for _, finding in found.findings() if "MEASUREMENTS" in finding.check] == [Verdict.OK]


def test_an_answer_shows_that_the_responder_has_read_what_we_cannot() -> None:
    conversation = Ledger(KeyRing(KeyLog())).begin("", 1, whole=True)
    transcript = conversation.transcript
    transcript.end(m.GetDigests.CODE, b"request", b"response", None)
    unreadable = Exchange(None, bytes([Version.V1_2, m.KeyExchange.CODE, 0, 0]), None, 3)
    effects.requested(conversation, unreadable)
    assert transcript.m1(b"", b"") == b"requestresponse"
    unreadable.received = bytes([Version.V1_2, m.KeyExchangeRsp.CODE, 0, 0])
    effects.answered(conversation, unreadable)
    assert transcript.m1(b"", b"") == b""
