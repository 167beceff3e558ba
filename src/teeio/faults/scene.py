"""A platform whose seams are watched: data objects, calls and frames pass through here, and a fault strikes where it is told to.

Each seam is taken where the platform offers one: the mailbox that the VMM opens, the calls of `abi` where the caller has
its callee, the frames where somebody sits on the link. Data objects go to the device without the register traffic of its
DOE mailbox, unless frames are what is struck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from teeio.abi import CALLS, Boundary, Call, Processor, TvmToTsm, TvmToVmm
from teeio.abi.operands import Actor
from teeio.device.configuration import Configuration
from teeio.errors import TeeioError
from teeio.faults.points import Moment, Point, Seam, Strike
from teeio.faults.standing import Standing, standing
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.config_access import Config, extended_capabilities
from teeio.host.vmm.kvm import GuestMachine
from teeio.host.vmm.mailbox import Mailbox
from teeio.observe import Event, MessageMoved, Observer
from teeio.pcie.capabilities.aer import AerCapability
from teeio.pcie.link import Way, described
from teeio.platform import Platform
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings

T = TypeVar("T")
R = TypeVar("R")

Inflict = Callable[["Scene", Point, Callable[[Any], Any], Any], Any]
"""What a fault does: given what should happen, and with what, it gives what comes of it."""

WITH_ANSWER = ", with an answer"
"""What the name of a call ends with that goes on with the device's answer."""

MEMORY_SIZE = 1 << 20
VFS = 2
ALL_ONES = 0xFFFF_FFFF
HEARTBEAT = 10
"""Heartbeat period of the sessions, seconds."""


class Halted(Exception):
    """The TVM has stopped for good; nothing in it runs on."""


class BrokenOff(Exception):
    """The VMM's procedure has been broken off: it was killed, or has a mistake of its own. No error of the platform's."""


@dataclass(frozen=True, slots=True)
class Held:
    """Something that is under way for longer: `deliver` brings it, before or after the next one of its channel."""

    deliver: Callable[[], object]
    moment: Moment


def channel_of(seam: Seam, name: str) -> str:
    """Tell in what order things come: data objects; TLPs of one direction, those of the stream apart from plain ones."""
    if seam is not Seam.FRAME:
        return str(seam.value)
    return f"{'IDE' if ' IDE ' in name else 'plain'} {name.rpartition(' ')[2]}"


