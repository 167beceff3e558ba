"""A connected host, and a TVM on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from host_machine import NOW, Guest, Host


@pytest.fixture(scope="module")
def _host() -> Host:
    return Host()


@pytest.fixture
def host(_host: Host) -> Iterator[Host]:
    """A connected host; afterwards all interfaces and TVMs are gone, all that was lent is back, and nothing undeclared has happened."""
    before = _host.memory.accounting()
    yield _host
    for machine in list(_host.vmm.kvm.machines.values()):
        _host.vmm.kvm.destroy(machine, NOW)
    assert _host.memory.accounting() == before
    assert not _host.module.records.devifs
    _host.check_declared()


@pytest.fixture
def guest(host: Host) -> Guest:
    return Guest(host)
