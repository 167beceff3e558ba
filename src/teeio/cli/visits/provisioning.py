"""Provisioning the responder: certificate requests, certificate slots, key pairs.

A device that must be reset first says so; that is an answer, not a failure.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from teeio.cli.visits.visit import Visit
from teeio.crypto.algorithms import PqcAsym
from teeio.crypto.certificates import chain_structure
from teeio.crypto.certificates.describe import certificates_of
from teeio.crypto.keys import Asym
from teeio.errors import ErrorResponse
from teeio.flow import Flow
from teeio.spdm import flows
from teeio.spdm.constants import ErrorCode
from teeio.spdm.device_state import KeyUsage
from teeio.spdm.messages import KeyPairInfo
from teeio.spdm.provisioning import KeyPairAsym, KeyPairCapability

T = TypeVar("T")

RESET = "the device must be reset first"


def _unless_reset(visit: Visit, flow: Flow[T]) -> tuple[T | None, int | None]:
    """Run a flow: give its result, or the error data with which the device asked for a reset."""
    try:
        return visit.run(flow), None
    except ErrorResponse as error:
        if error.code != ErrorCode.RESET_REQUIRED:
            raise
        return None, error.data


def get_csr(
    visit: Visit, file: Path | None, tracking_tag: int = 0, *, overwrite: bool = False, info: Path | None = None
) -> None:
    """Get a certificate request and write it to `file` (DER), or learn by which tracking tag to ask again after a reset.

    `info` holds the RequesterInfo to send: DER of a CertificationRequestInfo, whose contents the device may take over.
    """
    plan = visit.plan
    csr, tag = _unless_reset(
        visit,
        flows.get_csr(
            visit.requester,
            key_pair_id=plan.key_pair,
            model=visit.model,
            requester_info=info.read_bytes() if info else b"",
            tracking_tag=tracking_tag,
            overwrite=overwrite,
            session=visit.latest_id,
        ),
    )
    if csr is None:
        visit.done(
            "csr",
            {"reset_required": True, "tracking_tag": tag},
            "certificate request",
            f"{RESET}; ask again with tracking tag {tag}",
        )
        return
    if file is not None:
        file.write_bytes(csr)
    found = {"bytes": len(csr), "der": csr.hex(), "file": str(file) if file else None}
    where = f"written to {file}" if file else "give get-csr:FILE to keep it"
    visit.done("csr", found, "certificate request", f"{len(csr)} bytes, its signature verified, {where}")


def set_certificate(visit: Visit, slot: int, file: Path) -> None:
    """Write the chain in `file` (PEM, DER one after the other, or an SPDM chain) into a slot."""
    root, *below = certificates_of(file.read_bytes(), str(file))[0]
    chain = chain_structure(root, below, visit.connection.base_hash)
    plan = visit.plan
    flow = flows.set_certificate(
        visit.requester, slot, chain, key_pair_id=plan.key_pair, model=visit.model, session=visit.latest_id
    )
    _, reset = _unless_reset(visit, flow)
    _written(visit, slot, f"{len(below) + 1} certificates, {len(chain)} bytes", reset)


def erase_certificate(visit: Visit, slot: int) -> None:
    """Erase a slot."""
    flow = flows.erase_certificate(visit.requester, slot, key_pair_id=visit.plan.key_pair, session=visit.latest_id)
    _, reset = _unless_reset(visit, flow)
    _written(visit, slot, "erased", reset)


def _written(visit: Visit, slot: int, what: str, reset: int | None) -> None:
    # DIGESTS of before say nothing of a slot that has changed.
    visit.digests = None
    found = {"slot": slot, "reset_required": reset is not None}
    visit.done("certificate_set", found, f"slot {slot}", f"{what}; {RESET}" if reset is not None else what)


def describe_key_pairs(visit: Visit, number: int | None = None) -> None:
    """Ask what a key pair is and can, or what each of them is."""
    first = visit.run(flows.get_key_pair_info(visit.requester, number or 1, visit.latest_id))
    others = [] if number else range(2, first.total + 1)
    infos = [
        first,
        *(visit.run(flows.get_key_pair_info(visit.requester, each, visit.latest_id)) for each in others),
    ]
    found = [_described(info) for info in infos]
    note = ", ".join(f"{one['id']}: {one['algorithm'] or 'no algorithm'}" for one in found)
    visit.done("key_pairs", found, "key pairs", f"{note} (of {first.total})")


def _described(info: KeyPairInfo) -> dict[str, object]:
    return {
        "id": info.key_pair_id,
        "total": info.total,
        "algorithm": next(iter(_algorithms(info.current_asym, info.current_pqc)), None),
        "algorithms": _algorithms(info.asym_capabilities, info.pqc_capabilities),
        "usage": _flags(KeyUsage(info.current_usage)),
        "usages": _flags(KeyUsage(info.usage_capabilities)),
        "capabilities": _flags(KeyPairCapability(info.capabilities)),
        "slots": [slot for slot in range(8) if info.slots >> slot & 1],
        "algorithm_identifier": info.public_key_info.hex(),
    }


def _algorithms(asym: int, pqc: bytes) -> list[str]:
    return _flags(KeyPairAsym(asym)) + _flags(PqcAsym(int.from_bytes(pqc, "little")))


def _flags(value: KeyPairAsym | PqcAsym | KeyUsage | KeyPairCapability) -> list[str]:
    return [flag.name or "" for flag in type(value) if flag & value]


def set_key_pair(
    visit: Visit,
    number: int,
    action: str,
    *,
    algorithm: Asym | None = None,
    slots: int | None = None,
    usage: KeyUsage | None = None,
) -> None:
    """Erase, generate or change a key pair; what is not given stays as it is."""
    requester, session = visit.requester, visit.latest_id
    if slots is None and action != "erase":
        slots = visit.run(flows.get_key_pair_info(requester, number, session)).slots
    if action == "erase":
        flow = flows.erase_key_pair(requester, number, session)
    else:
        make = flows.generate_key_pair if action == "generate" else flows.change_key_pair
        flow = make(requester, number, slots=slots or 0, usage=usage, algorithm=algorithm, session=session)
    _, reset = _unless_reset(visit, flow)
    found = {"id": number, "action": action, "reset_required": reset is not None}
    visit.done("key_pair_set", found, f"key pair {number}", f"{action}; {RESET}" if reset is not None else action)
