"""What `teeio device` serves: one device, and an SPDM responder of it for every connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from teeio.cli.choices import Choices, parse_psks
from teeio.cli.identity_files import read
from teeio.cli.transports import Transport
from teeio.crypto.certificates import Validity
from teeio.crypto.certificates.chain import certificate_pem
from teeio.crypto.certificates.hierarchy import Hierarchy, Names
from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import Asym
from teeio.device.identity import DAY, LIFETIME, Manufacture
from teeio.device.profiles import EMULATOR_HEARTBEAT, EMULATOR_PSKS, emulator_device
from teeio.errors import DecodeError, Misuse
from teeio.observe import Event, Observer, Refused, StateChanged, fan_out
from teeio.pcie import doe
from teeio.pldm import Terminus
from teeio.spdm.constants import Capability
from teeio.spdm.device_state import Identity, Slot
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings
from teeio.transport.platform_port import PlatformPortServer
from teeio.transport.sockets import FrameHandler, Listener
from teeio.transport.tcp import TcpServer, inquire

PROTOCOLS = (doe.DISCOVERY, doe.SPDM, doe.SECURED_SPDM)


@dataclass(frozen=True, slots=True)
class Offer:
    """How a device differs from the default one; None and () mean that it does not."""

    settings: Settings | None = None
    identities: tuple[Identity, ...] = ()
    psks: Mapping[bytes, bytes] | None = field(default=None, repr=False)


DEFAULT_OFFER = Offer()


def make_offer(
    choices: Choices,
    transport: Transport,
    entropy: Entropy,
    now: float,
    *,
    identity: Path | None = None,
    psks: Sequence[str] = (),
    heartbeat: int | None = None,
) -> Offer:
    """Give what a device offers with these options. Raises `Misuse`.

    For algorithms that were named without a folder of identities, identities are made: those of a plain start are the
    device's own.
    """
    extra = Capability.PSK_WITH_CONTEXT if psks else Capability(0)
    period = EMULATOR_HEARTBEAT if heartbeat is None else heartbeat
    base = Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=period)
    settings = transport.limited(choices.applied(base, extra))
    algorithms: tuple[Asym, ...] = (*settings.base_asym, *settings.pqc_asym)
    if not algorithms:
        raise Misuse("no signature algorithm is left to offer", remedy="name one with --asym or --pqc-asym")
    identities: tuple[Identity, ...] = ()
    if identity is not None:
        identities = read(identity, algorithms)
    elif choices.asym is not None or choices.pqc_asym is not None:
        identities = tuple(_identity(algorithm, entropy, now) for algorithm in algorithms)
    return Offer(settings, identities, {**EMULATOR_PSKS, **parse_psks(psks)})


def _identity(algorithm: Asym, entropy: Entropy, now: float) -> Identity:
    manufacture = Manufacture()
    validity = Validity(int(now) - DAY, int(now) + LIFETIME)
    hierarchy = Hierarchy.found(manufacture.info.manufacturer, algorithm, entropy, validity)
    made = hierarchy.responder(Names(manufacture.info, manufacture.pci, manufacture.tcb(hierarchy.issuer.base_hash)))
    return Identity({0: Slot(made.path, made.key)})


class DeviceServer:
    """A device as the reference emulator's requester expects it, on a socket; with `plain` without the emulator's framing."""

    def __init__(
        self,
        transport: Transport,
        entropy: Entropy,
        now: float,
        observer: Observer,
        say: Callable[[str], None],
        offer: Offer = DEFAULT_OFFER,
        *,
        plain: bool = False,
    ) -> None:
        self._transport = transport
        self._observer = fan_out((observer, self._report))
        self._say = say
        self._plain = plain
        self._connections = 0
        self._dsm = emulator_device(
            entropy,
            now,
            settings=offer.settings,
            identities=offer.identities,
            psks=offer.psks,
            observer=self._observer,
        ).dsm

    def roots_pem(self) -> str:
        """Give the root certificates to trust, PEM."""
        return "".join(certificate_pem(der) for der in dict.fromkeys(self._dsm.root_certificates))

    async def serve(self, host: str, port: int, *, once: bool) -> None:
        """Listen, and serve every connection."""

        def ready(actual: int) -> None:
            self._say(f"listening on {host}:{actual} ({self._transport.value})")

        expiring = asyncio.create_task(self._expire())
        try:
            await self._listener(once=once).serve(host, port, ready)
        finally:
            expiring.cancel()

    async def _expire(self) -> None:
        """End sessions without heartbeat, also when nobody says anything any more."""
        while True:
            await asyncio.sleep(1)
            self._dsm.expire(time.monotonic())

    async def visit(self, host: str, port: int) -> None:
        """Connect to a requester that listens, ask it by Role-Inquiry to be the requester, and serve it (DSP0287)."""
        await inquire(host, port, self._listener(once=True))

    def _listener(self, *, once: bool) -> Listener:
        if self._plain:
            return TcpServer(self._accept, once=once)
        return PlatformPortServer(self._transport.type, self._accept, once=once)

    def _accept(self) -> tuple[FrameHandler, Callable[[], None]]:
        self._connections += 1
        number = self._connections
        responder = self._dsm.responder(self._transport.binding, observer=self._observer, peer=f"peer {number}")
        if self._transport is Transport.MCTP:
            responder.application = Terminus().respond
        self._say(f"peer {number} connected")

        def handle(frame: bytes) -> bytes | None:
            if self._transport is Transport.PCI_DOE and frame[:4] == b"\x01\x00\x00\x00":
                return discovery(frame)
            return responder.respond(frame, time.monotonic())

        def closed() -> None:
            self._dsm.disconnect(responder, "the connection closed")
            self._say(f"peer {number} disconnected")

        return handle, closed

    def _report(self, event: Event) -> None:
        if isinstance(event, StateChanged):
            self._say(f"{event.subject}: {event.old} > {event.new} ({event.cause})")
        elif isinstance(event, Refused):
            self._say(f"{event.by} refused {event.what}: {event.rule}")


def discovery(frame: bytes) -> bytes | None:
    """Answer a DOE discovery frame; None if it is none."""
    try:
        return doe.answer_discovery(doe.DiscoveryRequest.decode(doe.decode_object(frame).payload), PROTOCOLS)
    except DecodeError:
        return None
