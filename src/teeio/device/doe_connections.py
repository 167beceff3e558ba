"""The SPDM connections through one DOE mailbox: the one without an id and, for data objects of types 3 and 4, one for each id.

Each has a responder of its own, so nothing that one negotiates, opens or resets is another's; keys and TDIs are the device's, and of
different sessions whatever their ids. How ids are given out no public source says (UNCONFIRMED): here the device is told which it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from teeio.device.dsm import Dsm
from teeio.errors import DecodeError, Misuse
from teeio.observe import Observer, Refused
from teeio.pcie.doe import OF_A_CONNECTION, SECURED_SPDM, SPDM, DoeBinding, DoeProtocol, decode_object
from teeio.pcie.doe_mailbox import by_connection
from teeio.spdm.responder import Responder

MAX_CONNECTIONS = 16
"""Connections with an id that one mailbox serves: each holds buffers and sessions of its own."""


def check_ids(ids: Sequence[int]) -> None:
    """Check the connection ids that a mailbox shall serve. Raises `Misuse`."""
    for connection_id in ids:
        DoeBinding(connection_id)
    if len(set(ids)) < len(ids):
        raise Misuse("a DOE connection id is given twice", remedy="name each once")
    if len(ids) > MAX_CONNECTIONS:
        raise Misuse(f"{len(ids)} DOE connection ids, a mailbox serves {MAX_CONNECTIONS}", remedy="name fewer")


class DoeConnections:
    """The responders behind one mailbox, by connection id; None is the one without. `now` tells the time. Raises `Misuse` for bad ids."""

    def __init__(
        self,
        dsm: Dsm,
        ids: Sequence[int],
        now: Callable[[], float],
        *,
        observer: Observer | None = None,
        name: str = "device",
        peer: str = "host",
    ) -> None:
        check_ids(ids)
        self._dsm = dsm
        self._now = now
        self._name = name
        self._observer = dsm.observer if observer is None else observer
        self.responders: dict[int | None, Responder] = {
            one: dsm.responder(
                DoeBinding(one),
                observer=observer,
                name=name,
                peer=peer if one is None else f"{peer}, connection id {one}",
            )
            for one in (None, *ids)
        }
        handlers = {one: partial(self._ask, responder) for one, responder in self.responders.items()}
        self._handle = by_connection(handlers, otherwise=self._refuse)

    @property
    def protocols(self) -> tuple[DoeProtocol, ...]:
        """What discovery lists besides itself: types 3 and 4 only where there is an id to use them with."""
        return (SPDM, SECURED_SPDM, *(OF_A_CONNECTION if len(self.responders) > 1 else ()))

    def respond(self, data_object: bytes) -> bytes | None:
        """Answer a data object; None when there is nothing to say."""
        try:
            return self._handle(data_object)
        except DecodeError as error:
            self._observer(Refused(self._name, "a frame", str(error)))
            return None

    def disconnect(self, cause: str) -> None:
        """End the sessions of all connections: the mailbox is no more."""
        for responder in self.responders.values():
            self._dsm.disconnect(responder, cause)

    def _ask(self, responder: Responder, data_object: bytes) -> bytes | None:
        return responder.respond(data_object, self._now())

    def _refuse(self, data_object: bytes) -> bytes | None:
        found = decode_object(data_object)
        served = ", ".join(str(one) for one in self.responders if one is not None) or "none"
        why = f"connection id {found.connection_id} is not served, {served} is (PCIe Base 6.31)"
        self._observer(Refused(self._name, "a data object", why))
        return None
