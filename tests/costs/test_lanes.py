"""The counts of the four data paths, exact."""

from collections.abc import Iterator

import pytest

from teeio.costs.lanes import LARGEST, MAX_PAYLOAD, Bench, Lane, Sample, prepared
from teeio.crypto.aead import TAG_SIZE
from teeio.errors import Misuse
from teeio.guest.dma import SEGMENT_SLOTS, SLOT_SIZE
from teeio.pcie.ide import SYNC_AT
from teeio.pcie.ide_key import MAC_SIZE
from teeio.pcie.ide_tlp import PREFIX_SIZE
from teeio.pcie.transfer import DEFAULT_MAX_READ_REQUEST

SIZES = (64, 256, 4096, 65536)
TOO_LARGE_FOR_A_SEGMENT = SEGMENT_SLOTS * SLOT_SIZE + 4


def no_clock() -> float:
    return 0.0


@pytest.fixture(scope="module", params=Lane, ids=lambda lane: lane.value)
def bed(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with prepared(request.param, largest=1 << 19, cpu_clock=no_clock, wall_clock=no_clock) as found:
        yield found


@pytest.fixture(scope="module")
def samples(bed: Bench) -> dict[int, Sample]:
    return {size: bed.measure(size) for size in SIZES}


def test_every_message_comes_back(samples: dict[int, Sample]) -> None:
    assert all(sample.correct for sample in samples.values())


def test_payload_is_what_the_device_reads_and_writes(samples: dict[int, Sample]) -> None:
    assert {size: sample.cost.payload for size, sample in samples.items()} == {size: 2 * size for size in SIZES}


def test_only_bounce_buffers_copy(samples: dict[int, Sample]) -> None:
    for size, sample in samples.items():
        tags = 2 * TAG_SIZE if sample.lane is Lane.ENCRYPTED else 0
        assert sample.cost.bytes_copied == (2 * size + tags if sample.lane.bounces else 0)
        assert sample.cost.copies == (2 if sample.lane.bounces else 0)


def test_the_cpu_encrypts_each_byte_once_on_the_encrypted_path_and_none_on_others(samples: dict[int, Sample]) -> None:
    wanted = 1.0 if next(iter(samples.values())).lane is Lane.ENCRYPTED else 0.0
    assert all(sample.per_byte()["bytes_encrypted"] == wanted for sample in samples.values())


def test_the_device_opens_what_the_cpu_has_sealed_and_seals_what_it_opens(samples: dict[int, Sample]) -> None:
    for size, sample in samples.items():
        wanted = size if sample.lane is Lane.ENCRYPTED else 0
        assert (sample.device_opened, sample.device_sealed) == (wanted, wanted)
        assert (sample.cost.bytes_decrypted, sample.cost.bytes_encrypted) == (wanted, wanted)
        assert sample.as_dict()["device"] == {"bytes_opened": wanted, "bytes_sealed": wanted}
        assert sample.per_byte()["device_bytes_ciphered"] == (1.0 if wanted else 0.0)
        assert sample.per_byte()["exits"] == 0, "in steady state nobody is called"


def test_ide_protects_every_tlp_of_tdisp_but_none_of_the_others(samples: dict[int, Sample]) -> None:
    for sample in samples.values():
        traffic = sample.down + sample.up
        assert traffic.ide_bytes == traffic.ide_tlps * (PREFIX_SIZE + MAC_SIZE)
        # The interrupt has T=0, but travels on the stream too.
        assert traffic.ide_tlps == (traffic.tlps if sample.lane is Lane.TDISP else 0)


def test_the_tlps_are_those_of_a_doorbell_a_descriptor_the_data_a_completion_and_an_interrupt(
    samples: dict[int, Sample],
) -> None:
    for size, sample in samples.items():
        if sample.lane is Lane.ENCRYPTED:
            continue  # the tag makes the pieces uneven
        reads = -(-size // DEFAULT_MAX_READ_REQUEST)
        payloads = -(-size // MAX_PAYLOAD)
        assert sample.down.tlps == 1 + 1 + payloads
        syncs = sample.up.tlps - (1 + reads + payloads + 1 + 1)
        # IDE keeps counters in step after 245 Posted TLPs, with one message for both other sub-streams or one for each.
        assert syncs == 0 or (sample.lane is Lane.TDISP and 0 < syncs <= 2 * (1 + payloads // SYNC_AT))


def test_a_message_in_steady_state_calls_neither_vmm_nor_tsm(samples: dict[int, Sample]) -> None:
    for sample in samples.values():
        assert (sample.cost.exits, sample.calls) == (0, {})
        assert (sample.cost.descriptors, sample.cost.halts, sample.cost.interrupts) == (1, 1, 1)


def test_a_message_larger_than_a_bounce_segment_takes_more_descriptors_and_copies(bed: Bench) -> None:
    sample = bed.measure(TOO_LARGE_FOR_A_SEGMENT)
    assert sample.correct
    assert sample.cost.descriptors == (2 if bed.lane.bounces else 1)
    assert sample.cost.copies == (4 if bed.lane.bounces else 0)
    assert sample.cost.bytes_encrypted == (TOO_LARGE_FOR_A_SEGMENT if bed.lane is Lane.ENCRYPTED else 0)


@pytest.mark.parametrize("size", [0, 60, 66, LARGEST + 4])
def test_other_sizes_are_refused(bed: Bench, size: int) -> None:
    with pytest.raises(Misuse, match="message of"):
        bed.measure(size)


def test_the_same_seed_gives_the_same_counts() -> None:
    found = []
    for _ in range(2):
        with prepared(Lane.ENCRYPTED, largest=4096, cpu_clock=no_clock, wall_clock=no_clock, seed=7) as bed:
            found.append(bed.measure(4096))
    assert found[0] == found[1]
