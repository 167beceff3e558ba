"""What `teeio device` serves: one device, and an SPDM responder of it for every connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from teeio.cli.offering import Offer
from teeio.crypto.certificates.chain import certificate_pem
from teeio.crypto.entropy import Entropy
from teeio.device.doe_connections import DoeConnections, check_ids
from teeio.device.profiles import emulator_device, set_up
from teeio.observe import Event, Observer, Refused, StateChanged, fan_out
from teeio.pcie.doe import DISCOVERY
from teeio.pcie.seams import ResetKind
from teeio.pldm import Terminus
from teeio.transport.discovery import with_discovery
from teeio.transport.kinds import Transport
from teeio.transport.platform_port import PlatformPortServer
from teeio.transport.sockets import FrameHandler, Listener
from teeio.transport.tcp import TcpServer, inquire

DEFAULT_OFFER = Offer()

_TICK = 0.25
"""Seconds between two looks at the clock."""


class DeviceServer:
    """A device as the reference emulator's requester expects it, on a socket; with `plain` without the emulator's framing.

    `doe_connections` are the ids of further SPDM connections that each peer may have through the mailbox. Raises `Misuse`.
    """

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
        doe_connections: Sequence[int] = (),
    ) -> None:
        transport.check_doe_only(doe_connection_id=bool(doe_connections))
        check_ids(doe_connections)
        self._doe_connections = tuple(doe_connections)
        self._transport = transport
        self._observer = fan_out((observer, self._report))
        self._say = say
        self._plain = plain
        self._connections = 0
        self._offer = offer
        self._device = emulator_device(
            entropy,
            now,
            settings=offer.settings,
            identities=offer.identities,
            psks=offer.psks,
            services=offer.services,
            observer=self._observer,
        )
        self._dsm = self._device.dsm
        self._update_at: float | None = None
        self._updates = 0

    def roots_pem(self) -> str:
        """Give the root certificates to trust, PEM."""
        return "".join(certificate_pem(der) for der in dict.fromkeys(self._dsm.root_certificates))

    async def serve(self, host: str, port: int, *, once: bool) -> None:
        """Listen, and serve every connection."""

        def ready(actual: int) -> None:
            self._say(f"listening on {host}:{actual} ({self._transport.value})")

        living = asyncio.create_task(self._live())
        try:
            await self._listener(once=once).serve(host, port, ready)
        finally:
            living.cancel()

    async def _live(self) -> None:
        """Let the device live on when nobody says anything: sessions without heartbeat end, firmware is updated."""
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self._dsm.expire(now)
            if self._update_at is not None and now >= self._update_at:
                self._update_at = None
                self._update_firmware()

    def _update_firmware(self) -> None:
        self._updates += 1
        made = self._device.configuration.manufacture.firmware
        version, svn = f"{made.version}+{self._updates}", made.svn + self._updates
        newer = replace(made, image=f"accelerator firmware {version}".encode(), version=version, svn=svn)
        if self._device.update_firmware(newer):
            self._say(f"firmware updated to {version}, security version {svn}")

    async def visit(self, host: str, port: int) -> None:
        """Connect to a requester that listens, ask it by Role-Inquiry to be the requester, and serve it (DSP0287)."""
        await inquire(host, port, self._listener(once=True))

    def _listener(self, *, once: bool) -> Listener:
        if self._plain:
            return TcpServer(self._accept, once=once)
        return PlatformPortServer(self._transport.type, self._accept, once=once)

    def _accept(self) -> tuple[FrameHandler, Callable[[], None]]:
        self._connections += 1
        number, telling, now = self._connections, self._offer.telling, time.monotonic()
        if telling.update_firmware is not None:
            self._update_at = now + telling.update_firmware
        if telling.delay:
            self._dsm.measurements.ready_at = now + telling.delay
        respond, disconnect = self._respond_to(f"peer {number}")
        self._say(f"peer {number} connected")

        def closed() -> None:
            disconnect("the connection closed")
            self._say(f"peer {number} disconnected")
            if self._offer.reset_on_disconnect:
                self._device.reset(ResetKind.CONVENTIONAL)
                set_up(self._device)
                self._say("the device was reset")

        return respond, closed

    def _respond_to(self, peer: str) -> tuple[FrameHandler, Callable[[str], None]]:
        """Give what answers the frames of a peer, and what ends its SPDM connections."""
        if self._transport is Transport.PCI_DOE:
            mailbox = DoeConnections(
                self._dsm, self._doe_connections, time.monotonic, observer=self._observer, peer=peer
            )
            protocols = (DISCOVERY, *mailbox.protocols)
            return with_discovery(self._transport, mailbox.respond, protocols), mailbox.disconnect
        responder = self._dsm.responder(self._transport.binding, observer=self._observer, peer=peer)
        if self._transport is Transport.MCTP:
            responder.application = Terminus().respond
        return (
            lambda frame: responder.respond(frame, time.monotonic()),
            lambda cause: self._dsm.disconnect(responder, cause),
        )

    def _report(self, event: Event) -> None:
        if isinstance(event, StateChanged):
            self._say(f"{event.subject}: {event.old} > {event.new} ({event.cause})")
        elif isinstance(event, Refused):
            self._say(f"{event.by} refused {event.what}: {event.rule}")
