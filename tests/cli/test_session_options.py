"""How sessions are protected and how messages are cut, from the command line of both sides."""

from pathlib import Path

import pytest

from cli.served import connect, device, done, run
from teeio.cli.choices import Choices
from teeio.cli.device_options import SessionOptions
from teeio.transport.kinds import Transport

PSK = "TestPskHint\\0=5465737450736b4461746100"


@pytest.mark.parametrize("ours", [False, True], ids=["device", "requester"])
def test_records_without_encryption(ours: bool) -> None:
    with device(choices=Choices(mac_only=not ours)) as peer:
        found = connect(peer, *(["--mac-only"] if ours else []))
    assert found["session"]["encrypted"] is False
    assert found["session_ended"] is True


@pytest.mark.parametrize("versions", ["1.0", "1.1", "1.2", "1.0,1.1"])
def test_versions_of_secured_messages(versions: str) -> None:
    with device(choices=Choices(secured_versions=versions)) as peer:
        assert connect(peer)["session_ended"] is True
    with device() as peer:
        assert connect(peer, "--secured-versions", versions)["session_ended"] is True


def test_no_common_version_of_secured_messages() -> None:
    with device(choices=Choices(secured_versions="1.0")) as peer:
        result = run(peer, "--operations", "certificate,session", "--secured-versions", "1.2")
    assert result.exit_code == 1


def test_a_handshake_in_the_clear() -> None:
    with device(choices=Choices(clear_handshake=True)) as peer:
        assert connect(peer, "--clear-handshake")["session_ended"] is True


@pytest.mark.parametrize("size", [42, 0x100])
def test_small_messages(size: int) -> None:
    with device(Transport.PCI_DOE, Choices(data_transfer_size=size, max_message_size=0x4000)) as peer:
        options = ["--data-transfer-size", str(size), "--max-message-size", "16384"]
        found = connect(peer, *options, transport=Transport.PCI_DOE)
    assert found["tdisp"]["states"][2] == "RUN"


def test_a_message_that_is_too_large() -> None:
    with device(choices=Choices(capabilities="-CHUNK", data_transfer_size=64)) as peer:
        result = run(peer, "--operations", "certificate,session")
    assert result.exit_code == 2
    assert "takes 64" in result.stderr


def test_a_pre_shared_key_from_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key.bin"
    key.write_bytes(bytes(range(32)))
    with device(sessions=SessionOptions(psk=[f"me=@{key}"])) as peer:
        found = done(peer, "psk,heartbeat,end", "--psk", f"me={key.read_bytes().hex()}")
    assert found[0]["psk_session"]["encrypted"] is True


def test_quick_start_on_preserved_state() -> None:
    with device(choices=Choices(capabilities="+CACHE,+PSK_WITH_CONTEXT"), once=False) as peer:
        found = done(peer, "certificate,session,end,quick-start,heartbeat,end,quick-start,end", "--psk", PSK)
        assert [one["operation"] for one in found if "psk_session" in one] == ["quick-start", "quick-start"]
        for operations in ("negotiate,quick-start", "psk,end:clear,quick-start"):
            result = run(peer, "--operations", operations, "--psk", PSK)
            assert result.exit_code == 2
            assert "no negotiated state is preserved" in result.stderr


def test_how_many_sessions_there_are() -> None:
    with device(sessions=SessionOptions(max_sessions=2)) as peer:
        result = run(peer, "--operations", "certificate,session,session,session")
    assert result.exit_code == 1
    assert "SESSION_LIMIT_EXCEEDED" in result.stderr


def test_keys_of_one_direction() -> None:
    with device() as peer:
        found = done(
            peer, "certificate,session,key-update:request,heartbeat,key-update,heartbeat,measurements:each,end"
        )
    assert [one["key_update"] for one in found if "key_update" in one] == ["request", "all"]
    assert len(found[-2]["measurements_in_session"]) == 8


def test_versions_alone() -> None:
    with device(choices=Choices(versions="1.1,1.4")) as peer:
        found = connect(peer, "--operations", "version,version,negotiate,version,digests", "--ver", "1.4")
    assert found["versions"] == ["1.1", "1.4"]
    assert [one["operation"] for one in found["operations"]] == [
        "version", "version", "negotiate", "version", "negotiate", "digests",
    ]  # fmt: skip


def test_in_a_session_and_outside() -> None:
    with device(Transport.PCI_DOE) as peer:
        found = connect(
            peer, "--operations", "digests,certificate,session,digests,certificate,measurements,end,measurements",
            transport=Transport.PCI_DOE,
        )  # fmt: skip
    assert ("measurements_in_session" in found, "measurements" in found) == (True, True)
