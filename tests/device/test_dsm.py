"""The DSM: identities and measurements, connections kept apart, sessions and what hangs on them."""

from __future__ import annotations

from typing import Any

import pytest

from teeio.crypto.algorithms import BaseAsym, MeasurementHash
from teeio.crypto.certificates import (
    DeviceInfo,
    errors,
    leaf_public_key,
    load_certificate,
    pci_identity,
    tcb_info,
    validate_chain,
)
from teeio.crypto.entropy import SeededEntropy
from teeio.device.dsm import ConnectionProtocol
from teeio.device.identity import IDENTITIES, Firmware, Manufacture, Manufacturer, measured
from teeio.device.profiles import accelerator
from teeio.ide_km.messages import Query, QueryResp
from teeio.mctp import MctpBinding
from teeio.pcie.doe import DoeBinding
from teeio.spdm.messages import MeasurementType
from teeio.tdisp.messages import InterfaceState, LockFlags

NOW = 1.8e9
SESSION = 0x11


def test_measurements_are_a_realistic_set() -> None:
    blocks = accelerator(SeededEntropy(b"m"), NOW).dsm.measurement_blocks(MeasurementHash.SHA_384)
    raw = {block.index: block for block in blocks if block.raw}
    assert [block.index for block in blocks] == [1, 2, 3, 4, 5, 0x10, 0xFD, 0xFE]
    assert set(raw) == {5, 0x10, 0xFD, 0xFE}
    assert int.from_bytes(raw[0x10].value, "little") == 7
    assert raw[0x10].type is MeasurementType.SECURE_VERSION_NUMBER
    assert all(len(block.value) == 48 for block in blocks if not block.raw)


@pytest.mark.parametrize("algorithm", [BaseAsym.ECDSA_P384, BaseAsym.ECDSA_P256])
def test_identities_pass_the_checks_of_a_verifier(algorithm: BaseAsym) -> None:
    manufacture = Manufacture()
    slot = Manufacturer.found(manufacture.info, SeededEntropy(b"i"), NOW).certify(manufacture)[algorithm].slots[0]
    root, *rest = slot.certificates
    base_hash = IDENTITIES[algorithm]
    assert not errors(validate_chain(slot.chain(base_hash), [root], base_hash, algorithm, NOW))
    leaf = load_certificate(rest[-1])
    assert leaf_public_key(rest[-1]).public_numbers() == slot.key.public.public_numbers()
    assert pci_identity(leaf) == manufacture.pci
    info = tcb_info(leaf)
    assert info is not None
    assert (info.svn, info.model, len(info.fwids)) == (7, "accelerator", 1)


def test_the_same_entropy_gives_the_same_device() -> None:
    one, other = (accelerator(SeededEntropy(b"x"), NOW).dsm.root_certificates for _ in range(2))
    assert one == other
    assert one != accelerator(SeededEntropy(b"y"), NOW).dsm.root_certificates


def test_the_leaf_certifies_the_measured_firmware() -> None:
    manufacture = Manufacture(info=DeviceInfo("acme", "card", "9"), firmware=Firmware(image=b"other", svn=9))
    slot = (
        Manufacturer.found(manufacture.info, SeededEntropy(b"i"), NOW)
        .certify(manufacture)[BaseAsym.ECDSA_P384]
        .slots[0]
    )
    info = tcb_info(load_certificate(slot.certificates[-1]))
    contents = {item.index: item.content for item in measured(manufacture)}
    assert info is not None
    assert info.svn == int.from_bytes(contents[0x10], "little")
    assert contents[2] == b"other"


def test_sessions_of_two_connections_are_never_taken_for_one_another(rig: Any) -> None:
    """Both connections may well give their sessions the same identifier."""
    dsm = rig.device.dsm
    first, second = (dsm.responder(binding).vendor_protocols for binding in (DoeBinding(), MctpBinding()))
    ide_km = [
        next(p for p in protocols if p.protocol_id == 0 and p.vendor_id == b"\1\0") for protocols in (first, second)
    ]
    query = Query(port_index=0).encode()
    assert ide_km[0].respond(SESSION, query, NOW) is not None
    assert ide_km[1].respond(SESSION, query, NOW) is None
    ide_km[1].session_ended(SESSION)
    assert ide_km[1].respond(SESSION, query, NOW) is None
    ide_km[0].session_ended(SESSION)
    assert ide_km[1].respond(SESSION, query, NOW) is not None


def test_the_first_connection_keeps_its_session_identifiers() -> None:
    protocol: Any = None
    assert ConnectionProtocol(protocol, 0).session(0xFFFE_FFFF) == 0xFFFE_FFFF
    assert ConnectionProtocol(protocol, 1).session(0xFFFE_FFFF) != 0xFFFE_FFFF


def test_ide_km_tells_of_the_port(rig: Any) -> None:
    answer = QueryResp.decode(rig.device.dsm.ide_km.respond(SESSION, Query(port_index=0).encode(), NOW))
    assert (answer.bus, answer.device_function, answer.max_port_index) == (1, 0, 0)
    assert answer.registers == rig.device.streams.copied_registers()


def test_a_vf_that_is_gone_is_not_hosted_but_hears_of_its_session(protected: Any) -> None:
    tdi = protected.bring(protected.vf(0), InterfaceState.RUN)
    sriov = protected.device.pfs[0].sriov
    protected.fabric.config_write(protected.device.functions.first, sriov.base + 8, 2, 0)
    assert tdi.state is InterfaceState.ERROR
    assert tdi.interface not in protected.device.hosted().values()
    for protocol in protected.device.dsm.protocols:
        protocol.session_ended(SESSION)
    assert tdi.interface.session is None


def test_firmware_cannot_change_under_a_lock_that_forbids_it(protected: Any) -> None:
    protected.bring(protected.vf(0), InterfaceState.RUN, LockFlags.NO_FW_UPDATE)
    other = Firmware(image=b"evil")
    assert not protected.device.update_firmware(other)
    protected.vf(0).interface.stop(SESSION)
    protected.bring(protected.vf(0), InterfaceState.CONFIG_LOCKED, LockFlags.NONE)
    assert protected.device.update_firmware(other)
    assert b"evil" in [item.content for item in protected.device.measurements.measured]
