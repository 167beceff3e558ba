"""Our side of a cell: the settings that offer exactly it, the emulator's sample identities, and a server for one connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from teeio.crypto.algorithms import BaseAsym, Dhe, Kem, PqcAsym
from teeio.crypto.entropy import system_entropy
from teeio.crypto.keys import Asym
from teeio.device.profiles import EMULATOR_HEARTBEAT, EMULATOR_PSKS
from teeio.errors import AuthenticationFailed, TransportError
from teeio.identity_files import SLOTS, read
from teeio.interop.cells import Cell, Flags, KeyUpdates, Role
from teeio.observe import Event, MessageMoved
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, Version
from teeio.spdm.device_state import DeviceMeasurements, Identity, Measured
from teeio.spdm.events import Events
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.provisioning import Provisioning
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.response_key_update import renew_response_key
from teeio.spdm.state import (
    MUTUAL_CAPABILITIES,
    REQUESTER_CAPABILITIES,
    RESPONDER_CAPABILITIES,
    Session,
    SessionPhase,
    Settings,
)
from teeio.transport.discovery import with_discovery
from teeio.transport.kinds import Transport
from teeio.transport.platform_port import PlatformPortServer
from teeio.transport.sockets import FrameHandler

LOOPBACK = "127.0.0.1"
SECONDS = 20.0
"""How long our server may take to start, and to end after its peer."""

USUAL = {
    Role.REQUESTER: REQUESTER_CAPABILITIES | Capability.PSK,
    Role.RESPONDER: RESPONDER_CAPABILITIES | Capability.PSK_WITH_CONTEXT,
}
LOGGED = 0x11
"""The measurement that the measurement extension log extends."""
DEVICE_CLASS = m.DeviceClass(subordinates=(m.SubordinateId(identifier=b"\x12\x34\x56"),))


def settings(cell: Cell, role: Role) -> Settings:
    """Give the settings of our side in `role`."""
    flags: Flags = cell.requester if role is Role.REQUESTER else cell.responder
    usual = USUAL[role]
    if cell.offers_identity:
        usual |= MUTUAL_CAPABILITIES
    if cell.clear and cell.has_sessions:
        usual |= Capability.HANDSHAKE_IN_THE_CLEAR
    offered = Settings(
        versions=tuple(sorted(Version, reverse=True)) if cell.any_version == role.value else (cell.version,),
        capabilities=flags.of(usual),
        base_hash=(cell.base_hash,),
        base_asym=(cell.asym,) if isinstance(cell.asym, BaseAsym) else (),
        pqc_asym=(cell.asym,) if isinstance(cell.asym, PqcAsym) else (),
        req_base_asym=(cell.req_asym,) if isinstance(cell.req_asym, BaseAsym) else (),
        req_pqc_asym=(cell.req_asym,) if isinstance(cell.req_asym, PqcAsym) else (),
        dhe=(cell.group,) if isinstance(cell.group, Dhe) else (),
        kem=(cell.group,) if isinstance(cell.group, Kem) else (),
        aead=(cell.aead,),
        measurement_hash=(cell.hashes,),
        heartbeat_period=EMULATOR_HEARTBEAT if role is Role.RESPONDER else 0,
    )
    return cell.transport.limited(offered)


def sample(folder: Path, algorithm: Asym, role: Role, slots: Sequence[int] = (0,)) -> Identity:
    """Read the identity of the emulator's sample requester or responder, which its other side trusts."""
    (identity,) = read(folder, [algorithm], slots, role=role.value)
    return identity


def make_requester(cell: Cell, folder: Path) -> Requester:
    """Make our requester."""
    theirs = sample(folder, cell.asym, Role.RESPONDER)
    identities: tuple[Identity, ...] = ()
    if cell.public_keys:
        identities = (Identity.of_public_key(sample(folder, cell.asym, Role.REQUESTER).slots[0].key),)
    elif cell.req_asym is not None:
        identities = (sample(folder, cell.req_asym, Role.REQUESTER),)
    return Requester(
        cell.transport.binding,
        settings(cell, Role.REQUESTER),
        system_entropy,
        identities=identities,
        events=Events() if cell.requester.added & Capability.EVENT else None,
        device_classes=(DEVICE_CLASS,),
        peer_keys=(theirs.slots[0].key.public,) if cell.public_keys else (),
    )


