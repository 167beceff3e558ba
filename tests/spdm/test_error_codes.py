"""Every error code of DSP0274 is either an answer that our responder really gives, or is listed with the reason why it never is."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import teeio.spdm
from spdm.mutual_pair import Trust, challenged_pair, mutual_pair
from spdm.provisioned_device import CAPABILITIES, device
from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import ErrorResponse, Misuse, Reject
from teeio.flow import Flow
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, MutualAuth, Version
from teeio.spdm.error_rules import BY_CODE, ERROR_RULES, in_version
from teeio.spdm.provisioning import MAX_TRACKING_TAG
from teeio.spdm.state import REQUESTER_CAPABILITIES

E = ErrorCode
PRODUCED = [rule for rule in ERROR_RULES if not rule.never]
NEVER = [rule for rule in ERROR_RULES if rule.never]


def refused(pair: Pair, flow: Flow[Any]) -> int:
    with pytest.raises(ErrorResponse) as caught:
        pair.run(flow)
    return caught.value.code


def said(pair: Pair, request: m.Request[Any] | bytes) -> int:
    """Send a request, or bytes, as it is; give the code of the ERROR that comes back."""
    message = request if isinstance(request, bytes) else request.encode(pair.responder.connection.facts)
    answer = pair.say(message) or b""
    assert answer[1:2] == bytes([m.Error.CODE]), answer[:4]
    return answer[2]


def negotiated(version: Version = Version.V1_2, **changes: Any) -> Pair:
    pair = Pair(version, P384_SUITE, {"versions": (version,), **changes})
    pair.authenticate()
    return pair


def no_such_session() -> int:
    pair = negotiated()
    answer = pair.responder.respond(b"\1" + bytes(4) + b"\0\0" + b"\x20\0" + bytes(32)) or b""
    return answer[3]


def negotiated_for_reset() -> Pair:
    pair = device(Version.V1_3, CAPABILITIES | Capability.CERT_INSTALL_RESET)
    pair.authenticate()
    return pair


def all_tags_in_use() -> int:
    pair = negotiated_for_reset()
    for _ in range(MAX_TRACKING_TAG):
        assert said(pair, m.GetCsr()) == E.RESET_REQUIRED
    return said(pair, m.GetCsr())


def wrong_proof() -> int:
    pair = negotiated()
    pair.tamper = lambda way, frame: frame[:-1] + b"\0" if way == "req" and frame[0] == 1 else frame  # type: ignore[method-assign]
    return refused(pair, flows.key_exchange(pair.requester))


def wrong_encapsulated_response() -> int:
    pair = mutual_pair(authenticate=Trust(refuse=True))
    pair.authenticate()
    return refused(pair, flows.key_exchange(pair.requester))


def one_session_too_many() -> int:
    pair = negotiated(max_sessions=1)
    pair.run(flows.key_exchange(pair.requester))
    return refused(pair, flows.key_exchange(pair.requester))


def small_requester(chunks: bool) -> Pair:
    flags = REQUESTER_CAPABILITIES if chunks else REQUESTER_CAPABILITIES & ~Capability.CHUNK
    pair = Pair(requester_changes={"data_transfer_size": 100, "max_message_size": 5000, "capabilities": flags})
    pair.run(flows.connect(pair.requester))
    return pair


def too_large_a_request() -> int:
    pair = negotiated(data_transfer_size=1000)
    return said(pair, m.VendorDefinedRequest(standard_id=3, vendor_id=b"\1\0", payload=bytes(2000)))


def against_policy() -> int:
    pair = mutual_pair(Version.V1_3, requester=REQUESTER_CAPABILITIES)
    pair.authenticate()
    return refused(pair, flows.key_exchange(pair.requester))


def a_chain_that_needs_the_large_form(version: Version = Version.V1_4) -> int:
    pair = negotiated(version)
    (slot, *_), identity = pair.responder.identity.slots.values(), pair.responder.identity
    long = type(slot)((*slot.certificates, bytes(0x10000)), slot.key)
    pair.responder.identities = [type(identity)({0: long})]
    return said(pair, m.GetCertificate(slot=0, length=100))


def not_ready() -> int:
    pair = negotiated()
    pair.responder.measurements.ready_at = 1.0
    return said(pair, m.GetMeasurements(operation=0))


def impossible() -> int:
    pair = device(Version.V1_3)
    pair.authenticate()
    pair.run(flows.erase_certificate(pair.requester, 3))
    return refused(pair, flows.erase_certificate(pair.requester, 0))


def nothing_pending(version: Version = Version.V1_3) -> int:
    pair = mutual_pair(version, MutualAuth.NONE)
    pair.authenticate()
    return said(pair, m.GetEncapsulatedRequest())


RECIPES: dict[E, Callable[[], int]] = {
    E.INVALID_REQUEST: lambda: said(negotiated(), m.GetMeasurements(operation=0x77)),
    E.INVALID_SESSION: no_such_session,
    E.BUSY: all_tags_in_use,
    E.UNEXPECTED_REQUEST: lambda: said(negotiated(), bytes([0x12, m.NegotiateAlgorithms.CODE, 0, 0])),
    E.UNSPECIFIED: lambda: said(negotiated(Version.V1_1), m.Heartbeat()),
    E.DECRYPT_ERROR: wrong_proof,
    E.UNSUPPORTED_REQUEST: lambda: said(negotiated(), bytes([0x12, 0xF7, 0, 0])),
    E.REQUEST_IN_FLIGHT: lambda: said(challenged_pair()[0], m.GetDigests()),
    E.INVALID_RESPONSE_CODE: wrong_encapsulated_response,
    E.SESSION_LIMIT_EXCEEDED: one_session_too_many,
    E.SESSION_REQUIRED: lambda: said(negotiated(), m.Heartbeat()),
    E.RESET_REQUIRED: lambda: said(negotiated_for_reset(), m.GetCsr()),
    E.RESPONSE_TOO_LARGE: lambda: said(small_requester(chunks=False), m.GetMeasurements(operation=0xFF)),
    E.REQUEST_TOO_LARGE: too_large_a_request,
    E.LARGE_RESPONSE: lambda: said(small_requester(chunks=True), m.GetMeasurements(operation=0xFF)),
    E.INVALID_POLICY: against_policy,
    E.DATA_TOO_LARGE: a_chain_that_needs_the_large_form,
    E.VERSION_MISMATCH: lambda: said(negotiated(), bytes([0x13, m.GetDigests.CODE, 0, 0])),
    E.RESPONSE_NOT_READY: not_ready,
    E.OPERATION_FAILED: impossible,
    E.NO_PENDING_REQUESTS: nothing_pending,
}
"""How to make the responder answer with a code."""


def test_every_code_has_its_row() -> None:
    assert [rule.code for rule in ERROR_RULES] == list(ErrorCode)
    assert all(bool(rule.when) != bool(rule.never) for rule in ERROR_RULES)
    assert set(RECIPES) == {rule.code for rule in PRODUCED}


@pytest.mark.parametrize("rule", PRODUCED, ids=lambda rule: rule.code.name)
def test_the_responder_answers_with_it(rule: Any) -> None:
    assert RECIPES[rule.code]() == rule.code


@pytest.mark.parametrize("rule", NEVER, ids=lambda rule: rule.code.name)
def test_what_is_said_never_to_be_sent_is_sent_nowhere(rule: Any) -> None:
    """Only the requester, who may get the code from others, and the table name it."""
    names = {"error_rules.py", "constants.py", "requester.py"}
    for path in Path(teeio.spdm.__file__).parent.rglob("*.py"):
        if path.name not in names:
            used = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            assert rule.code.name not in used - {"VENDOR_DEFINED"}, path


# -- before the version that defines a code ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", list(Version), ids=lambda v: v.text)
@pytest.mark.parametrize("rule", ERROR_RULES, ids=lambda rule: rule.code.name)
def test_a_version_is_told_only_what_it_defines(rule: Any, version: Version) -> None:
    told = in_version(Reject(rule.code, "why", 7, b"more"), version)
    assert told.clause == "why"
    if version >= rule.since or rule.code is E.INVALID_SESSION:
        assert (told.code, told.data, told.extended) == (rule.code, 7, b"more")
    else:
        assert (told.code, told.data, told.extended) == (rule.before, 0, b"")
        assert BY_CODE[told.code].since <= version


@pytest.mark.parametrize(
    ("ask", "later", "earlier"),
    [
        (nothing_pending, (Version.V1_3, E.NO_PENDING_REQUESTS), (Version.V1_2, E.UNEXPECTED_REQUEST)),
        (a_chain_that_needs_the_large_form, (Version.V1_4, E.DATA_TOO_LARGE), (Version.V1_3, E.UNSPECIFIED)),
        (
            lambda version: said(negotiated(version), m.Heartbeat()),
            (Version.V1_2, E.SESSION_REQUIRED),
            (Version.V1_1, E.UNSPECIFIED),
        ),
    ],
)
def test_the_responder_keeps_to_it(
    ask: Callable[[Version], int], later: tuple[Version, E], earlier: tuple[Version, E]
) -> None:
    assert [ask(version) for version, _ in (later, earlier)] == [code for _, code in (later, earlier)]


def test_a_responder_that_asks_for_resynchronisation_is_negotiated_with_anew() -> None:
    pair = negotiated()
    pair.run(flows.key_exchange(pair.requester))
    resynch = m.Error(error_code=E.REQUEST_RESYNCH).encode(pair.requester.connection.facts)
    carried = pair.carry
    pair.carry = lambda frame: b"\0" + resynch  # type: ignore[method-assign]
    assert refused(pair, flows.get_digests()) == E.REQUEST_RESYNCH
    assert not pair.requester.sessions
    pair.carry = carried  # type: ignore[method-assign]
    with pytest.raises(Misuse, match="negotiation has not come this far"):
        pair.run(flows.get_digests())
    pair.authenticate()
