"""The device security manager: what answers SPDM, IDE_KM and TDISP for a device (PCIe Base 11, CMA/SPDM 6.31).

It holds the identities, the measurements and the state of the vendor protocols; each transport connection gets an SPDM
responder of its own over them. A session of one connection is never taken for a session of another, whatever their
identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from teeio.crypto.algorithms import MeasurementHash
from teeio.crypto.entropy import Entropy
from teeio.device.services import Services
from teeio.ide_km.responder import IdeKmResponder
from teeio.ide_km.slots import KeyPort
from teeio.observe import Observer, ignore
from teeio.spdm.binding import Binding
from teeio.spdm.device_state import DeviceMeasurements, Identity
from teeio.spdm.messages import DmtfEvent, MeasurementBlock
from teeio.spdm.responder import Responder
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings
from teeio.spdm.vendor import VendorProtocol
from teeio.tdisp.interface import Interface
from teeio.tdisp.responder import DsmCapabilities, TdispResponder, VdmHandler

SESSION_BITS = 32
"""Bits of an SPDM session identifier; the number of the connection goes above them."""


@dataclass(frozen=True, slots=True)
class ConnectionProtocol:
    """A vendor protocol as one connection sees it: the sessions of different connections are kept apart.

    Session identifiers are unique only within one SPDM connection, but keys and TDIs belong to a session of a
    connection.
    """

    protocol: VendorProtocol
    connection: int

    @property
    def standard_id(self) -> int:
        """The registry that names the vendor."""
        return self.protocol.standard_id

    @property
    def vendor_id(self) -> bytes:
        """The vendor."""
        return self.protocol.vendor_id

    @property
    def protocol_id(self) -> int:
        """The vendor's number of the protocol."""
        return self.protocol.protocol_id

    def session(self, session_id: int) -> int:
        """Give the number of a session that no other session of the device has."""
        return self.connection << SESSION_BITS | session_id

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        """Answer a message of one of the connection's sessions."""
        return self.protocol.respond(self.session(session_id), message, now)

    def session_ended(self, session_id: int) -> None:
        """Learn that one of the connection's sessions is over."""
        self.protocol.session_ended(self.session(session_id))


class HostedTdisp:
    """TDISP for the functions that exist now: VFs come and go, and the bus number may change.

    `hosted` gives the interfaces by FUNCTION_ID as they are now; `every` lists all that the device ever hosts, so that
    one whose function is gone for a while still hears that its session ended.
    """

    def __init__(
        self,
        hosted: Callable[[], Mapping[int, Interface]],
        every: Sequence[Interface],
        entropy: Entropy,
        *,
        capabilities: DsmCapabilities | None = None,
        vdm: VdmHandler | None = None,
        observer: Observer = ignore,
    ) -> None:
        self._hosted = hosted
        self._every = tuple(every)
        self._responder = TdispResponder({}, entropy, capabilities=capabilities, vdm=vdm, observer=observer)
        self.standard_id = self._responder.standard_id
        self.vendor_id = self._responder.vendor_id
        self.protocol_id = self._responder.protocol_id

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        """Answer one message."""
        self._responder.interfaces = self._hosted()
        return self._responder.respond(session_id, message, now)

    def session_ended(self, session_id: int) -> None:
        """Move every interface that this session locked to ERROR."""
        for interface in self._every:
            interface.session_ended(session_id)


class Dsm:
    """One device's security manager.

    `protocols` come after TDISP and IDE_KM; `psks` are pre-shared keys by PSK hint; `services` is the rest of what the capabilities
    in `settings` offer. Keys of streams die with the session that programmed them, as TEE-I/O asks for.
    """

    def __init__(
        self,
        identities: Sequence[Identity],
        measurements: DeviceMeasurements,
        ports: Mapping[int, KeyPort],
        tdisp: HostedTdisp,
        entropy: Entropy,
        *,
        protocols: Sequence[VendorProtocol] = (),
        settings: Settings | None = None,
        psks: Mapping[bytes, bytes] | None = None,
        services: Services | None = None,
        observer: Observer = ignore,
    ) -> None:
        self._certified = tuple(identities)
        self.measurements = measurements
        self.ide_km = IdeKmResponder(ports, observer=observer)
        # TDISP first: a TDI whose session ended shall say so, not that its stream went Insecure a moment later.
        self.protocols: tuple[VendorProtocol, ...] = (tdisp, self.ide_km, *protocols)
        self.settings = settings or Settings(capabilities=RESPONDER_CAPABILITIES)
        self.observer = observer
        self._entropy = entropy
        self._psks = dict(psks or {})
        self._services = services or Services()
        self.provisioning = self._services.provisioning(self.settings.capabilities, self._certified)
        self.events = self._services.events(self.settings.capabilities)
        if self.provisioning is not None:
            self.provisioning.changed = lambda slots: self.happened(DmtfEvent.CERTIFICATE_CHANGED, bytes([slots]))
        self._connections = 0
        self._responders: list[Responder] = []

    def responder(
        self, binding: Binding, *, observer: Observer | None = None, name: str = "device", peer: str = "host"
    ) -> Responder:
        """Make the SPDM responder of a new transport connection.

        When the transport goes away call `disconnect`, or `reset` of the responder: its sessions end, their TDIs go to
        ERROR and their keys die.
        """
        made = Responder(
            binding,
            self.identities,
            self.measurements,
            self._entropy,
            self.settings,
            [ConnectionProtocol(protocol, self._connections) for protocol in self.protocols],
            psks=self._psks,
            mutual=self._services.mutual,
            provisioning=self.provisioning,
            events=self.events,
            device_classes=self._services.device_classes,
            wishes=self._services.wishes_of_a_connection(),
            observer=self.observer if observer is None else observer,
            name=name,
            peer=peer,
        )
        self._connections += 1
        self._responders.append(made)
        return made

    def disconnect(self, responder: Responder, cause: str = "transport gone") -> None:
        """End the sessions of a connection that is no more."""
        responder.reset(cause)
        self._responders = [other for other in self._responders if other is not responder]

    def reset(self, cause: str) -> None:
        """End all sessions of all connections; what was provisioned and waited for a reset takes effect."""
        for responder in self._responders:
            responder.reset(cause)
        if self.provisioning is not None:
            self.provisioning.reset()

    def happened(self, kind: DmtfEvent, detail: bytes) -> None:
        """Tell every session that has subscribed to such events, as soon as its requester fetches them."""
        if self.events is not None:
            self.events.happened(kind, detail)

    def expire(self, now: float) -> None:
        """End the sessions whose heartbeat has lapsed, though nobody speaks."""
        for responder in self._responders:
            responder.expire(now)

    # -- what a verifier needs beforehand

    @property
    def identities(self) -> tuple[Identity, ...]:
        """What the device presents now: provisioning may have changed it since it was certified."""
        return self._certified if self.provisioning is None else tuple(self.provisioning.identities)

    @property
    def root_certificates(self) -> tuple[bytes, ...]:
        """The root certificates of all identities, DER."""
        return tuple(
            slot.certificates[0] for one in self.identities for slot in one.slots.values() if slot.certificates
        )

    def measurement_blocks(self, algorithm: MeasurementHash) -> list[MeasurementBlock]:
        """Give the measurement blocks as they are now, digests by `algorithm`."""
        return self.measurements.blocks(algorithm)
