"""Sessions that do not end: entries 33 and 35 of the catalogue."""

from __future__ import annotations

from dataclasses import replace

from teeio.device.configuration import Configuration
from teeio.guest.accept import Phase
from teeio.host.tdx.records import Records, SpdmContext
from teeio.host.tdx.tpa import TPA_SETTINGS
from teeio.host.vmm.resumable import session_end
from teeio.pcie.capabilities.ide import SELECTIVE_STATUS
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without
from teeio.scenarios.stage import Stage
from teeio.spdm import key_update
from teeio.spdm.responder import Responder
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings
from teeio.tdisp.messages import InterfaceState

HEARTBEAT = 5
"""Seconds of the device's heartbeat period, where it has one."""

LIMIT = 64
"""Records per key here, so that the story is short; by default it is what the sequence number holds (DSP0277)."""


def _endless(platform: Platform, journal: Journal) -> Outcome:
    """Go on and on in one session; then refuse the key update that the TSM wants."""
    stage = Stage(platform, journal)
    interface, agent = stage.running, stage.agent
    outcome = Outcome(f"kept the session going for {3 * LIMIT} exchanges, then refused KEY_UPDATE for as many")
    used: dict[bytes, int] = {}

    def counting(data_object: bytes, now: float) -> bytes:
        answer = stage.mailbox.carry(data_object, now)
        for key in (agent.session.request_key, agent.session.response_key) if agent.session else ():
            used[key.secret] = max(used.get(key.secret, 0), key.sequence)
        return answer

    def looks() -> int:
        """Count the TVM's looks at its interface that find it as it should be."""
        seen = 0
        while (
            seen < 3 * LIMIT
            and interface.check(stage.now()) is InterfaceState.RUN
            and interface.phase is Phase.ACCEPTED
        ):
            seen += 1
        return seen

    with stage.carried_by(counting):
        with stage.attack("device", "never stop"):
            seen = looks()
        outcome.see(f"{seen} of the TVM's {3 * LIMIT} looks at the interface found it in RUN", seen == 3 * LIMIT)
        outcome.see(f"the TSM used {len(used)} keys", len(used) > 2)
        with stage.attack("device", "refuse KEY_UPDATE"):
            # A device that says that the last update is not verified yet refuses the next one.
            next(iter(stage.device.responder.sessions.values())).update_unverified = True
            seen = looks()
        outcome.see(
            f"with KEY_UPDATE refused, after {seen} more the TVM takes its interface for {interface.phase.value}",
            seen < LIMIT,
        )
    most = max(used.values())
    outcome.see(f"no key protected more than {most} records, {LIMIT} are allowed", most <= LIMIT)
    return outcome


def _lapsed_heartbeat(platform: Platform, journal: Journal) -> Outcome:
    """Let the TSM end its session, lose its END_SESSION and everything after it, and let the device wait."""
    stage = Stage(platform, journal)
    assert stage.running
    connection, lost = stage.vmm.pci_tsm.connections[stage.pf.address], []
    outcome = Outcome("lost the TSM's END_SESSION, so that the device goes on believing in a session that is over")

    def losing(data_object: bytes, now: float) -> bytes:
        lost.append(data_object)
        return b""

    with stage.attack("VMM", "let the TSM end the session, and lose everything from now on"), stage.carried_by(losing):
        ended = connection.mailbox.pump(session_end(stage.tsm, connection.spdm_id), stage.now())
        what = "its END_SESSION" if len(lost) == 1 else f"{len(lost)} messages"
        outcome.see(f"the TSM ends the session: {ended.status.name}; {what} never arrives", len(lost) == 1)
        interface_state = stage.running.check(stage.now())
        known = f"the TVM knows its interface as {interface_state.name}"
        outcome.see(known, interface_state is not InterfaceState.RUN)
        outcome.see("the device still has the session", bool(stage.device.responder.sessions))
        stage.device.advance(stage.now() + 2 * HEARTBEAT + 1)
    lived = bool(stage.device.responder.sessions)
    outcome.see(f"after two heartbeat periods the session is {'alive' if lived else 'over'}", not lived)
    stream = connection.stream
    status = stage.pf.config.read(stream.base + SELECTIVE_STATUS.offset, 4)
    outcome.see(f"its stream's status register reads {status:#010x}", not stream.secure)
    outcome.see(f"its TDI is in {stage.state().name}", stage.state() is InterfaceState.ERROR)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _forget_session(_: Records, context: SpdmContext, cause: str) -> None:
    """Forget a session that is over, and nothing else."""
    context.agent.forget_session(cause)


_WITH_HEARTBEAT = {
    "configuration": Configuration(
        settings=Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=HEARTBEAT),
    )
}

ENDLESS = (
    Scenario(
        33,
        "endless-session",
        "the device never stops, so that sequence numbers near their limit",
        "device",
        "session",
        "DSP0277: no key beyond its limit; the requester updates the keys before",
        _endless,
        (without("the requester's look at what its keys have left", key_update, "key_update_due", lambda *_: False),),
        options={"tsm_settings": replace(TPA_SETTINGS, records_per_key=LIMIT)},
    ),
    Scenario(
        35,
        "lapsed-heartbeat",
        "the VMM loses END_SESSION, and all that the TSM sends from then on",
        "VMM",
        "run",
        "DSP0274 HEARTBEAT; PCIe Base 11.4.5: a session's end takes its keys and TDIs along",
        _lapsed_heartbeat,
        (
            without("the device's heartbeat timer", Responder, "expire", nothing),
            without("the TSM's blocking of streams whose session is over", Records, "session_ended", _forget_session),
        ),
        options=_WITH_HEARTBEAT,
    ),
)
