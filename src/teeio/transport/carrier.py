"""Drives flows over a transport that answers each frame: the loop between an engine and a peer in another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from teeio.flow import Done, Flow, Send
from teeio.observe import FrameMoved, Observer, ignore
from teeio.spdm.requester import Requester

T = TypeVar("T")

Exchange = Callable[[bytes], bytes]
"""Sends a transport frame and gives the peer's answer; raises `TransportError`."""


class Carrier:
    """Runs the flows of one requester over `exchange`, with the system's clock."""

    def __init__(self, requester: Requester, exchange: Exchange, observer: Observer = ignore) -> None:
        self.requester = requester
        self._exchange = exchange
        self._observer = observer

    def run(self, flow: Flow[T], session: int | None = None) -> T:
        """Run `flow` to its end and give its result; what the flow raises comes out."""
        requester = self.requester
        try:
            action = requester.start(flow, time.monotonic(), session)
            while not isinstance(action, Done):
                if isinstance(action, Send):
                    action = requester.receive(self._carry(action.frame), time.monotonic())
                else:
                    time.sleep(max(0.0, action.until - time.monotonic()))
                    action = requester.wake(time.monotonic())
        finally:
            requester.cancel()
        return action.result  # type: ignore[no-any-return]

    def _carry(self, frame: bytes) -> bytes:
        requester = self.requester
        self._observer(FrameMoved(requester.name, requester.peer, frame, time.time()))
        answer = self._exchange(frame)
        self._observer(FrameMoved(requester.peer, requester.name, answer, time.time()))
        return answer
