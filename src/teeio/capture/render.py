"""What was dissected, for people and programs: lines of text, and objects for JSON.

The JSON form of a message has `frame`, `direction`, `session`, `version`, `code` and `name` as reference dissectors
give them (session, version and code in hex, names with the prefix SPDM_), then its `fields`, what was found out about
it, and the `connection` and `session_number` that it belongs to.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Any

from teeio.capture.conversation import Conversation
from teeio.capture.dissect import Dissection
from teeio.capture.findings import Verdict
from teeio.capture.framing import Carried
from teeio.capture.message import DissectedMessage, Protection
from teeio.capture.sessions import DissectedSession
from teeio.capture.vendor import VendorMessage
from teeio.crypto.algorithms import Aead, BaseAsym, Dhe, Kem, KeySchedule, PqcAsym
from teeio.errors import DecodeError
from teeio.spdm import messages as m
from teeio.spdm import opaque
from teeio.wire import Field, Record

INDENT = "        "
SHOWN_BYTES = 48
"""Bytes of a blob that the text form shows."""


# -- objects -------------------------------------------------------------------------------------------------------


def as_dict(message: DissectedMessage) -> dict[str, Any]:
    """Give a message as an object of plain values."""
    shown: dict[str, Any] = {
        "frame": message.frame,
        "connection": message.connection,
        "session_number": message.session_number,
        "direction": message.direction.value,
        "session": None if message.session is None else f"{message.session:#010x}",
        "version": None if message.version is None else f"{message.version:02x}",
        "code": None if message.code is None else f"{message.code:#04x}",
        "name": json_name(message),
        "fields": fields(message.message, message.facts.version) if message.message else {},
        "protection": message.protection.value,
    }
    details = _details(message)
    if details:
        shown["details"] = details
    if message.vendor is not None:
        shown["vendor"] = _vendor(message.vendor)
    if message.inner is not None:
        shown["inner"] = as_dict(message.inner)
    if message.findings:
        shown["verification"] = [
            {"check": f.check, "verdict": f.verdict.value, "reason": f.reason} for f in message.findings
        ]
    if message.error:
        shown["error"] = message.error
    if message.trailing:
        shown["trailing"] = message.trailing.hex()
    if message.message is None:
        shown["raw"] = message.raw.hex()
    return shown


def json_name(message: DissectedMessage) -> str | None:
    """Give a message's name with its protocol's prefix, or None for a record that was not opened."""
    if not message.is_spdm:
        return message.name
    return f"SPDM_{message.name}" if message.name else None


def fields(value: Record, version: int = 0) -> dict[str, Any]:
    """Give the fields of a layout that `version` has, as plain values: bytes in hex, enums by name and value."""
    return {f.name: _plain(f, getattr(value, f.name), version) for f in _fields_of(type(value), version)}  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _fields_of(layout: type[Record], version: int) -> tuple[Field, ...]:
    return tuple(f for f in layout.FIELDS if f.stored and f.present(version))


def _plain(declared: Field, value: Any, version: int) -> Any:
    if isinstance(value, Record):
        return fields(value, version)
    if isinstance(value, tuple):
        return [_plain(declared, item, version) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, IntEnum | IntFlag):
        return {"name": value.name or "none", "value": int(value)}
    if declared.enum is not None and value is not None:
        return {"name": None, "value": int(value)}
    return value


def _vendor(vendor: VendorMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {"protocol": vendor.protocol, "name": vendor.name}
    shown["fields"] = fields(vendor.message) if vendor.message else {}
    if vendor.structure is not None:
        shown["structure"] = fields(vendor.structure)
    if vendor.error:
        shown["error"] = vendor.error
    if vendor.message is None:
        shown["raw"] = vendor.raw.hex()
    return shown


def _details(message: DissectedMessage) -> dict[str, Any]:
    """Read the structures inside a message's blobs."""
    found, version = message.message, message.facts.version
    try:
        if isinstance(found, m.Measurements) and found.record:
            return {"blocks": [fields(block, version) for block in found.blocks()]}
        if isinstance(found, m.KeyExchange | m.PskExchange) and found.opaque:
            return {"secured_versions": [_version(entry) for entry in opaque.decode_supported(version, found.opaque)]}
        if isinstance(found, m.KeyExchangeRsp | m.PskExchangeRsp) and found.opaque:
            selected = opaque.decode_selected(version, found.opaque)
            return {} if selected is None else {"secured_version": _version(selected)}
        if isinstance(found, m.VersionResponse):
            return {"versions": [_version(entry) for entry in found.entries]}
        if isinstance(found, m.NegotiateAlgorithms | m.Algorithms):
            return {"algorithms": {_alg_type(table): _named(table) for table in found.tables}} if found.tables else {}
    except DecodeError as error:
        return {"error": str(error)}
    return {}


