"""Data Object Exchange: data objects, discovery, the requester's side, the binding for SPDM (PCIe Base 6.30).

The mailbox itself, which is the responder's side, is `doe_mailbox`. Left out: interrupts on the requester's side; how a
requester learns which connection ids it may use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import NamedTuple

from teeio.errors import DecodeError, Misuse, TransportError
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.registers import RegisterAccess
from teeio.wire import REST, Record, bits, blob, record, reserved, u8, u16

PCI_SIG = 0x0001
MAX_DWORDS = 1 << 18
HEADER_SIZE = 8
DEFAULT_POLLS = 10_000
MAX_PROTOCOLS = 256


class DataObjectType(IntEnum):
    """Data object types of vendor 0x0001."""

    DISCOVERY = 0
    SPDM = 1
    SECURED_SPDM = 2
    SPDM_CONNECTION = 3
    SECURED_SPDM_CONNECTION = 4


class DoeProtocol(NamedTuple):
    """A kind of data object that a mailbox takes."""

    vendor_id: int
    type: int


DISCOVERY = DoeProtocol(PCI_SIG, DataObjectType.DISCOVERY)
SPDM = DoeProtocol(PCI_SIG, DataObjectType.SPDM)
SECURED_SPDM = DoeProtocol(PCI_SIG, DataObjectType.SECURED_SPDM)
SPDM_CONNECTION = DoeProtocol(PCI_SIG, DataObjectType.SPDM_CONNECTION)
SECURED_SPDM_CONNECTION = DoeProtocol(PCI_SIG, DataObjectType.SECURED_SPDM_CONNECTION)

OF_A_CONNECTION = (SPDM_CONNECTION, SECURED_SPDM_CONNECTION)
"""Data objects that carry a connection id."""

CONNECTION_ID_BITS = 12
"""UNCONFIRMED: the connection id is bits 29:18 of the second header DW. That is how spdm-rs (`pcidoe_transport`, "doe 2.0") reads it;
no other public source says where it stands, and none how ids are given out. In other types the bits are reserved."""

MAX_CONNECTION_ID = (1 << CONNECTION_ID_BITS) - 1


@record
class DataObject(Record):
    """A data object; `dwords` counts the whole object, 0 stands for 2^18. Use `encode_object` and `decode_object`."""

    vendor_id: int = u16("Vendor that defined the type, 1 is PCI-SIG")
    type: int = u8("Data object type", enum=DataObjectType)
    _reserved: None = reserved(1)
    dwords: int = bits(18, "Length in DWs, these two included", of=4)
    connection_id: int = bits(CONNECTION_ID_BITS, "Connection id of types 3 and 4, reserved in others", default=0)
    _reserved_high: int = bits(14 - CONNECTION_ID_BITS, "Reserved", default=0)
    payload: bytes = blob(REST, "Payload, padded to a DW")

    @property
    def protocol(self) -> DoeProtocol:
        """What kind of object this is."""
        return DoeProtocol(self.vendor_id, self.type)


@record
class DiscoveryRequest(Record):
    """Asks for entry `index` of the list of protocols."""

    index: int = u8("Entry wanted")
    version: int = u8("DOE capability version of the requester, 0 before version 2", default=0)
    _reserved: None = reserved(2)


@record
class DiscoveryResponse(Record):
    """One entry of the list of protocols."""

    vendor_id: int = u16("Vendor")
    type: int = u8("Data object type")
    next_index: int = u8("Next entry, 0 ends the list")


def encode_object(protocol: DoeProtocol, payload: bytes, connection_id: int = 0) -> bytes:
    """Build a data object: header, `payload`, zero padding to a DW. Only types 3 and 4 have a connection id."""
    dwords = 2 + (len(payload) + 3) // 4
    if dwords > MAX_DWORDS:
        raise Misuse(f"a payload of {len(payload)} bytes does not fit in a data object", remedy="send it in chunks")
    padded = payload + bytes(-len(payload) % 4)
    return DataObject(
        vendor_id=protocol.vendor_id,
        type=protocol.type,
        dwords=dwords % MAX_DWORDS,
        connection_id=connection_id,
        payload=padded,
    ).encode()


def decode_object(data: bytes) -> DataObject:
    """Decode exactly one data object. Raises `DecodeError`, also if its length field is not the length of `data`."""
    found = DataObject.decode(data)
    size = 4 * (found.dwords or MAX_DWORDS)
    if size != len(data):
        raise DecodeError("DataObject", "dwords", 4, f"says {size} bytes, there are {len(data)}")
    return found


def answer_discovery(request: DiscoveryRequest, protocols: Sequence[DoeProtocol]) -> bytes:
    """Give the data object that answers discovery; an index past the end names no protocol (PCIe Base 6.30.1.1)."""
    listed = request.index < len(protocols)
    vendor_id, kind = protocols[request.index] if listed else (0xFFFF, 0xFF)
    following = request.index + 1 if request.index + 1 < len(protocols) else 0
    return encode_object(DISCOVERY, DiscoveryResponse(vendor_id=vendor_id, type=kind, next_index=following).encode())


# -- the requester's side ------------------------------------------------------------------------------------------

Read = Callable[[int, int], int]
"""Configuration read: offset, size."""
Write = Callable[[int, int, int], None]
"""Configuration write: offset, size, value."""


def _register(read: Read, write: Write, offset: int) -> RegisterAccess:
    return RegisterAccess(partial(read, offset, 4), partial(write, offset, 4))


def _idle() -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Mailbox:
    """The mailbox registers at `base`, through configuration accesses."""

    read: Read
    write: Write
    register: Callable[[int], RegisterAccess]
    base: int
    polls: int
    pause: Callable[[], None]

    def status(self) -> int:
        value = self.read(self.base + DoeCapability.STATUS.offset, 4)
        if value == 0xFFFFFFFF:
            raise TransportError("the DOE mailbox reads as all ones", remedy="the function is gone or in reset")
        return value

    def control(self, **fields: int) -> None:
        self.write(self.base + DoeCapability.CONTROL.offset, 4, DoeCapability.CONTROL.put(0, **fields))

    def settle(self) -> None:
        """Bring the mailbox to idle: abort what an earlier exchange left behind, half a data object among it."""
        self.control(abort=1)
        if DoeCapability.STATUS.get(self.wait("busy", 0, "stays busy"), "error"):
            raise TransportError("the DOE mailbox keeps Error after Abort", remedy="reset the function")

    def wait(self, field: str, value: int, complaint: str) -> int:
        """Wait for a field of the status register; give the register's value."""
        for _ in range(self.polls):
            status = self.status()
            if field == "ready" and DoeCapability.STATUS.get(status, "error"):
                self.control(abort=1)
                raise TransportError("the DOE mailbox set Error", remedy="check the data object's length and type")
            if DoeCapability.STATUS.get(status, field) == value:
                return status
            self.pause()
        self.control(abort=1)
        raise TransportError(f"the DOE mailbox {complaint} after {self.polls} polls", remedy="see whether it responds")

    def push(self, data: bytes) -> None:
        """Write DWs."""
        write = self.register(self.base + DoeCapability.WRITE_MAILBOX.offset).write
        for at in range(0, len(data), 4):
            write(int.from_bytes(data[at : at + 4], "little"))

    def pop(self, words: RegisterAccess, dwords: int = 1) -> bytes:
        """Take DWs: each is read, and given up by a write of any value."""
        read, write = words
        found = bytearray()
        for _ in range(dwords):
            found += read().to_bytes(4, "little")
            write(0)
        return bytes(found)

    def pop_last(self, words: RegisterAccess) -> bytes:
        """Take the last DW: if there is none any more, some before it were none either (as Linux looks)."""
        if not DoeCapability.STATUS.get(self.status(), "ready"):
            raise TransportError("the DOE data object ends before its length says")
        return self.pop(words)


