"""Driving a responder through its trusted life: what `teeio connect` does, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from teeio.crypto.algorithms import MeasurementHash
from teeio.crypto.certificates import load_certificate, parse_chain, validate_chain
from teeio.crypto.certificates.leaf import Severity
from teeio.crypto.entropy import Entropy
from teeio.errors import AuthenticationFailed, ErrorResponse, Incompatible, Misuse, PeerViolation
from teeio.ide_km import flows as ide_flows
from teeio.ide_km.messages import Direction, KeySet, key_name, key_slots
from teeio.observe import SecretDerived
from teeio.pcie import doe
from teeio.spdm import flows
from teeio.spdm.constants import ALL_MEASUREMENTS, Capability, ErrorCode, SummaryType, Version
from teeio.spdm.messages import Digests
from teeio.spdm.state import Session
from teeio.tdisp import flows as tdisp_flows
from teeio.tdisp.messages import InterfaceState, LockFlags, LockParameters
from teeio.transport.carrier import Carrier, Exchange

NOT_OFFERED = (ErrorCode.UNSUPPORTED_REQUEST, ErrorCode.INVALID_REQUEST)
"""How responders without IDE_KM answer its first message; the reference responder says InvalidRequest over MCTP."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with the responder.

    `psk` is a hint and its key; `measurements` are the operations of GET_MEASUREMENTS; `measurement_hashes` are those
    accepted, all of them if empty.
    """

    slot: int = 0
    port_index: int = 1
    stream_id: int = 0
    function_id: int = 0xBEEF
    mmio_reporting_offset: int = 0xD000_0000
    anchors: Sequence[bytes] = ()
    at_time: float = 0.0
    psk: tuple[bytes, bytes] | None = field(default=None, repr=False)
    measurements: tuple[int, ...] = (ALL_MEASUREMENTS,)
    raw: bool = False
    signed: bool = True
    measurement_hashes: tuple[MeasurementHash, ...] = ()


MEASURES = Capability.MEAS_SIG | Capability.MEAS_NO_SIG
"""Either of these and there are measurements."""

Progress = Callable[[str, str], None]
"""Told (title, note) when a step is done."""


@dataclass(slots=True)
class Visit:
    """One visit to a responder; `found` collects what it said, by step."""

    carrier: Carrier
    exchange: Exchange
    plan: Plan
    entropy: Entropy
    progress: Progress
    found: dict[str, Any] = field(default_factory=dict)
    digests: Digests | None = None

    def discover(self) -> None:
        """List the DOE protocols of the mailbox."""
        found = doe.list_protocols(self.exchange)
        protocols = [f"{protocol.vendor_id:#06x}:{protocol.type:#04x}" for protocol in found]
        self.done("doe_protocols", protocols, "DOE discovery", ", ".join(protocols))

    def authenticate(self) -> None:
        """Negotiate, read the certificate chain, challenge a responder that takes challenges."""
        self.negotiate()
        self.get_digests()
        self.get_certificate()
        if self.offers(Capability.CHAL):
            self.challenge()

    def negotiate(self) -> None:
        """Agree on version, capabilities and algorithms."""
        c = self.carrier.run(flows.connect(self.carrier.requester))
        self.done("version", f"{c.version >> 4}.{c.version & 15}", "version", f"SPDM {c.version >> 4}.{c.version & 15}")
        names = [flag.name or "" for flag in Capability if flag & c.responder_capabilities]
        self.done("capabilities", names, "capabilities", " ".join(names))
        algorithms = {
            "base_hash": c.base_hash.name,
            "base_asym": c.asym.name,
            "dhe": c.group.name,
            "aead": c.aead.name,
            "measurement_hash": c.measurement_hash.name,
        }
        self.done("algorithms", algorithms, "algorithms", " ".join(str(name) for name in algorithms.values()))
        accepted = self.plan.measurement_hashes
        if c.measurement_hash and accepted and c.measurement_hash not in accepted:
            raise Incompatible(
                f"the responder measures with {c.measurement_hash.name}",
                remedy="the responder alone chooses the measurement hash: accept it with --meas-hash, or refuse the device",
            )

    def get_digests(self) -> None:
        """Ask which slots there are."""
        self.digests = self.carrier.run(flows.get_digests())
        slots = self.digests.slots()
        self.done("slots", list(slots), "digests", f"slots {', '.join(map(str, slots))}")

    def get_certificate(self) -> None:
        """Read the certificate chain of the slot, and validate it if there are anchors."""
        requester = self.carrier.requester
        chain = self.carrier.run(flows.get_certificate(requester, self.plan.slot))
        if self.digests is not None:
            flows.check_digest(requester, self.digests, self.plan.slot)
        self._certificates(chain)

    def challenge(self) -> None:
        """Make the responder prove its private key."""
        self.carrier.run(flows.challenge(self.carrier.requester, self.plan.slot, self._summary_type()))
        self.done("challenge", "signature verified", "challenge", "the responder holds the leaf's private key")

    def offers(self, flags: Capability) -> bool:
        """Tell whether the responder has one of these capabilities."""
        return bool(self.carrier.requester.connection.responder_capabilities & flags)

    def _summary_type(self) -> SummaryType:
        return SummaryType.ALL if self.offers(MEASURES) else SummaryType.NONE

    def _certificates(self, chain: bytes) -> None:
        c = self.carrier.requester.connection
        certificates = [load_certificate(der) for der in parse_chain(chain, c.base_hash)[1]]
        subjects = [certificate.subject.rfc4514_string() for certificate in certificates]
        findings = []
        if self.plan.anchors:
            findings = validate_chain(
                chain, self.plan.anchors, c.base_hash, c.asym, self.plan.at_time, version=c.version
            )
            broken = [finding for finding in findings if finding.severity is Severity.ERROR]
            if broken:
                raise AuthenticationFailed("; ".join(f"{finding.message} ({finding.clause})" for finding in broken))
        trust = "validated to a given anchor" if self.plan.anchors else "not validated: no --anchor given"
        self.done(
            "certificates",
            {"subjects": subjects, "trust": trust, "findings": [finding.message for finding in findings]},
            "certificate",
            f"{len(certificates)} certificates, {len(chain)} bytes, {trust}",
        )

    def measure(self, session: Session | None = None) -> None:
        """Read the measurements, signed where the responder signs."""
        plan, requester = self.plan, self.carrier.requester
        signed = plan.signed and self.offers(Capability.MEAS_SIG)
        evidences = [
            self.carrier.run(
                flows.get_measurements(
                    requester,
                    operation,
                    slot=plan.slot,
                    raw=plan.raw,
                    signed=signed,
                    session=session.session_id if session else None,
                )
            )
            for operation in plan.measurements
        ]
        blocks = [
            {
                "index": block.index,
                "type": getattr(block.type, "name", int(block.type)),
                "raw": bool(block.raw),
                "value": block.value.hex(),
            }
            for evidence in evidences
            for block in evidence.blocks
        ]
        where = "measurements_in_session" if session else "measurements"
        title = "measurements in session" if session else "measurements"
        self.done(where, blocks, title, f"{len(blocks)} blocks, {'signature verified' if signed else 'unsigned'}")

    def open_session(self) -> Session:
        """Set up a session."""
        flow = flows.key_exchange(self.carrier.requester, self.plan.slot, self._summary_type())
        return self._opened("session", "session", self.carrier.run(flow))

    def open_psk_session(self) -> Session:
        """Set up a session on the pre-shared key. Raises `Misuse` without one."""
        if self.plan.psk is None:
            raise Misuse("there is no pre-shared key", remedy="give one as --psk HINT=HEX")
        flow = flows.psk_exchange(self.carrier.requester, *self.plan.psk, self._summary_type())
        return self._opened("psk_session", "session by PSK", self.carrier.run(flow))

    def no_session(self, reason: str) -> None:
        """Say that there is no session."""
        self.done("session", None, "session", reason)

    def _opened(self, key: str, title: str, session: Session) -> Session:
        details = {"id": f"{session.session_id:#010x}", "heartbeat_period": session.heartbeat_period}
        self.done(key, details, title, f"{session.session_id:#010x} established")
        return session

    def keep_alive(self, session: Session) -> None:
        """Send a heartbeat and update the keys, as far as both sides can."""
        common = self.carrier.requester.connection.common_capabilities
        if common & Capability.HBEAT:
            self.heartbeat(session)
        if common & Capability.KEY_UPD:
            self.update_keys(session)

    def heartbeat(self, session: Session) -> None:
        """Send a heartbeat."""
        self.carrier.run(flows.heartbeat(session))
        self.done("heartbeat", True, "heartbeat", "acknowledged")

    def update_keys(self, session: Session) -> None:
        """Update the keys of both directions."""
        self.carrier.run(flows.key_update(self.carrier.requester, session))
        self.done("key_update", True, "key update", "all keys updated and verified")

    def key_stream(self, session: Session) -> bool:
        """Key the IDE stream; tell whether the responder speaks IDE_KM at all."""
        plan = self.plan

        def run(flow: Any) -> Any:
            return self.carrier.run(flow, session.session_id)

        try:
            answer = run(ide_flows.query(plan.port_index))
        except ErrorResponse as error:
            if error.code not in NOT_OFFERED:
                raise
            self.done("ide_km", None, "IDE_KM", "not offered by this responder on this transport")
            return False
        slots = [slot for direction in Direction for slot in key_slots(KeySet.K0, direction)]
        keys = {slot: self.entropy(32) for slot in slots}
        for slot, key in keys.items():
            name = key_name(plan.stream_id, plan.port_index, slot)
            self.carrier.requester.observer(SecretDerived("ide_key", name, key))
        run(ide_flows.program_keys(plan.port_index, plan.stream_id, keys))
        for direction in (Direction.RX, Direction.TX):
            run(ide_flows.set_go(plan.port_index, plan.stream_id, KeySet.K0, direction))
        details = {
            "port_index": plan.port_index,
            "max_port_index": answer.max_port_index,
            "stream_id": plan.stream_id,
            "keys": len(keys),
        }
        self.done(
            "ide_km",
            details,
            "IDE_KM",
            f"port {plan.port_index}, stream {plan.stream_id}: {len(keys)} keys set and running",
        )
        return True

    def stop_stream(self, session: Session) -> None:
        """Erase the stream's keys."""
        for direction in (Direction.RX, Direction.TX):
            self.carrier.run(
                ide_flows.set_stop(self.plan.port_index, self.plan.stream_id, KeySet.K0, direction), session.session_id
            )
        self.done("ide_km_stopped", True, "K_SET_STOP", "all keys erased")

    def live_interface(self, session: Session) -> None:
        """Take the interface to RUN and back."""
        function_id = self.plan.function_id
        states: list[str] = []

        def run(flow: Any) -> Any:
            return self.carrier.run(flow, session.session_id)

        def see(expected: InterfaceState) -> None:
            state = run(tdisp_flows.get_state(function_id))
            states.append(state.name)
            if state is not expected:
                raise PeerViolation(f"the interface is in {state.name}, not in {expected.name}", "PCIe Base 11.2")

        version = run(tdisp_flows.get_version(function_id))
        capabilities = run(tdisp_flows.get_capabilities(function_id))
        see(InterfaceState.CONFIG_UNLOCKED)
        flags = LockFlags.NO_FW_UPDATE & capabilities.lock_flags_supported
        parameters = LockParameters(
            flags=flags,
            default_stream_id=self.plan.stream_id,
            mmio_reporting_offset=self.plan.mmio_reporting_offset,
            bind_p2p_address_mask=0,
        )
        nonce = run(tdisp_flows.lock_interface(function_id, parameters))
        see(InterfaceState.CONFIG_LOCKED)
        report = run(tdisp_flows.get_device_interface_report(function_id))
        run(tdisp_flows.start_interface(function_id, nonce))
        see(InterfaceState.RUN)
        run(tdisp_flows.stop_interface(function_id))
        see(InterfaceState.CONFIG_UNLOCKED)
        details = {
            "version": f"{version >> 4}.{version & 15}",
            "function_id": f"{function_id:#06x}",
            "states": states,
            "ranges": [
                {
                    "first_page": item.first_page,
                    "pages": item.pages,
                    "attributes": int(item.attributes),
                    "range_id": item.range_id,
                }
                for item in report.ranges
            ],
        }
        self.done("tdisp", details, "TDISP", " > ".join(states))

    def end(self, session: Session) -> None:
        """End the session."""
        self.carrier.run(flows.end_session(self.carrier.requester, session))
        self.done("session_ended", True, "end of session", "acknowledged")

    def done(self, key: str, value: Any, title: str, note: str) -> None:
        """Keep what was found, and tell that a step is done."""
        self.found[key] = value
        self.progress(title, note)