def _version(entry: int) -> str:
    return f"{entry >> 12}.{entry >> 8 & 0xF}"


_ALGORITHMS: dict[int, type[IntFlag]] = {
    m.AlgType.DHE: Dhe,
    m.AlgType.AEAD: Aead,
    m.AlgType.REQ_BASE_ASYM: BaseAsym,
    m.AlgType.KEY_SCHEDULE: KeySchedule,
    m.AlgType.REQ_PQC_ASYM: PqcAsym,
    m.AlgType.KEM: Kem,
}
"""What the bits of an algorithm table mean."""


def _alg_type(table: m.AlgorithmTable) -> str:
    return m.AlgType(table.alg_type).name if table.alg_type in _ALGORITHMS else f"{int(table.alg_type):#04x}"


def _named(table: m.AlgorithmTable) -> dict[str, Any]:
    kind = _ALGORITHMS.get(int(table.alg_type))
    name = (kind(table.supported).name or "none") if kind else None
    return {"name": name, "value": table.supported}


def json_lines(dissection: Dissection) -> Iterator[str]:
    """Yield one JSON object a line for every SPDM message; records that were not opened have no code and no name."""
    for message in dissection.messages:
        if message.is_spdm:
            yield json.dumps(as_dict(message))


# -- text ----------------------------------------------------------------------------------------------------------


def text_lines(dissection: Dissection, *, with_fields: bool = True) -> Iterator[str]:
    """Yield every frame as a line, its fields below it."""
    for message in dissection.messages:
        yield headline(message)
        if with_fields:
            yield from _body(message, INDENT)
        else:
            yield from (f"{INDENT}{finding}" for finding in message.findings if finding.verdict is not Verdict.OK)


def headline(message: DissectedMessage) -> str:
    """Give a message in one line: frame, connection, direction, session (number and id), version, title."""
    session = "-" if message.session is None else f"{message.session:#010x}"
    if message.session_number is not None:
        session = f"s{message.session_number} {session}"
    connection = "-" if message.connection is None else f"c{message.connection}"
    version = "-" if message.version is None else f"{message.version >> 4}.{message.version & 0xF}"
    return f"{message.frame:6}  {connection:3} {message.direction.value}  {session:13}  {version:4} {_title(message)}"


def _title(message: DissectedMessage) -> str:
    size = f"{len(message.raw)} bytes"
    if message.protection is Protection.UNOPENED:
        return f"(secured message, {size}, not opened: {message.error})"
    if message.carried is Carried.BROKEN:
        return f"(broken frame, {size}: {message.error})"
    named = message.name or "(no message)"
    if message.vendor is not None:
        named += f" / {message.vendor.protocol} {message.vendor.name}"
    if message.inner is not None and message.inner.name:
        named += f" / {message.inner.name}"
    how = "" if message.protection is Protection.CLEAR else f", {message.protection.value}"
    return f"{named} ({size}{how})" + (f": {message.error}" if message.error else "")


def _body(message: DissectedMessage, indent: str) -> Iterator[str]:
    if message.message is not None:
        yield from _lines(fields(message.message, message.facts.version), indent)
    yield from _lines(_details(message), indent)
    if message.vendor is not None:
        vendor = _vendor(message.vendor)
        yield f"{indent}{vendor['protocol']} {vendor['name']}" + (f": {vendor['error']}" if "error" in vendor else "")
        yield from _lines(vendor["fields"], indent + "    ")
        yield from _lines(vendor.get("structure", {}), indent + "    ")
    if message.trailing:
        yield f"{indent}{len(message.trailing)} bytes more: {_bytes(message.trailing.hex())}"
    yield from (f"{indent}{finding}" for finding in message.findings)
    if message.inner is not None:
        yield f"{indent}inside: {_title(message.inner)}"
        yield from _body(message.inner, indent + "    ")


