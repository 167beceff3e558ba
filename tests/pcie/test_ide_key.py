"""A key slot: no key and IV twice, and nothing sealed or opened by a key that may not be used."""

from __future__ import annotations

import pytest

from teeio.errors import Misuse
from teeio.pcie.ide_key import KEY_SIZE, MAC_SIZE, IdeCheckFailed, KeySlot, SlotState

KEY = bytes(range(KEY_SIZE))


def ready() -> KeySlot:
    slot = KeySlot()
    slot.install(KEY)
    assert slot.go()
    return slot


def check_unusable(slot: KeySlot, why: str) -> None:
    with pytest.raises(IdeCheckFailed, match=why):
        slot.seal(b"", b"A")
    with pytest.raises(IdeCheckFailed, match=why):
        slot.open(b"", bytes(MAC_SIZE), b"A")


def test_no_iv_is_used_twice() -> None:
    slot = ready()
    assert len({slot.seal(b"", b"same") for _ in range(50)}) == 50


def test_a_full_counter_seals_and_opens_nothing() -> None:
    slot = ready()
    slot._invocation = (1 << 64) - 1
    slot.seal(b"", b"")
    check_unusable(slot, "all IVs")
    check_unusable(slot, "all IVs")


def test_a_key_installed_over_one_in_use_waits_for_its_own_go() -> None:
    slot = ready()
    slot.install(KEY[::-1])
    check_unusable(slot, "programmed")
    assert slot.go()
    assert slot.seal(b"", b"A") != ready().seal(b"", b"A")


@pytest.mark.parametrize("state", [SlotState.EMPTY, SlotState.STOPPED, SlotState.RETIRED])
def test_an_erased_key_is_gone(state: SlotState) -> None:
    slot = ready()
    slot.erase(state)
    assert not slot.go()
    check_unusable(slot, state.value)


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(Misuse):
        KeySlot().install(bytes(16))
