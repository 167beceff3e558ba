"""What `teeio device` serves: one device, and an SPDM responder of it for every connection."""

from __future__ import annotations

import time
from collections.abc import Callable

from teeio.cli.transports import Transport
from teeio.crypto.certificates.chain import certificate_pem
from teeio.crypto.entropy import Entropy
from teeio.device.profiles import emulator_device
from teeio.errors import DecodeError
from teeio.observe import Event, Observer, Refused, StateChanged, fan_out
from teeio.pcie import doe
from teeio.transport.platform_port import FrameHandler, PlatformPortServer

PROTOCOLS = (doe.DISCOVERY, doe.SPDM, doe.SECURED_SPDM)


class DeviceServer:
    """A device as the reference emulator's requester expects it, on a socket."""

    def __init__(
        self, transport: Transport, entropy: Entropy, now: float, observer: Observer, say: Callable[[str], None]
    ) -> None:
        self._transport = transport
        self._observer = fan_out((observer, self._report))
        self._say = say
        self._connections = 0
        self._dsm = emulator_device(entropy, now, observer=self._observer).dsm

    def roots_pem(self) -> str:
        """Give the root certificates to trust, PEM."""
        return "".join(certificate_pem(der) for der in self._dsm.root_certificates)

    async def serve(self, host: str, port: int, *, once: bool) -> None:
        """Listen, and serve every connection."""

        def ready(actual: int) -> None:
            self._say(f"listening on {host}:{actual} ({self._transport.value})")

        await PlatformPortServer(self._transport.type, self._accept, once=once).serve(host, port, ready)

    def _accept(self) -> tuple[FrameHandler, Callable[[], None]]:
        self._connections += 1
        number = self._connections
        responder = self._dsm.responder(self._transport.binding, observer=self._observer, peer=f"peer {number}")
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