def _lines(values: dict[str, Any], indent: str) -> Iterator[str]:
    for name, value in values.items():
        yield from _line(name, value, indent)


def _line(name: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and set(value) == {"name", "value"}:
        yield f"{indent}{name}: {value['name'] or 'unknown'} ({value['value']:#x})"
    elif isinstance(value, dict):
        yield f"{indent}{name}:"
        yield from _lines(value, indent + "    ")
    elif isinstance(value, list):
        if all(isinstance(item, int | str) for item in value):
            yield f"{indent}{name}: {', '.join(_scalar(item) for item in value) or '(none)'}"
        else:
            for at, item in enumerate(value):
                yield from _line(f"{name}[{at}]", item, indent)
    else:
        yield f"{indent}{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _bytes(value) if value else "(empty)"
    if isinstance(value, int) and abs(value) > 9:
        return f"{value} ({value:#x})"
    return str(value)


def _bytes(text: str) -> str:
    if len(text) <= 2 * SHOWN_BYTES:
        return text
    return f"{text[: 2 * SHOWN_BYTES]}... ({len(text) // 2} bytes)"


def summary(dissection: Dissection) -> list[str]:
    """Say in a few lines what the capture holds and how verification came out."""
    messages = [message for message in dissection.messages if message.is_spdm]
    unopened = sum(message.protection is Protection.UNOPENED for message in messages)
    undecoded = sum(message.message is None for message in messages) - unopened
    counts = Counter(finding.verdict for _, finding in dissection.findings())
    verdicts = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
    lines = [
        f"{len(dissection.messages)} frames, {len(messages)} SPDM messages, {len(dissection.sessions)} sessions",
        f"{unopened} records not opened, {undecoded} messages not decoded",
        f"verified: {verdicts}",
    ]
    for connection in dissection.connections:
        lines.append(_connection_line(connection))
        lines += [_session_line(one) for one in dissection.sessions if one.connection == connection.number]
    lines += [f"frame {frame}: {finding}" for frame, finding in dissection.wrong()]
    return lines + dissection.problems + dissection.notes


def _connection_line(c: Conversation) -> str:
    version = c.negotiated.connection.version
    negotiated = f", SPDM {version >> 4}.{version & 0xF}" if version else ""
    ends = f" ({c.ends})" if c.ends else ""
    begins = "" if c.whole else ", begun before the capture"
    return f"connection {c.number}{ends}: frames {c.first_frame} to {c.last_frame}{negotiated}{begins}"


def _session_line(s: DissectedSession) -> str:
    kind = "PSK" if s.psk else "key exchange"
    how = f"{s.opened} records opened" + (f", {len(s.unopened)} not" if s.unopened else "")
    proof = "" if s.proven else ", its secrets not proven"
    return (
        f"    session {s.number}: {s.session_id:#010x}, {kind}, frames {s.first_frame} to {s.last_frame}, {how}{proof}"
    )


def summary_dict(dissection: Dissection) -> dict[str, Any]:
    """Give the connections and sessions of a capture, and what is said of it, as an object of plain values."""
    return {
        "connections": [
            {
                "number": c.number,
                "ends": c.ends,
                "whole": c.whole,
                "first_frame": c.first_frame,
                "last_frame": c.last_frame,
                "version": f"{c.negotiated.connection.version:02x}" if c.negotiated.connection.version else None,
            }
            for c in dissection.connections
        ],
        "sessions": [
            {
                "number": s.number,
                "connection": s.connection,
                "session": f"{s.session_id:#010x}",
                "psk": s.psk,
                "first_frame": s.first_frame,
                "last_frame": s.last_frame,
                "opened": s.opened,
                "unopened": len(s.unopened),
                "proven": s.proven,
            }
            for s in dissection.sessions
        ],
        "problems": dissection.problems,
        "notes": dissection.notes,
    }
