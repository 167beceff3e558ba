"""SPDM: CPU of a P-384 flow in both roles, messages decoded and decrypted, sessions a second of one responder process.

    PYTHONPATH=src:tests python bench/spdm.py [--json] [--capture FILE.pcap --keys FILE]

With TEEIO_SPDM_EMU (the bin folder of a built spdm-emu) the flow is compared with the reference emulator's, measured by the resource usage
of its two processes; with TEEIO_SPDM_DUMP (the reference dissector) decoding is compared too.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import Figures, cpu, options

from interop.reference_emulator import INSTALLED, WHY_NOT, free_port, listening, private_copy
from load_client import Client
from teeio.capture.dissect import decode_capture, dissect
from teeio.capture.keylog import parse_key_log
from teeio.capture.pcap import LinkType, read_pcap
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, BaseHash, Dhe
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.key_exchange import exchange_for
from teeio.crypto.keys import SigningKey, verify
from teeio.device.profiles import emulator_device
from teeio.flow import Done, Flow, Send
from teeio.mctp import MctpBinding
from teeio.spdm import flows
from teeio.spdm.constants import Version
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import Settings
from teeio.transport.platform_port import PlatformPortServer, TransportType

NOW = 1.8e9
CONNECTIONS = (1, 16, 256)
SESSIONS = 512
EMULATOR_RUNS = 5
DUMP = os.environ.get("TEEIO_SPDM_DUMP", "")


# -- the flow ------------------------------------------------------------------------------------------------------------


class Ends:
    """A requester and a responder of a device, joined by function calls, each with its own CPU account."""

    def __init__(self) -> None:
        settings = Settings(versions=(Version.V1_2,)).with_suite(P384_SUITE)
        device = emulator_device(SeededEntropy(b"bench"), NOW)
        self.requester = Requester(MctpBinding(), settings, SeededEntropy(b"requester"))
        self.responder: Responder = device.dsm.responder(MctpBinding())
        self.responding = 0.0

    def run(self, flow: Flow[Any]) -> Any:
        """Run a flow to its end."""
        action = self.requester.start(flow, 0.0)
        while not isinstance(action, Done):
            if not isinstance(action, Send):
                raise SystemExit("the responder is busy")
            begun = time.process_time()
            answer = self.responder.respond(action.frame, 0.0)
            self.responding += time.process_time() - begun
            if answer is None:
                raise SystemExit("the responder stayed silent")
            action = self.requester.receive(answer, 0.0)
        return action.result

    def negotiate(self) -> None:
        """Version, capabilities, algorithms."""
        self.run(flows.connect(self.requester))

    def whole(self) -> None:
        """What the comparison is about: also digests, certificate, challenge, key exchange, end of session."""
        self.negotiate()
        digests = self.run(flows.get_digests())
        self.run(flows.get_certificate(self.requester))
        flows.check_digest(self.requester, digests)
        self.run(flows.challenge(self.requester))
        session = self.run(flows.key_exchange(self.requester))
        self.run(flows.end_session(self.requester, session))


def flow_figures(figures: Figures, seconds: float) -> None:
    """Measure our flow, the P-384 operations in it, and the emulator's flow where it is installed."""
    ends = Ends()
    whole = cpu(ends.whole, seconds)
    ends.responding, count = 0.0, 20
    for _ in range(count):
        ends.whole()
    responding = ends.responding / count
    negotiation = cpu(ends.negotiate, seconds / 2)
    ours = figures.measure("P-384 flow less negotiation, both roles", (whole - negotiation) * 1e3, "ms of CPU")
    figures.ratio("responder's part of the whole flow", responding / whole)
    floor = figures.measure("P-384 operations of the flow alone", primitives(seconds) * 1e3, "ms of CPU")
    figures.ratio("flow, to its P-384 operations alone", ours / floor)
    if not INSTALLED:
        figures.note(f"the reference emulator's flow: {WHY_NOT}")
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = private_copy(Path(folder))
        full, least = (emulator_cpu(copy, steps) for steps in (FULL, LEAST))
    theirs = figures.measure("the reference emulator's flow, both roles", (full - least) * 1e3, "ms of CPU")
    figures.ratio(
        "flow, to the reference emulator's", ours / theirs, "at most 0.25 of its mbedtls, 0.5 of its OpenSSL build"
    )


