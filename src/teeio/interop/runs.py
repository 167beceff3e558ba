"""One run of a cell: both sides complete, the emulator is silent on its standard error, and our side saw what the cell wants."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from teeio.device.profiles import EMULATOR_PSKS
from teeio.errors import TeeioError
from teeio.interop.cells import Cell, KeyUpdates, Role, Step
from teeio.interop.emulator_options import options
from teeio.interop.our_end import LOGGED, LOOPBACK, OurResponder, make_requester, serving
from teeio.interop.peer import Peer, Workplace
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, MutualAuth
from teeio.spdm.requester import Requester
from teeio.spdm.state import Connection, Session
from teeio.transport.carrier import Carrier
from teeio.transport.platform_port import Command, PlatformPortClient

(PSK_HINT, PSK) = next(iter(EMULATOR_PSKS.items()))

KINDS_OF_SESSION = (Step.KEY_EXCHANGE, Step.PSK_EXCHANGE)

REQUESTS: dict[Step, type[m.Request[Any]]] = {
    Step.DIGESTS: m.GetDigests,
    Step.CERTIFICATE: m.GetCertificate,
    Step.CHALLENGE: m.Challenge,
    Step.MEASUREMENTS: m.GetMeasurements,
    Step.MEASUREMENT_LOG: m.GetMeasurementExtensionLog,
    Step.ENDPOINT_INFO: m.GetEndpointInfo,
    Step.KEY_PAIR_INFO: m.GetKeyPairInfo,
    Step.KEY_EXCHANGE: m.KeyExchange,
    Step.PSK_EXCHANGE: m.PskExchange,
    Step.HEARTBEAT: m.Heartbeat,
    Step.KEY_UPDATE: m.KeyUpdate,
}
"""What our responder must have been asked by a requester that does these steps."""


class NotMet(TeeioError):
    """Both sides went on, but not as the cell wants."""


def expect(holds: object, wanted: str) -> None:
    """Check one expectation. Raises `NotMet`."""
    if not holds:
        raise NotMet(f"not as the cell wants: {wanted}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `problem`, `commands` and `output` are told of failures."""

    cell: str
    role: str
    passed: bool
    seconds: float
    problem: str = ""
    commands: tuple[str, ...] = ()
    output: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What a reader of a failure needs."""
        lines = [
            f"{self.cell}, our {self.role}: {self.problem}",
            *self.commands,
            *(f"  {line}" for line in self.output),
        ]
        return "\n".join(lines)


def run(cell: Cell, role: Role, peer: Peer) -> Outcome:
    """Run a cell with our side in `role`; whatever goes wrong is in the outcome."""
    started = time.monotonic()
    passed, problem = True, ""
    with peer.workplace() as place:
        try:
            if role is Role.REQUESTER:
                our_requester(cell, place)
            else:
                our_responder(cell, place)
        except Exception as error:
            passed, problem = False, f"{type(error).__name__}: {error}"
        commands = () if passed else tuple(program.command for program in place.programs)
        output = () if passed else tuple(line for program in place.programs for line in program.last_lines())
    return Outcome(cell.name, role.value, passed, round(time.monotonic() - started, 2), problem, commands, output)


def among_themselves(cell: Cell, peer: Peer) -> bool:
    """Tell whether the emulator's two sides complete a cell with each other."""
    with peer.workplace() as place:
        try:
            with place.responder(options(cell, Role.RESPONDER)) as port:
                place.request(port, options(cell, Role.REQUESTER))
        except TeeioError:
            return False
    return True


