"""Values that the layout allows and the specification does not define, or that name nothing here; by request and field."""

from collections.abc import Iterator
from dataclasses import dataclass

from spdm.abuse.examples import Example
from spdm.abuse.layout import places
from spdm.abuse.scene import Scene
from spdm.abuse.verdict import Abuse, E, Kind
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode, Version

TRANSFER_ENDS = frozenset({"{large}.incoming", "{large}.outgoing"})
RESETS = frozenset({"transcript.b", "transcript.window", "{l}"})
"""What a request resets that can be read, answered or refused (DSP0274, transcripts; see `Transcript.begin`)."""


@dataclass(frozen=True)
class Undefined:
    """Values of a field and the error that they get; `changes` is what else the specification lets them change.

    With `variant` only that example of the request is meant.
    """

    request: type[m.Request[m.Response]]
    field: str
    values: tuple[int, ...]
    error: ErrorCode = E.INVALID_REQUEST
    changes: frozenset[str] = frozenset()
    since: int = Version.V1_0
    variant: str | None = None


UNDEFINED = (
    Undefined(m.GetCapabilities, "ct_exponent", (32, 0xFF), since=Version.V1_1),
    Undefined(m.GetCapabilities, "data_transfer_size", (0, 41, 0xFFFF_FFFF), since=Version.V1_2),
    Undefined(m.GetCapabilities, "max_message_size", (0, 41), since=Version.V1_2),
    Undefined(m.NegotiateAlgorithms, "base_hash", (0, 0x8000_0000)),
    Undefined(m.GetCertificate, "offset", (0xFFFF,), variant=""),
    Undefined(m.GetCertificate, "large_offset", (0xFFFF_FFFF,)),
    Undefined(m.GetCertificate, "large_length", (0,)),
    Undefined(m.Challenge, "slot", (1, 7, 8, 0x10, 0xFE)),
    Undefined(m.Challenge, "summary_type", (2, 0x7F, 0xFE)),
    Undefined(m.GetMeasurements, "operation", (3, 0x55, 0xFE)),
    Undefined(m.GetMeasurements, "slot", (1, 7)),
    Undefined(m.KeyExchange, "slot", (1, 8, 0xFE)),
    Undefined(m.KeyExchange, "summary_type", (2, 0xFE)),
    Undefined(m.KeyExchange, "exchange_data", (0, 1)),
    Undefined(m.KeyExchange, "opaque", (0,)),
    Undefined(m.PskExchange, "hint", (0,)),
    Undefined(m.PskExchange, "summary_type", (2, 0xFE)),
    Undefined(m.PskExchange, "opaque", (0,)),
    Undefined(m.KeyUpdate, "operation", (0, 3, 4, 0xFF)),
    Undefined(m.DeliverEncapsulatedResponse, "request_id", (0, 2, 0xFF)),
    Undefined(m.GetCsr, "requester_info", (0, 0xFFFF)),
    Undefined(m.GetCsr, "key_pair_id", (1, 0xFF), since=Version.V1_3),
    Undefined(m.SetCertificate, "key_pair_id", (1, 0xFF), since=Version.V1_3),
    Undefined(m.ChunkSend, "handle", (9,), changes=TRANSFER_ENDS, variant="second"),
    Undefined(m.ChunkSend, "large_message_size", (0, 42, 0xFFFF_FFFF), changes=TRANSFER_ENDS),
    Undefined(m.ChunkGet, "handle", (0xEE,), changes=TRANSFER_ENDS),
    Undefined(m.ChunkGet, "sequence", (1, 0xFFFF), changes=TRANSFER_ENDS),
    Undefined(m.ChunkGet, "large_sequence", (1, 0xFFFF_FFFF), changes=TRANSFER_ENDS),
    Undefined(m.GetEndpointInfo, "sub_code", (0, 2, 0xFF)),
    Undefined(m.GetEndpointInfo, "slot", (1, 7)),
    Undefined(m.GetMeasurementExtensionLog, "offset", (0xFFFF_FFFF,)),
    Undefined(m.GetMeasurementExtensionLog, "length", (0,)),
    Undefined(m.GetKeyPairInfo, "key_pair_id", (0, 9, 0xFF)),
    Undefined(m.SetKeyPairInfo, "operation", (3, 0xFF)),
    Undefined(m.SetKeyPairInfo, "key_pair_id", (0, 9, 0xFF)),
    Undefined(m.SetKeyPairInfo, "usage", (0x0100,)),
    Undefined(m.SetKeyPairInfo, "asym", (0x3, 0x8000_0000)),
    Undefined(m.SubscribeEventTypes, "groups[0].group_version", (0, 2)),
    Undefined(m.SubscribeEventTypes, "groups[0].registry", (9,)),
    Undefined(m.SubscribeEventTypes, "groups[0].types[0].type_id", (0, 99)),
    Undefined(m.SendEvent, "events[0].type_id", (0, 99)),
    Undefined(m.VendorDefinedRequest, "standard_id", (0, 0xFFFF), error=E.UNSUPPORTED_REQUEST),
    Undefined(m.VendorDefinedRequest, "vendor_id", (0, 0xFFFF), error=E.UNSUPPORTED_REQUEST),
    Undefined(m.RespondIfReady, "original_request_code", (0, m.GetDigests.CODE)),
    Undefined(m.RespondIfReady, "token", (0, 0xEE)),
)


def undefined(example: Example, scene: Scene) -> Iterator[Abuse]:
    """Give the fields of a valid message values that mean nothing."""
    message = example.message(scene)
    found = {place.path: place for place in places(example.row.request, message, scene.facts)}
    for row in UNDEFINED:
        meant = row.variant in (None, example.row.variant) and example.version >= row.since
        if row.request is not example.row.request or row.field not in found or not meant:
            continue
        place = found[row.field]
        for value in row.values:
            edited = value.to_bytes(place.end - place.start, "little")
            data = example.code if row.error is E.UNSUPPORTED_REQUEST else 0
            wrong = message[: place.start] + edited + message[place.end :]
            yield Abuse(
                Kind.UNDEFINED_VALUE, f"{row.field} is {value:#x}", wrong, row.error, data, row.changes | RESETS
            )
