"""The negotiated state that END_SESSION preserves (CACHE), and sessions that begin with it: after a reset, right after VERSION."""

from dataclasses import replace

import pytest

from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import ErrorResponse, Misuse
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.rules import Phase
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session

VERSIONS = [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4]
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)


def device(version: Version = Version.V1_3, flags: Capability = Capability.CACHE | Capability.PSK_WITH_CONTEXT) -> Pair:
    serving = {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES | flags}
    return Pair(version, P384_SUITE, serving, {"capabilities": REQUESTER_CAPABILITIES | Capability.PSK})


def by_key(pair: Pair) -> Session:
    return pair.run(flows.psk_exchange(pair.requester, b"hint", b"pre-shared key"))


def by_certificate(pair: Pair) -> Session:
    return pair.run(flows.key_exchange(pair.requester))


def end(pair: Pair, session: Session, *, clear: bool = False) -> None:
    pair.run(flows.end_session(pair.requester, session, clear_negotiated_state=clear))


def refused_quick_start(pair: Pair) -> None:
    """Check that the responder has nothing to begin with, whatever the requester still believes."""
    pair.run(flows.resume(pair.requester, replace(pair.requester.connection, phase=Phase.NEGOTIATED)))
    with pytest.raises(ErrorResponse, match="VERSION_MISMATCH"):
        by_key(pair)
    assert not pair.responder.sessions


@pytest.mark.parametrize("again", [by_certificate, by_key], ids=["by certificate", "by pre-shared key"])
@each_version
def test_a_preserved_state_saves_negotiation_after_a_reset(version: Version, again: object) -> None:
    before = device(version)
    before.authenticate()
    end(before, by_certificate(before))
    after = device(version)
    assert before.responder.preserved == before.requester.preserved == before.responder.connection
    assert before.responder.preserved is not None
    assert before.requester.preserved is not None
    after.responder.connection = before.responder.preserved
    after.requester.connection = before.requester.preserved
    after.requester.chains = before.requester.chains
    session = by_key(after) if again is by_key else by_certificate(after)
    after.run(flows.heartbeat(session))
    end(after, session, clear=True)
    assert after.responder.preserved is None
    assert after.requester.preserved is None
    assert not any(frame[2] == m.GetVersion.CODE for way, frame in after.frames if way == "req")


@each_version
def test_a_pre_shared_key_session_starts_right_after_version(version: Version) -> None:
    pair = device(version)
    pair.run(flows.connect(pair.requester))
    end(pair, by_key(pair))
    before = len(pair.frames)
    for _ in range(2):  # what a quick start ends with is preserved as well
        pair.run(flows.resume(pair.requester))
        session = by_key(pair)
        pair.run(flows.heartbeat(session))
        end(pair, session)
    plain = [frame[2] for way, frame in pair.frames[before:] if way == "req" and frame[0] == 0]
    assert plain == [m.GetVersion.CODE, m.PskExchange.CODE] * 2


@each_version
def test_a_cleared_state_is_gone_on_both_sides(version: Version) -> None:
    pair = device(version)
    pair.run(flows.connect(pair.requester))
    end(pair, by_key(pair))
    pair.run(flows.resume(pair.requester))
    end(pair, by_key(pair), clear=True)
    with pytest.raises(Misuse, match="no negotiated state is preserved"):
        pair.run(flows.resume(pair.requester))
    refused_quick_start(pair)


def test_what_one_session_clears_no_other_preserves() -> None:
    pair = device()
    pair.authenticate()
    first, second = by_certificate(pair), by_key(pair)
    end(pair, first, clear=True)
    end(pair, second)
    assert pair.responder.preserved is None
    assert pair.requester.preserved is None
    refused_quick_start(pair)
    pair.authenticate()  # negotiated anew: there is something to preserve again
    end(pair, by_key(pair))
    pair.run(flows.resume(pair.requester))
    by_key(pair)


@each_version
def test_nothing_is_preserved_without_cache(version: Version) -> None:
    pair = device(version, Capability.PSK_WITH_CONTEXT)
    pair.authenticate()
    session = by_certificate(pair)
    asked = next(flows.end_session(pair.requester, by_key(pair), clear_negotiated_state=True))
    assert asked.request.clear_negotiated_state == 0  # type: ignore[attr-defined]
    pair.requester.sessions[session.session_id] = session
    end(pair, session)
    assert pair.responder.preserved is None
    with pytest.raises(Misuse, match="no negotiated state is preserved"):
        pair.run(flows.resume(pair.requester))
    refused_quick_start(pair)


def test_an_end_without_an_acknowledgement_preserves_nothing_here() -> None:
    pair = device()
    pair.run(flows.connect(pair.requester))
    session = by_key(pair)
    pair.tamper = lambda way, frame: frame if way == "req" else frame[:-1] + bytes([frame[-1] ^ 1])  # type: ignore
    with pytest.raises(Exception, match="verify"):
        end(pair, session)
    assert pair.requester.preserved is None


def test_only_a_pre_shared_key_starts_right_after_version() -> None:
    pair = device()
    pair.authenticate()
    end(pair, by_certificate(pair))
    chains = dict(pair.requester.chains)
    pair.run(flows.resume(pair.requester))
    pair.requester.chains = chains
    with pytest.raises(ErrorResponse) as caught:
        by_certificate(pair)
    assert caught.value.code == ErrorCode.VERSION_MISMATCH
    by_key(pair)


def test_a_preserved_state_of_another_version_is_not_taken_up() -> None:
    pair = device(Version.V1_3)
    pair.run(flows.connect(pair.requester))
    end(pair, by_key(pair))
    assert pair.requester.preserved is not None
    pair.responder.settings = replace(pair.responder.settings, versions=(Version.V1_2, Version.V1_3))
    pair.run(flows.resume(pair.requester, replace(pair.requester.preserved, version=Version.V1_2)))
    with pytest.raises(ErrorResponse, match="VERSION_MISMATCH"):
        by_key(pair)
    assert pair.responder.connection.phase is Phase.VERSION_DONE
