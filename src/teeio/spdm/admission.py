"""Whether a responder admits a request: everything that is looked at before its layout.

Order of the checks (DSP0274, "ERROR"): header, version, known code, capability, session, phase, what is under way, size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from teeio.errors import Reject
from teeio.spdm import messages as m
from teeio.spdm.call import Call
from teeio.spdm.constants import ErrorCode, Version
from teeio.spdm.encapsulation import hold_up
from teeio.spdm.rules import Phase, Refusal, refusal

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder

_CODES = {
    Refusal.UNKNOWN: ErrorCode.UNSUPPORTED_REQUEST,
    Refusal.NO_CAPABILITY: ErrorCode.UNSUPPORTED_REQUEST,
    Refusal.SESSION_REQUIRED: ErrorCode.SESSION_REQUIRED,
    Refusal.PLACE: ErrorCode.UNEXPECTED_REQUEST,
    Refusal.PHASE: ErrorCode.UNEXPECTED_REQUEST,
}


def admit(r: Responder, call: Call) -> int:
    """Give the code of a request that may be read, or refuse. Raises `DecodeError` where there is no header."""
    header = m.header(call.request)
    _take_up(r, header, call)
    _check_version(r, header)
    c = r.connection
    place = call.session.place if call.session else c.outside
    why = refusal(header.code, c.version, c.phase, place, c.responder_capabilities, c.requester_capabilities)
    if why is not None:
        code = _CODES[why]
        data = header.code if code is ErrorCode.UNSUPPORTED_REQUEST else 0
        raise Reject(code, f"{m.name_of(header.code)}: {why.value}", data)
    hold_up(r, header.code)
    r.large_at(call).check_uninterrupted(header.code)
    # What is wrong with a CHUNK_SEND is told in its acknowledgement.
    padding = r.binding.max_transport_padding if call.session is None else 0
    if header.code != m.ChunkSend.CODE and r.exceeds_transfer(call, padding):
        raise Reject(ErrorCode.REQUEST_TOO_LARGE, f"{len(call.request)} bytes (DSP0274 DataTransferSize)")
    return header.code


def _take_up(r: Responder, header: m.Header, call: Call) -> None:
    """Go on with a preserved connection where PSK_EXCHANGE comes right after VERSION."""
    kept = r.preserved
    quick = header.code == m.PskExchange.CODE and r.connection.phase is Phase.VERSION_DONE
    if quick and kept is not None and header.version == kept.version:
        call.before, r.connection = r.connection, kept


def _check_version(r: Responder, header: m.Header) -> None:
    if header.code == m.GetVersion.CODE:
        expected: tuple[int, ...] = (Version.V1_0,)
    elif header.code == m.GetCapabilities.CODE:
        expected = r.settings.versions
    else:
        expected = (r.connection.version,)
    if header.version not in expected:
        raise Reject(
            ErrorCode.VERSION_MISMATCH, f"SPDMVersion {header.version:#04x} is not in use (DSP0274 SPDMVersion)"
        )