class Scene:
    """A platform with its seams watched.

    `points` are those that were passed, in order; `before` is how the device stood when the fault struck. `healing` ends
    what a fault left on, `borrowed` gives back what it took; `lasting` counts how often it strikes again, by name. `late`
    is an answer that comes in place of the next one; `held` is what comes with the next one of its channel.
    """

    def __init__(self, strike: Strike | None = None, inflict: Inflict | None = None, *, seed: int = 1) -> None:
        self.watch_frames = strike is None or strike.point.seam is Seam.FRAME
        self.with_doe = self.watch_frames and (strike is None or "IDE" not in strike.point.name)
        self.points: list[Point] = []
        self.step = ""
        self.struck = False
        self.halted = False
        self.before: Standing | None = None
        self.lasting: dict[str, int] = {}
        self.late: bytes | None = None
        self.held: dict[str, Held] = {}
        self.healing = ExitStack()
        self.borrowed = ExitStack()
        self.leaks: list[str] = []
        self.secret = b""
        self._strike, self._inflict = strike, inflict
        self._passed: Counter[tuple[Seam, str]] = Counter()
        self._message = ""
        self.platform = Platform.assemble(
            seed=seed,
            memory_size=MEMORY_SIZE,
            configuration=Configuration(
                vfs=VFS, settings=Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=HEARTBEAT)
            ),
            observer=self._told,
        )
        bus = self.platform.vmm.bus
        (self.pf,) = bus.enumerate()
        bus.enable_vfs(self.pf, VFS)
        for config in (self.pf.config, Config(bus.host, self.pf.root_port)):
            status = AerCapability.UNCORRECTABLE_STATUS
            config.write(extended_capabilities(config)[AerCapability.ID] + status.offset, status.size, ALL_ONES)
        self._watch()

    @property
    def vf(self) -> PciFunction:
        """The function that the TVM gets."""
        return self.pf.vfs[0]

    def now(self) -> float:
        """Read the clock."""
        return self.platform.now()

    # -- what passes

    def passes(self, seam: Seam, name: str, act: Callable[[T], R], subject: T) -> R:
        """Let something pass a seam; if this is where the fault strikes, it does."""
        if not self.step:
            return act(subject)
        self._passed[seam, name] += 1
        point = Point(seam, self.step, name, self._passed[seam, name])
        if self._strike is None:
            self.points.append(point)
        elif self._inflict is not None and self._strikes(point):
            result: R = self._inflict(self, point, act, subject)
            return result
        return act(subject)

    def _strikes(self, point: Point) -> bool:
        """Tell whether the fault strikes here: once, and again while it lasts, at what has the same name."""
        if not self.struck and self._strike is not None and point == self._strike.point:
            self.struck, self.before = True, standing(self)
            return True
        left = self.lasting.get(point.name, 0)
        if left:
            self.lasting[point.name] = left - 1
        return left > 0

    @contextmanager
    def _what_was_held(self, channel: str) -> Iterator[None]:
        """Deliver what is held on a channel, before or after what passes inside; its answer is nobody's."""
        held = self.held.pop(channel, None)
        if held is not None and held.moment is Moment.BEFORE:
            held.deliver()
        yield
        if held is not None and held.moment is Moment.AFTER:
            held.deliver()

    def bring_what_is_held(self) -> None:
        """Deliver what is still held when a life is over; only a data object to be overtaken waits for the next one of all."""
        for channel, held in list(self.held.items()):
            if held.moment is Moment.BEFORE or channel != Seam.MESSAGE.value:
                del self.held[channel]
                held.deliver()

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Let what happens inside pass without a fault and without being counted."""
        step, self.step = self.step, ""
        try:
            yield
        finally:
            self.step = step

    def attempt(self, what: Callable[[], object]) -> str:
        """Try something that may be refused; give the refusal."""
        try:
            what()
        except TeeioError as error:
            return str(error)
        return ""

    # -- the seams

    def _watch(self) -> None:
        platform = self.platform
        for row in _calls(Boundary.SEAMCALL):
            self._watch_call(platform.module, row)
        _replace(platform.vmm.pci_tsm, "mailboxes", self._mailbox)
        _replace(platform.module, "guest", partial(self._tdcalls, platform.module.guest))
        _replace(platform.module, "processor", partial(self._processor, platform.module.processor))
        _replace(platform.vmm, "hypercalls", partial(self._hypercalls, platform.vmm.hypercalls))
        platform.link.tamper = self._frame

    def _watch_call(self, callee: object, row: Call) -> None:
        method = getattr(callee, row.method)

        def called(operands: Any, *now: float) -> Any:
            if row.caller is Actor.TVM:
                self._alive()
            name = row.name + (WITH_ANSWER if getattr(operands, "response", None) is not None else "")
            try:
                return self.passes(Seam.CALL, name, lambda given: method(given, *now), operands)
            except BrokenOff:
                # A TVM whose hypercall does not return is never heard of again.
                self.halted = self.halted or row.caller is Actor.TVM
                raise

        _replace(callee, row.method, called)

    def _tdcalls(self, make: Callable[[int], TvmToTsm], tdr: int) -> TvmToTsm:
        calls = make(tdr)
        for row in _calls(Boundary.TDCALL):
            self._watch_call(calls, row)
        return calls

    def _hypercalls(self, make: Callable[[GuestMachine], TvmToVmm], machine: GuestMachine) -> TvmToVmm:
        calls = make(machine)
        for row in _calls(Boundary.HYPERCALL):
            self._watch_call(calls, row)
        return calls

    def _processor(self, make: Callable[[int], Processor], tdr: int) -> Processor:
        return _Stoppable(make(tdr), self._alive)

    def _alive(self) -> None:
        if self.halted and self.step:
            raise Halted

    def _mailbox(self, function: PciFunction, observer: Observer) -> Mailbox:
        mailbox = Mailbox(function, observer)
        mailbox.courier = partial(self._carried, mailbox)
        return mailbox

    def _carried(self, mailbox: Mailbox, data_object: bytes, now: float) -> bytes:
        name, self._message = self._message or "data object", ""
        carry = partial(self.carry, mailbox, now=now)
        late, self.late = self.late, None
        with self._what_was_held(channel_of(Seam.MESSAGE, name)):
            answer = self.passes(Seam.MESSAGE, name, carry, data_object)
        return answer if late is None else late

    def carry(self, mailbox: Mailbox, data_object: bytes, now: float) -> bytes:
        """Take a data object to the device and back."""
        if self.with_doe:
            return mailbox.carry(data_object, now)
        if not self.platform.link.up:
            return b""
        return self.platform.device.responder.respond(data_object, self.platform.device.now) or b""

    def _frame(self, frame: bytes, way: Way) -> bytes | None:
        if self.secret and self.secret in frame:
            self.leaks.append(f"the secret is on the link, {way.value}")
        if not self.watch_frames:
            return frame
        seen = described(frame, "", "", self.platform.link.mode)
        name = f"{seen.kind} {seen.protection} {way.value}"
        with self._what_was_held(channel_of(Seam.FRAME, name)):
            self.passes(Seam.FRAME, name, lambda one: self.platform.link.inject(one, way), frame)
        return None

    def _told(self, event: Event) -> None:
        if isinstance(event, MessageMoved) and event.source == "TPA" and not event.name.startswith("VENDOR_DEFINED"):
            self._message = event.name


class _Stoppable:
    """The loads and stores of a TVM that may have been stopped."""

    def __init__(self, processor: Processor, alive: Callable[[], None]) -> None:
        self._processor, self._alive = processor, alive

    def load(self, gpa: int, size: int) -> bytes:
        """Read."""
        self._alive()
        return self._processor.load(gpa, size)

    def store(self, gpa: int, data: bytes) -> None:
        """Write."""
        self._alive()
        self._processor.store(gpa, data)


def _calls(boundary: Boundary) -> list[Call]:
    return [row for row in CALLS.values() if row.boundary is boundary]


def _replace(owner: object, name: str, stand_in: object) -> None:
    setattr(owner, name, stand_in)
