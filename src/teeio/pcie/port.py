"""What root ports and endpoint ports have in common: IDE, requests and completions with their tags, the link's end.

Left out: flow control, ordering between TLPs on the way (delivery is immediate).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from teeio.errors import DecodeError, Misuse
from teeio.observe import Observer, Refused
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.ide_port import IdePort, InsecureCause, Received
from teeio.pcie.link import LinkEnd
from teeio.pcie.link_mode import LinkMode
from teeio.pcie.link_rules import LinkRules
from teeio.pcie.seams import TIMED_OUT, UNSUPPORTED, Reply
from teeio.pcie.tlp import (
    CompletionStatus,
    SubStream,
    Tlp,
    TlpType,
    completion,
    memory_read,
    memory_write,
)
from teeio.pcie.transfer import (
    DEFAULT_MAX_PAYLOAD,
    DEFAULT_MAX_READ_REQUEST,
    NO_TAG,
    Requester,
    Verdict,
    completions,
    pieces,
    refusal,
)
from teeio.pcie.translation import is_translation_request


class Port(ABC):
    """What root ports and endpoint ports have in common: IDE, tags, and the link's end.

    `config` is the space of the function that holds the port's capabilities; IDE, AER and Max_Payload_Size are taken
    from it.
    """

    def __init__(
        self,
        name: str,
        function: Bdf,
        config: ConfigSpace,
        *,
        checks_all_rids: bool,
        on_insecure: Callable[[int, InsecureCause], None] | None,
        observer: Observer,
        rules: LinkRules,
    ) -> None:
        self.name = name
        self.function = function
        self.config = config
        self.observer = observer
        self.requester = Requester(quarantines_tags=rules.quarantines_tags)
        self.aer = config.find(AerCapability)
        self.express = config.find(ExpressCapability)
        self.link_status = [self.express] if self.express else []
        """The functions that show the link's state: all of a device."""
        self.ide = IdePort(
            config.find(IdeCapability),
            self._emit,
            lambda: self.function.requester_id,
            aer=self.aer,
            checks_all_rids=checks_all_rids,
            on_insecure=on_insecure,
            name=name,
            observer=observer,
            rules=rules,
        )
        self._end: LinkEnd | None = None

    def attach(self, end: LinkEnd) -> None:
        """Put the port at an end of a link."""
        self._end = end
        end.receiver = self.receive_frame
        end.on_down = self.link_down
        end.on_up = self.link_up
        end.express, end.segment = self.express, self.function.segment
        self.link_up(end.mode)

    def _emit(self, frame: bytes) -> None:
        if self._end is None:
            raise Misuse(f"{self.name} is attached to no link")
        self._end.send(frame)

    def link_up(self, mode: LinkMode) -> None:
        """Take over the mode in which the link came up."""
        self.ide.mode = mode
        for express in self.link_status:
            express.set(ExpressCapability.LINK_STATUS_2, flit_mode=int(mode.is_flit))

    def link_down(self) -> None:
        """Make all streams Insecure; nothing of the past can arrive any more."""
        self.ide.reset()
        self.requester.flush()

    @property
    def max_payload(self) -> int:
        """Max_Payload_Size in bytes."""
        return self.express.max_payload if self.express else DEFAULT_MAX_PAYLOAD

    @property
    def max_read_request(self) -> int:
        """Max_Read_Request_Size in bytes."""
        return self.express.max_read_request if self.express else DEFAULT_MAX_READ_REQUEST

    def log(self, error: Uncorrectable, tlp: Tlp) -> None:
        """Record an error, with the TLP's header as it is on the link."""
        if self.aer is not None:
            self.aer.record(error, self.ide.mode.header_of(tlp), flit=self.ide.mode.is_flit)

    def _note(self, error: Uncorrectable, what: str, tlp: Tlp) -> None:
        self.log(error, tlp)
        self.observer(Refused(self.name, what, error.name))

    # -- what comes in

    def receive_frame(self, frame: bytes) -> None:
        """Take a frame from the link. Never raises on what the partner sends."""
        for received in self.ide.receive(frame):
            try:
                self._route(received)
            except DecodeError as error:
                self._note(Uncorrectable.MALFORMED_TLP, str(error), received.tlp)

    def _route(self, received: Received) -> None:
        tlp = received.tlp
        kind = tlp.type
        if kind.is_completion:
            self._completed(received)
            return
        reply = self._serve(tlp, received.t_bit, received.stream_id) if received.admitted else UNSUPPORTED
        if not reply.ok:
            self._note(_ERRORS.get(reply.status, Uncorrectable.UNSUPPORTED_REQUEST), kind.label, tlp)
        if kind.sub_stream is SubStream.NPR:
            self._answer(received, reply)

    @abstractmethod
    def _serve(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Act on a request; what the reply says goes back if the request is non-posted."""

    def _answer(self, received: Received, reply: Reply) -> None:
        """Send completions the way the request came: same stream, same T bit."""
        tlp = received.tlp
        completer_id = self.function.requester_id if reply.completer_id is None else reply.completer_id
        if tlp.type is TlpType.MRD:
            answers = completions(tlp, completer_id, reply, self.max_payload)
        elif reply.ok:
            answers = [completion(completer_id, tlp.requester_id, tlp.header[6], reply.data)]
        else:
            answers = [refusal(tlp, completer_id, reply.status)]
        if received.stream_id is not None:
            self.ide.transmit_run(answers, received.t_bit, received.stream_id)
            return
        for answer in answers:
            self.ide.transmit_plain(answer)

    def _completed(self, received: Received) -> None:
        verdict = self.requester.complete(received)
        if verdict is Verdict.UNEXPECTED:
            self._note(Uncorrectable.UNEXPECTED_COMPLETION, verdict.value, received.tlp)
        elif verdict is Verdict.WRONG_STREAM:
            if received.stream_id is not None:
                self.ide.check_failed(received.stream_id, verdict.value)
            else:
                self._note(Uncorrectable.UNEXPECTED_COMPLETION, verdict.value, received.tlp)

    # -- what goes out

    def _send(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> bool:
        """Send on exactly this stream, or without IDE if it is None."""
        return self.ide.transmit(tlp, t_bit, stream_id) if stream_id is not None else self.ide.transmit_plain(tlp)

    def _transfer(self, request: Tlp, size: int, address: int, t_bit: bool, stream_id: int | None) -> Reply:
        """Send a non-posted request, whatever its tag is, under a fresh one; give what its completions bring."""
        stream_id = self.ide.select(request, t_bit) if stream_id is None else stream_id
        if stream_id is None and t_bit:
            self.observer(Refused(self.name, f"{request.type.value.label} with T=1", "T=1 needs a Secure IDE stream"))
            return UNSUPPORTED
        reply = self.requester.request(
            request.requester_id,
            size,
            address,
            stream_id,
            lambda tag: self._send(request.with_tag(tag), t_bit, stream_id),
            needs_t=t_bit and is_translation_request(request),
        )
        if reply is TIMED_OUT:
            self._note(Uncorrectable.COMPLETION_TIMEOUT, request.type.value.label, request)
        elif reply is NO_TAG:
            what = f"{request.type.value.label}: no tag left for requester {request.requester_id:#06x}"
            self.observer(Refused(self.name, what, "tags whose requests timed out rest until the link has been down"))
        return reply

    def exchange(self, request: Tlp, size: int, address: int, t_bit: bool, stream_id: int | None) -> Reply:
        """Send a non-posted request; give what its completions bring."""
        return self._transfer(request, size, address, t_bit, stream_id)

    def post(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> bool:
        """Send a posted request; no `stream_id` leaves the stream to the associations. False if it was not sent."""
        return self.ide.transmit(tlp, t_bit, stream_id)

    def answer(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> bool:
        """Send a message that answers another, the way that came: on its stream, or without IDE."""
        return self._send(tlp, t_bit, stream_id)

    def read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None) -> Reply:
        """Read memory beyond the link; the first piece that fails ends it."""
        data = bytearray()
        for at, part in pieces(address, size, self.max_read_request):
            reply = self._read_piece(requester_id, at, part, t_bit, stream_id)
            if not reply.ok:
                return reply
            data += reply.data
        return Reply(CompletionStatus.SC, bytes(data))

    def _read_piece(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None) -> Reply:
        return self._transfer(memory_read(requester_id, 0, address, size), size, address, t_bit, stream_id)

    def write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None
    ) -> CompletionStatus:
        """Write memory beyond the link; SC says that it was sent, UR that this port did not send it."""
        tlps = [
            memory_write(requester_id, 0, at, data[at - address : at - address + part])
            for at, part in pieces(address, len(data), self.max_payload)
        ]
        return CompletionStatus.SC if self.ide.transmit_run(tlps, t_bit, stream_id) else CompletionStatus.UR


_ERRORS = {
    CompletionStatus.UR: Uncorrectable.UNSUPPORTED_REQUEST,
    CompletionStatus.CA: Uncorrectable.COMPLETER_ABORT,
}
