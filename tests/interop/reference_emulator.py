"""The DMTF reference emulator for tests: where it is, and its two programs with options as one text."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teeio.interop.peer import REQUESTER, Peer, Workplace

BIN = Path(os.environ.get("TEEIO_SPDM_EMU", "/nonexistent"))
INSTALLED = (BIN / REQUESTER).is_file()
WHY_NOT = "TEEIO_SPDM_EMU does not name the bin folder of a built spdm-emu"


def private_copy(folder: Path) -> Path:
    """Copy what a run needs: the emulator finds its keys in, and writes to, the working folder."""
    return Peer(BIN).lay_out(folder, copied=True).folder


@contextmanager
def reference_responder(folder: Path, options: str) -> Iterator[int]:
    """Run the responder; at the end it must have completed with empty standard error."""
    place = Workplace(folder)
    try:
        with place.responder(options.split()) as port:
            yield port
    finally:
        place.end()


def reference_requester(folder: Path, port: int, options: str) -> None:
    """Run the requester: it must complete with empty standard error."""
    place = Workplace(folder)
    try:
        place.request(port, options.split())
    finally:
        place.end()
