"""Attacks on the SPDM session: entries 26 to 35 of the catalogue."""

from __future__ import annotations

from teeio.abi.operands import SpdmOperation
from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.device.configuration import Configuration
from teeio.pcie.doe import DoeBinding
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.rogue import Rogue
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without
from teeio.scenarios.stage import STREAM_ID, Stage
from teeio.spdm import admission, flows, responder, session_handlers
from teeio.spdm import messages as m
from teeio.spdm.call import Call
from teeio.spdm.constants import Capability, ErrorCode
from teeio.spdm.handlers import HANDLERS
from teeio.spdm.record import RecordKey
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import RESPONDER_CAPABILITIES, Session, Settings
from teeio.tdisp.messages import (
    PROTOCOL_ID,
    STANDARD_ID,
    VENDOR_ID,
    GetDeviceInterfaceState,
    InterfaceState,
    StopInterfaceRequest,
)

HINT, PSK = b"lab key", bytes(range(48))
HEARTBEAT = 5
_BINDING = DoeBinding()


def said(answer: bytes) -> str:
    """Say what a plain answer is: ERROR with its code, another message by its name, or nothing."""
    message, secured = _BINDING.unwrap(answer) if answer else (b"", False)
    if secured or len(message) < 3:
        return "a protected answer" if secured else "no answer"
    if message[1] != m.Error.CODE:
        return m.name_of(message[1])
    return f"ERROR {ErrorCode(message[2]).name if message[2] in tuple(ErrorCode) else hex(message[2])}"


def _inside(rogue: Rogue, session: Session, message: bytes) -> str:
    """Say a message in a session; give what came back."""
    record = session.request_key.seal(session.session_id, message, _BINDING, rogue.entropy)
    answer = rogue.say(_BINDING.wrap(record, secured=True))
    if not answer or not _BINDING.unwrap(answer)[1]:
        return said(answer)
    return said(_BINDING.wrap(session.response_key.open(_BINDING.unwrap(answer)[0], _BINDING), secured=False))


def _crossed_finish(platform: Platform, journal: Journal) -> Outcome:
    """Begin a session by KEY_EXCHANGE and end its handshake by PSK_FINISH (CVE-2023-31127)."""
    stage = Stage(platform, journal)
    rogue = Rogue(stage, settings=Settings(capabilities=_PSK_REQUESTER))
    outcome = Outcome("ended the handshake of a KEY_EXCHANGE session with PSK_FINISH, which proves no certificate")
    rogue.connect()
    session = rogue.halfway(flows.key_exchange(rogue.requester))
    facts, size = rogue.requester.connection.facts, rogue.requester.connection.base_hash.size
    with stage.attack("requester", "PSK_FINISH in a session of KEY_EXCHANGE"):
        unproven = m.PskFinish(verify_data=bytes(size)).encode(facts)[:-size]
        proof = session.schedule.verify_data(session.handshake.request_finished, session.transcript + unproven)
        answer = _inside(rogue, session, m.PskFinish(verify_data=proof).encode(facts))
        outcome.see(f"the device: {answer}", "ERROR" in answer)
        left = len(stage.device.responder.sessions)
        outcome.see(f"the device has {left} sessions left", not left)
    return outcome


def _skipped_finish(platform: Platform, journal: Journal) -> Outcome:
    """Ask for an interface's state before the handshake is finished."""
    stage = Stage(platform, journal)
    rogue = Rogue(stage)
    outcome = Outcome("sent TDISP in a session whose handshake nobody had finished")
    rogue.connect()
    session = rogue.halfway(flows.key_exchange(rogue.requester))
    with stage.attack("man in the middle", "application data instead of FINISH"):
        answer = _inside(rogue, session, _get_state(rogue, stage))
        outcome.see(f"the device: {answer}", answer.startswith("ERROR"))
    return outcome


def _get_state(rogue: Rogue, stage: Stage) -> bytes:
    return _vendor(rogue, GetDeviceInterfaceState(function_id=stage.vf.function_id).encode())


def _vendor(rogue: Rogue, tdisp: bytes) -> bytes:
    payload = bytes([PROTOCOL_ID]) + tdisp
    request = m.VendorDefinedRequest(standard_id=STANDARD_ID, vendor_id=VENDOR_ID, payload=payload)
    return request.encode(rogue.requester.connection.facts)


