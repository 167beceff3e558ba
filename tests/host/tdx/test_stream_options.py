"""PCRC and aggregation of a device's stream: both ends are set alike, or the stream gets no keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from host_machine import NOW, Host
from teeio.abi import CallRefused
from teeio.abi import device_seamcalls as d
from teeio.abi.operands import StreamOptions
from teeio.abi.statuses import Status
from teeio.errors import Incompatible
from teeio.host.vmm.stream_registers import DeviceStream
from teeio.observe import BoundaryCalled, MessageMoved
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.tlp import SubStream

PCRC = StreamOptions(pcrc=True)
UNITS = StreamOptions(aggregation=(3, 1, 2))
BOTH = StreamOptions(True, (1, 1, 1))


def sides(host: Host) -> list[dict[str, Any]]:
    """What the registers of both ends say, and what their ports do."""
    found = []
    for port in (host.port, host.device.port):
        capability = port.config.need(IdeCapability)
        stream = next(one for one in capability.streams if one.field("stream_id") == 1)
        bound = next(one for one in port.ide._bound if one.block is stream)
        found.append(
            {name: stream.field(name) for name in UNITS.control}
            | {"does": (bound.stream.settings.pcrc, bound.stream.settings.aggregation)}
        )
    return found


@pytest.mark.parametrize("options", [StreamOptions(), PCRC, UNITS, BOTH])
def test_both_ends_are_set_to_what_the_vmm_asks(options: StreamOptions) -> None:
    host = Host(connect=False)
    connection = host.vmm.pci_tsm.connect(host.pf, NOW, options)
    does = (options.pcrc, tuple(1 << code for code in options.aggregation))
    assert sides(host) == [{**options.control, "does": does}] * 2
    assert connection.stream.secure
    host.vmm.pci_tsm.refresh_keys(host.pf, NOW)
    host.vmm.pci_tsm.disconnect(host.pf, NOW)
    assert host.memory.accounting() == host.before
    for port in (host.port, host.device.port):
        for block in port.config.need(IdeCapability).streams:
            assert not any(block.field(name) for name in options.control), "registers are free again"


@pytest.mark.parametrize(("options", "lacks"), [(PCRC, "pcrc"), (UNITS, "aggregation")])
def test_a_device_that_lacks_it_is_not_asked(options: StreamOptions, lacks: str) -> None:
    host = Host(connect=False, **{lacks: False})
    with pytest.raises(Incompatible, match=f"does not support {lacks}"):
        host.vmm.pci_tsm.connect(host.pf, NOW, options)
    assert "TDH.IDE.STREAM.CREATE" not in {event.name for event in host.events if isinstance(event, BoundaryCalled)}
    assert host.memory.accounting() == host.before
    assert host.vmm.pci_tsm.connect(host.pf, NOW).stream.secure


@pytest.mark.parametrize(("options", "lacks"), [(PCRC, "pcrc"), (UNITS, "aggregation")])
def test_a_device_that_says_over_the_session_that_it_lacks_it_gets_no_key(
    options: StreamOptions, lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(connect=False, **{lacks: False})
    monkeypatch.setattr(DeviceStream, "require", lambda self, options: None)
    with pytest.raises(CallRefused, match=f"does not support {lacks}") as refused:
        host.vmm.pci_tsm.connect(host.pf, NOW, options)
    assert refused.value.status is Status.IDE_KM_FAILED
    assert "KEY_PROG" not in {event.name for event in host.events if isinstance(event, MessageMoved)}


@pytest.mark.parametrize(
    ("root", "device"),
    [(StreamOptions(), PCRC), (PCRC, StreamOptions()), (UNITS, replace(UNITS, aggregation=(3, 1, 1)))],
)
def test_ends_that_the_vmm_sets_differently_get_no_key(
    root: StreamOptions, device: StreamOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(connect=False)
    honest = DeviceStream.associate
    with monkeypatch.context() as patch:
        patch.setattr(DeviceStream, "associate", lambda self, port, *, options: honest(self, port, options=device))
        with pytest.raises(CallRefused, match="stream 1 is set to") as refused:
            host.vmm.pci_tsm.connect(host.pf, NOW, root)
    assert refused.value.status is Status.IDE_KM_FAILED
    assert "KEY_PROG" not in {event.name for event in host.events if isinstance(event, MessageMoved)}
    assert host.memory.accounting() == host.before
    assert host.vmm.pci_tsm.connect(host.pf, NOW, root).stream.secure


@pytest.mark.parametrize("codes", [(4, 0, 0), (0, -1, 0), (0, 0), (0, 0, 0, 0)])
def test_what_registers_cannot_say_is_invalid(codes: tuple[int, ...]) -> None:
    host = Host()
    (spdm_id,) = host.module.records.contexts
    call = d.TdhIdeStreamCreate(
        spdm_id=spdm_id,
        stream_id=2,
        requesters=(host.pf.function_id, host.pf.last_requester),
        memory=host.vmm.bus.windows[host.pf.root_port],
        pages=(host.memory.vmm.allocate(),),
        options=StreamOptions(aggregation=codes),  # type: ignore[arg-type]
    )
    assert host.module.tdh_ide_stream_create(call).status is Status.OPERAND_INVALID


def test_aggregation_is_in_the_order_of_sub_streams() -> None:
    names = ["pr_aggregation", "npr_aggregation", "cpl_aggregation"]
    assert [UNITS.control[names[sub_stream]] for sub_stream in SubStream] == list(UNITS.aggregation)