def exchange(
    read: Read,
    write: Write,
    base: int,
    data_object: bytes,
    *,
    polls: int = DEFAULT_POLLS,
    pause: Callable[[], None] = _idle,
    limit: int = 4 * MAX_DWORDS,
    register: Callable[[int], RegisterAccess] | None = None,
) -> bytes:
    """Send a data object through the mailbox at `base` and give the one that answers.

    `polls` bounds every wait, with `pause` called between two looks; `limit` bounds the answer in bytes,
    `register` gives access to the DW at an offset, which is quicker where a DW is moved again and again. Raises
    `TransportError` on Error, time-out, or an answer of impossible length; the mailbox is aborted then (PCIe Base
    6.30.2).
    """
    if len(data_object) < HEADER_SIZE or len(data_object) % 4:
        raise Misuse(f"a data object has whole DWs, two at least, not {len(data_object)} bytes")
    if register is None:
        register = partial(_register, read, write)
    mailbox = _Mailbox(read, write, register, base, polls, pause)
    mailbox.settle()
    mailbox.push(data_object)
    mailbox.control(go=1)
    mailbox.wait("ready", 1, "has no answer")
    words = register(base + DoeCapability.READ_MAILBOX.offset)
    answer = mailbox.pop(words) + mailbox.pop_last(words)
    size = 4 * (DataObject.decode(answer).dwords or MAX_DWORDS)
    if not HEADER_SIZE <= size <= limit:
        mailbox.control(abort=1)
        raise TransportError(f"the DOE data object announces {size} bytes, {HEADER_SIZE} to {limit} are taken")
    return answer + mailbox.pop(words, size // 4 - 3) + mailbox.pop_last(words) if size > HEADER_SIZE else answer


def discover(
    read: Read,
    write: Write,
    base: int,
    *,
    polls: int = DEFAULT_POLLS,
    pause: Callable[[], None] = _idle,
) -> list[DoeProtocol]:
    """List the protocols of the mailbox at `base`. Raises `TransportError`."""
    version = DoeCapability.HEADER.get(read(base, 4), "version")

    def carry(data_object: bytes) -> bytes:
        return exchange(read, write, base, data_object, polls=polls, pause=pause)

    try:
        return list_protocols(carry, version if version >= 2 else 0)
    except DecodeError as error:
        raise TransportError(f"an answer of DOE discovery does not parse: {error}") from None


def list_protocols(carry: Callable[[bytes], bytes], version: int = 0) -> list[DoeProtocol]:
    """List the protocols of a mailbox that `carry` takes data objects to. Raises `DecodeError`, `TransportError`."""
    found: list[DoeProtocol] = []
    index = 0
    while len(found) < MAX_PROTOCOLS:
        answer = carry(encode_object(DISCOVERY, DiscoveryRequest(index=index, version=version).encode()))
        item = decode_object(answer)
        entry = DiscoveryResponse.decode(item.payload)
        if item.protocol != DISCOVERY:
            raise TransportError(f"DOE discovery is answered with a data object of type {item.type:#x}")
        found.append(DoeProtocol(entry.vendor_id, entry.type))
        index = entry.next_index
        if index == 0:
            return found
    raise TransportError("DOE discovery does not end")


# -- the binding for SPDM ------------------------------------------------------------------------------------------


class DoeBinding:
    """Carries SPDM messages as data objects of type 1, secured ones as type 2 (PCIe Base 6.31).

    With `connection_id`, 0 to 4095, those are types 3 and 4: one of several SPDM connections through one mailbox. Only
    data objects of that connection are taken; a data object of another, or of none, is refused.
    """

    name = "pci_doe"
    sequence_number_size = 0
    max_random_padding = 0
    max_transport_padding = 3
    max_message = 4 * MAX_DWORDS - HEADER_SIZE

    def __init__(self, connection_id: int | None = None) -> None:
        if connection_id is not None and not 0 <= connection_id <= MAX_CONNECTION_ID:
            raise Misuse(f"a DOE connection id is 0 to {MAX_CONNECTION_ID}, not {connection_id}")
        self.connection_id = connection_id
        self._plain, self._secured = (SPDM, SECURED_SPDM) if connection_id is None else OF_A_CONNECTION

    def wrap(self, message: bytes, secured: bool) -> bytes:
        """Give the data object that carries `message`, zero-padded to a DW."""
        return encode_object(self._secured if secured else self._plain, message, self.connection_id or 0)

    def unwrap(self, frame: bytes) -> tuple[bytes, bool]:
        """Give the message, its padding still behind it, and whether it is secured. Raises `DecodeError`."""
        found = decode_object(frame)
        secured = found.protocol == self._secured
        if not secured and found.protocol != self._plain:
            what = "is of a connection with an id" if found.protocol in OF_A_CONNECTION else "carries no SPDM message"
            if self.connection_id is not None and found.protocol in (SPDM, SECURED_SPDM):
                what = "is of the connection without an id"
            raise DecodeError("DataObject", "type", 2, f"{found.vendor_id:#06x}:{found.type:#04x} {what}")
        if self.connection_id is not None and found.connection_id != self.connection_id:
            reason = f"{found.connection_id} is another connection than {self.connection_id}"
            raise DecodeError("DataObject", "connection_id", 4, reason)
        return found.payload, secured

    def wrap_application(self, message: bytes) -> bytes:
        """Give the application data of a secured message: the message itself."""
        return message

    def unwrap_application(self, data: bytes) -> bytes:
        """Give the message in the application data of a secured message."""
        return data
