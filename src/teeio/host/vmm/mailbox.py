"""How the VMM carries data objects between the TSM and a device: opaque, one at a time, through the DOE mailbox.

A resumable call gives a data object and is called again with the answer, until it is done (TDX Connect). What gets lost
on the way the TSM learns as an empty answer, so that its exchange ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from teeio.abi import Result
from teeio.abi.statuses import Status
from teeio.errors import Busy, Incompatible, TransportError
from teeio.host.vmm.bus import PciFunction
from teeio.observe import FrameMoved, Observer, Refused, ignore
from teeio.pcie import doe
from teeio.pcie.capabilities.doe import DoeCapability

V = TypeVar("V")

Step: TypeAlias = Callable[[bytes | None, float], Result[V]]
"""A resumable call: takes the device's answer (None at first and after a pause) and the time."""

Courier: TypeAlias = Callable[[bytes, float], bytes]
"""Takes a data object to the device, with the time, and gives its answer; empty if there is none."""

Waiting: TypeAlias = Callable[[float], float]
"""Lets time pass until then, in seconds; gives the time that it is then."""

MAX_ROUNDS = 4096
"""Data objects of one call at most."""

POLLS = 1000
"""Looks at a mailbox until its device counts as silent. A device in this process has answered at the first."""


class Mailbox:
    """The DOE mailbox of a DSM.

    A `courier`, if there is one, carries the data objects in the place of `carry`: what a hostile VMM does with them.
    `wait` is how the VMM waits for a device that is not ready; without a platform no time passes by it.
    """

    def __init__(self, function: PciFunction, observer: Observer = ignore) -> None:
        base = function.extended.get(DoeCapability.ID)
        if base is None:
            raise Incompatible(f"{function.address} has no DOE mailbox")
        self._config = function.config
        self._base = base
        self._observer = observer
        self._name = f"device {function.address}"
        self.courier: Courier | None = None
        self.wait: Waiting = lambda until: until
        self._in_use = False
        try:
            found = doe.discover(self._config.read, self._config.write, base, polls=POLLS)
        except TransportError:
            self._config.check_present()  # which says better what is wrong
            raise
        missing = {doe.SPDM, doe.SECURED_SPDM} - set(found)
        if missing:
            raise Incompatible(f"the DOE mailbox of {function.address} carries no SPDM: it lists {found}")

    def carry(self, data_object: bytes, now: float) -> bytes:
        """Take a data object to the device and give its answer; empty if there is none."""
        self._observer(FrameMoved("VMM", self._name, data_object, now))
        try:
            config = self._config
            answer = doe.exchange(
                config.read, config.write, self._base, data_object, polls=POLLS, register=config.register
            )
        except TransportError as error:
            self._observer(Refused(self._name, "a data object", str(error)))
            return b""
        self._observer(FrameMoved(self._name, "VMM", answer, now))
        return answer

    def pump(self, step: Step[V], now: float) -> Result[V]:
        """Call a resumable call until it is done. Raises `Busy` amid another one, `TransportError` if it never is."""
        self.expect_free()
        self._in_use = True
        try:
            return self._pumped(step, now)
        finally:
            self._in_use = False

    def expect_free(self) -> None:
        """Raise `Busy` amid an exchange."""
        if self._in_use:
            raise Busy(
                f"the mailbox of {self._name} is in use: one exchange at a time (PCIe Base 6.30)",
                remedy="try again when the exchange under way is done",
            )

    def _pumped(self, step: Step[V], now: float) -> Result[V]:
        response: bytes | None = None
        for _ in range(MAX_ROUNDS):
            result = step(response, now)
            if result.status is Status.SPDM_REQUEST:
                response = (self.courier or self.carry)(result.data_object, now)
            elif result.status is Status.INTERRUPTED_RESUMABLE:
                response, now = None, self.wait(max(now, result.resume_at))
            else:
                return result
        raise TransportError(f"a call to the TSM is not done after {MAX_ROUNDS} data objects")
