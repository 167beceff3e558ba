"""The DOE mailbox behind the capability registers: the responder's side (PCIe Base 6.30.1, 7.9.24).

It takes DWs until Go, hands the data object to its handler, and lets the answer be read DW by DW. Discovery it
answers itself. A data object whose length field is not what was written sets Error, which only Abort clears; one of
an unknown type is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from teeio.errors import DecodeError, Misuse
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.doe import (
    DISCOVERY,
    MAX_DWORDS,
    MAX_PROTOCOLS,
    OF_A_CONNECTION,
    SECURED_SPDM,
    SPDM,
    DiscoveryRequest,
    DoeProtocol,
    answer_discovery,
    decode_object,
)
from teeio.pcie.registers import Register

_STUCK, _READY = DoeCapability.STATUS.bits("error", "busy"), DoeCapability.STATUS.bits("ready")

Handler = Callable[[bytes], bytes | None]
"""Takes a data object, gives the one that answers, or None for no answer."""


def _drop(data: bytes) -> bytes | None:
    return None


def by_connection(handlers: Mapping[int | None, Handler], otherwise: Handler = _drop) -> Handler:
    """Give the handler of a mailbox with several SPDM connections; None stands for the one without an id.

    Each is a responder of its own, with a binding of that id. A data object of an id that is not there is `otherwise`'s. A
    mailbox with ids must list types 3 and 4 among its protocols, or it drops them all. The handler raises `DecodeError`.
    """

    def handle(data: bytes) -> bytes | None:
        found = decode_object(data)
        return handlers.get(found.connection_id if found.protocol in OF_A_CONNECTION else None, otherwise)(data)

    return handle


class DoeMailbox:
    """The mailbox of one DOE capability.

    `handler` gets the whole data object of every protocol but discovery; None answers nothing. `limit` bounds a
    written object in bytes. With `deferred` a data object waits, with Busy set, until `serve` is called; otherwise it
    is served at Go.
    """

    def __init__(
        self,
        capability: DoeCapability,
        handler: Handler,
        protocols: Sequence[DoeProtocol] = (SPDM, SECURED_SPDM),
        *,
        limit: int = 4 * MAX_DWORDS,
        deferred: bool = False,
    ) -> None:
        if len(protocols) >= MAX_PROTOCOLS:
            raise Misuse(f"a mailbox lists {MAX_PROTOCOLS} protocols at most")
        self.capability = capability
        self.handler = handler
        self.protocols = (DISCOVERY, *(protocol for protocol in protocols if protocol != DISCOVERY))
        self._limit = limit
        self._deferred = deferred
        self._written = bytearray()
        self._waiting: bytes | None = None
        self._answer = b""
        self._read_at = 0
        self._round = 0
        capability.watch(DoeCapability.CONTROL, self._control_written)
        capability.watch(DoeCapability.WRITE_MAILBOX, self._word_written)
        capability.watch(DoeCapability.READ_MAILBOX, self._word_popped)

    def reset(self) -> None:
        """Forget everything and be idle: Abort, or a function reset."""
        self._round += 1
        self._written.clear()
        self._waiting = None
        self._offer(b"")
        self.capability.set(DoeCapability.STATUS, busy=0, error=0)

    # -- what software writes

    def _control_written(self, register: Register, old: int, new: int) -> None:
        if register.get(new, "abort"):
            self.reset()
        elif register.get(new, "go") and not self._stuck():
            self._go()

    def _stuck(self) -> bool:
        return bool(self.capability.value(DoeCapability.STATUS) & _STUCK)

    def _word_written(self, register: Register, old: int, new: int) -> None:
        if self._stuck():
            return
        if self._answer or len(self._written) + 4 > self._limit:
            self._fail()
            return
        self._written += new.to_bytes(4, "little")

    def _word_popped(self, register: Register, old: int, new: int) -> None:
        if self._answer:
            self._read_at += 4
            self._present()
        elif not self._stuck():
            self._fail()

    # -- what the mailbox does

    def _go(self) -> None:
        data = bytes(self._written)
        self._written.clear()
        if self._answer:
            self._fail()
            return
        self._waiting = data
        if self._deferred:
            self.capability.set(DoeCapability.STATUS, busy=1)
        else:
            self.serve()

    @property
    def waiting(self) -> bool:
        """Whether a data object waits for `serve`."""
        return self._waiting is not None

    def serve(self) -> bool:
        """Answer the data object that waits; False if there is none."""
        if self._waiting is None:
            return False
        data, self._waiting = self._waiting, None
        round_before = self._round
        answer = self._answered(data)
        if self._round != round_before:
            return True  # Abort came while the handler was at work: nobody waits for this answer
        self.capability.set(DoeCapability.STATUS, busy=0)
        if answer is None:
            self._fail()
        else:
            self._offer(answer)
        return True

    def _answered(self, data: bytes) -> bytes | None:
        """Give the answer to a data object, empty for none, None if it is broken."""
        try:
            found = decode_object(data)
            if found.protocol == DISCOVERY:
                return answer_discovery(DiscoveryRequest.decode(found.payload), self.protocols)
        except DecodeError:
            return None
        return (self.handler(data) or b"") if found.protocol in self.protocols else b""

    def _fail(self) -> None:
        self._written.clear()
        self._offer(b"")
        self.capability.set(DoeCapability.STATUS, error=1)
        self._interrupt()

    def _offer(self, answer: bytes) -> None:
        self._answer, self._read_at = answer, 0
        self._present()
        if answer:
            self._interrupt()

    def _present(self) -> None:
        """Show the current DW of the answer, or nothing once it is read."""
        word = self._answer[self._read_at : self._read_at + 4]
        if not word:
            self._answer = b""
        capability = self.capability
        capability.put(DoeCapability.READ_MAILBOX, int.from_bytes(word, "little"))
        if word and self._read_at:
            return  # Ready is set since the first
        status = capability.value(DoeCapability.STATUS)
        if bool(status & _READY) != bool(word):
            capability.put(DoeCapability.STATUS, status ^ _READY)

    def _interrupt(self) -> None:
        if self.capability.get(DoeCapability.CONTROL, "interrupt_enable"):
            self.capability.set(DoeCapability.STATUS, interrupt=1)
