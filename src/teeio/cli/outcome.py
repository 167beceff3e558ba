"""How commands end: exit codes, and errors as one message each instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from teeio.errors import (
    AuthenticationFailed,
    DecodeError,
    ErrorResponse,
    Incompatible,
    Misuse,
    PeerViolation,
    TeeioError,
    TransportError,
)


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BAD_INPUT = 3
    NO_PEER = 4
    INTERRUPTED = 130


EXIT_MEANINGS = {
    Exit.OK: "done, and everything that was checked holds",
    Exit.FAILED: "the peer refused, violated a rule or could not be authenticated, or a verdict is not accept",
    Exit.USAGE: "the command line is wrong",
    Exit.BAD_INPUT: "a file or a message cannot be read, or the keys do not fit",
    Exit.NO_PEER: "the peer cannot be reached, vanished, or talks something else",
    Exit.INTERRUPTED: "interrupted from the keyboard",
}

_BLAME: tuple[tuple[type[TeeioError], str, Exit], ...] = (
    (TransportError, "no connection", Exit.NO_PEER),
    (DecodeError, "cannot be decoded", Exit.BAD_INPUT),
    (AuthenticationFailed, "not authentic", Exit.FAILED),
    (ErrorResponse, "the peer refused", Exit.FAILED),
    (PeerViolation, "the peer broke a rule", Exit.FAILED),
    (Incompatible, "nothing in common", Exit.FAILED),
    (Misuse, "cannot be done", Exit.USAGE),
)


def complain(text: str, remedy: str = "") -> None:
    """Write one error message to standard error."""
    print(f"teeio: {text}", file=sys.stderr)  # noqa: T201
    if remedy:
        print(f"       {remedy}", file=sys.stderr)  # noqa: T201


@contextmanager
def reported() -> Iterator[None]:
    """Turn what a command raises into one message and an exit code."""
    try:
        yield
    except TeeioError as error:
        for kind, title, code in _BLAME:
            if isinstance(error, kind):
                complain(f"{title}: {error}", error.remedy)
                raise typer.Exit(code) from None
        raise
    except BrokenPipeError:
        # Whoever reads has enough; the interpreter must not complain about it either when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.OK) from None
    except OSError as error:
        complain(f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}")
        raise typer.Exit(Exit.BAD_INPUT) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
