"""Attacks on the records of a session, and on its keys: entries 30 to 32 of the catalogue."""

from __future__ import annotations

from teeio.abi.operands import SpdmOperation
from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.rogue import BINDING, Rogue, said
from teeio.scenarios.scenario import Mutant, Outcome, Removed, Scenario, nothing, without
from teeio.scenarios.stage import Stage
from teeio.spdm import messages as m
from teeio.spdm import record as record_module
from teeio.spdm import responder
from teeio.spdm.binding import Binding
from teeio.spdm.call import Call
from teeio.spdm.constants import KeyUpdateOperation
from teeio.spdm.handlers import HANDLERS
from teeio.spdm.record import RecordHeader, RecordKey
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.tdisp.messages import (
    STANDARD_ID,
    VENDOR_ID,
    GetDeviceInterfaceState,
    InterfaceState,
    StopInterfaceRequest,
)


def _record_replay(platform: Platform, journal: Journal) -> Outcome:
    """Hand a record of the TSM to the device a second time."""
    stage = Stage(platform, journal)
    interface, records = stage.running, []
    outcome = Outcome("handed a record of the TSM's session to the device twice")

    def recording(data_object: bytes, now: float) -> bytes:
        records.append(data_object)
        return stage.mailbox.carry(data_object, now)

    with stage.carried_by(recording):
        interface.check(stage.now())
    with stage.attack("VMM", "replay the record"):
        answer = said(stage.mailbox.carry(records[-1], stage.now()))
        lived = bool(stage.device.responder.sessions)
        outcome.see(f"the device: {answer}; the session is {'alive' if lived else 'over'}", not lived)
        outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.ERROR)
    state = interface.check(stage.now())
    outcome.see(f"the TVM learns that the interface is in {state.name}", state is not InterfaceState.RUN)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _swapped_records(platform: Platform, journal: Journal) -> Outcome:
    """Let the second record of a session arrive before the first."""
    stage = Stage(platform, journal)
    rogue = Rogue(stage)
    rogue.open_session()
    facts = rogue.requester.connection.facts
    outcome = Outcome("let the second record of a session arrive before the first")
    first, second = (rogue.sealed(m.Heartbeat().encode(facts)) for _ in range(2))
    with stage.attack("man in the middle", "swap two records"):
        for which, record in (("the second", second), ("then the first", first)):
            answer = rogue.understood(rogue.say(record))
            outcome.see(f"{which}: the device: {answer}", answer != "HEARTBEAT_ACK")
            lived = bool(stage.device.responder.sessions)
            outcome.see(f"{which}: the session is {'alive' if lived else 'over'}", not lived)
    return outcome


def _altered_record(platform: Platform, journal: Journal) -> Outcome:
    """Turn GET_DEVICE_INTERFACE_STATE into STOP_INTERFACE_REQUEST by flipping a bit of the ciphertext."""
    stage = Stage(platform, journal)
    interface = stage.running
    outcome = Outcome(
        "flipped bits of a record's ciphertext, so that GET_DEVICE_INTERFACE_STATE would say STOP_INTERFACE"
    )

    def flipping(data_object: bytes, now: float) -> bytes:
        altered = bytearray(data_object)
        altered[_RECORD_AT + 6 + 2 + _TYPE_AT] ^= GetDeviceInterfaceState.CODE ^ StopInterfaceRequest.CODE
        return stage.mailbox.carry(bytes(altered), now)

    with stage.attack("VMM", "flip bits of the ciphertext"), stage.carried_by(flipping):
        interface.check(stage.now())
    outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.ERROR)
    outcome.see("the device ended the session", not stage.device.responder.sessions)
    outcome.tdi_states = stage.tdi_states()
    return outcome


_RECORD_AT = 8
"""Where the record begins in a data object. Its header has 6 bytes, the length of the data inside 2."""

_TYPE_AT = len(m.VendorDefinedRequest(standard_id=STANDARD_ID, vendor_id=VENDOR_ID).encode(m.Facts())) + 2
"""Where TDISP's message type stands in a VENDOR_DEFINED_REQUEST: after protocol id and TDISP version."""

_LENGTH_AT = 4
"""Where a record says how long it is, after the session id."""