def check_connection(cell: Cell, found: Connection) -> None:
    """Check that what was negotiated is what the cell names. Raises `NotMet`."""
    expect(found.version == cell.version, f"version {cell.version.text}, not {found.version:#x}")
    expect(found.base_hash == cell.base_hash, f"{cell.base_hash!r}, not {found.base_hash!r}")
    expect(not found.asym or found.asym == cell.asym, f"{cell.asym!r}, not {found.asym!r}")
    measures = found.responder_capabilities & (Capability.MEAS_SIG | Capability.MEAS_NO_SIG)
    expect(not measures or found.measurement_hash == cell.hashes, f"{cell.hashes!r}, not {found.measurement_hash!r}")
    if not cell.has_sessions:
        return
    several = bool(found.responder_capabilities & Capability.MULTI_KEY_ONLY)
    expect(found.multi_key is several, f"several keys: {several}")
    expect(found.aead == cell.aead, f"{cell.aead!r}, not {found.aead!r}")
    if Step.KEY_EXCHANGE in cell.session:
        expect(found.asym == cell.asym, f"{cell.asym!r}, not {found.asym!r}")
        expect(found.group == cell.group, f"{cell.group!r}, not {found.group!r}")
        expect(found.facts.handshake_in_the_clear is cell.clear, f"handshake in the clear: {cell.clear}")
    if cell.req_asym is not None:
        expect(found.req_asym == cell.req_asym, f"requester's {cell.req_asym!r}, not {found.req_asym!r}")


# -- our responder -----------------------------------------------------------------------------------------------------


def our_responder(cell: Cell, place: Workplace) -> None:
    """Let the emulator's requester drive our responder. Raises what goes wrong."""
    responder = OurResponder(cell, place.folder)
    with serving(cell.transport, responder.respond) as port:
        place.request(port, options(cell, Role.REQUESTER))
    check_connection(cell, responder.engine.connection)
    _check_steps(cell, responder)
    expect(bool(responder.engine.connection.requester_chain) is cell.basic, f"basic authentication: {cell.basic}")
    if cell.has_sessions:
        _check_sessions(cell, responder)


def _check_steps(cell: Cell, responder: OurResponder) -> None:
    steps = [(step, False) for step in cell.connection]
    if cell.has_sessions:
        steps += [(step, step not in KINDS_OF_SESSION) for step in cell.session]
    if cell.key_updates is KeyUpdates.RESPONDER:  # which `_check_sessions` looks at
        steps = [(step, inside) for step, inside in steps if step is not Step.KEY_UPDATE]
    for step, inside in steps:
        if step in REQUESTS and step not in cell.peer_skips:
            name = m.name_of(REQUESTS[step].CODE)
            expect((name, inside) in responder.messages, f"{name} {'in' if inside else 'outside'} a session")


def _check_sessions(cell: Cell, responder: OurResponder) -> None:
    by_certificate = [session for session in responder.sessions if not session.psk]
    expect(bool(by_certificate) is (Step.KEY_EXCHANGE in cell.session), "sessions by KEY_EXCHANGE")
    expect((len(responder.sessions) > len(by_certificate)) is (Step.PSK_EXCHANGE in cell.session), "sessions by PSK")
    encrypted = not cell.responder.removed & Capability.ENCRYPT
    expect(all(session.encrypted is encrypted for session in responder.sessions), f"sessions encrypted: {encrypted}")
    authenticated = cell.mode is not MutualAuth.NONE
    for session in by_certificate:
        expect(bool(session.requester_chain) is authenticated, f"requester authenticated in a session: {authenticated}")
    read_chain = cell.basic or cell.mode in (MutualAuth.ENCAPSULATED, MutualAuth.IMPLICIT_DIGESTS)
    expect(bool(responder.trusted) is read_chain, f"the requester's chain is read: {read_chain}")
    expect(bool(responder.engine.sessions) is (Step.NO_END in cell.session), "sessions end")
    if Step.KEY_UPDATE in cell.session and cell.key_updates is KeyUpdates.RESPONDER:
        expect(responder.renewed, "the responder asks for key updates")
        for session, before in responder.renewed:
            expect(session.response_key.secret != before, "the responder's key is updated")


# -- our requester -----------------------------------------------------------------------------------------------------


def our_requester(cell: Cell, place: Workplace) -> None:
    """Drive the emulator's responder by our requester. Raises what goes wrong."""
    with (
        place.responder(options(cell, Role.RESPONDER)) as port,
        PlatformPortClient(LOOPBACK, port, cell.transport.type) as client,
    ):
        drive = Drive(cell, make_requester(cell, place.folder), client)
        drive.connect()
        if cell.has_sessions:
            for kind in cell.session:
                if kind in KINDS_OF_SESSION:
                    drive.session(kind)


