"""SPDM connections with an id through the DOE mailbox of `teeio device`, from the command lines of both sides."""

import json
from pathlib import Path

import pytest

from cli.served import connect, device, run, runner
from teeio.cli.app import app
from teeio.cli.serving import DeviceServer
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Misuse
from teeio.observe import ignore
from teeio.transport.kinds import Transport

DOE = Transport.PCI_DOE
LISTED = ["0x0001:0x00", "0x0001:0x01", "0x0001:0x02", "0x0001:0x03", "0x0001:0x04"]


def test_the_trusted_life_on_a_connection_with_an_id(tmp_path: Path) -> None:
    pcap, keys = tmp_path / "run.pcap", tmp_path / "run.keys"
    with device(DOE, doe_connections=(0, 77)) as peer:
        recorded = ["--pcap", str(pcap), "--keylog", str(keys)]
        found = connect(peer, "--doe-connection-id", "77", *recorded, transport=DOE)
    assert found["doe_protocols"] == LISTED
    assert found["tdisp"]["states"][2] == "RUN"
    result = runner.invoke(app, ["decode", str(pcap), "--keys", str(keys), "--json"])
    assert result.exit_code == 0, result.stderr
    *_, last = result.stdout.splitlines()
    assert [one["ends"] for one in json.loads(last)["summary"]["connections"]] == ["DOE connection id 77"]


def test_the_connection_without_an_id_is_there_as_well() -> None:
    with device(DOE, doe_connections=(77,)) as peer:
        found = connect(peer, "--operations", "discovery,version", transport=DOE)
    assert found["doe_protocols"] == LISTED


def test_a_device_without_ids_lists_none_and_is_not_asked() -> None:
    with device(DOE) as peer:
        result = run(peer, "--doe-connection-id", "5", transport=DOE)
    assert result.exit_code != 0
    assert "takes no SPDM connections with an id" in result.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--transport", "mctp", "--doe-connection-id", "1"], "does not go with --transport mctp"),
        (["--doe-connection-id", "4096"], "a DOE connection id is 0 to 4095, not 4096"),
    ],
)
@pytest.mark.parametrize("command", [["connect", "127.0.0.1:1"], ["device", "--port", "0"]], ids=lambda c: c[0])
def test_what_makes_no_sense_is_refused_before_anybody_is_reached(
    command: list[str], options: list[str], why: str
) -> None:
    result = runner.invoke(app, [*command, *options])
    assert result.exit_code == 2
    assert why in result.stderr


def test_a_device_takes_each_id_once() -> None:
    with pytest.raises(Misuse, match="twice"):
        DeviceServer(DOE, SeededEntropy(b""), 0.0, ignore, lambda text: None, doe_connections=(3, 3))
