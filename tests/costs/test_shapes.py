"""The shapes: monotone, and as published where the model claims so."""

import pytest

from teeio.costs import hardware, shapes, swiotlb
from teeio.costs.lanes import Lane, Sample, prepared
from teeio.costs.shapes import FASTRACK, STREAMS, Claim
from teeio.costs.timing import demand, timing

SIZES = (64, 4096, 65536, 262144)


def no_clock() -> float:
    return 0.0


@pytest.fixture(scope="module")
def samples() -> dict[Lane, dict[int, Sample]]:
    found: dict[Lane, dict[int, Sample]] = {}
    for lane in Lane:
        with prepared(lane, largest=max(SIZES), cpu_clock=no_clock, wall_clock=no_clock) as bed:
            found[lane] = {size: bed.measure(size) for size in SIZES}
    return found


def claims_of(samples: dict[Lane, dict[int, Sample]], shape: str) -> list[Claim]:
    return [claim for claim in shapes.claims(samples) if claim.shape == shape]


def test_the_ratio_grows_with_the_size_and_enters_the_published_band(samples: dict[Lane, dict[int, Sample]]) -> None:
    ratios = shapes.ratios(samples)
    assert list(ratios.values()) == sorted(ratios.values())
    assert FASTRACK[0] <= ratios[262144] <= FASTRACK[1]
    assert ratios[64] < 1.1


def test_a_claim_holds_exactly_where_the_ratio_is_in_the_band(samples: dict[Lane, dict[int, Sample]]) -> None:
    for claim in claims_of(samples, "S1"):
        assert claim.holds == (FASTRACK[0] <= float(claim.model) <= FASTRACK[1])


def test_latency_grows_and_throughput_grows_with_the_size_by_every_path(samples: dict[Lane, dict[int, Sample]]) -> None:
    for found in samples.values():
        times = [timing(sample) for sample in found.values()]
        assert [time.latency for time in times] == sorted(time.latency for time in times)
        assert [time.throughput for time in times] == sorted(time.throughput for time in times)


def test_the_paths_keep_their_order(samples: dict[Lane, dict[int, Sample]]) -> None:
    for size in SIZES:
        cpu = {lane: demand(samples[lane][size]).cpu for lane in Lane}
        assert cpu[Lane.DIRECT] == cpu[Lane.TDISP] < cpu[Lane.COPIED] < cpu[Lane.ENCRYPTED]
        latency = {lane: demand(samples[lane][size]).latency for lane in Lane}
        assert latency[Lane.DIRECT] < latency[Lane.TDISP]


def test_throughput_never_exceeds_what_its_busiest_stage_can_do(samples: dict[Lane, dict[int, Sample]]) -> None:
    for found in samples.values():
        for sample in found.values():
            work, time = demand(sample), timing(sample)
            slowest = max(work.before + work.after, work.down, work.up, work.device) * work.descriptors
            assert time.throughput <= sample.cost.payload / slowest * (1 + 1e-9)
            assert time.throughput >= 0.8 * sample.cost.payload / slowest


@pytest.mark.parametrize("row", swiotlb.TABLE, ids=lambda row: f"{row.kind.name}-{row.jobs}-{row.areas}")
def test_one_lock_and_areas_give_the_published_table(row: swiotlb.Row) -> None:
    found = swiotlb.play(row.kind, row.jobs, areas=row.areas)
    assert found.kiops == pytest.approx(row.kiops, rel=0.01 if row.fitted else 0.02)
    assert found.cpu == pytest.approx(row.cpu, rel=0.045)


def test_the_cipher_to_a_copy_is_in_the_published_band_but_for_the_smallest() -> None:
    ratios = [shapes.cipher_to_copy(size) for size in SIZES]
    assert ratios == sorted(ratios, reverse=True), "starting the cipher weighs less the more bytes it has"
    assert all(FASTRACK[0] <= ratio <= FASTRACK[1] for ratio in ratios[1:])


def test_only_the_serial_channel_keeps_streams_from_gaining(samples: dict[Lane, dict[int, Sample]]) -> None:
    bounce = shapes.concurrency(samples[Lane.ENCRYPTED][65536])
    trusted = shapes.concurrency(samples[Lane.TDISP][65536])
    assert bounce[max(STREAMS)] < 1.15
    assert list(trusted.values()) == sorted(trusted.values())
    assert trusted[2] > 1.9
    full = samples[Lane.TDISP][65536]
    link = hardware.LINK_RATE.value / full.up.on_link(hardware.FRAMING.value) * full.cost.payload
    assert trusted[max(STREAMS)] * full.cost.payload / demand(full).latency < link


def test_an_affine_law_is_found_again() -> None:
    toll, rate, error = shapes.affine({n: 5e-6 + n / 2e9 for n in SIZES})
    assert (toll, rate) == (pytest.approx(5e-6), pytest.approx(2e9))
    assert error < 1e-9


def test_encrypted_bounce_is_a_toll_and_a_rate(samples: dict[Lane, dict[int, Sample]]) -> None:
    toll, rate, error = shapes.affine({n: demand(one).latency for n, one in samples[Lane.ENCRYPTED].items()})
    assert error < 0.05
    assert toll == pytest.approx(demand(samples[Lane.ENCRYPTED][64]).latency, rel=0.05)
    assert rate < hardware.AES_RATE.value / 2  # it is sealed, and it is opened


def test_folio_is_right_for_small_messages_and_the_loss_grows(samples: dict[Lane, dict[int, Sample]]) -> None:
    lost = [float(claim.model.rstrip("%")) for claim in claims_of(samples, "FOLIO")]
    assert lost == sorted(lost)
    assert lost[SIZES.index(4096)] < 6.0 < lost[-1]
    assert [claim.holds for claim in claims_of(samples, "FOLIO")] == [True, True, None, None]


def test_a_path_that_was_not_measured_is_not_compared(samples: dict[Lane, dict[int, Sample]]) -> None:
    only = {Lane.DIRECT: samples[Lane.DIRECT]}
    assert {claim.shape for claim in shapes.claims(only)} == {"S2"}


def test_every_constant_has_a_unit_and_a_source() -> None:
    assert len(hardware.CONSTANTS) >= 13
    for constant in hardware.CONSTANTS:
        assert constant.value > 0
        assert constant.unit
        assert constant.source
    assert len({constant.name for constant in hardware.CONSTANTS}) == len(hardware.CONSTANTS)
