"""What comes from outside the protocols: certificate chains, capture files, key logs, sockets, mailbox registers, link frames."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from capture_files import Recorder
from fuzz.samples import device
from fuzz.surface import Strike, Surface
from teeio.capture import render
from teeio.capture.dissect import decode_capture
from teeio.capture.keylog import parse_key_log
from teeio.capture.pcap import LinkType, read_pcap
from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.certificates import (
    DeviceIdentity,
    DeviceInfo,
    Validity,
    certificate_request,
    chain_structure,
    check_request,
    parse_chain,
    validate_chain,
)
from teeio.crypto.certificates.chain import leaf_public_key, load_certificate, split_certificates
from teeio.crypto.certificates.extensions import device_info, pci_identity, spdm_identifiers, tcb_info
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import AuthenticationFailed, DecodeError
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.doe import DISCOVERY, DiscoveryRequest, encode_object
from teeio.pcie.doe_mailbox import DoeMailbox
from teeio.pcie.link import Link
from teeio.pcie.tlp import Routing, completion, config_read, config_write, memory_read, memory_write, message
from teeio.pldm import PldmMessage, Terminus
from teeio.spdm import flows
from teeio.tcp_binding import TcpBinding
from teeio.transport.platform_port import Command, Packet, PlatformPortServer, TransportType
from teeio.transport.sockets import FrameHandler, Listener
from teeio.transport.tcp import TcpServer

Prepared = tuple[Sequence[bytes], Strike]


# -- certificates ----------------------------------------------------------------------------------------------------------


def _identity(asym: BaseAsym) -> DeviceIdentity:
    return DeviceIdentity.generate(
        DeviceInfo("Acme", "Accelerator", "0001"),
        SeededEntropy(asym.name.encode()),
        Validity(1.7e9, 2.5e9),
        base_asym=asym,
        base_hash=BaseHash.SHA_384,
    )


def _chains() -> list[tuple[bytes, bytes]]:
    """Give (chain structure, root) of some identities."""
    made = [_identity(asym) for asym in (BaseAsym.ECDSA_P256, BaseAsym.ECDSA_P384, BaseAsym.ED25519)]
    return [(chain_structure(one.path[0], list(one.path[1:]), BaseHash.SHA_384), one.root) for one in made]


def chains(random: Random) -> Prepared:
    """Chain structures and certificates: split, parsed, every extension read."""
    made = _chains()
    seeds = [chain for chain, _ in made] + [
        b"\0" * 52 + der for chain, _ in made for der in split_certificates(chain[52:])
    ]

    def code(data: bytes) -> bool:
        try:
            _, certificates = parse_chain(data, BaseHash.SHA_384)
        except DecodeError:
            try:
                certificates = split_certificates(data[52:])
            except DecodeError:
                return False
        readable = [_read(der) for der in certificates]  # all of them, whatever the first one is
        return all(readable)

    return seeds, code


def _read(der: bytes) -> bool:
    taken = True
    try:
        certificate = load_certificate(der)
    except DecodeError:
        return False
    for read in (device_info, pci_identity, spdm_identifiers, tcb_info):
        try:
            read(certificate)
        except DecodeError:
            taken = False
    try:
        leaf_public_key(der)
    except (DecodeError, AuthenticationFailed):
        taken = False
    return taken


def requests(random: Random) -> Prepared:
    """Certificate signing requests, as a requester takes them from CSR."""
    seeds = []
    for asym in (BaseAsym.ECDSA_P256, BaseAsym.ECDSA_P384, BaseAsym.ED25519):
        made = _identity(asym)
        seeds.append(certificate_request(made.key, made.leaf, BaseHash.SHA_384))

    def code(data: bytes) -> bool:
        try:
            check_request(data)
        except (DecodeError, AuthenticationFailed):
            return False
        return True

    return seeds, code


def pldm_messages(random: Random) -> Prepared:
    """PLDM messages to a terminus."""
    terminus = Terminus()
    seeds = [
        PldmMessage(request=1, command=command, payload=b"\1" * size).encode() for command, size in ((2, 0), (3, 4))
    ]

    def code(data: bytes) -> bool:
        return terminus.respond(data) is not None

    return seeds, code


def validation(random: Random) -> Prepared:
    """Chain structures through path validation and every check of a leaf."""
    made = _chains()
    anchors = [root for _, root in made]
    seeds = [chain for chain, _ in made]

    def code(data: bytes) -> bool:
        return not validate_chain(data, anchors, BaseHash.SHA_384, BaseAsym.ECDSA_P384, 1.8e9)

    return seeds, code


# -- captures --------------------------------------------------------------------------------------------------------------


def _recorded() -> list[tuple[bytes, str]]:
    found = []
    for link_type in LinkType:
        pair = Recorder(link_type)
        session = pair.open_session()
        pair.run(flows.key_update(pair.requester, session))
        pair.run(flows.end_session(pair.requester, session))
        found.append(pair.files())
    return found


def pcap_files(random: Random) -> Prepared:
    """Capture files as such."""
    seeds = [pcap for pcap, _ in _recorded()]

    def code(data: bytes) -> bool:
        try:
            return read_pcap(data).problem is None
        except DecodeError:
            return False

    return seeds, code


def dissections(random: Random) -> Prepared:
    """Captures with a key log, dissected and shown in every form."""
    recorded = _recorded()
    seeds = [bytes([number]) + pcap for number, (pcap, _) in enumerate(recorded)]
    for number, (pcap, _) in enumerate(recorded):
        # Damage to the early bytes is damage to the file; behind a file header it is damage to the frames.
        frames = [frame.data for frame in read_pcap(pcap).frames]
        seeds += [
            bytes([0x80 | number]) + b"".join(len(f).to_bytes(2, "big") + f for f in frames[at:]) for at in (0, 6)
        ]

    def code(data: bytes) -> bool:
        selector, rest = (data[:1] or b"\0")[0], data[1:]
        number = selector % len(recorded)
        if selector & 0x80:
            rest = _as_capture(list(LinkType)[number], rest)
        try:
            found = decode_capture(rest, recorded[number][1])
        except DecodeError:
            return False
        for part in (inner for one in found.messages for inner in one.nested()):
            part.spans()
        list(render.text_lines(found))
        list(render.json_lines(found))
        render.summary(found)
        return not found.problems

    return seeds, code


def _as_capture(link_type: LinkType, data: bytes) -> bytes:
    from teeio.capture.pcap import write_pcap

    frames = []
    while len(data) >= 2 and len(frames) < 64:
        size = int.from_bytes(data[:2], "big")
        frames.append((data[2 : 2 + size], 0.0))
        data = data[2 + size :]
    return write_pcap(link_type, frames)


def key_logs(random: Random) -> Prepared:
    """Key logs in both forms."""
    texts = [keys for _, keys in _recorded()]
    texts.append(
        '{"sessions": [{"session_id": "0xffffffff", "dhe_secret": "00ff", "RequestDataSecretUpdates": ["aa"]}]}'
    )
    seeds = [text[at:].encode() for text in texts for at in (0, len(text) // 2)]

    def code(data: bytes) -> bool:
        try:
            parse_key_log(data.decode("utf-8", "replace"))
        except DecodeError:
            return False
        return True

    return seeds, code


# -- sockets ---------------------------------------------------------------------------------------------------------------


class _Writer:
    """A `StreamWriter` that keeps what is written, up to a bound."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    async def drain(self) -> None:
        return None

    def close(self) -> None:
        return None

    def get_extra_info(self, name: str) -> Any:
        return _NoSocket()


