"""Attacks that the specifications as published let through: entries 42 to 44 (CERT VU#404544, INTEL-SA-01409).

Each is played twice: as published, where it succeeds, and with the rule of `pcie.link_rules` that closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from teeio.abi.operands import PAGE_SIZE
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.tdx.records import IdeStream
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.ide import SYNC_AT, Stream
from teeio.pcie.ide_inbound import Inbound
from teeio.pcie.link import Way
from teeio.pcie.link_rules import LinkRules
from teeio.pcie.tlp import SubStream
from teeio.pcie.transfer import TAGS, Requester
from teeio.platform import Guest, Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.polling import PollingProgram
from teeio.scenarios.scenario import Expected, Outcome, Scenario, nothing, without
from teeio.scenarios.stage import STREAM_ID, Stage
from teeio.tdisp.messages import InterfaceState

OLD, NEW = b"what lay there before " * 3000, b"what the device writes " * 3000
SMALL = 8


class Holding:
    """Somebody on the link, or a switch, who holds frames of one sub-stream on their way up and lets them go later.

    What it needs is in the clear: the IDE prefix, or OHC-C. `passing` frames of the sub-stream go by before the first one is held.
    """

    def __init__(self, stage: Stage, sub_stream: SubStream, passing: int = 0) -> None:
        self.held: list[bytes] = []
        self._stage = stage
        self._sub_stream = sub_stream
        self._passing = passing

    def __call__(self, frame: bytes, way: Way) -> bytes | None:
        """Take a frame."""
        ide = self._stage.link.mode.ide_fields(frame)
        if way is not Way.UP or ide is None or ide.sub_stream != self._sub_stream:
            return frame
        if self._passing:
            self._passing -= 1
            return frame
        self.held.append(frame)
        return None

    def let_go(self) -> None:
        """Deliver what was held, in its order."""
        for frame in self.held:
            self._stage.link.inject(frame, Way.UP)
        self.held.clear()


def _tenant(stage: Stage, name: str, number: int, size: int) -> tuple[Guest, PollingProgram]:
    """Launch a TVM with a VF, bring its interface to RUN, and load its program, with buffers of `size` bytes."""
    guest = stage.launch(name, stage.pf.vfs[number])
    interface = guest.interface()
    with stage.journal.step("TVM", f"{name}: lock, attest, accept, start"):
        interface.bring_up(guest.verifier, TRUSTED_REGISTERS, stage.now())
    return guest, PollingProgram(guest.tvm, interface, size, stage.now())


# -- 42: Forbidden IDE Reordering


def _stale_read(platform: Platform, journal: Journal) -> Outcome:
    """Let a read completion pass the writes that it must push ahead, and the IDE Sync that follows them.

    The Sync has taken the count of those writes off what the completion carries, so nobody can miss them. The job is as
    long as it takes to make a Sync due at its end, with the completion entry.
    """
    stage = Stage(platform, journal)
    outcome = Outcome("held back the device's writes and the IDE Sync after them, and let a read completion pass")
    size = (SYNC_AT - 1) * stage.device.port.max_payload
    new, old = NEW[:size], OLD[:size]
    _, program = _tenant(stage, "TVM", 0, size)
    program.source.write(0, new)
    program.result.write(0, old)
    link = Holding(stage, SubStream.PR, passing=SYNC_AT // 2)
    with stage.attack("link", "hold writes back, let completions pass"), stage.on_the_link(link):
        program.start(stage.now())
        idle = program.idle(stage.now())
        result = program.result.read(0, size)
    outcome.see(f"{len(link.held)} Posted TLPs were held back", bool(link.held))
    seen = f"the TVM {'reads STATUS as idle' if idle else 'gets no answer from STATUS'}"
    outcome.see(
        f"{seen}; what lay there before is {'still' if old[-PAGE_SIZE:] in result else 'no more'} in the result",
        not idle,
    )
    link.let_go()
    root_port = platform.root_complex.fabric.ports[0]
    secure = root_port.ide.is_secure(STREAM_ID)
    outcome.see(f"the stream is {'Secure' if secure else 'Insecure'} at the root port", not secure)
    failed = root_port.config.need(AerCapability).recorded(Uncorrectable.IDE_CHECK_FAILED)
    outcome.see(f"its IDE Check Failed error bit is {int(failed)}", failed)
    outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.ERROR)
    outcome.tdi_states = stage.tdi_states()
    return outcome


# -- 43: Completion Timeout Redirection


def _redirected_completion(platform: Platform, journal: Journal) -> Outcome:
    """Hold a completion until its request has timed out and its tag serves another TVM's request of the same size."""
    stage = Stage(platform, journal)
    outcome = Outcome("held a completion for one TVM until another TVM's request had its tag, and let it go then")
    (_, one), (_, other) = _tenant(stage, "TVM A", 0, SMALL), _tenant(stage, "TVM B", 1, SMALL)
    secret, own = b"A secret", b"B's data"
    one.keep(secret, stage.now())
    other.keep(own, stage.now())
    link = Holding(stage, SubStream.CPL)
    with stage.attack("VMM and switch", "hold a completion, use up the tags, and let another TVM read"):
        with stage.on_the_link(link):
            answer = one.kept(stage.now())
        outcome.see(f"TVM A's read timed out: it has {answer.hex()}", answer == b"\xff" * 8)
        for _ in range(TAGS - 1):  # by reading configuration space, which takes tags of the same root port
            platform.root_complex.vmm.config_read(stage.pf.address, 0, 4)
        with stage.on_the_link(_before_the_next_request(stage, link)):
            got = other.kept(stage.now())
    outcome.see(f"TVM B read {got!r}", got == own)
    aer = platform.root_complex.fabric.ports[0].config.need(AerCapability)
    late = aer.recorded(Uncorrectable.COMPLETION_TIMEOUT) and aer.recorded(Uncorrectable.UNEXPECTED_COMPLETION)
    outcome.see("the root port logged the timeout and an Unexpected Completion", late)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _before_the_next_request(stage: Stage, link: Holding) -> Callable[[bytes, Way], bytes]:
    """Let go what is held when the next request is on the link, before its own completion."""

    def tamper(frame: bytes, way: Way) -> bytes:
        if way is Way.DOWN and stage.link.mode.ide_fields(frame):
            link.let_go()
        return frame

    return tamper


