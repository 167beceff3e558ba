"""What the responder tells about itself: measurements, the measurement extension log, endpoint information, vendor's messages."""

from __future__ import annotations

from teeio.cli.visits.visit import Visit
from teeio.errors import ErrorResponse
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability
from teeio.spdm.device_state import extended
from teeio.spdm.flows import MeasurementEvidence
from teeio.spdm.vendor import vendor_exchange

_COUNT = 0


def _measurements(visit: Visit, operation: int, *, signed: bool) -> MeasurementEvidence:
    plan = visit.plan
    return visit.run(
        flows.get_measurements(
            visit.requester,
            operation,
            slot=plan.slot,
            raw=plan.raw,
            signed=signed,
            session=visit.latest_id,
        )
    )


def _signs(visit: Visit) -> bool:
    return visit.plan.signed and visit.offers(Capability.MEAS_SIG)


def measure(visit: Visit, operations: tuple[int, ...] | None = None) -> None:
    """Read the measurements, in the session if there is one, signed where the responder signs."""
    signed = _signs(visit)
    evidences = [_measurements(visit, one, signed=signed) for one in operations or visit.plan.measurements]
    _measured(visit, evidences, "signature verified" if signed else "unsigned")


def measure_each(visit: Visit) -> None:
    """Ask for the number of blocks, then for one block after the other; the signature comes with the last one, over them all."""
    total = _measurements(visit, _COUNT, signed=False).response.total
    evidences: list[MeasurementEvidence] = []
    for index in range(1, 0xFF):
        if len(evidences) == total:
            break
        signed = _signs(visit) and len(evidences) == total - 1
        try:
            evidences.append(_measurements(visit, index, signed=signed))
        except ErrorResponse:
            # Indices have gaps. An ERROR breaks L, so that the signature covers the blocks since the last gap.
            continue
    _measured(visit, evidences, f"{total} announced, the last request {'signed' if _signs(visit) else 'unsigned'}")


def count_measurements(visit: Visit) -> None:
    """Ask how many blocks there are."""
    total = _measurements(visit, _COUNT, signed=False).response.total
    visit.done("measurement_count", total, "measurement count", f"{total} blocks")


def _measured(visit: Visit, evidences: list[MeasurementEvidence], note: str) -> None:
    blocks = [
        {
            "index": block.index,
            "type": getattr(block.type, "name", int(block.type)),
            "raw": bool(block.raw),
            "value": block.value.hex(),
        }
        for evidence in evidences
        for block in evidence.blocks
    ]
    inside = visit.latest is not None
    where = "measurements_in_session" if inside else "measurements"
    title = "measurements in session" if inside else "measurements"
    visit.done(where, blocks, title, f"{len(blocks)} blocks, {note}")


def measure_patiently(visit: Visit) -> None:
    """Read measurements of a responder that may not be ready, and tell how often it was asked again."""
    before = visit.messages[m.RespondIfReady.NAME]
    measure(visit)
    again = visit.messages[m.RespondIfReady.NAME] - before
    note = f"asked again {again} times" if again else "it was ready at once"
    visit.done("respond_if_ready", again, "RESPOND_IF_READY", note)


def read_log(visit: Visit) -> None:
    """Read the measurement extension log, and say what it amounts to."""
    log = visit.run(flows.get_measurement_extension_log(visit.requester, visit.latest_id))
    entries = [
        {
            "mel_index": entry.mel_index,
            "measurement_index": entry.measurement_index,
            "type": entry.type,
            "value": entry.value.hex(),
        }
        for entry in log.entries
    ]
    visit.done("measurement_log", entries, "measurement log", f"{len(entries)} entries, which nothing signs")
    algorithm = visit.connection.measurement_hash
    if entries and algorithm.name in type(visit.connection.base_hash).__members__:
        indices = dict.fromkeys(entry.measurement_index for entry in log.entries)
        values = {str(index): extended(log.entries, index, algorithm.base_hash).hex() for index in indices}
        visit.found["measurement_log_extends_to"] = values


def read_endpoint_info(visit: Visit) -> None:
    """Read the device class identifiers, signed where the responder signs, in the session if there is one."""
    signed = visit.plan.signed and visit.offers(Capability.EP_INFO_SIG)
    found = visit.run(
        flows.get_endpoint_info(visit.requester, slot=visit.plan.slot, signed=signed, session=visit.latest_id)
    )
    classes = [
        {
            "registry": one.registry,
            "vendor": one.vendor.hex(),
            "subordinates": [each.identifier.hex() for each in one.subordinates],
        }
        for one in found
    ]
    note = f"{len(classes)} device {'class' if len(classes) == 1 else 'classes'}, {'signature verified' if signed else 'unsigned'}"
    visit.done("endpoint_info", classes, "endpoint info", note)


def say_to_vendor(visit: Visit, standard_id: int, vendor_id: bytes, payload: bytes) -> None:
    """Send a VENDOR_DEFINED_REQUEST as it is given, in the session if there is one."""
    answer = visit.run(vendor_exchange(standard_id, vendor_id, payload), visit.latest)
    visit.done("vendor_defined", answer.hex(), "vendor defined", f"{len(answer)} bytes: {answer.hex(' ')}")
