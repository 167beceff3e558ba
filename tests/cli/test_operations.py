"""The table of operations: it agrees with the rules of SPDM, and what is written wrongly is told how it is written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from teeio.cli.app import app
from teeio.cli.operation_table import ENTRIES, NAMES, Entry
from teeio.cli.operations import MAKERS, needed, parse_operations
from teeio.errors import Misuse
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability
from teeio.spdm.rules import BY_REQUEST, Phase, Place

REQUESTS: dict[str, type[m.Request[m.Response]]] = {
    "version": m.GetVersion,
    "digests": m.GetDigests,
    "certificate": m.GetCertificate,
    "slot-size": m.GetCertificate,
    "challenge": m.Challenge,
    "measurements": m.GetMeasurements,
    "respond-if-ready": m.RespondIfReady,
    "mel": m.GetMeasurementExtensionLog,
    "endpoint-info": m.GetEndpointInfo,
    "session": m.KeyExchange,
    "psk": m.PskExchange,
    "heartbeat": m.Heartbeat,
    "key-update": m.KeyUpdate,
    "supported-event-types": m.GetSupportedEventTypes,
    "subscribe": m.SubscribeEventTypes,
    "send-event": m.SendEvent,
    "get-csr": m.GetCsr,
    "set-certificate": m.SetCertificate,
    "erase-certificate": m.SetCertificate,
    "key-pair-info": m.GetKeyPairInfo,
    "set-key-pair-info": m.SetKeyPairInfo,
    "vendor-defined": m.VendorDefinedRequest,
    "end": m.EndSession,
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_needs_a_session_is_what_the_rules_say(name: str) -> None:
    rule, entry = BY_REQUEST[REQUESTS[name].CODE], ENTRIES[name]
    assert entry.in_session is not bool(rule.place & Place.OUTSIDE)
    assert entry.negotiated is (rule.phase is not Phase.START or rule.request is m.RespondIfReady)


def test_every_request_that_a_requester_may_begin_with_has_an_operation() -> None:
    inside_others = {
        m.GetCapabilities, m.NegotiateAlgorithms, m.Finish, m.PskFinish, m.ChunkSend, m.ChunkGet,
        m.GetEncapsulatedRequest, m.DeliverEncapsulatedResponse,
    }  # fmt: skip
    without_a_layout = {m.SlotManagement}
    known = {rule.request for rule in BY_REQUEST.values()}
    assert known - inside_others - without_a_layout == set(REQUESTS.values())


def test_everything_in_the_table_can_be_done() -> None:
    assert list(MAKERS) == list(ENTRIES)
    assert {"key-exchange", "psk-exchange", "end-session"} == NAMES.keys() - ENTRIES.keys()


def test_every_operation_is_in_the_help() -> None:
    shown = CliRunner().invoke(app, ["connect", "--help"], env={"COLUMNS": "100"}).stdout
    rows = [line.strip("│ ").split("  ") for line in shown.split("Operations")[-1].splitlines()]
    for entry in ENTRIES.values():
        row = next(cells for cells in rows if cells[0] == entry.form)
        assert any(cell.strip() == "needed" for cell in row[1:]) is entry.in_session


def test_every_operation_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "generated" / "operations.md").read_text()
    assert all(f"`{entry.form}`".replace("|", "\\|") in page for entry in ENTRIES.values())


def test_names_and_arguments() -> None:
    read = parse_operations("Session, key-update:request ,measurements:1+0xfd,end-session")
    assert [operation.entry.name for operation in read] == ["session", "key-update", "measurements", "end"]
    assert [operation.text for operation in read] == [
        "Session",
        "key-update:request",
        "measurements:1+0xfd",
        "end-session",
    ]


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("", "the empty list", "known are discovery"),
        ("fly", "'fly' is not known".replace("'", ""), "known are discovery"),
        ("session,hartbeat", "hartbeat is not known", "did you mean heartbeat?"),
        ("key-exchang", "not known", "did you mean key-exchange?"),
        ("heartbeat:3", "it takes no argument", "it is written heartbeat"),
        ("certificate:8", "slots are 0 to 7", "it is written certificate[:SLOT]"),
        ("certificate:x", "cannot be read", "certificate[:SLOT]"),
        ("measurements:0", "neither all nor", "measurements[:WHICH]"),
        ("key-update:both", "neither all nor request", "key-update[:all|request]"),
        ("subscribe:noise", "NOISE is no event type", "MEASUREMENT_CHANGED"),
        ("set-certificate:1", "a slot and a file", "set-certificate:SLOT:FILE"),
        ("erase-certificate", "cannot be read", "erase-certificate:SLOT"),
        ("key-pair-info:0", "key pairs are 1 to 255", "key-pair-info[:ID]"),
        ("set-key-pair-info:1:melt", "neither erase nor", "set-key-pair-info:ID:ACTION"),
        ("set-key-pair-info:1:erase+slots=1", "slots: not part of erase", ""),
        ("set-key-pair-info:1:change+colour=red", "colour: not part of change", ""),
        ("vendor-defined:3:01", "cannot be read", "vendor-defined:ID:VENDOR:HEX"),
        ("end:soon", "'soon' is not clear", "end[:clear]"),
        ("send-event:all:00", "it sends one event", "send-event:TYPE:HEX"),
        ("get-csr:a.csr:x", "cannot be read", "get-csr[:FILE[:TAG][+info=FILE]]"),
    ],
)
def test_what_is_written_wrongly(text: str, message: str, remedy: str) -> None:
    with pytest.raises(Misuse) as refused:
        parse_operations(text)
    assert message in str(refused.value)
    assert remedy in refused.value.remedy


def test_operations_say_what_we_must_offer() -> None:
    assert needed(parse_operations("session,heartbeat")) == Capability(0)
    assert needed(parse_operations("subscribe:none,serve")) == Capability.ENCAP


def test_forms() -> None:
    assert Entry("a", "", "").form == "a"
    assert Entry("a", "B", "").form == "a:B"
    assert Entry("a", "[B]", "").form == "a[:B]"
