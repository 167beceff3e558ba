"""What befalls the device as a whole: its stream, session and connection, resets, its link, time; and the end of a TVM."""

from __future__ import annotations

from teeio.abi import device_seamcalls as d
from teeio.explorer.action import Common, Leaves, Own, Topic
from teeio.explorer.world import HEARTBEAT, Tenant, World
from teeio.host.vmm.resumable import session_end
from teeio.pcie.seams import ResetKind


def _block_stream(world: World) -> None:
    found = world.connection
    call = d.TdhIdeStreamBlock(spdm_id=found.spdm_id, stream_id=found.stream.stream_id)
    world.tsm.tdh_ide_stream_block(call).require("TDH.IDE.STREAM.BLOCK")


def _end_session(world: World) -> None:
    """End the session alone: stream and interfaces are as they are."""
    found = world.connection
    found.mailbox.pump(session_end(world.tsm, found.spdm_id), world.now()).require("TDH.SPDM.DISCONNECT")


def _disconnect(world: World) -> None:
    world.pci_tsm.disconnect(world.pf, world.now())


def _connect(world: World) -> None:
    world.pci_tsm.connect(world.pf, world.now())


def _reset_pf(world: World) -> None:
    world.platform.vmm.vfio.reset(world.pf)


def _reset_device(world: World) -> None:
    world.platform.device.reset(ResetKind.CONVENTIONAL)


def _restore(world: World) -> None:
    """Write again what the VMM had written before the reset: BARs, memory space, VFs."""
    world.platform.vmm.bus.restore(world.pf)


def _link_down(world: World) -> None:
    world.platform.link.fail()


def _link_up(world: World) -> None:
    world.platform.link.restore()


def _lapse(world: World) -> None:
    """Let three heartbeat periods pass in silence: the VMM sends none."""
    world.platform.wait(world.now() + 3 * HEARTBEAT, heartbeats=False)


def _end_tvm(world: World, own: Tenant) -> None:
    world.platform.shut_down(own.guest)


DEVICE_ACTIONS: tuple[Own, ...] = (Own("VMM", "end the TVM", Topic.DEVICE, _end_tvm, of="A", leaves=Leaves.STEPS),)
"""What the VMM can do with a TVM as a whole."""

DEVICE_COMMON: tuple[Common, ...] = (
    Common("VMM", "block the IDE stream", Topic.DEVICE, _block_stream),
    Common("VMM", "end the SPDM session", Topic.DEVICE, _end_session, Leaves.SENT),
    Common("VMM", "disconnect the device", Topic.DEVICE, _disconnect, Leaves.STEPS),
    Common("VMM", "connect the device", Topic.DEVICE, _connect, Leaves.SENT),
    Common("VMM", "reset function 0", Topic.DEVICE, _reset_pf),
    Common("VMM", "reset the device", Topic.DEVICE, _reset_device),
    Common("VMM", "write the device's configuration again", Topic.DEVICE, _restore),
    Common("VMM", "let the heartbeats lapse", Topic.DEVICE, _lapse),
    Common("link", "go down", Topic.DEVICE, _link_down),
    Common("link", "come up", Topic.DEVICE, _link_up),
)
"""What befalls a device, and with it everybody who has a function of it."""
