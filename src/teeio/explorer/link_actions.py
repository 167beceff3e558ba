"""What a device does of its own accord, and what somebody on the link does."""

from __future__ import annotations

from collections.abc import Callable

from teeio.abi.operands import GPA_SHARED_BIT
from teeio.explorer.action import Common, Leaves, Own, Topic
from teeio.explorer.tap import Deed
from teeio.explorer.world import Tenant, World
from teeio.pcie.doe import DoeBinding
from teeio.pcie.ide_key import MAC_SIZE
from teeio.pcie.ide_tlp import IdePrefix
from teeio.pcie.tlp import Tlp, memory_read, memory_write
from teeio.scenarios.stage import STREAM_ID
from teeio.spdm.messages import Facts, GetVersion
from teeio.tdisp.tlp_rules import RequesterTlp, Sending

UNKNOWN_STREAM = 9
STRANGER = 0x7F00
"""A Requester ID that no function has."""

# -- the device ---------------------------------------------------------------------------------------------------------


def _write_page(world: World, own: Tenant) -> None:
    """Let the VF write where the secret lies: the TVM's mark if that goes with T=1, else what everybody may see."""
    trusted = own.tdi.sending(RequesterTlp.MEMORY) is Sending.TRUSTED
    world.platform.device.bus_of(own.vf.address).write(own.secret, own.mark if trusted else own.public)


def _read_page(world: World, own: Tenant) -> None:
    world.platform.device.bus_of(own.vf.address).read(own.secret, len(own.mark))


def _write_shared(world: World, own: Tenant) -> None:
    world.platform.device.bus_of(own.vf.address).write(own.shared_page | GPA_SHARED_BIT, own.public)


def _read_shared(world: World, own: Tenant) -> None:
    world.platform.device.bus_of(own.vf.address).read(own.shared_page | GPA_SHARED_BIT, len(own.public))


def _write_as_stranger(world: World, own: Tenant) -> None:
    """Send T=1 on the device's stream, with a Requester ID that the stream is not for."""
    world.platform.device.port.dma_write(STRANGER, own.secret, own.mark, True, STREAM_ID)


# -- the link -----------------------------------------------------------------------------------------------------------


def _reset_connection(world: World) -> None:
    """Say GET_VERSION in the clear: the device's sessions end."""
    plain = DoeBinding().wrap(GetVersion().encode(Facts()), secured=False)
    world.platform.device.responder.respond(plain, world.now())


def _unsealed(tlp: Tlp, stream_id: int) -> bytes:
    """Give an IDE TLP that nobody sealed, with T set."""
    prefix = IdePrefix(stream_id=stream_id, t=1, sub_stream=tlp.sub_stream.value)
    return prefix.encode() + tlp.encode() + bytes(MAC_SIZE)


def _inject(world: World, frame: bytes) -> None:
    world.platform.root_complex.fabric.ports[0].receive_frame(frame)


def _forged_tlp(world: World) -> None:
    _inject(world, _unsealed(memory_write(0x0100, 0, 0x1000, bytes(4)), STREAM_ID))


def _forged_stream(world: World, own: Tenant) -> None:
    """Write to the TVM's page in its interface's name, with T set, on a stream that does not exist."""
    _inject(world, _unsealed(memory_write(own.function_id, 0, own.secret, own.public[:16]), UNKNOWN_STREAM))


def _plain_write(world: World, own: Tenant) -> None:
    _inject(world, memory_write(own.function_id, 0, own.secret, own.public[:16]).encode())


def _plain_read(world: World, own: Tenant) -> None:
    _inject(world, memory_read(own.function_id, 0, own.secret, 16).encode())


def _befalls(deed: Deed) -> Callable[[World], None]:
    return lambda world: world.tap.do_next(deed)


LINK_ACTIONS: tuple[Own, ...] = (
    Own("device", "write to the page", Topic.LIFE | Topic.MEMORY | Topic.DMA | Topic.LINK, _write_page),
    Own("device", "read the page", Topic.MEMORY | Topic.DMA, _read_page, "A", Leaves.SENT),
    Own("device", "write by the shared address", Topic.MEMORY, _write_shared, of="A"),
    Own("device", "read by the shared address", Topic.MEMORY, _read_shared, "A", Leaves.SENT),
    Own("device", "write with T=1 in a stranger's name", Topic.LINK, _write_as_stranger, of="A"),
    Own("link", "forge a write with T=1 on no stream", Topic.LINK, _forged_stream, of="A"),
    Own("link", "write without IDE in the VF's name", Topic.LINK, _plain_write, of="A"),
    Own("link", "read without IDE in the VF's name", Topic.LINK, _plain_read, of="A"),
)
"""What the VF of each TVM can do, and what can be done in its name."""

LINK_COMMON: tuple[Common, ...] = (
    Common("link", "reset the SPDM connection", Topic.LIFE, _reset_connection),
    Common("link", "forge an IDE TLP", Topic.LINK, _forged_tlp),
    *(Common("link", f"{deed.value} the next IDE TLP", Topic.LINK, _befalls(deed)) for deed in Deed),
    Common("link", "let the held IDE TLP go", Topic.LINK, lambda world: world.tap.let_go()),
    Common("link", "replay the last IDE TLP", Topic.LINK, lambda world: world.tap.replay()),
)
"""What can be done to whatever is on the link."""
