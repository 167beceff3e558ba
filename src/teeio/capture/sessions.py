"""Sessions of a capture: their secrets, derived or given, and the opening of their records.

The key schedule is that of `spdm.state.Session`; here is what an onlooker needs besides: several key-log entries may
fit, and the moment at which a side takes a new key into use is only seen by which key opens its next record.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from teeio.capture.keylog import SessionSecrets
from teeio.capture.keyring import KeyRing
from teeio.errors import AuthenticationFailed, TeeioError
from teeio.observe import Event, SecretDerived
from teeio.spdm.binding import Binding
from teeio.spdm.byte_order import ByteOrder
from teeio.spdm.key_schedule import HandshakeSecrets, KeySchedule
from teeio.spdm.record import RecordKey, RecordTerms
from teeio.spdm.state import Session, SessionPhase

NO_KEY_LOG = "no key log is given"
NO_FIT = "no secret of the key log fits this session"


class Direction(Enum):
    """Who sends."""

    REQUEST = "REQ->RSP"
    RESPONSE = "RSP->REQ"

    @property
    def opposite(self) -> Direction:
        """The other direction."""
        return _RESPONSE if self is _REQUEST else _REQUEST


_REQUEST, _RESPONSE = Direction


class _Stage(Enum):
    HANDSHAKE = "handshake"
    DATA = "data"
    UPDATE = "update"


class RecordKeys:
    """The keys of one direction: the one in use, and those that may follow."""

    def __init__(self, update_label: str) -> None:
        self.update_label = update_label
        self._keys: list[tuple[_Stage, RecordKey]] = []

    def __bool__(self) -> bool:
        return bool(self._keys)

    def expect(self, stage: _Stage, key: RecordKey) -> None:
        """Let `key` follow the one in use; an earlier expectation of the same stage is replaced."""
        self._keys[1:] = [entry for entry in self._keys[1:] if entry[0] is not stage] + [(stage, key)]

    def expect_update(self) -> None:
        """Let the key that KEY_UPDATE derives follow the latest one that is known."""
        known = self._keys[:1] + [entry for entry in self._keys[1:] if entry[0] is not _Stage.UPDATE]
        if known:
            self.expect(_Stage.UPDATE, known[-1][1].updated())

    def open(self, record: bytes, binding: Binding, encrypted: bool) -> tuple[bytes, RecordKey | None]:
        """Open a record; give the message, and the key if a key update has just come into use.

        Raises `AuthenticationFailed` or `DecodeError` as the key in use does.
        """
        failure: TeeioError | None = None
        for at, (stage, key) in enumerate(self._keys):
            try:
                message = key.open(record, binding, encrypted=encrypted)
            except AuthenticationFailed as error:
                failure = failure or error
                continue
            del self._keys[:at]
            return message, key if at and stage is _Stage.UPDATE else None
        raise failure or AuthenticationFailed("there is no key for this direction")


class DissectedSession:
    """One session: what the messages tell of it, and what the key log gives.

    `secrets` has all secrets by the label of the key log, `updates` those of key updates, `finished_keys` the
    requester's and the responder's. `reason` says why its records cannot be opened, or is "". `number` and `connection`
    count from 1 over the capture. `doubted` names the verify data that no secret has fitted so far.
    """

    def __init__(self, session_id: int, frame: int, schedule: KeySchedule, *, psk: bool, encrypted: bool) -> None:
        self.session_id = session_id
        self.number = self.connection = 0
        self.first_frame = self.last_frame = frame
        self.psk = psk
        self.spdm = Session(session_id, schedule, self._note, encrypted=encrypted, terms=RecordTerms(ByteOrder.EITHER))
        self.secrets: dict[str, bytes] = {}
        self.updates: dict[str, list[bytes]] = {}
        self.finished_keys: tuple[bytes, bytes] | None = None
        self.current: SessionSecrets | None = None
        self.proven = False
        self.reason = NO_KEY_LOG
        self.opened = 0
        self.unopened: list[int] = []
        self.doubted: list[str] = []
        self.mut_auth_requested = 0
        self.encapsulated_digests = b""
        self.finishing = b""
        self._candidates: list[SessionSecrets] = []
        self._th1 = b""
        self._keys = {
            Direction.REQUEST: RecordKeys("request_data_secret_update"),
            Direction.RESPONSE: RecordKeys("response_data_secret_update"),
        }

    def _note(self, event: Event) -> None:
        if isinstance(event, SecretDerived):
            self.secrets[event.label] = event.value

    @property
    def phase(self) -> SessionPhase:
        """The phase that the messages show."""
        return self.spdm.phase

    @property
    def has_handshake_secrets(self) -> bool:
        """Tell whether verify data can be computed."""
        return self.finished_keys is not None

    def log_entry(self) -> SessionSecrets:
        """Give the session's secrets as an entry of a key log."""
        updates = {label: list(values) for label, values in self.updates.items()}
        return SessionSecrets(self.session_id, dict(self.secrets), updates)

    # -- keys ------------------------------------------------------------------------------------------------------

    def offer(self, ring: KeyRing) -> None:
        """Take what may be this session's secrets."""
        self._candidates = ring.candidates(self.session_id, psk=self.psk)
        if not self._candidates:
            self.reason = NO_KEY_LOG if ring.empty else "the key log has no secret of this session"

    def enter_handshake(self, th1: bytes) -> None:
        """Derive the handshake secrets from the likeliest entry; `th1` is the transcript of TH1."""
        self._th1 = self.spdm.transcript = th1
        for candidate in self._candidates:
            if self._try(candidate):
                return

    def cannot_derive(self, reason: str) -> None:
        """Learn that TH1 cannot be known; only secrets that the key log gives directly are of use then."""
        self.reason = reason
        for candidate in self._candidates:
            if self._take_given(candidate):
                return

    def prove(self, holds: Callable[[HandshakeSecrets], bool]) -> bool:
        """Tell whether the handshake secrets satisfy `holds`; before any record was opened, seek an entry whose do."""
        if self.has_handshake_secrets and holds(self.spdm.handshake):
            self.proven = True
            return True
        if self.proven or self.opened:
            return False
        before = self.current
        for candidate in self._candidates:
            if candidate is not before and candidate.shared and self._try(candidate) and holds(self.spdm.handshake):
                self.proven = True
                return True
        if before is not None:
            self._try(before)
        return False

    def _try(self, candidate: SessionSecrets) -> bool:
        shared = candidate.shared
        if shared is None:
            return self._take_given(candidate)
        before, self.spdm.transcript = self.spdm.transcript, self._th1
        self.secrets = {}
        try:
            self.spdm.enter_handshake(shared[1], psk=self.psk)
        except TeeioError as error:
            self.reason = str(error)
            return False
        finally:
            self.spdm.transcript = before
        if shared[0] not in self.secrets:
            # A KEM secret takes the place of the DHE secret, under its own name in key logs.
            self.secrets = {
                shared[0] if label == "dhe_secret" else label: value for label, value in self.secrets.items()
            }
        handshake = self.spdm.handshake
        self.finished_keys = (handshake.request_finished, handshake.response_finished)
        self._start(_Stage.HANDSHAKE, self.spdm.request_key, self.spdm.response_key)
        self.current = candidate
        return True

    def _take_given(self, candidate: SessionSecrets) -> bool:
        """Use traffic secrets as they stand in the key log."""
        taken = False
        for stage in (_Stage.HANDSHAKE, _Stage.DATA):
            secrets = [candidate.values.get(f"{side}_{stage.value}_secret") for side in ("request", "response")]
            if None in secrets:
                continue
            try:
                request, response = (
                    RecordKey(self.spdm.schedule, secret, self.spdm.terms) for secret in secrets if secret
                )
            except TeeioError as error:
                self.reason = str(error)
                return False
            if taken:
                self._expect(stage, request, response)
            else:
                self._start(stage, request, response)
            taken = True
        if taken:
            self.secrets, self.finished_keys, self.current = dict(candidate.values), None, candidate
        return taken

    def _start(self, stage: _Stage, request: RecordKey, response: RecordKey) -> None:
        self.reason = ""
        for direction in Direction:
            self._keys[direction] = RecordKeys(self._keys[direction].update_label)
        self._expect(stage, request, response)

    def _expect(self, stage: _Stage, request: RecordKey, response: RecordKey) -> None:
        self._keys[Direction.REQUEST].expect(stage, request)
        self._keys[Direction.RESPONSE].expect(stage, response)

    def enter_data(self) -> None:
        """Enter the application phase; `spdm.transcript` is TH2."""
        if self.finished_keys is None:
            self.spdm.move(SessionPhase.ESTABLISHED, "FINISH")
            return
        self.spdm.enter_data()
        self._expect(_Stage.DATA, self.spdm.request_key, self.spdm.response_key)

    def expect_update(self, direction: Direction) -> None:
        """Expect that the data key of `direction` is updated."""
        self._keys[direction].expect_update()

    # -- records ---------------------------------------------------------------------------------------------------

    def open(self, record: bytes, binding: Binding, likely: Direction) -> tuple[bytes, Direction]:
        """Open a record of either direction, the likely one first.

        Raises `AuthenticationFailed` if no key opens it and `DecodeError` if it is malformed.
        """
        try:
            return self._open(record, binding, likely)
        except AuthenticationFailed:
            if self.proven or self.opened:
                raise
        # Traffic secrets given without the secret they come from are only told apart by what they open.
        before = self.current
        for candidate in self._candidates:
            if candidate is not before and candidate.shared is None and self._take_given(candidate):
                try:
                    return self._open(record, binding, likely)
                except AuthenticationFailed:
                    continue
        if before is not None:
            self._try(before)
        raise AuthenticationFailed(self.reason or NO_FIT)

    def _open(self, record: bytes, binding: Binding, likely: Direction) -> tuple[bytes, Direction]:
        failure: TeeioError | None = None
        for direction in (likely, likely.opposite):
            keys = self._keys[direction]
            if not keys:
                continue
            try:
                message, updated = keys.open(record, binding, self.spdm.encrypted)
            except AuthenticationFailed as error:
                failure = failure or error
                continue
            if updated is not None:
                self.updates.setdefault(keys.update_label, []).append(updated.secret)
            self.opened += 1
            return message, direction
        raise failure or AuthenticationFailed(self.reason or NO_KEY_LOG)
