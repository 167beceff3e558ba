"""Fixtures: the reference captures, and recordings of our own engines on both transports."""

from collections.abc import Callable

import pytest

from capture_files import REFERENCE, Reference, load, recorded
from teeio.capture.pcap import LinkType


@pytest.fixture
def reference() -> Callable[[str], Reference]:
    def give(name: str) -> Reference:
        found = load(name)
        if found is None:
            pytest.skip(f"{REFERENCE / name}.pcap is not there")
        return found

    return give


@pytest.fixture(params=list(LinkType), ids=lambda link: link.name)
def recording(request: pytest.FixtureRequest) -> tuple[bytes, str]:
    return recorded(request.param)
