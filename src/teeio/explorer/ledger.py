"""Which IV was used under which IDE key: every port writes here what it seals with, while somebody watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from teeio.pcie import ide_key
from teeio.pcie.ide_key import KeySlot
from teeio.scenarios.scenario import Mutant, Removed


class Ledger:
    """The pairs of key and IV used for sealing, the IV by the slot's counter and the rule in force.

    `repeated` is the first pair that came twice.
    """

    current: Ledger | None = None
    """The ledger of the exploration under way; forked processes have a copy each."""

    def __init__(self) -> None:
        self.repeated: str | None = None
        self._keys: dict[KeySlot, bytes] = {}
        self._used: set[tuple[bytes, bytes]] = set()

    @classmethod
    @contextmanager
    def watching(cls) -> Iterator[Ledger]:
        """Note everything that is installed and sealed in the meantime."""
        ledger = cls.current = cls()
        install, seal = KeySlot.install, KeySlot.seal

        def installing(slot: KeySlot, key: bytes) -> None:
            install(slot, key)
            ledger._keys[slot] = sha256(key).digest()[:8]

        def sealing(slot: KeySlot, plaintext: bytes, associated: bytes) -> bytes:
            ledger._note(slot)
            return seal(slot, plaintext, associated)

        hooks = Mutant("a blind eye", (Removed(KeySlot, "install", installing), Removed(KeySlot, "seal", sealing)))
        try:
            with hooks.living():
                yield ledger
        finally:
            cls.current = None

    def _note(self, slot: KeySlot) -> None:
        used = (self._keys.get(slot, b""), ide_key.initialization_vector(slot._invocation))
        if used in self._used:
            self.repeated = self.repeated or f"IV {used[1].hex()} of key {used[0].hex()}"
        self._used.add(used)