class _NoSocket:
    def setsockopt(self, *_: int) -> None:
        return None


def sockets(random: Random) -> Prepared:
    """Byte streams into a served connection of both socket protocols, up to the end of the stream."""
    loop = asyncio.new_event_loop()
    closed: list[int] = []

    def accept() -> tuple[FrameHandler, Any]:
        return (lambda frame: frame[:64] or None), lambda: closed.append(1)

    async def served() -> list[Listener]:
        return [PlatformPortServer(TransportType.MCTP, accept), TcpServer(accept)]

    servers = loop.run_until_complete(served())
    hello = Packet(Command.TEST, 1, b"Client Hello!\0").encode()
    normal = Packet(Command.NORMAL, 1, b"\x05\x10\x84\0\0").encode()
    frame = TcpBinding().wrap(b"\x10\x84\0\0", secured=False)
    seeds = [b"\0" + hello + normal + Packet(Command.SHUTDOWN, 1).encode(), b"\0" + normal * 3, b"\1" + frame * 3]

    async def one(server: Listener, data: bytes) -> int:
        reader, writer = asyncio.StreamReader(), _Writer()
        reader.feed_data(data)
        reader.feed_eof()
        closed.clear()
        await server.serve_connection(reader, writer)  # type: ignore[arg-type]
        if closed != [1]:
            raise AssertionError("the connection was not closed exactly once")
        return writer.written

    def code(data: bytes) -> bool:
        return loop.run_until_complete(one(servers[(data[:1] or b"\0")[0] & 1], data[1:])) > 0

    return seeds, code


