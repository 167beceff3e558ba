"""A session without end: entry 33 of the catalogue."""

from __future__ import annotations

from dataclasses import replace

from teeio.guest.accept import Phase
from teeio.host.tdx.tpa import TPA_SETTINGS
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.scenario import Outcome, Scenario, without
from teeio.scenarios.stage import Stage
from teeio.spdm import key_update
from teeio.tdisp.messages import InterfaceState

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
)
