"""What a manufacturer publishes: revocation lists that are signed once a day, and at once if there is more to say."""

import pytest

from teeio.crypto.certificates.revocation import Revocation, list_number, revocation_status
from teeio.crypto.entropy import SeededEntropy
from teeio.device.identity import DAY, Manufacture, Manufacturer

NOON = 1_767_225_600.0 + DAY / 2


@pytest.fixture(scope="module")
def made() -> Manufacture:
    return Manufacture()


@pytest.fixture
def manufacturer(made: Manufacture) -> Manufacturer:
    return Manufacturer.found(made.info, SeededEntropy(b"maker"), NOON)


def test_the_lists_of_a_day_are_signed_once(manufacturer: Manufacturer) -> None:
    lists = manufacturer.revocation_lists(NOON)
    assert manufacturer.revocation_lists(NOON + 1) is lists
    later = manufacturer.revocation_lists(NOON + DAY)
    assert not set(later) & set(lists)
    assert list_number(later[0]) > list_number(lists[0])


def test_what_is_revoked_during_the_day_is_told_at_once(manufacturer: Manufacturer, made: Manufacture) -> None:
    algorithm = next(iter(manufacturer.chains))
    root, _ = manufacturer.chains[algorithm]
    slot = manufacturer.certify(made)[algorithm].slots[0]
    chain, leaf = slot.chain(root.base_hash), slot.certificates[-1]

    def status(lists: tuple[bytes, ...], now: float) -> Revocation:
        return revocation_status(chain, manufacturer.roots, root.base_hash, now, lists)[0]

    before = manufacturer.revocation_lists(NOON)
    assert status(before, NOON) is Revocation.GOOD
    after = manufacturer.revocation_lists(NOON + 60, [leaf])
    assert status(after, NOON + 60) is Revocation.REVOKED
    assert all(list_number(new) > list_number(old) for new, old in zip(after, before, strict=True))
    assert status(manufacturer.revocation_lists(NOON + DAY, [leaf]), NOON + DAY) is Revocation.REVOKED
    midnight = NOON + DAY / 2
    assert status(manufacturer.revocation_lists(midnight, [leaf]), midnight - 60) is Revocation.REVOKED, "a slow clock"
    assert status(before, NOON + 9 * DAY) is Revocation.UNKNOWN, "too old"