# -- registers and the link ------------------------------------------------------------------------------------------------


def mailbox(random: Random) -> Prepared:
    """Any writes to the registers of a DOE mailbox: four bytes of value after one of register."""
    registers = (DoeCapability.CONTROL, DoeCapability.WRITE_MAILBOX, DoeCapability.READ_MAILBOX, DoeCapability.STATUS)
    discovery = encode_object(DISCOVERY, DiscoveryRequest(index=0).encode())
    words = [discovery[at : at + 4] for at in range(0, len(discovery), 4)]
    go, abort = (DoeCapability.CONTROL.put(0, **{name: 1}).to_bytes(4, "little") for name in ("go", "abort"))
    seeds = [
        b"".join(b"\1" + word for word in words) + b"\0" + go + b"\2\0\0\0\0" * 4,
        b"\0" + abort + b"".join(b"\1" + word for word in words) + b"\0" + go + b"\2\0\0\0\0" * 2 + b"\0" + abort,
    ]
    kept = {"box": DoeMailbox(DoeCapability(), lambda data: data, limit=256), "age": 0}

    def code(data: bytes) -> bool:
        if kept["age"] % 16 == 0:
            kept["box"] = DoeMailbox(DoeCapability(), lambda data: data, limit=256)
        kept["age"] += 1
        capability = kept["box"].capability
        answered = False
        for at in range(0, len(data) - 4, 5):
            register = registers[data[at] % len(registers)]
            capability.write(register.offset + (data[at] >> 6), 4, int.from_bytes(data[at + 1 : at + 5], "little"))
            answered |= bool(capability.get(DoeCapability.STATUS, "ready"))
        return answered

    return seeds, code


def link_frames(random: Random) -> Prepared:
    """Frames on the link to a device: configuration, memory, completions, messages, IDE prefixes without keys."""
    made = device()
    link, answers = Link(), []
    made.port.attach(link.bottom)
    link.top.receiver = answers.append
    target = made.pfs[0]
    requester_id = made.address_of(target).requester_id
    base = next(iter(target.header.bar_ranges().values())).start
    seeds = [
        config_read(8, 1, requester_id, 0x10, 4).encode(),
        config_write(8, 1, requester_id, 4, 2, 6).encode(),
        config_read(8, 1, 0xBEEF, 0, 4).encode(),
        memory_read(8, 1, base, 64).encode(),
        memory_write(8, 1, base + 8, bytes(16)).encode(),
        completion(8, requester_id, 1, bytes(16)).encode(),
        message(8, 0x54, Routing.LOCAL).encode(),
        b"\x92\0\0\0" + memory_read(8, 1, base, 4).encode(),
    ]

    def code(data: bytes) -> bool:
        answers.clear()
        link.top.send(data)
        return bool(answers)

    return seeds, code


def surfaces() -> Iterator[Surface]:
    """All of them."""
    yield Surface("certificate chains", chains, 1.5)
    yield Surface("chain validation", validation, 0.1)
    yield Surface("certificate requests", requests, 0.5)
    yield Surface("PLDM messages", pldm_messages, 1)
    yield Surface("capture files", pcap_files, 2)
    yield Surface("dissection", dissections, 0.05, selector=1)
    yield Surface("key logs", key_logs, 2)
    yield Surface("sockets", sockets, 1, selector=1)
    yield Surface("DOE mailbox registers", mailbox, 2)
    yield Surface("link frames", link_frames, 2)