@dataclass(frozen=True, slots=True)
class Drive:
    """Our requester doing the steps of a cell."""

    cell: Cell
    requester: Requester
    client: PlatformPortClient

    def run(self, flow: Any) -> Any:
        """Run a flow."""
        return Carrier(self.requester, self.client.exchange).run(flow)

    def connect(self) -> None:
        """Negotiate, and do the steps outside sessions."""
        check_connection(self.cell, self.run(flows.connect(self.requester)))
        actions: dict[Step, Callable[[], object]] = {
            Step.DIGESTS: lambda: self.run(flows.get_digests()),
            Step.CERTIFICATE: self._certificate,
            Step.CHALLENGE: self._challenge,
            Step.MEASUREMENTS: self._measurements,
            Step.MEASUREMENT_LOG: self._log,
            Step.ENDPOINT_INFO: self._endpoint_info,
            Step.KEY_PAIR_INFO: lambda: self.run(flows.get_key_pair_info(self.requester, 1)),
        }
        for step in self.cell.connection:
            actions[step]()

    def _certificate(self) -> None:
        self.run(flows.get_certificate(self.requester))
        flows.check_digest(self.requester, self.run(flows.get_digests()))

    def _challenge(self) -> None:
        response = self.run(flows.challenge(self.requester, self.cell.slot, self.cell.summary))
        expect(bool(response.basic_mutual_auth) is self.cell.basic, f"basic authentication: {self.cell.basic}")

    def _measurements(self, session: int | None = None) -> None:
        cell = self.cell
        flow = flows.get_measurements(
            self.requester, slot=cell.slot, raw=cell.raw, signed=cell.signed_measurements, session=session
        )
        blocks = self.run(flow).blocks
        expect(blocks, "measurements")
        if cell.raw:
            # The sample responder has the image of its firmware as a digest only.
            expect(any(block.raw for block in blocks), "raw measurements")

    def _log(self) -> None:
        log = self.run(flows.get_measurement_extension_log(self.requester, None))
        expect(log.entries, f"entries of the measurement extension log (of measurement {LOGGED:#x})")

    def _endpoint_info(self) -> None:
        signed = not self.cell.responder.added & Capability.EP_INFO_NO_SIG
        expect(self.run(flows.get_endpoint_info(self.requester, signed=signed)), "endpoint information")

    def session(self, kind: Step) -> None:
        """Set up a session, use it, and end it unless the cell leaves it open."""
        cell, requester = self.cell, self.requester
        if kind is Step.KEY_EXCHANGE:
            session = self.run(flows.key_exchange(requester, cell.slot, cell.summary))
            asked = cell.mode is not MutualAuth.NONE
            expect((session.requester_slot is not None) is asked, f"mutual authentication of the session: {asked}")
        else:
            session = self.run(flows.psk_exchange(requester, PSK_HINT, PSK, self.cell.summary))
        expect(session.encrypted is not bool(cell.requester.removed & Capability.ENCRYPT), "encryption as offered")
        actions: dict[Step, Callable[[], object]] = {
            Step.HEARTBEAT: lambda: self.run(flows.heartbeat(session)),
            Step.KEY_UPDATE: partial(self._update_keys, session),
            Step.MEASUREMENTS: partial(self._measurements, session.session_id),
        }
        for step in cell.session:
            if step in actions:
                actions[step]()
        if Step.NO_END not in cell.session:
            self.run(flows.end_session(requester, session))

    def _update_keys(self, session: Session) -> None:
        if self.cell.key_updates is not KeyUpdates.RESPONDER:
            both = self.cell.key_updates is KeyUpdates.BOTH
            self.run(flows.key_update(self.requester, session, both=both))
        else:
            before = session.response_key.secret
            self.client.tell(Command.OOB_ENCAP_KEY_UPDATE, session.session_id.to_bytes(4, "little"))
            expect(self.run(flows.serve_pending(self.requester, session)), "the responder asks for a key update")
            expect(session.response_key.secret != before, "the responder's key is updated")
        self.run(flows.heartbeat(session))