# -- 44: Delayed Posted Redirection


def _delayed_write(platform: Platform, journal: Journal) -> Outcome:
    """Hold writes of one TVM's interface until it belongs to another TVM, and deliver them then."""
    stage = Stage(platform, journal)
    outcome = Outcome("held one TVM's writes on the link until the interface was another TVM's, and let them go then")
    first, program = _tenant(stage, "TVM A", 0, PAGE_SIZE)
    program.source.write(0, NEW[:PAGE_SIZE])
    gpa = program.result.gpa
    link = Holding(stage, SubStream.PR)
    with stage.attack("VMM and switch", "hold the writes of TVM A's job, end TVM A"), stage.on_the_link(link):
        program.start(stage.now())
        platform.shut_down(first)
    outcome.see(f"{len(link.held)} Posted TLPs are held back", bool(link.held))
    second = stage.launch("TVM B", stage.vf)
    interface = second.interface()
    with stage.attack("VMM", "bind the interface to TVM B under the same keys"), _no_new_keys(stage):
        said = stage.refused(lambda: interface.lock(stage.now()))
    outcome.see(f"bound to TVM B under the same keys: {said or 'yes'}", bool(said))
    with journal.step("TVM", "TVM B: lock, attest, accept, start"):
        if not said:
            interface.unlock(stage.now())
        with _no_new_keys(stage, when=not said):
            interface.bring_up(second.verifier, TRUSTED_REGISTERS, stage.now())
    memory = second.tvm.allocate(gpa + PAGE_SIZE)
    memory.write(0, bytes(memory.size))
    with stage.attack("switch", "let the held writes go"):
        link.let_go()
    planted = NEW[:256] in memory.read(0, memory.size)
    outcome.see(f"TVM B's private memory {'holds what TVM A wrote' if planted else 'is as it was'}", not planted)
    outcome.tdi_states = stage.tdi_states()
    return outcome


@contextmanager
def _no_new_keys(stage: Stage, *, when: bool = True) -> Iterator[None]:
    """Let the VMM do without what the TSM asks of it."""
    if not when:
        yield
        return
    with stage.instead(stage.vmm.pci_tsm, "refresh_keys", nothing):
        yield


_REORDERING = "draft ECN IDE TLP Reordering Enhancement: IDE Escort (CVE-2025-9612)"
_TIMEOUT = "updated TDISP guidance: no tag again before late completions are flushed (CVE-2025-9613)"
_REBIND = "updated TDISP guidance: flush and new keys before an interface is bound again (CVE-2025-9614)"
_AS_PUBLISHED = "PCIe Base 6.3 and TDISP as published have no rule against it"

PUBLISHED = (
    Scenario(
        42,
        "stale-read-as-published",
        "a switch lets a read completion pass the writes before it",
        "link",
        "run",
        _AS_PUBLISHED,
        _stale_read,
        options={"link_rules": LinkRules(escorts=False)},
        expected=Expected.SUCCEEDS,
        counterpart="stale-read",
    ),
    Scenario(
        42,
        "stale-read",
        "a switch lets a read completion pass the writes before it; the streams have escorts",
        "link",
        "run",
        _REORDERING,
        _stale_read,
        (
            without("the escorts", Stream, "_owe_escorts", nothing),
            without("the receiver's count of escorts", Inbound, "claim_escort", nothing),
        ),
    ),
    Scenario(
        43,
        "redirected-completion-as-published",
        "a late completion answers another TVM's request",
        "VMM and switch",
        "run",
        _AS_PUBLISHED,
        _redirected_completion,
        options={"link_rules": LinkRules(quarantines_tags=False)},
        expected=Expected.SUCCEEDS,
        counterpart="redirected-completion",
    ),
    Scenario(
        43,
        "redirected-completion",
        "a late completion is to answer another TVM's request; tags that timed out are not used again",
        "VMM and switch",
        "run",
        _TIMEOUT,
        _redirected_completion,
        (without("the root port's quarantine of tags", Requester, "_retire", nothing),),
    ),
    Scenario(
        44,
        "delayed-write-as-published",
        "writes of one TVM's interface arrive when it is another TVM's",
        "VMM and switch",
        "unbind and bind",
        _AS_PUBLISHED,
        _delayed_write,
        options={"link_rules": LinkRules(rekeys_between_bindings=False)},
        expected=Expected.SUCCEEDS,
        counterpart="delayed-write",
    ),
    Scenario(
        44,
        "delayed-write",
        "writes of one TVM's interface are to arrive when it is another TVM's; the TSM wants new keys in between",
        "VMM and switch",
        "unbind and bind",
        _REBIND,
        _delayed_write,
        (without("the TSM's demand for new keys", IdeStream, "check_flushed", nothing),),
    ),
)
