"""Count the abuses by kind: `PYTHONPATH=src:tests python -m spdm.abuse` prints the table of docs/testing.md."""

import sys
from collections import Counter

from spdm.abuse.examples import Example, examples
from spdm.abuse.layout import lengths, oversized, reserved, trailing, truncated
from spdm.abuse.order import OF_ENCAPSULATION, amid, capabilities, codes, out_of_place, versions
from spdm.abuse.records import damaged, of_nobody, sealed, unreadable
from spdm.abuse.scene import INSIDE, Stage, scene_at, stages_of
from spdm.abuse.values import undefined
from spdm.abuse.verdict import Abuse, Kind
from teeio.spdm import messages as m
from teeio.spdm.constants import Version


def counted() -> Counter[Kind]:
    """Make every abuse once and count it."""
    found: Counter[Kind] = Counter()
    for example in examples():
        for make in (truncated, lengths, trailing, oversized, undefined, versions):
            found.update(abuse.kind for abuse in make(example, example.scene()))
        found.update(abuse.kind for _, abuse in capabilities(example, example.scene()))
        found[Kind.RESERVED] += len(list(reserved(example, example.scene())))
        found[Kind.REPLAYED_MESSAGE] += 1
        found[Kind.REPLAYED_RECORD] += example.stage in INSIDE
        found.update(abuse.kind for abuse in _amid(example))
    for version in Version:
        for stage in stages_of(version):
            found.update(abuse.kind for abuse in codes(scene_at(version, stage)))
            found.update(abuse.kind for abuse in out_of_place(stage, scene_at(version, stage)))
            if stage in INSIDE:
                found.update(_records(version, stage))
    return found


def _amid(example: Example) -> list[Abuse]:
    request, scene = example.row.request, example.scene()
    if request is m.DeliverEncapsulatedResponse:
        return list(amid(Kind.IN_FLIGHT, OF_ENCAPSULATION, scene))
    if request is m.ChunkGet or example.row.variant == "second":
        return list(amid(Kind.MID_TRANSFER, (m.GetVersion.CODE, request.CODE), scene))
    return []


def _records(version: int, stage: Stage) -> dict[Kind, int]:
    scene = scene_at(version, stage)
    assert scene.session is not None
    record = sealed(scene.session, m.Heartbeat().encode(scene.facts))
    return {
        Kind.DAMAGED_RECORD: len(list(damaged(record))),
        Kind.NO_RECORD: len(list(unreadable(record))),
        Kind.UNKNOWN_SESSION: len(list(of_nobody(record, set(scene.pair.responder.sessions)))),
        Kind.OTHER_SESSION: int(stage is Stage.ESTABLISHED),
    }


def main() -> None:
    found = counted()
    for kind in Kind:
        sys.stdout.write(f"| {kind.text} | {kind.outcome} | {found[kind]:,} |\n")
    sys.stdout.write(f"{found.total():,} in all\n")


if __name__ == "__main__":
    main()
