"""What the device says of its IDE registers over the session decides whether it gets keys: nothing weaker is keyed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from host_machine import NOW, Host
from teeio.abi import CallRefused
from teeio.abi.statuses import Status
from teeio.errors import PeerViolation
from teeio.host.tdx.queried_registers import COPIED_FROM, QueriedRegisters
from teeio.observe import MessageMoved
from teeio.pcie.capabilities.ide import FIRST_STREAM, SELECTIVE_CONTROL, IdeCapability
from teeio.pcie.registers import Register

CONTROL_AT = FIRST_STREAM - COPIED_FROM + SELECTIVE_CONTROL.offset
"""Where the first Selective stream's control register lies in the copy; the device has no Link streams."""


def field(register: Register, at: int, name: str, value: int) -> Callable[[bytes], bytes]:
    """Make something that changes one field of the copy."""

    def changed(copy: bytes) -> bytes:
        word = register.put(int.from_bytes(copy[at : at + 4], "little"), **{name: value})
        return copy[:at] + word.to_bytes(4, "little") + copy[at + 4 :]

    return changed


CAPABILITY = IdeCapability.CAPABILITY
WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no Selective streams": (field(CAPABILITY, 0, "selective", 0), "does not support selective"),
    "no IDE_KM": (field(CAPABILITY, 0, "ide_km", 0), "does not support ide_km"),
    "another algorithm offered": (field(CAPABILITY, 0, "algorithms", 1), "the port supports algorithm 1"),
    "another algorithm set": (field(SELECTIVE_CONTROL, CONTROL_AT, "algorithm", 3), "is set to algorithm 3"),
    "another stream": (field(SELECTIVE_CONTROL, CONTROL_AT, "stream_id", 9), "0 register blocks have Stream ID 1"),
    "the stream twice": (
        lambda copy: field(SELECTIVE_CONTROL, CONTROL_AT + 20 + 2 * 12, "stream_id", 1)(copy),
        "2 register blocks have Stream ID 1",
    ),
    "cut short": (lambda copy: copy[:-4], "does not carry all"),
    "empty": (lambda copy: b"", "does not carry all"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_device_that_says_otherwise_gets_no_key(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(connect=False, streams=2)
    port = host.device.dsm.ide_km.ports[0]
    honest, (change, reason) = port.capability_registers, WRONG[wrong]
    with monkeypatch.context() as patch:
        patch.setattr(port, "capability_registers", lambda: change(honest()), raising=True)
        with pytest.raises(CallRefused, match=reason) as refused:
            host.vmm.pci_tsm.connect(host.pf, NOW)
        assert refused.value.status is Status.IDE_KM_FAILED
    assert "KEY_PROG" not in {event.name for event in host.events if isinstance(event, MessageMoved)}
    assert host.memory.accounting() == host.before
    host.vmm.pci_tsm.connect(host.pf, NOW)


def test_what_the_device_says_is_read_as_it_is_set() -> None:
    host = Host(streams=3)
    port = host.device.dsm.ide_km.ports[0]
    registers = QueriedRegisters(port.capability_registers())
    assert [block.stream_id for block in registers.blocks()] == [1, 0, 0]
    assert registers.says("selective_streams") == 2
    registers.check_offers(1)
    with pytest.raises(PeerViolation, match="0 register blocks have Stream ID 5"):
        registers.check_offers(5)