def _cut(record: bytes) -> bytes:
    return record[:-4]


def _cut_and_said_so(record: bytes) -> bytes:
    length = int.from_bytes(record[_LENGTH_AT : _LENGTH_AT + 2], "little") - 4
    return record[:_LENGTH_AT] + length.to_bytes(2, "little") + record[_LENGTH_AT + 2 : -4]


def _longer(record: bytes) -> bytes:
    length = int.from_bytes(record[_LENGTH_AT : _LENGTH_AT + 2], "little") + 4
    return record[:_LENGTH_AT] + length.to_bytes(2, "little") + record[_LENGTH_AT + 2 :]


def _cut_record(platform: Platform, journal: Journal) -> Outcome:
    """Cut records and alter what they say of their length; a record whose length is not its own is no record at all."""
    stage = Stage(platform, journal)
    outcome = Outcome("cut four bytes off a record, with and without a length that says so, and made the length larger")
    for case, alter, lives in (
        ("cut", _cut, True),
        ("cut, its length altered", _cut_and_said_so, False),
        ("its length beyond it", _longer, True),
    ):
        rogue = Rogue(stage, case)
        session = rogue.open_session()
        record, _ = BINDING.unwrap(rogue.sealed(m.Heartbeat().encode(rogue.requester.connection.facts)))
        with stage.attack("man in the middle", f"a record {case}"):
            answer = rogue.understood(rogue.say(BINDING.wrap(alter(record), secured=True)))
        wanted = "no answer" if lives else "ERROR DECRYPT_ERROR"
        outcome.see(f"{case}: the device: {answer}", answer == wanted)
        lived = session.session_id in stage.device.responder.sessions
        outcome.see(f"{case}: the session is {'as it was' if lived else 'over'}", lived is lives)
    return outcome


def _any_length(record: bytes, binding: Binding) -> RecordHeader:
    """Read the header of a record, and take what is there for its length."""
    size = 6 + binding.sequence_number_size
    return RecordHeader(int.from_bytes(record[:4], "little"), 0, len(record) - size, size)


def _unchecked_open(self: AeadKey, nonce: bytes, sealed: bytes, _: bytes) -> bytes:
    """Decrypt without looking at the tag: in counter mode sealing the ciphertext gives the plaintext back."""
    return self.seal(nonce, sealed[:-TAG_SIZE], b"")[:-TAG_SIZE]


def _constant_nonce(*_: object, **__: object) -> bytes:
    return bytes(12)


def _lost_key_update(platform: Platform, journal: Journal) -> Outcome:
    """Lose the answer to KEY_UPDATE, so that the sides disagree about the key."""
    stage = Stage(platform, journal)
    interface, carried = stage.running, []
    outcome = Outcome("lost KEY_UPDATE_ACK, so that device and TSM have different keys")

    def losing(data_object: bytes, now: float) -> bytes:
        carried.append(data_object)
        stage.mailbox.carry(data_object, now)
        return b""

    with stage.attack("VMM", "lose KEY_UPDATE_ACK"), stage.carried_by(losing):
        update = SpdmOperation.KEY_UPDATE
        refusal = stage.refused(lambda: stage.vmm.pci_tsm.manage(stage.pf, update, stage.now()))
        outcome.see(f"the TSM: {refusal or 'noticed nothing'}", bool(refusal))
        sent = len(carried)
        state = interface.check(stage.now())
        more = len(carried) - sent
        outcome.see(f"the TSM sent {more} more records under keys that the device may have replaced", not more)
    plain = [data for data in carried if not BINDING.unwrap(data)[1]]
    outcome.see(f"the TSM sent {len(plain)} messages in the clear", not plain)
    outcome.see(f"the TVM learns that the interface is in {state.name}", state is not InterfaceState.RUN)
    return outcome


