"""The operations that `teeio connect --operations` performs, one after the other, in the order that it is given.

Negotiation comes first in any case. What needs a session travels in the one opened last; `measurements` does so too once
there is one. `end` ends the session opened last; one that is not ended stays open on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from teeio.cli.connecting import Visit
from teeio.errors import Misuse
from teeio.pcie.doe import DoeBinding
from teeio.spdm import flows
from teeio.spdm.constants import ALL_MEASUREMENTS, Capability
from teeio.spdm.rules import Phase
from teeio.spdm.state import Session


@dataclass(slots=True)
class Performance:
    """A visit that does one thing after the other; `log` lists what was done with what it found."""

    visit: Visit
    sessions: list[Session] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def perform(self, names: Sequence[str]) -> None:
        """Do these operations; what goes wrong raises and ends the rest."""
        for name in names:
            self._perform(name)

    def _perform(self, name: str) -> None:
        operation = OPERATIONS[name]
        if operation.negotiated and self.visit.carrier.requester.connection.phase is Phase.START:
            self._perform("negotiate")
        before, self.visit.found = self.visit.found, {}
        operation.run(self)
        self.log.append({"operation": name, **self.visit.found})
        self.visit.found = {**before, **self.visit.found}

    @property
    def session(self) -> Session:
        """The session opened last. Raises `Misuse` if there is none."""
        if not self.sessions:
            raise Misuse("there is no session to do this in", remedy="put session or psk before it in --operations")
        return self.sessions[-1]

    def latest(self) -> Session | None:
        """Give the session opened last, if there is one."""
        return self.sessions[-1] if self.sessions else None

    def discover(self) -> None:
        """List the DOE protocols. Raises `Misuse` where there is no mailbox."""
        transport = self.visit.carrier.requester.binding.name
        if transport != DoeBinding.name:
            raise Misuse(f"discovery is of DOE, the transport is {transport}", remedy="leave it out of --operations")
        self.visit.discover()

    def negotiate(self) -> None:
        """Begin anew: GET_VERSION ends all sessions."""
        self.sessions.clear()
        self.visit.negotiate()

    def read_log(self) -> None:
        """Read the measurement extension log, in the session if there is one."""
        carrier = self.visit.carrier
        log = carrier.run(flows.get_measurement_extension_log(carrier.requester, self._session_id()))
        entries = [
            {
                "mel_index": entry.mel_index,
                "measurement_index": entry.measurement_index,
                "type": entry.type,
                "value": entry.value.hex(),
            }
            for entry in log.entries
        ]
        self.visit.done("measurement_log", entries, "measurement log", f"{len(entries)} entries, which nothing signs")

    def read_endpoint_info(self) -> None:
        """Read the device class identifiers, signed where the responder signs, in the session if there is one."""
        carrier = self.visit.carrier
        signed = bool(carrier.requester.connection.responder_capabilities & Capability.EP_INFO_SIG)
        found = carrier.run(
            flows.get_endpoint_info(
                carrier.requester, slot=self.visit.plan.slot, signed=signed, session=self._session_id()
            )
        )
        classes = [{"registry": one.registry, "vendor": one.vendor.hex()} for one in found]
        note = f"{len(classes)} device classes, {'signature verified' if signed else 'unsigned'}"
        self.visit.done("endpoint_info", classes, "endpoint info", note)

    def _session_id(self) -> int | None:
        latest = self.latest()
        return latest.session_id if latest else None

    def end(self) -> None:
        """End the session opened last."""
        self.visit.end(self.session)
        self.sessions.pop()


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: what it does, for --help and messages, and whether negotiation comes first."""

    meaning: str
    run: Callable[[Performance], None]
    negotiated: bool = True


OPERATIONS: dict[str, Operation] = {
    "discovery": Operation("list the DOE protocols", Performance.discover, negotiated=False),
    "negotiate": Operation("version, capabilities, algorithms", Performance.negotiate, negotiated=False),
    "digests": Operation("which slots there are", lambda p: p.visit.get_digests()),
    "certificate": Operation("read and validate the chain", lambda p: p.visit.get_certificate()),
    "challenge": Operation("prove the private key", lambda p: p.visit.challenge()),
    "measurements": Operation("read measurements", lambda p: p.visit.measure(p.latest())),
    "mel": Operation("read the measurement extension log", lambda p: p.read_log()),
    "endpoint-info": Operation("read the device class", lambda p: p.read_endpoint_info()),
    "session": Operation("KEY_EXCHANGE and FINISH", lambda p: p.sessions.append(p.visit.open_session())),
    "psk": Operation("PSK_EXCHANGE and PSK_FINISH", lambda p: p.sessions.append(p.visit.open_psk_session())),
    "heartbeat": Operation("keep the session alive", lambda p: p.visit.heartbeat(p.session)),
    "key-update": Operation("update and verify all keys", lambda p: p.visit.update_keys(p.session)),
    "ide": Operation("key an IDE stream and start it", lambda p: _offered(p.visit.key_stream(p.session))),
    "tdisp": Operation("take the interface to RUN and back", lambda p: p.visit.live_interface(p.session)),
    "ide-stop": Operation("erase the stream's keys", lambda p: p.visit.stop_stream(p.session)),
    "end": Operation("END_SESSION", Performance.end),
}
"""By name, in the order in which they make sense."""


def _offered(spoken: bool) -> None:
    """IDE_KM was asked for by name, so that its absence is a failure here."""
    if not spoken:
        raise Misuse("this responder does not speak IDE_KM", remedy="leave ide, tdisp and ide-stop out of --operations")


def parse_operations(text: str) -> tuple[str, ...]:
    """Read --operations. Raises `Misuse` naming those that there are."""
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown or not names:
        raise Misuse(
            f"--operations: {', '.join(unknown) or 'the empty list'} is not known",
            remedy=f"known are {', '.join(OPERATIONS)}",
        )
    return names


def parse_measurements(text: str) -> tuple[int, ...]:
    """Read --measurements: "all" or block indices. Raises `Misuse`."""
    if text.strip().lower() == "all":
        return (ALL_MEASUREMENTS,)
    try:
        indices = tuple(int(part, 0) for part in text.split(","))
    except ValueError:
        indices = ()
    if not indices or not all(0 < index < ALL_MEASUREMENTS for index in indices):
        raise Misuse(
            f"--measurements {text!r} is neither all nor a list of indices",
            remedy=f"an index is 1 to {ALL_MEASUREMENTS - 1:#x}, for example 1,2,0xfd",
        )
    return indices
