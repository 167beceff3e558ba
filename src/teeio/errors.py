"""The errors of teeio, named by who is to blame.

Every refusal says what is wrong, where, by which rule, and what to do next. Nothing else than these is raised on purpose:
a decoder raises only `DecodeError`, a responder raises nothing at all on what a peer sends.
"""

from __future__ import annotations


class TeeioError(Exception):
    """Base of all errors that teeio raises on purpose.

    `remedy` is one sentence on what the reader can do about it, or "".
    """

    remedy: str

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class DecodeError(TeeioError):
    """The peer's bytes do not parse.

    `record` and `field` name the declaration, `offset` counts bytes from the start of the decoded buffer.
    """

    def __init__(self, record: str, field: str, offset: int, reason: str, *, remedy: str = "") -> None:
        super().__init__(f"{record}.{field} at byte {offset}: {reason}", remedy=remedy)
        self.record = record
        self.field = field
        self.offset = offset
        self.reason = reason


class PeerViolation(TeeioError):
    """The peer's message parses but is illegal at this point; `clause` names the rule."""

    def __init__(self, message: str, clause: str, *, remedy: str = "") -> None:
        super().__init__(f"{message} ({clause})", remedy=remedy)
        self.clause = clause


class ErrorResponse(TeeioError):
    """The peer answered with its protocol's ERROR message; `code` and `data` are its fields."""

    def __init__(self, message: str, code: int, data: int = 0, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code
        self.data = data


class AuthenticationFailed(TeeioError):
    """A signature, MAC, certificate chain or digest did not verify."""


class Incompatible(TeeioError):
    """The two sides have no version, capability or algorithm in common."""


class Misuse(TeeioError):
    """Our own caller asked for something that cannot be done."""


class Busy(Misuse):
    """What was asked for can be done, but not now: something else is under way, and nothing was changed."""


class TransportError(TeeioError):
    """The way to the peer failed: closed, refused, timed out, or framed wrongly."""


class Reject(Exception):
    """Raised by a responder's handler to answer with its protocol's ERROR message; never leaves the responder.

    `code` is the error code of that protocol, `data` its error data, `clause` the rule, for observers.
    """

    def __init__(self, code: int, clause: str, data: int = 0, extended: bytes = b"") -> None:
        super().__init__(f"error {code:#x}: {clause}")
        self.code = code
        self.clause = clause
        self.data = data
        self.extended = extended
