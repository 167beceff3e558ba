"""Frames of the two link types: what a frame carries, and the binding that its secured messages need.

The layouts are those of `mctp` and `pcie.doe`. A frame that carries something else than SPDM is named, never an error.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from teeio import mctp
from teeio.capture.pcap import LinkType
from teeio.errors import DecodeError
from teeio.pcie import doe
from teeio.spdm.binding import Binding
from teeio.wire import Record

BINDINGS: dict[LinkType, Binding] = {LinkType.MCTP: mctp.MctpBinding(), LinkType.PCI_DOE: doe.DoeBinding()}
"""The binding of each link type."""


class Carried(Enum):
    """What a frame carries."""

    SPDM = "SPDM"
    SECURED = "secured SPDM"
    DISCOVERY = "DOE discovery"
    OTHER = "other"
    BROKEN = "broken"


class Ends(NamedTuple):
    """Between whom a frame goes, as far as it says: MCTP endpoint ids, or the connection id of a DOE data object."""

    source: int = 0
    destination: int = 0
    doe_connection: int | None = None

    def back(self) -> Ends:
        """Give the ends of a frame that goes the other way."""
        return Ends(self.destination, self.source)

    def __str__(self) -> str:
        if self.doe_connection is not None:
            return f"DOE connection id {self.doe_connection}"
        return f"endpoint {self.source} to {self.destination}"


NOBODY = Ends()
"""The ends of a frame that does not tell one from the other: a DOE data object, an MCTP packet of an emulator."""


class Framed(NamedTuple):
    """The content of a frame: `payload` with transport padding; `name` of what is no SPDM, `error` of a broken one."""

    carried: Carried
    payload: bytes
    name: str = ""
    error: str = ""
    ends: Ends = NOBODY


def unframe(link_type: LinkType, frame: bytes) -> Framed:
    """Take a frame apart. Never raises."""
    try:
        return _unframe_mctp(frame) if link_type is LinkType.MCTP else _unframe_doe(frame)
    except DecodeError as error:
        return Framed(Carried.BROKEN, frame, error=str(error))


def _unframe_mctp(frame: bytes) -> Framed:
    header, used = mctp.MctpHeader.decode_prefix(frame)
    ends = Ends(header.source, header.destination) if header.source != header.destination else NOBODY
    message = frame[used:]
    if message and message[0] not in (mctp.MessageType.SPDM, mctp.MessageType.SECURED_SPDM):
        return Framed(Carried.OTHER, message[1:], name=f"MCTP message type {message[0]:#04x}", ends=ends)
    payload, secured = BINDINGS[LinkType.MCTP].unwrap(message)
    return Framed(Carried.SECURED if secured else Carried.SPDM, payload, ends=ends)


def _unframe_doe(frame: bytes) -> Framed:
    found = doe.decode_object(frame)
    protocol = found.protocol
    if protocol == doe.SPDM:
        return Framed(Carried.SPDM, found.payload)
    if protocol == doe.SECURED_SPDM:
        return Framed(Carried.SECURED, found.payload)
    if protocol in doe.OF_A_CONNECTION:
        secured = protocol == doe.SECURED_SPDM_CONNECTION
        carried = Carried.SECURED if secured else Carried.SPDM
        return Framed(carried, found.payload, ends=Ends(doe_connection=found.connection_id))
    if protocol == doe.DISCOVERY:
        return Framed(Carried.DISCOVERY, found.payload, name="DOE_DISCOVERY")
    return Framed(Carried.OTHER, found.payload, name=f"DOE data object {found.vendor_id:#06x}:{int(found.type):#04x}")


def decode_discovery(payload: bytes, *, request: bool) -> Record | None:
    """Decode a DOE discovery payload, or give None if it does not parse."""
    try:
        return doe.DiscoveryRequest.decode(payload) if request else doe.DiscoveryResponse.decode(payload)
    except DecodeError:
        return None
