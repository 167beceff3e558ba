"""The host's sysfs tree: what Linux's samples/devsec script checks, and every errno."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from host_machine import NOW, Guest, Host
from teeio.abi.operands import DevifOperation, LockParameters
from teeio.errors import AuthenticationFailed, DecodeError, Incompatible, Misuse, TeeioError, TransportError
from teeio.host.vmm.sysfs import CLASS, DEVICES, SCOPES, HostSysfs, Scope
from teeio.sysfs import Attribute, Entry, Link, Sysfs, SysfsError
from teeio.tdisp.messages import InterfaceState

BRIDGE = "/sys/devices/pci0000:00"


class Scene:
    def __init__(self) -> None:
        self.host = Host(connect=False)
        self.tree = HostSysfs(self.host.vmm)
        self.pf = f"{DEVICES}/{self.host.pf.address}"
        self.vf = f"{DEVICES}/{self.host.vfs[0].address}"

    def cat(self, path: str) -> str:
        return self.tree.read(path).removesuffix("\n")

    def echo(self, text: str, path: str) -> None:
        self.tree.write(path, f"{text}\n", NOW)

    def failing(self, text: str, path: str) -> int:
        """Write, and give the errno; nothing in the tree may change."""
        before = self.tree.snapshot()
        with pytest.raises(SysfsError) as raised:
            self.echo(text, path)
        assert self.tree.snapshot() == before
        assert path in str(raised.value)
        return raised.value.errno


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_connect_and_disconnect_as_the_devsec_script_checks_them(scene: Scene) -> None:
    before = scene.tree.snapshot()
    stream = f"{BRIDGE}/stream0.0.0"
    assert scene.cat(f"{CLASS}/pci_mode") == "link"
    assert scene.cat(f"{BRIDGE}/available_secure_streams") == "4"
    assert (
        scene.cat(f"{scene.pf}/tsm/dsm")
        == scene.cat(f"{scene.pf}/tsm/bound")
        == scene.cat(f"{scene.pf}/authenticated")
        == ""
    )
    assert not scene.tree.exists(f"{scene.vf}/tsm")
    scene.echo("tsm0", f"{scene.pf}/tsm/connect")
    assert scene.cat(f"{BRIDGE}/available_secure_streams") == "3"
    assert scene.cat(f"{scene.pf}/tsm/connect") == scene.cat(f"{scene.pf}/authenticated") == "tsm0"
    assert scene.tree.exists(stream)
    assert scene.tree.resolve(f"{CLASS}/pci0000:00/stream0.0.0") == scene.tree.resolve(scene.pf)
    assert scene.cat(f"{scene.vf}/tsm/dsm") == str(scene.host.pf.address)
    assert not scene.tree.exists(f"{scene.vf}/tsm/connect")
    scene.echo("tsm0", f"{scene.pf}/tsm/disconnect")
    assert scene.tree.snapshot() == before
    assert scene.host.memory.accounting() == scene.host.before


def test_bind_shows_and_disconnect_unbinds(scene: Scene) -> None:
    scene.echo("tsm0", f"{scene.pf}/tsm/connect")
    guest = Guest(scene.host)
    address = str(guest.function.address)
    assert scene.tree.resolve(f"{scene.vf}/driver").endswith("/vfio-pci")
    for _ in range(2):  # bound twice to the same TVM is bound
        scene.echo(address, f"{CLASS}/device/tsm_bind")
        assert scene.cat(f"{scene.vf}/tsm/bound") == "tsm0"
    for _ in range(2):
        scene.echo(address, f"{CLASS}/device/tsm_unbind")
        assert scene.cat(f"{scene.vf}/tsm/bound") == ""
    scene.echo(address, f"{CLASS}/device/tsm_bind")
    scene.echo("tsm0", f"{scene.pf}/tsm/disconnect")
    assert not scene.tree.exists(f"{scene.vf}/tsm/bound")
    assert not scene.host.module.records.devifs


def test_writes_that_fail_say_why_by_errno(scene: Scene) -> None:
    connect, disconnect = f"{scene.pf}/tsm/connect", f"{scene.pf}/tsm/disconnect"
    for nonsense in ("", "1", "tsm", "tsmX", "tpm0"):
        assert scene.failing(nonsense, connect) == errno.EINVAL
    assert scene.failing("tsm1", connect) == errno.ENXIO
    assert scene.failing("tsm0", disconnect) == errno.ENXIO
    assert scene.failing("tsm0", f"{scene.vf}/tsm/connect") == errno.ENOENT
    assert scene.failing("0000:01:01.0", f"{CLASS}/device/tsm_bind") == errno.EINVAL
    assert scene.failing("0000:77:00.0", f"{CLASS}/device/tsm_bind") == errno.ENODEV
    assert scene.failing("tsm0", f"{scene.pf}/tsm/dsm") == errno.EACCES
    assert scene.failing("2", f"{scene.pf}/sriov_numvfs") == errno.EBUSY
    assert scene.failing("many", f"{scene.pf}/sriov_numvfs") == errno.EINVAL
    assert scene.failing("9" * 5000, f"{scene.pf}/sriov_numvfs") == errno.ERANGE
    assert scene.failing("0", f"{scene.pf}/reset") == errno.EINVAL
    with pytest.raises(SysfsError) as raised:
        scene.tree.read(disconnect)
    assert raised.value.errno == errno.EACCES
    guest = Guest(scene.host)
    assert scene.failing(str(guest.function.address), f"{CLASS}/device/tsm_bind") == errno.ENXIO
    assert scene.failing("0", f"{scene.pf}/sriov_numvfs") == errno.EBUSY
    scene.echo("tsm0", connect)
    assert scene.failing("tsm0", connect) == errno.EBUSY
    assert scene.failing("tsm1", disconnect) == errno.EINVAL


def test_a_link_that_is_down_is_an_error_of_io(scene: Scene) -> None:
    scene.host.link.tamper = lambda frame, way: None
    assert scene.failing("tsm0", f"{scene.pf}/tsm/connect") in (errno.EIO, errno.EOPNOTSUPP)
    assert scene.host.memory.accounting() == scene.host.before


def test_guest_requests_by_scope(scene: Scene) -> None:
    scene.echo("tsm0", f"{scene.pf}/tsm/connect")
    guest = Guest(scene.host)
    address = guest.function.address

    def failing(scope: int, operation: DevifOperation) -> int:
        with pytest.raises(SysfsError) as raised:
            scene.tree.guest_req(address, scope, operation, NOW)
        return raised.value.errno

    assert failing(Scope.INFO, DevifOperation.STATE) == errno.ENXIO
    scene.echo(str(address), f"{CLASS}/device/tsm_bind")
    for scope in (Scope.DEBUG_READ, Scope.DEBUG_WRITE, 4):
        assert failing(scope, DevifOperation.STATE) == errno.EINVAL
    for operation, least in SCOPES.items():
        if least is Scope.STATE_CHANGE:
            assert failing(Scope.INFO, operation) == errno.EPERM
    lock = LockParameters(0)
    done = scene.tree.guest_req(address, Scope.STATE_CHANGE, DevifOperation.LOCK, NOW, lock)
    assert done.state == InterfaceState.CONFIG_LOCKED
    assert scene.tree.guest_req(address, Scope.INFO, DevifOperation.STATE, NOW).state == InterfaceState.CONFIG_LOCKED
    assert failing(Scope.STATE_CHANGE, DevifOperation.START) == errno.EIO  # the TVM has not asked for it


def test_vfs_come_and_go_by_their_number(scene: Scene) -> None:
    scene.echo("0", f"{scene.pf}/sriov_numvfs")
    assert not scene.tree.exists(scene.vf)
    scene.echo("3", f"{scene.pf}/sriov_numvfs")
    assert scene.cat(f"{scene.pf}/sriov_numvfs") == "3"
    assert scene.cat(f"{scene.vf}/vendor") == "0x7ee0"
    assert scene.failing("9", f"{scene.pf}/sriov_numvfs") == errno.EBUSY
    scene.echo("0", f"{scene.pf}/sriov_numvfs")
    assert scene.failing("9", f"{scene.pf}/sriov_numvfs") == errno.EINVAL


def test_a_reset_takes_a_running_interface_down(scene: Scene) -> None:
    scene.echo("tsm0", f"{scene.pf}/tsm/connect")
    guest = Guest(scene.host)
    guest.bring_up()
    scene.echo("1", f"{scene.vf}/reset")
    assert guest.tdi.state is InterfaceState.ERROR


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (Incompatible("no"), errno.EOPNOTSUPP),
        (AuthenticationFailed("no"), errno.EACCES),
        (TransportError("no"), errno.EIO),
        (DecodeError("a", "b", 0, "no"), errno.EPROTO),
        (Misuse("no"), errno.EINVAL),
        (TeeioError("no"), errno.EIO),
        (SysfsError(errno.EBUSY, "no"), errno.EBUSY),
    ],
)
def test_every_failure_has_an_errno(failure: TeeioError, number: int) -> None:
    found = SysfsError.of(failure, "/sys/here")
    assert found.errno == number
    assert found.name == errno.errorcode[number]
    assert "/sys/here" in str(found)


class Knot(Sysfs):
    def entries(self) -> Iterator[tuple[str, Entry]]:
        yield "/sys/a", Link("/sys/b")
        yield "/sys/b", Link("/sys/a")
        yield "/sys/c", Attribute(lambda: "text")
        yield "/sys/d", Link("/sys/nowhere")


def test_links_that_lead_nowhere() -> None:
    tree = Knot()
    with pytest.raises(SysfsError) as raised:
        tree.read("/sys/a/file")
    assert raised.value.errno == errno.ELOOP
    assert not tree.exists("/sys/a")
    assert not tree.exists("/sys/d")
    assert tree.exists("/sys")
    assert tree.read("/sys/c") == "text\n"