def visit_responder(visit: Visit, *, discovery: bool, sessions: bool = True, streams: bool = True) -> None:
    """Do everything in order: discovery, authentication, measurements, a session, IDE_KM and TDISP up to RUN and back.

    With a pre-shared key a session on it follows. `sessions` says whether the transport carries any (SPDM 1.0 has none),
    `streams` whether IDE and TDISP are asked for.
    """
    if discovery:
        visit.discover()
    visit.authenticate()
    measures = visit.offers(MEASURES)
    if measures:
        visit.measure()
    if not sessions or visit.carrier.requester.connection.version < Version.V1_1:
        visit.no_session("not on this transport" if not sessions else "SPDM 1.0 has none")
        return
    session = visit.open_session()
    with _always_ended(visit, session):
        if measures:
            visit.measure(session)
        visit.keep_alive(session)
        if streams and visit.key_stream(session):
            visit.live_interface(session)
            visit.stop_stream(session)
    if visit.plan.psk is not None:
        session = visit.open_psk_session()
        with _always_ended(visit, session):
            visit.keep_alive(session)


@contextmanager
def _always_ended(visit: Visit, session: Session) -> Iterator[None]:
    """End the session whatever happens in it, without hiding what happened."""
    try:
        yield
    except BaseException:
        if session.session_id in visit.carrier.requester.sessions:
            with suppress(Exception):
                visit.end(session)
        raise
    visit.end(session)
