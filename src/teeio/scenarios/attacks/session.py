"""Attacks on the SPDM session and its set-up: entries 26 to 29 and 34 of the catalogue."""

from __future__ import annotations

from teeio.device.configuration import Configuration
from teeio.ide_km import messages as ide_km
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.rogue import BINDING, Rogue, said
from teeio.scenarios.scenario import Outcome, Scenario, legal_at, nothing, without
from teeio.scenarios.stage import STREAM_ID, Stage
from teeio.spdm import flows, responder, session_handlers
from teeio.spdm import messages as m
from teeio.spdm.call import Call
from teeio.spdm.chunking import Incoming, sequence_fields
from teeio.spdm.constants import Capability
from teeio.spdm.handlers import HANDLERS
from teeio.spdm.responder import Responder
from teeio.spdm.rules import Place
from teeio.spdm.state import RESPONDER_CAPABILITIES, SessionPhase, Settings
from teeio.tdisp.messages import (
    PROTOCOL_ID,
    STANDARD_ID,
    VENDOR_ID,
    GetDeviceInterfaceState,
    InterfaceState,
    StopInterfaceRequest,
)

HINT, PSK = b"lab key", bytes(range(48))


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
        answer = rogue.told(m.PskFinish(verify_data=proof).encode(facts), session)
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
        answer = rogue.told(_get_state(rogue, stage), session)
        outcome.see(f"the device: {answer}", answer.startswith("ERROR"))
    kept = stage.device.responder.sessions.get(session.session_id)
    outcome.see("the device's session is not established", kept is None or kept.phase is not SessionPhase.ESTABLISHED)
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
            answer = rogue.told(message)
            outcome.see(f"{name}: {answer}", answer.startswith("ERROR"))
            alive = session.session_id in stage.device.responder.sessions
            outcome.see(f"{name}: the session lives on", alive)
    said_inside = stage.refused(lambda: rogue.inside(flows.heartbeat(session)))
    outcome.see(f"a heartbeat afterwards: {said_inside or 'answered'}", not said_inside)
    return outcome


def _vendor_outside(platform: Platform, journal: Journal) -> Outcome:
    """Say STOP_INTERFACE_REQUEST and K_SET_STOP in the clear, beside the TSM's session."""
    stage = Stage(platform, journal)
    work = stage.work
    facts = stage.agent.requester.connection.facts
    outcome = Outcome("sent STOP_INTERFACE_REQUEST and K_SET_STOP in the clear while the TDI was in RUN")
    with stage.attack("VMM", "TDISP and IDE_KM outside of any session"):
        for name, payload in (
            (
                "STOP_INTERFACE_REQUEST",
                bytes([PROTOCOL_ID]) + StopInterfaceRequest(function_id=stage.vf.function_id).encode(),
            ),
            ("K_SET_STOP", bytes([ide_km.PROTOCOL_ID]) + _STOP_KEYS.encode()),
        ):
            request = m.VendorDefinedRequest(standard_id=STANDARD_ID, vendor_id=VENDOR_ID, payload=payload)
            answer = said(stage.mailbox.carry(BINDING.wrap(request.encode(facts), secured=False), stage.now()))
            outcome.see(f"{name}: the device: {answer}", answer == "no answer")
    outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.RUN)
    secure = stage.device.port.ide.is_secure(STREAM_ID)
    outcome.see(f"its stream is {'Secure' if secure else 'Insecure'}", secure)
    refusal = stage.refused(work.copy)
    outcome.see(f"the TVM's next job: {refusal or 'done'}", not refusal)
    return outcome


_STOP_KEYS = ide_km.KSetStop(
    stream_id=STREAM_ID,
    key_sub_stream=ide_km.KeySubStream.of(ide_km.key_slots(ide_km.KeySet.K0, ide_km.Direction.RX)[0]),
    port_index=0,
)


