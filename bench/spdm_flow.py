"""CPU of a P-384 flow in both roles, beside the reference emulator's.

The emulator's is the resource usage of its two processes. Each variable in BUILDS names the bin folder of one build of it.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

from figures import Figures, cpu

from teeio.crypto.algorithms import P384_SUITE, BaseAsym, BaseHash, Dhe
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.key_exchange import exchange_for
from teeio.crypto.keys import SigningKey, verify
from teeio.device.profiles import emulator_device
from teeio.flow import Done, Flow, Send
from teeio.interop.peer import REQUESTER, Peer
from teeio.mctp import MctpBinding
from teeio.spdm import flows
from teeio.spdm.constants import Version
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import Settings

NOW = 1.8e9
BUILDS = ("TEEIO_SPDM_EMU", "TEEIO_SPDM_EMU_OPENSSL")
AIMS = {"mbedtls": 0.25, "openssl": 0.5}
"""Our CPU to the emulator's, by the library that it is built with."""
EMULATOR_RUNS = 10


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
    """Measure our flow, the P-384 operations in it, and the flow of each build of the emulator that is there."""
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
    for variable in BUILDS:
        folder = Path(os.environ.get(variable) or os.devnull)
        if not (folder / REQUESTER).is_file():
            figures.note(f"a reference emulator's flow: {variable} does not name the bin folder of a built spdm-emu")
            continue
        peer = Peer.at(folder)
        library = peer.build().get("cryptography", "unknown")
        full, least = (emulator_cpu(peer, steps) for steps in (FULL, LEAST))
        name = f"the reference emulator's ({library} build)"
        theirs = figures.measure(f"{name} flow, both roles", (full - least) * 1e3, "ms of CPU")
        figures.ratio(f"flow, to {name}", ours / theirs, f"at most {AIMS[library]}" if library in AIMS else "")


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


def emulator_cpu(peer: Peer, steps: str) -> float:
    """Give the CPU seconds of both emulator processes for one run; the mean of several."""
    words = [*COMMON.split(), *steps.split()]
    with peer.workplace() as place:
        before = children_cpu()
        for _ in range(EMULATOR_RUNS):
            with place.responder(words) as port:
                place.request(port, words)
        return (children_cpu() - before) / EMULATOR_RUNS


def children_cpu() -> float:
    """Give the user and system time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
