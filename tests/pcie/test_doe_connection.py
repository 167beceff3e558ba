"""DOE data objects with a connection id: the layout, the binding in both roles, several connections through one mailbox."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdm_pair import Pair
from teeio.capture.dissect import decode_capture
from teeio.capture.findings import Verdict
from teeio.capture.keylog import KeyLogWriter
from teeio.capture.pcap import LinkType, write_pcap
from teeio.errors import DecodeError, Misuse
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.capabilities.header import Type0Header
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.doe import (
    DISCOVERY,
    MAX_CONNECTION_ID,
    OF_A_CONNECTION,
    SECURED_SPDM,
    SPDM,
    SPDM_CONNECTION,
    DoeBinding,
    decode_object,
    discover,
    encode_object,
    exchange,
)
from teeio.pcie.doe_mailbox import DoeMailbox, by_connection
from teeio.spdm import flows

BASE = 0x100


@given(st.integers(0, MAX_CONNECTION_ID), st.binary(max_size=40))
def test_the_id_stands_above_the_length(connection_id: int, payload: bytes) -> None:
    data = encode_object(SPDM_CONNECTION, payload, connection_id)
    assert int.from_bytes(data[4:8], "little") == connection_id << 18 | len(data) // 4
    found = decode_object(data)
    assert (found.protocol, found.connection_id) == (SPDM_CONNECTION, connection_id)
    assert DoeBinding(connection_id).unwrap(data) == (found.payload, False)


def test_ids_have_twelve_bits() -> None:
    for wrong in (-1, 4096):
        with pytest.raises(Misuse, match="is 0 to 4095"):
            DoeBinding(wrong)


@pytest.mark.parametrize("secured", [False, True])
def test_a_binding_takes_only_its_own_connection(secured: bool) -> None:
    mine, other, none = DoeBinding(5), DoeBinding(6), DoeBinding()
    assert mine.unwrap(mine.wrap(b"abcd", secured)) == (b"abcd", secured)
    for binding, frame, said in (
        (mine, other.wrap(b"abcd", secured), "6 is another connection than 5"),
        (mine, none.wrap(b"abcd", secured), "is of the connection without an id"),
        (none, mine.wrap(b"abcd", secured), "is of a connection with an id"),
        (mine, encode_object(DISCOVERY, b"\0\0\0\0"), "carries no SPDM message"),
    ):
        with pytest.raises(DecodeError, match=said):
            binding.unwrap(frame)


class Through(Pair):
    """A pair whose frames go through a mailbox that others use too."""

    def attach(self, connection_id: int | None) -> Through:
        self.requester.binding = self.responder.binding = DoeBinding(connection_id)
        return self

    def through(self, space: ConfigSpace, seen: list[bytes]) -> Through:
        self.space, self.seen = space, seen
        return self

    def carry(self, frame: bytes) -> bytes:
        answer = exchange(self.space.read, self.space.write, BASE, frame)
        self.seen += [frame, answer]
        return answer


def test_three_connections_through_one_mailbox() -> None:
    pairs = {number: Through().attach(number) for number in (None, 0, 77)}
    handlers = {number: lambda data, pair=pair: pair.responder.respond(data, 0.0) for number, pair in pairs.items()}
    capability = DoeCapability()
    space = ConfigSpace(Type0Header(1, 2, 3), [], [capability])
    DoeMailbox(capability, by_connection(handlers), (SPDM, SECURED_SPDM, *OF_A_CONNECTION))
    assert discover(space.read, space.write, BASE) == [DISCOVERY, SPDM, SECURED_SPDM, *OF_A_CONNECTION]
    seen: list[bytes] = []
    sessions = {number: pair.through(space, seen).open_session() for number, pair in pairs.items()}
    for _ in range(3):
        for number, pair in pairs.items():
            pair.run(flows.heartbeat(sessions[number]))
    assert len({session.session_id for session in sessions.values()}) == 1

    keys = KeyLogWriter()
    for pair in pairs.values():
        for event in pair.events:
            keys(event)
    found = decode_capture(write_pcap(LinkType.PCI_DOE, [(frame, 0.0) for frame in seen]), keys.text())
    assert found.problems == found.notes == []
    assert {finding.verdict for _, finding in found.findings()} == {Verdict.OK}
    assert [one.ends for one in found.connections] == ["", "DOE connection id 0", "DOE connection id 77"]
    assert [message.connection for message in found.messages[-18:]] == [1, 1, 2, 2, 3, 3] * 3


def test_an_unknown_connection_has_no_answer() -> None:
    asked: list[bytes] = []
    handle = by_connection({5: lambda data: asked.append(data) or data})  # type: ignore[func-returns-value]
    for binding in (DoeBinding(), DoeBinding(6)):
        assert handle(binding.wrap(b"abcd", secured=False)) is None
    assert not asked
    assert handle(DoeBinding(5).wrap(b"abcd", secured=False))