def primitives(seconds: float) -> float:
    """Give the CPU of two key pairs, two agreements, two signatures and their verifications."""
    entropy = SeededEntropy(b"primitives")
    key = SigningKey.generate(BaseAsym.ECDSA_P384, entropy)
    public = key.public

    def once() -> None:
        left, right = exchange_for(Dhe.SECP384R1, entropy), exchange_for(Dhe.SECP384R1, entropy)
        left.agree(right.exchange_data)
        right.agree(left.exchange_data)
        for _ in range(2):
            signature = key.sign(b"transcript", BaseHash.SHA_384)
            verify(public, BaseAsym.ECDSA_P384, b"transcript", signature, BaseHash.SHA_384)

    return cpu(once, seconds)


COMMON = (
    "--trans MCTP --ver 1.2 --hash SHA_384 --asym ECDSA_P384 --dhe SECP_384_R1 --aead AES_256_GCM --slot_count 1 "
    "--mut_auth NO --basic_mut_auth NO --meas_sum NO"
)
FULL = "--exe_conn DIGEST,CERT,CHAL --exe_session KEY_EX"
LEAST = "--exe_conn VCA --exe_session NO_END"


def emulator_cpu(folder: Path, steps: str) -> float:
    """Give the CPU seconds of both emulator processes for one run; the mean of several."""
    before = _children()
    for _ in range(EMULATOR_RUNS):
        port = free_port()
        words = [*COMMON.split(), *steps.split()]
        responder = subprocess.Popen(
            ["./spdm_responder_emu", "--port", str(port), *words],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while not listening(port):
                if time.monotonic() > deadline:
                    raise SystemExit("the reference responder does not listen")
                time.sleep(0.02)
            done = subprocess.run(
                ["./spdm_requester_emu", "--port", str(port), *words], cwd=folder, capture_output=True, timeout=60
            )
            if done.returncode or done.stderr:
                raise SystemExit(f"the reference emulator failed: {done.stderr.decode(errors='replace')[:300]}")
            responder.wait(20)
        finally:
            responder.kill()
            responder.wait()
    return (_children() - before) / EMULATOR_RUNS


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# -- captures --------------------------------------------------------------------------------------------------------------


def capture_figures(figures: Figures, seconds: float, pcap: Path | None, keys: Path | None) -> None:
    """Measure messages decoded and decrypted a second, verification included."""
    if pcap is None:
        from capture_files import REFERENCE, recorded

        pcap = REFERENCE / "doe-1.2-p384-tdisp.pcap"
        keys = pcap.with_suffix(".json")
        data, text = (pcap.read_bytes(), keys.read_text()) if pcap.exists() else recorded(LinkType.PCI_DOE)
    else:
        data, text = pcap.read_bytes(), keys.read_text() if keys else ""
    found = decode_capture(data, text or None)
    messages = len(found.messages)
    capture, log = read_pcap(data), parse_key_log(text) if text else None
    spent = cpu(lambda: dissect(capture, log), seconds)
    checks = sum(1 for _ in found.findings())
    rate = figures.measure("messages decoded, decrypted and verified", messages / spent, "a second of CPU")
    figures.measure("  messages in the capture", messages, f"with {checks} verified values")
    if not DUMP or pcap is None or not Path(DUMP).is_file():
        figures.note("the reference dissector: TEEIO_SPDM_DUMP does not name it")
        return
    before = _children()
    for _ in range(EMULATOR_RUNS):
        subprocess.run([DUMP, "-r", str(pcap)], capture_output=True, timeout=60, check=False)
    theirs = messages / ((_children() - before) / EMULATOR_RUNS)
    figures.measure("messages of the reference dissector", theirs, "a second of CPU")
    figures.ratio("messages a second, to the reference dissector", rate / theirs, "at least 1")


# -- many connections ------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Be the responder process: say the port, serve until standard input ends."""
    device = emulator_device(SeededEntropy(b"bench"), time.time())

    def accept() -> tuple[Callable[[bytes], bytes | None], Callable[[], None]]:
        responder = device.dsm.responder(MctpBinding())
        return (lambda frame: responder.respond(frame, time.monotonic())), lambda: device.dsm.disconnect(responder)

    async def main() -> None:
        server = asyncio.create_task(
            PlatformPortServer(TransportType.MCTP, accept).serve("127.0.0.1", 0, lambda port: print(port, flush=True))
        )
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.cancel()

    asyncio.run(main())


class Server:
    """The responder process, seen from outside."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self.process.stdout is None:
            raise SystemExit("no standard output")
        self.port = int(self.process.stdout.readline())

    def cpu(self) -> float:
        """Give its CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Give its resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(10)


async def sessions(server: Server, connections: int) -> tuple[float, float, float]:
    """Open and end sessions on so many connections at once; give wall and responder's CPU seconds of one, bytes of a connection."""
    warm = await Client.connect(server.port, -1)
    await warm.live()
    await warm.close()
    before = server.memory()
    clients = [await Client.connect(server.port, number) for number in range(connections)]
    await asyncio.gather(*(client.authenticate() for client in clients))
    opened = await asyncio.gather(*(client.run(flows.key_exchange(client.requester)) for client in clients))
    memory = (server.memory() - before) / connections
    for client, session in zip(clients, opened, strict=True):
        await client.run(flows.end_session(client.requester, session))
    each = max(1, SESSIONS // connections)

    async def work(client: Client) -> None:
        for _ in range(each):
            session = await client.run(flows.key_exchange(client.requester))
            await client.run(flows.end_session(client.requester, session))

    wall, used = time.perf_counter(), server.cpu()
    await asyncio.gather(*(work(client) for client in clients))
    count = each * connections
    result = (time.perf_counter() - wall) / count, (server.cpu() - used) / count, memory
    for client in clients:
        await client.close()
    return result


def connection_figures(figures: Figures) -> None:
    """Measure sessions a second of one responder process, by connections, and memory of a connection."""
    if not Path("/proc/self/statm").exists():
        figures.note("sessions a second: there is no /proc")
        return
    rates = {}
    for connections in CONNECTIONS:
        server = Server()
        try:
            wall, used, memory = asyncio.run(sessions(server, connections))
        finally:
            server.close()
        rates[connections] = 1 / used
        figures.measure(f"sessions, {connections} connections", 1 / wall, "a second, client beside it")
        figures.measure(f"sessions by CPU, {connections} connections", 1 / used, "a second of responder's CPU")
        if connections > 1:
            figures.measure(f"memory of a connection, of {connections}", memory / 1024, "KiB, one session open")
    for connections in CONNECTIONS[1:]:
        name = f"sessions by CPU with {connections} connections, to one connection"
        figures.ratio(name, rates[connections] / rates[1], "at least 0.8")


def main() -> None:
    """Measure."""
    if sys.argv[1:] == ["--serve"]:
        serve()
        return
    chosen = options(
        "SPDM: flow, dissection, connections.",
        ("--capture", {"type": Path, "help": "pcap file to dissect instead of a reference capture"}),
        ("--keys", {"type": Path, "help": "its key log"}),
    )
    figures = Figures("SPDM")
    flow_figures(figures, chosen.seconds)
    capture_figures(figures, chosen.seconds, chosen.capture, chosen.keys)
    connection_figures(figures)
    figures.show(chosen.json)


if __name__ == "__main__":
    main()