@dataclass(slots=True)
class OurResponder:
    """Our responder, with what it has seen: messages, the sessions that were established, the chains it trusted.

    A message is noted by its name and by whether it came in a session.
    """

    cell: Cell
    folder: Path
    messages: set[tuple[str, bool]] = field(default_factory=set)
    sessions: list[Session] = field(default_factory=list)
    renewed: list[tuple[Session, bytes]] = field(default_factory=list)
    trusted: list[bytes] = field(default_factory=list)
    engine: Responder = field(init=False)

    def __post_init__(self) -> None:
        cell = self.cell
        offered = settings(cell, Role.RESPONDER)
        identity = self._identity()
        keys = offered.capabilities & Capability.GET_KEY_PAIR_INFO
        self.engine = Responder(
            cell.transport.binding,
            (identity,),
            _measurements(),
            system_entropy,
            offered,
            psks=EMULATOR_PSKS,
            mutual=self._mutual(),
            observer=self._observe,
            provisioning=Provisioning.of([identity]) if keys else None,
            events=Events() if offered.capabilities & Capability.EVENT else None,
            device_classes=(DEVICE_CLASS,),
        )

    def _identity(self) -> Identity:
        cell = self.cell
        identity = sample(self.folder, cell.asym, Role.RESPONDER, tuple(SLOTS) if cell.slot_count != 1 else (0,))
        return Identity.of_public_key(identity.slots[0].key) if cell.public_keys else identity

    def _mutual(self) -> MutualAuthentication | None:
        cell = self.cell
        if cell.req_asym is None:
            return None
        requester = sample(self.folder, cell.req_asym, Role.REQUESTER).slots[0]
        known = requester.chain(cell.base_hash)

        def authenticate(chain: bytes, now: float) -> None:
            if chain != known:
                raise AuthenticationFailed("this is not the chain of the emulator's sample requester")
            self.trusted.append(chain)

        return MutualAuthentication(authenticate, cell.mode, cell.basic, provisioned={0: requester.certificates})

    def _observe(self, event: Event) -> None:
        if isinstance(event, MessageMoved):
            self.messages.add((event.name, event.session is not None))

    def respond(self, frame: bytes) -> bytes | None:
        """Answer a frame, and note the sessions that it establishes; where the cell wants that, ask for a key update in each."""
        answer = self.engine.respond(frame)
        for session in self.engine.sessions.values():
            if session.phase is SessionPhase.ESTABLISHED and session not in self.sessions:
                self.sessions.append(session)
                if self.cell.key_updates is KeyUpdates.RESPONDER:
                    self.renewed.append((session, session.response_key.secret))
                    renew_response_key(self.engine, session.session_id)
        return answer


def _measurements() -> DeviceMeasurements:
    kinds = m.MeasurementType
    texts = (b"ROM", b"boot firmware", b"version 1")
    entries = enumerate(texts, 1)
    return DeviceMeasurements(
        [
            Measured(1, kinds.MUTABLE_FIRMWARE, b"firmware 1"),
            Measured(2, kinds.HARDWARE_CONFIGURATION, b"straps", in_tcb=False),
            Measured(0x10, kinds.SECURE_VERSION_NUMBER, (7).to_bytes(8, "little"), always_raw=True),
            Measured(LOGGED, kinds.HASH_EXTEND, b""),
        ],
        [
            m.LogEntry(mel_index=number, measurement_index=LOGGED, type=0x80 | kinds.INFORMATIONAL, value=text)
            for number, text in entries
        ],
    )


class _Server(threading.Thread):
    """Serves one connection on a loop of its own; `raised` is what the responder raised."""

    def __init__(self, transport: Transport, respond: FrameHandler) -> None:
        super().__init__(daemon=True)
        self._transport, self._respond = transport, respond
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._port = 0
        self.raised: Exception | None = None

    def run(self) -> None:
        handler = with_discovery(self._transport, self._handle)
        server = PlatformPortServer(self._transport.type, lambda: (handler, lambda: None), once=True)
        self._task = self._loop.create_task(server.serve(LOOPBACK, 0, self._listening))
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    def _listening(self, port: int) -> None:
        self._port = port
        self._ready.set()

    def _handle(self, frame: bytes) -> bytes | None:
        try:
            return self._respond(frame)
        except Exception as error:
            self.raised = error
            raise ConnectionError("the responder failed") from error

    def port(self) -> int:
        """Wait until the server listens, and give its port."""
        if not self._ready.wait(SECONDS):
            raise TransportError("our responder does not listen")
        return self._port

    def stop(self) -> None:
        """End the server now."""
        if self._task is not None and not self._loop.is_closed():
            with suppress(RuntimeError):  # the loop has closed meanwhile
                self._loop.call_soon_threadsafe(self._task.cancel)
        self.join(SECONDS)


@contextmanager
def serving(transport: Transport, respond: FrameHandler) -> Iterator[int]:
    """Answer the frames of one connection by `respond`, and DOE discovery besides, on the port given.

    What `respond` raises comes out at the end. Raises `TransportError` if the connection does not end after its peer.
    """
    server = _Server(transport, respond)
    server.start()
    try:
        yield server.port()
        server.join(SECONDS)
        if server.is_alive():
            raise TransportError("the connection to our responder does not end")
    except BaseException as error:
        if server.raised is not None:
            raise server.raised from error
        raise
    finally:
        server.stop()
    if server.raised is not None:
        raise server.raised
