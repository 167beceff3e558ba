"""Transcripts: the bytes as sent and received, and what is signed over them (DSP0274, "Transcript and transcript hash").

The same object serves the requester, the responder and the dissector, so that all three agree on every reset. [lib] rules (how the
DMTF reference resets B, C and L) are followed where the specification leaves the choice.
"""

from __future__ import annotations

from teeio.crypto.algorithms import BaseHash
from teeio.crypto.kdf import digest
from teeio.spdm.constants import Version
from teeio.spdm.messages import ChunkGet, ChunkSend, GetDigests, GetMeasurements, GetVersion, RespondIfReady
from teeio.spdm.rules import BY_REQUEST, Effect

CHALLENGE_CONTEXT = "responder-challenge_auth signing"
MEASUREMENTS_CONTEXT = "responder-measurements signing"
KEY_EXCHANGE_CONTEXT = "responder-key_exchange_rsp signing"
FINISH_CONTEXT = "requester-finish signing"
ENDPOINT_INFO_CONTEXT = "responder-endpoint_info signing"

MAX_TRANSCRIPT = 1 << 20
"""Bound on B and on each L: a peer cannot make them grow further; the oldest part is then gone and signatures fail."""


def signing_message(version: int, context: str, transcript: bytes, base_hash: BaseHash) -> bytes:
    """Give the message that is signed over a transcript.

    1.0 and 1.1 sign the transcript itself; 1.2 and later sign a 100-byte prefix (four times the version text, zero padding, the
    context) followed by the transcript's hash (DSP0274, "Signature generation").
    """
    if version < Version.V1_2:
        return transcript
    prefix = f"dmtf-spdm-v{version >> 4}.{version & 0xF}.*".encode() * 4
    return prefix + bytes(36 - len(context)) + context.encode() + digest(base_hash, transcript)


_SIGNATURE_REQUESTED = 1
"""Bit 0 of Param1 of GET_MEASUREMENTS."""


def signers_context(context: str, *, encapsulated: bool) -> str:
    """Give the context of a response's signature: in an encapsulated response it is the requester that signs."""
    return context.replace("responder-", "requester-", 1) if encapsulated else context


class Transcript:
    """The transcripts of one connection. Call `begin` for every legal request and `end` when its response is known."""

    def __init__(self) -> None:
        self.vca = b""
        self.first_digests = b""
        self._b = b""
        self._l: dict[int | None, bytes] = {}
        self._challenged = False
        self._digests_window = True

    def mirrored(self, version: int) -> Transcript:
        """Give the transcript that encapsulated requests begin with: VCA from 1.2 on, nothing before."""
        made = Transcript()
        made.vca = self.vca if version >= Version.V1_2 else b""
        return made

    def begin(self, code: int, session: int | None) -> None:
        """Apply the resets that the arrival of request `code` causes; chunks are no requests of their own."""
        if code in (ChunkSend.CODE, ChunkGet.CODE, RespondIfReady.CODE, GetVersion.CODE):
            return
        if code != GetMeasurements.CODE:
            self._l.pop(session, None)
        rule = BY_REQUEST.get(code)
        effect = rule.effect if rule else Effect.NONE
        if effect is not Effect.VCA and code != GetDigests.CODE:
            self._digests_window = False
        forgets = effect in (Effect.SESSION, Effect.MEASUREMENT) and not self._challenged
        if forgets or (code == GetDigests.CODE and session is None):
            self._b = b""

    def end(self, code: int, request: bytes, response: bytes | None, session: int | None) -> None:
        """Enter a finished exchange; `response` is None if the answer was an ERROR."""
        rule = BY_REQUEST.get(code)
        effect = rule.effect if rule else Effect.NONE
        if effect is Effect.MEASUREMENT:
            # A signed MEASUREMENTS completes L, an ERROR breaks it: either way the next L starts anew.
            complete = response is None or request[2] & _SIGNATURE_REQUESTED
            before = self._l.pop(session, b"")
            if not complete and response is not None:
                self._l[session] = self._bounded(before + request + response)
        if response is None:
            return
        if code == GetVersion.CODE:
            # It resets everything once it is answered: one that is refused must change nothing.
            self.__init__()  # type: ignore[misc]
        if effect is Effect.VCA:
            self.vca += request + response
        elif effect is Effect.IDENTITY and session is None:
            self._b = self._bounded(self._b + request + response)
            if code == GetDigests.CODE and self._digests_window and not self.first_digests:
                self.first_digests = response
        elif effect is Effect.CHALLENGE:
            self._b = b""
            self._challenged = True

    def forget_measurements(self, session: int | None) -> None:
        """Drop L of a session that has ended."""
        self._l.pop(session, None)

    def m1(self, request: bytes, response: bytes) -> bytes:
        """Give M1 for a CHALLENGE and its response without the signature."""
        return self.vca + self._b + request + response

    def l1(self, version: int, session: int | None, request: bytes, response: bytes) -> bytes:
        """Give L1 for the signed GET_MEASUREMENTS and its response without the signature."""
        vca = self.vca if version >= Version.V1_2 else b""
        return vca + self._l.get(session, b"") + request + response

    def handshake(self, chain_hash: bytes, multi_key: bool) -> bytes:
        """Give what a session's TH begins with; `chain_hash` is empty for PSK sessions."""
        first_digests = self.first_digests if multi_key and chain_hash else b""
        return self.vca + first_digests + chain_hash

    @staticmethod
    def _bounded(data: bytes) -> bytes:
        return data[-MAX_TRANSCRIPT:]