def _reset_inside(platform: Platform, journal: Journal) -> Outcome:
    """Say GET_VERSION and CHALLENGE inside a session, where they would reset what the session stands on."""
    stage = Stage(platform, journal)
    rogue = Rogue(stage)
    session = rogue.open_session()
    facts = rogue.requester.connection.facts
    outcome = Outcome("sent GET_VERSION and CHALLENGE inside the session")
    with stage.attack("requester", "requests that exist only outside"):
        for name, message in (
            ("GET_VERSION", m.GetVersion().encode(m.Facts())),
            ("CHALLENGE", m.Challenge(slot=0, summary_type=0, nonce=bytes(32)).encode(facts)),
        ):
            answer = _inside(rogue, session, message)
            outcome.see(f"{name}: {answer}", answer.startswith("ERROR"))
            alive = session.session_id in stage.device.responder.sessions
            outcome.see(f"{name}: the session lives on", alive)
    said_inside = stage.refused(lambda: rogue.inside(flows.heartbeat(session)))
    outcome.see(f"a heartbeat afterwards: {said_inside or 'answered'}", not said_inside)
    return outcome


def _vendor_outside(platform: Platform, journal: Journal) -> Outcome:
    """Say STOP_INTERFACE_REQUEST in the clear, beside the TSM's session."""
    stage = Stage(platform, journal)
    work = stage.work
    tsm = stage.agent.requester
    outcome = Outcome("sent STOP_INTERFACE_REQUEST in the clear while the TDI was in RUN")
    with stage.attack("VMM", "TDISP outside of any session"):
        stop = bytes([PROTOCOL_ID]) + StopInterfaceRequest(function_id=stage.vf.function_id).encode()
        request = m.VendorDefinedRequest(standard_id=STANDARD_ID, vendor_id=VENDOR_ID, payload=stop)
        plain = _BINDING.wrap(request.encode(tsm.connection.facts), secured=False)
        answer = said(stage.mailbox.carry(plain, stage.now()))
        outcome.see(f"the device: {answer}", answer == "no answer")
    outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.RUN)
    refusal = stage.refused(work.copy)
    outcome.see(f"the TVM's next job: {refusal or 'done'}", not refusal)
    return outcome


def _heedless_vendor(r: Responder, request: m.VendorDefinedRequest, call: Call) -> m.Response:
    """Answer vendor-defined requests as if they had come in some session."""
    call.session = call.session or next(iter(r.sessions.values()))
    return HANDLERS[m.VendorDefinedRequest.CODE](r, request, call)


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


def _altered_record(platform: Platform, journal: Journal) -> Outcome:
    """Turn GET_DEVICE_INTERFACE_STATE into STOP_INTERFACE_REQUEST by flipping a bit of the ciphertext."""
    stage = Stage(platform, journal)
    interface = stage.running
    outcome = Outcome(
        "flipped bits of a record's ciphertext, so that GET_DEVICE_INTERFACE_STATE would say STOP_INTERFACE"
    )

    def flipping(data_object: bytes, now: float) -> bytes:
        # Header of the data object 8, of the record 6, then the length of the data 2; what TDISP says follows.
        altered = bytearray(data_object)
        altered[8 + 6 + 2 + _TYPE_AT] ^= GetDeviceInterfaceState.CODE ^ StopInterfaceRequest.CODE
        return stage.mailbox.carry(bytes(altered), now)

    with stage.attack("VMM", "flip bits of the ciphertext"), stage.carried_by(flipping):
        interface.check(stage.now())
    outcome.see(f"the TDI is in {stage.state().name}, not unlocked", stage.state() is InterfaceState.ERROR)
    outcome.see("the device ended the session", not stage.device.responder.sessions)
    outcome.tdi_states = stage.tdi_states()
    return outcome


_TYPE_AT = len(m.VendorDefinedRequest(standard_id=STANDARD_ID, vendor_id=VENDOR_ID).encode(m.Facts())) + 2
"""Where TDISP's message type stands in a VENDOR_DEFINED_REQUEST: after protocol id and TDISP version."""


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
    session = stage.agent.session
    outcome.see("the TSM has given the session up", session is None)
    plain = [data for data in carried if not _BINDING.unwrap(data)[1]]
    outcome.see(f"the TSM sent {len(plain)} messages in the clear", not plain)
    state = interface.check(stage.now())
    outcome.see(f"the TVM learns that the interface is in {state.name}", state is not InterfaceState.RUN)
    return outcome


def _oversize(platform: Platform, journal: Journal) -> Outcome:
    """Send more than the device has said it takes, at once and in chunks."""
    stage = Stage(platform, journal)
    rogue = Rogue(stage)
    rogue.connect()
    device = stage.device.responder
    facts, limit = rogue.requester.connection.facts, device.settings.data_transfer_size
    outcome = Outcome("sent a request beyond DataTransferSize, and announced one beyond MaxSPDMmsgSize in chunks")
    with stage.attack("requester", "requests that are too large"):
        payload = bytes(limit)
        big = m.VendorDefinedRequest(standard_id=STANDARD_ID, vendor_id=VENDOR_ID, payload=payload).encode(facts)
        answer = said(rogue.say(_BINDING.wrap(big, secured=False)))
        outcome.see(f"{len(big)} bytes at once: {answer}", answer == "ERROR REQUEST_TOO_LARGE")
        huge = device.settings.max_message_size + 1
        chunk = m.ChunkSend(handle=1, large_message_size=huge, chunk=bytes(limit - 64)).encode(facts)
        rogue.say(_BINDING.wrap(chunk, secured=False))
        kept = device.large.incoming is not None
        outcome.see(
            f"{huge} bytes announced in chunks: the device {'waits for them' if kept else 'keeps nothing'}", not kept
        )
    return outcome


