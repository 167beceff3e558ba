"""The reference captures beside the repository, and a recording of our own engines."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from spdm_pair import Pair
from teeio.capture.keylog import KeyLogWriter
from teeio.capture.pcap import LinkType, PcapWriter
from teeio.mctp import MctpBinding
from teeio.pcie.doe import DoeBinding
from teeio.spdm import flows

REFERENCE = Path(__file__).parent.parent.parent / "shared" / "captures"


@dataclass(frozen=True)
class Reference:
    """A capture of reference peers: the file, its key log, and what it is known to hold."""

    pcap: bytes
    keys: str
    expected: dict[str, Any]


@cache
def load(name: str) -> Reference | None:
    path = REFERENCE / f"{name}.pcap"
    if not path.exists():
        return None
    keys = path.with_suffix(".json").read_text()
    return Reference(path.read_bytes(), keys, json.loads(keys))


class Recorder(Pair):
    """A pair of our engines on a real binding, whose traffic and secrets are recorded."""

    def __init__(self, link_type: LinkType, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        binding = DoeBinding() if link_type is LinkType.PCI_DOE else MctpBinding()
        self.requester.binding = self.responder.binding = binding
        self.pcap, self.keys = PcapWriter(link_type), KeyLogWriter()

    def carry(self, frame: bytes) -> bytes:
        answer = super().carry(frame)
        for _, moved in self.frames[-2:]:
            self.pcap.add(moved, self.now)
        return answer

    def files(self) -> tuple[bytes, str]:
        """Give the pcap file and the key log."""
        for event in self.events:
            self.keys(event)
        return self.pcap.data(), self.keys.text()


@cache
def recorded(link_type: LinkType) -> tuple[bytes, str]:
    """Record two connections, each with two sessions at once, key updates of both kinds and measurements."""
    pair = Recorder(link_type)
    for _ in range(2):
        pair.authenticate()
        pair.run(flows.challenge(pair.requester))
        pair.run(flows.get_measurements(pair.requester))
        first = pair.run(flows.key_exchange(pair.requester))
        second = pair.run(flows.key_exchange(pair.requester, slot=0))
        pair.run(flows.key_update(pair.requester, first, both=True))
        pair.run(flows.key_update(pair.requester, second, both=False))
        pair.run(flows.heartbeat(first))
        pair.run(flows.key_update(pair.requester, first, both=False))
        pair.run(flows.get_measurements(pair.requester, session=second.session_id))
        pair.run(flows.end_session(pair.requester, first))
        pair.run(flows.heartbeat(second))
    return pair.files()
