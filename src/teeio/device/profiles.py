"""Ready-made devices: an accelerator with VFs or without, and what a reference emulator's requester expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from teeio.crypto.entropy import Entropy
from teeio.cxl.ide_km import CxlIdeKmResponder
from teeio.cxl.tsp import CxlTspResponder
from teeio.device.configuration import Configuration
from teeio.device.device import Device
from teeio.device.services import Services
from teeio.observe import Observer, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.header import CommonHeader
from teeio.pcie.capabilities.ide import RID_ASSOCIATION_1, RID_ASSOCIATION_2, SELECTIVE_CONTROL
from teeio.spdm.device_state import Identity
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings

EMULATOR_FUNCTION = 0xBEEF
"""FUNCTION_ID that the reference emulator's requester asks for."""
EMULATOR_PORT_INDEX = 1
"""IDE_KM port index that it programs keys at."""
EMULATOR_HEARTBEAT = 0xF0
"""Heartbeat period, in seconds, that its responder offers."""
EMULATOR_PSKS = {b"TestPskHint\0": b"TestPskData\0"}
"""Its pre-shared key by its hint; both end with the zero byte of a C string."""

_EMULATOR_PF = Bdf.of(0xBE00)
_MMIO = 0x10_0000_0000
_VF_MMIO = _MMIO + 0x1000_0000
"""Where the emulator's device finds its BARs, as if a host had placed them."""


def accelerator(
    entropy: Entropy, now: float, *, address: Bdf | None = None, vfs: int = 4, observer: Observer = ignore
) -> Device:
    """Make an accelerator in its reset state: one PF with `vfs` VFs, not enabled yet; without SR-IOV if that is 0."""
    configuration = Configuration(vfs=vfs)
    if address is not None:
        configuration = replace(configuration, address=address)
    return Device(configuration, entropy, now, observer=observer)


def emulator_device(
    entropy: Entropy,
    now: float,
    *,
    settings: Settings | None = None,
    identities: tuple[Identity, ...] = (),
    psks: Mapping[bytes, bytes] | None = None,
    services: Services | None = None,
    observer: Observer = ignore,
) -> Device:
    """Make the device that the reference emulator's requester expects, set up as if a host had done so.

    VF 0 is function 0xBEEF; the port in use has IDE_KM port index 1 and a default stream with Stream ID 0 on TC 0, not
    enabled, so that locking waits only for its keys; CXL's protocols answer too. `identities`, `psks` and `services` take
    the place of its own.
    """
    offered = settings or Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=EMULATOR_HEARTBEAT)
    configuration = Configuration(
        address=_EMULATOR_PF,
        first_vf_offset=EMULATOR_FUNCTION - _EMULATOR_PF.requester_id,
        streams=1,
        idle_ports=EMULATOR_PORT_INDEX,
        settings=offered,
        identities=identities,
        psks=EMULATOR_PSKS if psks is None else psks,
        services=services or Services(),
        protocols=(CxlIdeKmResponder(observer=observer), CxlTspResponder(observer=observer)),
    )
    device = Device(configuration, entropy, now, observer=observer)
    set_up(device)
    return device


def set_up(device: Device) -> None:
    """Do to the emulator's device what a host does after each reset: BARs and VFs, and a default stream."""
    place_bars(device, _MMIO, _VF_MMIO)
    associate_default_stream(device, stream_id=0, root_port=Bdf(0, 0, 1, 0))


def place_bars(device: Device, base: int, vf_base: int) -> None:
    """Place all BARs from `base` on and the VFs' from `vf_base` on, enable all VFs, let all decode and send."""
    for function in device.pfs:
        header = function.header
        for bar in header.bars:
            base = -(-base // bar.size) * bar.size
            header.place(bar.number, base)
            base += bar.size
        header.write(CommonHeader.COMMAND.offset, 2, CommonHeader.COMMAND.put(0, memory_space=1, bus_master=1))
    capability = device.pfs[0].sriov
    if capability is None:
        return
    for bar in capability.bars:
        vf_base = -(-vf_base // bar.size) * bar.size
        capability.place(bar.number, vf_base)
        vf_base += bar.size * len(device.vfs)
    capability.write(capability.NUM_VFS.offset, 2, len(device.vfs))
    capability.write(
        capability.CONTROL.offset, 2, capability.CONTROL.put(0, vf_enable=1, vf_memory_space=1, ari_hierarchy=1)
    )
    for function in device.vfs:
        function.header.write(CommonHeader.COMMAND.offset, 2, function.header.COMMAND.put(0, bus_master=1))


def associate_default_stream(device: Device, stream_id: int, root_port: Bdf) -> None:
    """Make the first Selective stream the default stream, with the root port as its partner; it is not enabled."""
    block = next(block for block in device.streams.streams if block.selective)
    if block.rid is None:
        return
    partner = root_port.requester_id
    limit, base = block.rid
    device.streams.write(limit.offset, 4, RID_ASSOCIATION_1.put(0, limit=partner))
    device.streams.write(base.offset, 4, RID_ASSOCIATION_2.put(0, base=partner, valid=1))
    device.streams.write(block.control.offset, 4, SELECTIVE_CONTROL.put(0, default=1, stream_id=stream_id))