def _replayed_key_update(platform: Platform, journal: Journal) -> Outcome:
    """Hand KEY_UPDATE to the device twice, while it still takes a record under the old key: until VerifyNewKey."""
    stage = Stage(platform, journal)
    interface, carried = stage.running, []
    session = next(iter(stage.device.responder.sessions.values()))
    outcome = Outcome("handed KEY_UPDATE to the device twice, so that it would be one key ahead of the TSM")

    def replaying(data_object: bytes, now: float) -> bytes:
        carried.append(data_object)
        answer = stage.mailbox.carry(data_object, now)
        if len(carried) == 1:
            updated = session.request_key.secret
            again = said(stage.mailbox.carry(data_object, now))
            ahead = session.request_key.secret != updated
            outcome.see(f"the replay moves the device {'one key on' if ahead else 'to no other key'}", not ahead)
            lived = bool(stage.device.responder.sessions)
            outcome.see(f"the device: {again}; the session is {'alive' if lived else 'over'}", not lived)
        return answer

    with stage.attack("VMM", "replay KEY_UPDATE"), stage.carried_by(replaying):
        update = SpdmOperation.KEY_UPDATE
        refusal = stage.refused(lambda: stage.vmm.pci_tsm.manage(stage.pf, update, stage.now()))
        outcome.see(f"the TSM: {refusal or 'noticed nothing'}", bool(refusal))
        state = interface.check(stage.now())
    plain = [data for data in carried if not BINDING.unwrap(data)[1]]
    outcome.see(f"of {len(carried)} messages the TSM sent {len(plain)} in the clear", not plain)
    outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.ERROR)
    outcome.see(f"the TVM learns that the interface is in {state.name}", state is not InterfaceState.RUN)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _any_key_update(r: Responder, request: m.KeyUpdate, call: Call) -> m.Response:
    """Update the keys again, whether or not the last update was verified."""
    if call.session is not None and request.operation is not KeyUpdateOperation.VERIFY_NEW_KEY:
        call.session.update_unverified = False
    return HANDLERS[m.KeyUpdate.CODE](r, request, call)


_NO_SEQUENCE = Removed(RecordKey, "_nonce", _constant_nonce)
_COUNTED = "DSP0277: the sequence number enters the nonce; a record that does not verify ends the session"
_TAGGED = "DSP0277: the AEAD tag covers data and header"

RECORDS = (
    Scenario(
        30,
        "record-replay",
        "the VMM hands a record to the device twice",
        "VMM",
        "session",
        _COUNTED,
        _record_replay,
        (Mutant("sequence numbers in the nonce", (_NO_SEQUENCE,)),),
    ),
    Scenario(
        30,
        "swapped-records",
        "somebody lets two records arrive in the other order",
        "man in the middle",
        "session",
        _COUNTED,
        _swapped_records,
        (Mutant("sequence numbers in the nonce", (_NO_SEQUENCE,)),),
    ),
    Scenario(
        31,
        "altered-record",
        "the VMM alters a record on its way",
        "VMM",
        "session",
        _TAGGED,
        _altered_record,
        (without("the AEAD tag", AeadKey, "open", _unchecked_open),),
    ),
    Scenario(
        31,
        "cut-record",
        "somebody cuts a record, or alters the length in its header",
        "man in the middle",
        "session",
        _TAGGED,
        _cut_record,
        (
            Mutant(
                "the look at a record's length",
                (
                    Removed(record_module, "record_header", _any_length),
                    Removed(responder, "record_header", _any_length),
                ),
            ),
        ),
    ),
    Scenario(
        32,
        "lost-key-update",
        "the VMM loses KEY_UPDATE_ACK",
        "VMM",
        "session",
        "DSP0274 KEY_UPDATE: a key that is not verified by both sides ends the session",
        _lost_key_update,
        (without("the TSM's giving the session up", Requester, "drop_session", nothing),),
    ),
    Scenario(
        32,
        "replayed-key-update",
        "the VMM hands KEY_UPDATE to the device twice",
        "VMM",
        "session",
        _COUNTED + "; DSP0274 KEY_UPDATE: no update before the last one is verified",
        _replayed_key_update,
        (
            Mutant("sequence numbers in the nonce", (_NO_SEQUENCE,)),
            Mutant(
                "sequence numbers in the nonce, and the wait for VerifyNewKey",
                (
                    _NO_SEQUENCE,
                    Removed(responder, "HANDLERS", {**HANDLERS, m.KeyUpdate.CODE: _any_key_update}),
                ),
            ),
        ),
    ),
)
