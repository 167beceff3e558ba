"""The DMTF reference emulator's two programs, each run in a private copy of its folder.

The emulator finds its keys in the working folder and writes there too, so a run has a folder of its own, with links. Its exit
code says too little: success is exit code 0, an empty standard error and no usage text.
"""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from teeio.errors import Misuse, TransportError

REQUESTER = "spdm_requester_emu"
RESPONDER = "spdm_responder_emu"
USAGE = "[--trans MCTP|PCI_DOE|TCP|NONE]"
"""How the usage text begins; it comes with exit code 0 for any argument that the emulator does not know."""
CONNECTED = "connect success"
"""What the requester says as soon as it has a connection."""
KEY_FOLDERS = ("ecp", "rsa", "ed", "mldsa")
START_SECONDS = 20.0
RUN_SECONDS = 120.0
TAIL = 12
"""Lines of output that a failure shows."""


@dataclass(slots=True)
class Program:
    """One of the two programs, started in `folder`."""

    name: str
    arguments: list[str]
    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self._log("out").open("wb") as out, self._log("err").open("wb") as err:
            self.process = subprocess.Popen(  # noqa: S603
                [f"./{self.name}", *self.arguments], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def _log(self, stream: str) -> Path:
        return self.folder / f"{self.name}.{stream}"

    def text(self, stream: str) -> str:
        """Give what the program has written to "out" or "err"."""
        return self._log(stream).read_text(errors="replace")

    @property
    def command(self) -> str:
        """The command line."""
        return shlex.join([f"./{self.name}", *self.arguments])

    def last_lines(self) -> list[str]:
        """Give the end of what the program wrote."""
        return [*self.text("out").splitlines()[-TAIL:], *self.text("err").splitlines()[-TAIL:]]

    def finish(self) -> None:
        """Wait for a complete run. Raises `TransportError` for anything else."""
        try:
            code = self.process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise TransportError(f"{self.name} did not end in {RUN_SECONDS:g} s") from None
        if self.text("err"):
            raise TransportError(f"{self.name} wrote to its standard error: {self.text('err').splitlines()[0]}")
        if USAGE in self.text("out"):
            raise TransportError(f"{self.name} does not know one of its arguments and printed its usage")
        if code:
            raise TransportError(f"{self.name} ended with exit code {code}")

    def kill(self) -> None:
        """End the program if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Workplace:
    """A private copy of the emulator's folder; `programs` are those that were started in it."""

    folder: Path
    programs: list[Program] = field(default_factory=list)

    def start(self, name: str, port: int, options: Sequence[str]) -> Program:
        """Start one of the programs."""
        program = Program(name, ["--port", str(port), *options], self.folder)
        self.programs.append(program)
        return program

    def request(self, port: int, options: Sequence[str]) -> None:
        """Run the requester to its end. Raises `TransportError` unless it completes."""
        program = self.start(REQUESTER, port, options)
        program.finish()
        if CONNECTED not in program.text("out"):
            raise TransportError(f"{REQUESTER} did not connect")

    @contextmanager
    def responder(self, options: Sequence[str]) -> Iterator[int]:
        """Run the responder and give its port; at the end it must have completed. Raises `TransportError`."""
        port = free_port()
        program = self.start(RESPONDER, port, options)
        wait_for_listener(port, program)
        yield port
        program.finish()

    def end(self) -> None:
        """End whatever still runs."""
        for program in self.programs:
            program.kill()


@dataclass(frozen=True, slots=True)
class Peer:
    """A built emulator: the folder `bin` with its programs and sample keys."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Peer:
        """Take the emulator in `folder`. Raises `Misuse` if there is none."""
        for name in (REQUESTER, RESPONDER):
            if not (folder / name).is_file():
                raise Misuse(
                    f"{folder} has no {name}", remedy="give the bin folder of a built spdm-emu with its sample keys"
                )
        return cls(folder.resolve())

    @contextmanager
    def workplace(self) -> Iterator[Workplace]:
        """Give a private copy, which is gone afterwards with all that runs in it."""
        with tempfile.TemporaryDirectory(prefix="teeio-interop-") as name:
            place = self.lay_out(Path(name))
            try:
                yield place
            finally:
                place.end()

    def lay_out(self, folder: Path, *, copied: bool = False) -> Workplace:
        """Put into `folder` what a run needs: links, or copies where the keys are to be changed."""
        for item in self.folder.iterdir():
            if item.name in (REQUESTER, RESPONDER) or (item.is_dir() and not copied):
                (folder / item.name).symlink_to(item)
            elif item.is_dir() and item.name.startswith(KEY_FOLDERS):
                shutil.copytree(item, folder / item.name)
        return Workplace(folder)

    def build(self) -> dict[str, str]:
        """Tell what is known about the build: commits and the cryptographic library, as far as it lies in its sources."""
        facts = {}
        for title, folder in (("spdm-emu", self.folder), ("libspdm", self.folder.parent.parent / "libspdm")):
            commit = _commit(folder)
            if commit:
                facts[title] = commit
        cache = self.folder.parent / "CMakeCache.txt"
        if cache.is_file():
            settings = dict(re.findall(r"^(CRYPTO|CMAKE_BUILD_TYPE):\w+=(.*)$", cache.read_text(), re.MULTILINE))
            facts["cryptography"] = settings.get("CRYPTO", "")
            facts["build"] = settings.get("CMAKE_BUILD_TYPE", "")
        return {title: value for title, value in facts.items() if value}


def _commit(folder: Path) -> str:
    if not folder.is_dir():
        return ""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


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


def wait_for_listener(port: int, program: Program) -> None:
    """Wait until `program` listens. Raises `TransportError`."""
    deadline = time.monotonic() + START_SECONDS
    while not listening(port):
        if program.process.poll() is not None:
            program.finish()
            raise TransportError(f"{program.name} ended before it listened")
        if time.monotonic() > deadline:
            raise TransportError(f"{program.name} does not listen after {START_SECONDS:g} s")
        time.sleep(0.02)