def _lapsed_heartbeat(platform: Platform, journal: Journal) -> Outcome:
    """Lose everything that the TSM sends, and let the device wait."""
    stage = Stage(platform, journal)
    assert stage.running
    outcome = Outcome("lost all that the TSM sends, so that the device goes on believing in a session that is over")
    with stage.attack("VMM", "lose everything from now on"), stage.carried_by(lambda *_: b""):
        interface_state = stage.running.check(stage.now())
        known = f"the TVM knows its interface as {interface_state.name}"
        outcome.see(known, interface_state is not InterfaceState.RUN)
        outcome.see("the device still has the session", bool(stage.device.responder.sessions))
        stage.device.advance(stage.now() + 2 * HEARTBEAT + 1)
    outcome.see("after two heartbeat periods the device has ended it", not stage.device.responder.sessions)
    secure = stage.device.port.ide.is_secure(STREAM_ID)
    outcome.see(f"its stream is {'Secure' if secure else 'Insecure'}", not secure)
    outcome.see(f"its TDI is in {stage.state().name}", stage.state() is InterfaceState.ERROR)
    outcome.tdi_states = stage.tdi_states()
    return outcome


_PSK_REQUESTER = Settings().capabilities | Capability.PSK
_WITH_PSK = {
    "configuration": Configuration(
        settings=Settings(capabilities=RESPONDER_CAPABILITIES | Capability.PSK_WITH_CONTEXT), psks={HINT: PSK}
    )
}
_WITH_HEARTBEAT = {
    "configuration": Configuration(
        settings=Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=HEARTBEAT),
    )
}
_ANY_PLACE = without("the responder's rules of place and phase", admission, "refusal", nothing)

SESSION = (
    Scenario(
        26,
        "crossed-finish",
        "the requester ends a handshake of one kind with the FINISH of the other",
        "requester",
        "session set-up",
        "DSP0274: FINISH ends KEY_EXCHANGE, PSK_FINISH ends PSK_EXCHANGE (CVE-2023-31127)",
        _crossed_finish,
        (without("the kind of handshake bound to the session", session_handlers, "_check_kind", nothing),),
        options=_WITH_PSK,
    ),
    Scenario(
        27,
        "skipped-finish",
        "the requester sends application data instead of FINISH",
        "man in the middle",
        "session set-up",
        "DSP0274: in the handshake phase only FINISH and what belongs to it",
        _skipped_finish,
        (_ANY_PLACE,),
    ),
    Scenario(
        28,
        "reset-inside",
        "the requester says GET_VERSION and CHALLENGE inside a session",
        "requester",
        "session",
        "DSP0274: requests that exist outside only",
        _reset_inside,
        (_ANY_PLACE,),
    ),
    Scenario(
        29,
        "vendor-outside",
        "the VMM says STOP_INTERFACE_REQUEST in the clear",
        "VMM",
        "run",
        "PCIe Base 11.2.2: TDISP and IDE_KM count only in the secure session",
        _vendor_outside,
        (
            without(
                "the device's look at where a vendor-defined request came in",
                responder,
                "HANDLERS",
                {**HANDLERS, m.VendorDefinedRequest.CODE: _heedless_vendor},
            ),
        ),
    ),
    Scenario(
        30,
        "record-replay",
        "the VMM hands a record to the device twice",
        "VMM",
        "session",
        "DSP0277: the sequence number enters the nonce; a record that does not verify ends the session",
        _record_replay,
        (without("sequence numbers in the nonce", RecordKey, "_nonce", _constant_nonce),),
    ),
    Scenario(
        31,
        "altered-record",
        "the VMM alters a record on its way",
        "VMM",
        "session",
        "DSP0277: the AEAD tag covers data and header",
        _altered_record,
        (without("the AEAD tag", AeadKey, "open", _unchecked_open),),
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
        34,
        "oversize",
        "the requester sends more than the device takes",
        "requester",
        "any",
        "DSP0274: DataTransferSize, MaxSPDMmsgSize",
        _oversize,
        (without("the device's look at DataTransferSize", Responder, "exceeds_transfer", nothing),),
    ),
    Scenario(
        35,
        "lapsed-heartbeat",
        "the VMM loses all that the TSM sends, END_SESSION too",
        "VMM",
        "run",
        "DSP0274 HEARTBEAT; PCIe Base 11.4.5: a session's end takes its keys and TDIs along",
        _lapsed_heartbeat,
        (without("the device's heartbeat timer", Responder, "expire", nothing),),
        options=_WITH_HEARTBEAT,
    ),
)