def _heedless_vendor(r: Responder, request: m.VendorDefinedRequest, call: Call) -> m.Response:
    """Answer vendor-defined requests as if they had come in some session."""
    call.session = call.session or next(iter(r.sessions.values()))
    return HANDLERS[m.VendorDefinedRequest.CODE](r, request, call)


def _oversize(platform: Platform, journal: Journal) -> Outcome:
    """Send more than the device has said it takes, at once and in chunks, and more chunks than were announced."""
    stage = Stage(platform, journal)
    rogue = Rogue(stage)
    rogue.connect()
    device = stage.device.responder
    facts, limit = rogue.requester.connection.facts, device.settings.data_transfer_size
    outcome = Outcome(
        "sent a request beyond DataTransferSize, announced one beyond MaxSPDMmsgSize in chunks, and went on beyond its size"
    )
    with stage.attack("requester", "requests that are too large"):
        payload = bytes(limit)
        big = m.VendorDefinedRequest(standard_id=STANDARD_ID, vendor_id=VENDOR_ID, payload=payload).encode(facts)
        answer = said(rogue.say(BINDING.wrap(big, secured=False)))
        outcome.see(f"{len(big)} bytes at once: {answer}", answer == "ERROR REQUEST_TOO_LARGE")
        huge = device.settings.max_message_size + 1
        chunk = m.ChunkSend(handle=1, large_message_size=huge, chunk=bytes(limit - 64)).encode(facts)
        answer = said(rogue.say(BINDING.wrap(chunk, secured=False)))
        kept = device.large.incoming is not None
        outcome.see(
            f"{huge} bytes announced in chunks: {answer}, and it {'waits for them' if kept else 'keeps nothing'}",
            not kept,
        )
        part = limit - 64
        for number in (0, 1):
            place = sequence_fields(facts.version, number)
            size = {} if number else {"large_message_size": 2 * part - 1}
            chunk = m.ChunkSend(handle=2, chunk=bytes(part), **place, **size).encode(facts)
            answer = said(rogue.say(BINDING.wrap(chunk, secured=False)))
        held = len(device.large.incoming.data) if device.large.incoming is not None else 0
        outcome.see(
            f"{2 * part} bytes where {2 * part - 1} were announced: {answer}; it holds {held} of them", not held
        )
    return outcome


def _any_amount(self: Incoming, handle: int, number: int, chunk: bytes, size: int, *, last: bool) -> None:
    """Take whatever comes."""
    if number == 0:
        self._begin(size, last)
    self.data += chunk
    self.number += 1


def _any_size(self: Incoming, size: int, last: bool) -> None:
    """Make room for whatever is announced."""
    self.size = size


_PSK_REQUESTER = Settings().capabilities | Capability.PSK
_WITH_PSK = {
    "configuration": Configuration(
        settings=Settings(capabilities=RESPONDER_CAPABILITIES | Capability.PSK_WITH_CONTEXT), psks={HINT: PSK}
    )
}
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
        (legal_at(m.VendorDefinedRequest, Place.HANDSHAKE),),
    ),
    Scenario(
        28,
        "reset-inside",
        "the requester says GET_VERSION and CHALLENGE inside a session",
        "requester",
        "session",
        "DSP0274: requests that exist outside only",
        _reset_inside,
        (legal_at(m.GetVersion, Place.ESTABLISHED), legal_at(m.Challenge, Place.ESTABLISHED)),
    ),
    Scenario(
        29,
        "vendor-outside",
        "the VMM says STOP_INTERFACE_REQUEST and K_SET_STOP in the clear",
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
        34,
        "oversize",
        "the requester sends more than the device takes",
        "requester",
        "any",
        "DSP0274: DataTransferSize, MaxSPDMmsgSize",
        _oversize,
        (
            without("the device's look at DataTransferSize", Responder, "exceeds_transfer", nothing),
            without("the device's look at MaxSPDMmsgSize", Incoming, "_begin", _any_size),
            without("the device's count of what came in chunks", Incoming, "add", _any_amount),
        ),
    ),
)
