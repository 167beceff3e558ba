"""Running the DMTF reference emulator's two programs, each in a private copy of its folder."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(os.environ.get("TEEIO_SPDM_EMU", "/nonexistent"))
INSTALLED = (BIN / "spdm_requester_emu").is_file()
WHY_NOT = "TEEIO_SPDM_EMU does not name the bin folder of a built spdm-emu"
KEY_FOLDERS = ("ecp", "rsa", "ed", "mldsa")


def private_copy(folder: Path) -> Path:
    """Copy what a run needs: the emulator finds its keys in, and writes to, the working folder."""
    for item in BIN.iterdir():
        if item.is_dir() and item.name.startswith(KEY_FOLDERS):
            shutil.copytree(item, folder / item.name)
        elif item.name.startswith("spdm_") and item.is_file():
            shutil.copy(item, folder / item.name)
    return folder


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Look without connecting: a connection without a greeting would end the emulator."""
    wanted = f":{port:04X}"
    return any(
        fields[1].endswith(wanted) and fields[3] == "0A"
        for fields in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    )


@contextmanager
def reference_responder(folder: Path, options: str) -> Iterator[int]:
    """Run the responder; at the end it must have completed with empty standard error."""
    port = free_port()
    process = subprocess.Popen(
        ["./spdm_responder_emu", "--port", str(port), *options.split()],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 10
        while not listening(port):
            assert time.monotonic() < deadline, "the reference responder does not listen"
            time.sleep(0.02)
        yield port
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()


def reference_requester(folder: Path, port: int, options: str) -> None:
    """Run the requester: it must complete with empty standard error."""
    done = subprocess.run(
        ["./spdm_requester_emu", "--port", str(port), *options.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "connect success" in done.stdout
