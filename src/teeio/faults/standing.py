"""What a device, its link and its session are found in: looked up where each is kept, at the device, the root port and the TSM.

Error bits are counted from the life's beginning on: the scene clears what enumeration has left, as a driver does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from teeio.host.tdx.records import StreamPhase
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.ide_port import IdePort
from teeio.tdisp.messages import InterfaceState

if TYPE_CHECKING:
    from teeio.faults.scene import Scene


class End(Enum):
    """What one end of the stream is."""

    OFF = "off"
    INSECURE = "Insecure"
    SECURE = "Secure"


@dataclass(frozen=True, slots=True)
class Standing:
    """One TDI with its stream and its session.

    `tdi` is None while its function is gone, `known` (the TSM's view of it) while no TVM has it, `phase` while the TSM has
    no stream. `told` are the ports that have received IDE Fail.
    """

    tdi: InterfaceState | None
    known: InterfaceState | None
    device_end: End
    root_end: End
    phase: StreamPhase | None
    device_session: bool
    tsm_session: bool
    device_errors: frozenset[Uncorrectable] = frozenset()
    root_errors: frozenset[Uncorrectable] = frozenset()
    told: frozenset[str] = frozenset()

    def __str__(self) -> str:
        tdi, known = ("absent" if state is None else state.name for state in (self.tdi, self.known))
        phase = self.phase.name if self.phase else "none"
        sessions = " and ".join(who for who, has in (("device", self.device_session), ("TSM", self.tsm_session)) if has)
        return (
            f"TDI {tdi}, TSM knows {known}, stream {self.device_end.value} at the device and {self.root_end.value} at the "
            f"root port, {phase} at the TSM, session at {sessions or 'neither'}, errors {_names(self.device_errors)} at "
            f"the device and {_names(self.root_errors)} at the root port"
        )


def _names(errors: frozenset[Uncorrectable]) -> str:
    return ", ".join(sorted(error.name for error in errors)) or "none"


def standing(scene: Scene) -> Standing:
    """Look at everything that concerns the TVM's function, on its device, its root port and in the TSM."""
    platform, records, vf = scene.platform, scene.platform.module.records, scene.vf
    function = platform.device.present().get(vf.address)
    devif = records.devifs.get(vf.function_id)
    stream = next(records.streams(), None)
    device, root = platform.device.port, platform.root_complex.fabric.ports[0]
    return Standing(
        None if function is None else platform.device.tdis[function].state,
        None if devif is None else devif.state,
        _end(device.ide, stream.stream_id if stream else None),
        _end(root.ide, stream.stream_id if stream else None),
        None if stream is None else stream.phase,
        bool(platform.device.responder.sessions),
        any(context.agent.session is not None for context in records.contexts.values()),
        _errors(device.aer),
        _errors(root.aer),
        frozenset(name for name, port in (("device", device.ide), ("root port", root.ide)) if _told(port)),
    )


def _blocks(port: IdePort) -> Iterator[tuple[int, bool]]:
    """Give the Stream ID of each enabled block, and whether its port has received IDE Fail for it."""
    for block in port.capability.streams if port.capability else ():
        if block.field("enable"):
            yield block.field("stream_id"), bool(block.block.get(block.status, "fail_received"))


def _end(port: IdePort, wanted: int | None) -> End:
    """Tell what one end of the TSM's stream is; without such a stream, of any that is enabled."""
    enabled = [stream_id for stream_id, _ in _blocks(port) if wanted in (None, stream_id)]
    if not enabled:
        return End.OFF
    return End.SECURE if all(port.is_secure(stream_id) for stream_id in enabled) else End.INSECURE


def _told(port: IdePort) -> bool:
    return any(failed for _, failed in _blocks(port))


def _errors(aer: AerCapability | None) -> frozenset[Uncorrectable]:
    return frozenset(error for error in Uncorrectable if aer is not None and aer.recorded(error))
