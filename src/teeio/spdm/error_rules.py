"""Which error codes a responder here answers with, since which version, and why it never uses the others.

DSP0274, "Error code and error data". What a version does not define yet is answered with the code that says the nearest thing in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from teeio.errors import Reject
from teeio.spdm.constants import ErrorCode as E
from teeio.spdm.constants import Version


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """A row: `when` it is the answer, or `never` why it never is; before `since`, `before` takes its place."""

    code: E
    when: str = ""
    since: int = Version.V1_0
    before: E = E.UNSPECIFIED
    never: str = ""


_LATER = "public text does not say when a responder must use it (UNCONFIRMED)"

ERROR_RULES = (
    ErrorRule(E.INVALID_REQUEST, "a field, or fields together, are not allowed"),
    ErrorRule(E.INVALID_SESSION, "a record names a session that does not exist", Version.V1_1, E.INVALID_SESSION),
    ErrorRule(E.BUSY, "all CSR tracking tags are in use: one is free after a reset"),
    ErrorRule(E.UNEXPECTED_REQUEST, "the request is not legal at this point"),
    ErrorRule(E.UNSPECIFIED, "our own settings lack what the answer needs, or a version has no code for the reason"),
    ErrorRule(E.DECRYPT_ERROR, "a record, or a proof of FINISH or PSK_FINISH, does not verify", Version.V1_1),
    ErrorRule(E.UNSUPPORTED_REQUEST, "the version or the capabilities do not have the request; its code is the data"),
    ErrorRule(E.REQUEST_IN_FLIGHT, "the responder awaits the answer to an encapsulated request", Version.V1_1),
    ErrorRule(E.INVALID_RESPONSE_CODE, "an encapsulated response is not the one awaited, or is wrong", Version.V1_1),
    ErrorRule(E.SESSION_LIMIT_EXCEEDED, "there are as many sessions as the responder holds", Version.V1_1),
    ErrorRule(E.SESSION_REQUIRED, "the request is legal in a session only", Version.V1_2),
    ErrorRule(E.RESET_REQUIRED, "the change waits for a reset; a CSR's tracking tag is the data (1.3)", Version.V1_2),
    ErrorRule(E.RESPONSE_TOO_LARGE, "the response fits neither at once nor in chunks; its size follows", Version.V1_2),
    ErrorRule(E.REQUEST_TOO_LARGE, "the request is above our DataTransferSize", Version.V1_2),
    ErrorRule(E.LARGE_RESPONSE, "the response must be fetched in chunks; its handle follows", Version.V1_2),
    ErrorRule(
        E.MESSAGE_LOST, since=Version.V1_2, never="the transports here lose no message without losing the connection"
    ),
    ErrorRule(
        E.INVALID_POLICY, "KEY_EXCHANGE or PSK_EXCHANGE is against our policy of mutual authentication", Version.V1_3
    ),
    ErrorRule(E.DATA_TOO_LARGE, "a chain needs the large form of GET_CERTIFICATE; its size follows", Version.V1_4),
    ErrorRule(E.VERSION_MISMATCH, "SPDMVersion is not the one in use"),
    ErrorRule(E.RESPONSE_NOT_READY, "the response is being made; when to ask again follows"),
    ErrorRule(E.REQUEST_RESYNCH, never="a responder here keeps what was negotiated as long as the connection is there"),
    ErrorRule(E.OPERATION_FAILED, "provisioning was asked for rightly and cannot be done", Version.V1_3),
    ErrorRule(E.NO_PENDING_REQUESTS, "nothing is to be asked of the requester", Version.V1_3, E.UNEXPECTED_REQUEST),
    ErrorRule(E.REQUEST_SESSION_TERMINATED, since=Version.V1_4, never=_LATER),
    ErrorRule(E.INVALID_STATE, since=Version.V1_4, never=_LATER),
    ErrorRule(E.VENDOR_DEFINED, never="no vendor's errors are defined here"),
)
"""One row for each error code."""

BY_CODE: Mapping[int, ErrorRule] = {rule.code: rule for rule in ERROR_RULES}
"""The row of an error code."""


def in_version(reject: Reject, version: int) -> Reject:
    """Give a refusal as `version` can say it; what it has no code for comes without further data."""
    rule = BY_CODE.get(reject.code)
    if rule is None or version >= rule.since or rule.before == reject.code:
        return reject
    return Reject(rule.before, reject.clause)
