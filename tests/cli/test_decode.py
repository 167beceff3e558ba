import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from teeio.cli.app import app

CAPTURES = Path(__file__).parent.parent.parent.parent / "shared" / "captures"
needs_captures = pytest.mark.skipif(not CAPTURES.is_dir(), reason="../shared/captures is not there")
runner = CliRunner()


@needs_captures
@pytest.mark.parametrize("name", ["doe-1.2-p384-tdisp", "doe-1.3-p256-aes128", "doe-1.2-signed-measurements"])
def test_a_reference_capture_decodes_whole(name: str) -> None:
    keys = CAPTURES / f"{name}.json"
    result = runner.invoke(app, ["decode", str(CAPTURES / f"{name}.pcap"), "--keys", str(keys), "--json"])
    assert result.exit_code == 0, result.output
    *found, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert last["summary"]["notes"] == last["summary"]["problems"] == []
    shown = [[item[key] for key in ("frame", "direction", "session", "version", "code", "name")] for item in found]
    assert shown == json.loads(keys.read_text())["messages"]
    assert all("fields" in item for item in found)


@needs_captures
def test_text_shows_fields_vendor_messages_and_a_summary() -> None:
    name = "doe-1.2-p384-tdisp"
    result = runner.invoke(app, ["decode", str(CAPTURES / f"{name}.pcap"), "--keys", str(CAPTURES / f"{name}.json")])
    assert result.exit_code == 0
    for text in ("LOCK_INTERFACE_REQUEST", "KEY_PROG", "exchange_data", "0 wrong", "1816 SPDM messages"):
        assert text in result.stdout


@needs_captures
def test_wrong_keys_are_told_and_what_is_in_the_clear_is_still_shown(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"sessions": [{"session_id": "ffffffff", "dhe_secret": "00" * 48}]}))
    result = runner.invoke(app, ["decode", str(CAPTURES / "doe-1.2-p384-tdisp.pcap"), "--keys", str(keys), "--brief"])
    assert result.exit_code == 3
    assert "key log opens no record" in result.stderr
    assert "GET_VERSION" in result.stdout


@pytest.mark.parametrize("content", [b"", b"hello", b"\xd4\xc3\xb2\xa1" + bytes(3), bytes(100)])
def test_an_unreadable_capture_is_one_message_and_exit_code_3(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pcap"
    path.write_bytes(content)
    result = runner.invoke(app, ["decode", str(path)])
    assert result.exit_code == 3
    assert result.stderr.startswith("teeio: cannot be decoded: ")
    assert "Traceback" not in result.output


def test_a_missing_file_is_told() -> None:
    result = runner.invoke(app, ["decode", "/nonexistent/x.pcap"])
    assert result.exit_code == 3
    assert "No such file" in result.stderr


def test_keys_that_are_no_text_are_told(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(b"\xff\xfe\x00")
    capture = tmp_path / "empty.pcap"
    capture.write_bytes(b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(8) + b"\xff\xff\x00\x00\x24\x01\x00\x00")
    result = runner.invoke(app, ["decode", str(capture), "--keys", str(keys)])
    assert result.exit_code == 3
    assert "is not text" in result.stderr
