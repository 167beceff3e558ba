"""Against the reference emulator over TCP (role inquiry too) and without a binding; identities and PLDM, one with the other."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interop.reference_emulator import (
    BIN,
    INSTALLED,
    WHY_NOT,
    private_copy,
    reference_requester,
    reference_responder,
)
from teeio.cli.app import app
from teeio.interop.peer import free_port, listening

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]

VERSIONS = ["1.2", "1.3", "1.4"]
NO_MUTUAL = "--mut_auth NO --basic_mut_auth NO"
P384 = f"--hash SHA_384 --asym ECDSA_P384 --dhe SECP_384_R1 --aead AES_256_GCM {NO_MUTUAL}"
FLOW = "--meas_op ALL --exe_conn DIGEST,CERT,CHAL,MEAS --exe_session KEY_EX,PSK,MEAS,HEARTBEAT,KEY_UPDATE"
PSK = "TestPskHint\\0=5465737450736b4461746100"


@contextmanager
def teeio_device(*options: str) -> Iterator[int]:
    command = [sys.executable, "-m", "teeio", "device", "--port", "0", "--once", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
        assert found, line
        yield int(found[1])
        assert process.wait(20) == 0
    finally:
        process.kill()


def teeio_connect(port: int, *options: str) -> str:
    result = CliRunner().invoke(app, ["connect", f"127.0.0.1:{port}", *options])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while not listening(port):
        assert time.monotonic() < deadline, "nobody listens"
        time.sleep(0.02)


@pytest.mark.parametrize("version", VERSIONS)
def test_their_requester_and_our_device(tmp_path: Path, version: str) -> None:
    with teeio_device("--transport", "tcp", "--ver", version, "--psk", PSK) as port:
        reference_requester(private_copy(tmp_path), port, f"--trans TCP --ver {version} {P384} {FLOW}")


@pytest.mark.parametrize("version", VERSIONS)
def test_our_requester_and_their_responder(tmp_path: Path, version: str) -> None:
    with reference_responder(private_copy(tmp_path), f"--trans TCP --ver {version} {P384}") as port:
        anchor = str(tmp_path / "ecp384" / "ca.cert.der")
        told = teeio_connect(
            port, "--transport", "tcp", "--ver", version, "--anchor", anchor, "--psk", PSK, "--clear-handshake"
        )
    assert "validated to a given anchor" in told
    assert "session by PSK" in told


def test_what_else_their_responder_tells(tmp_path: Path) -> None:
    wanted = "certificate,endpoint-info,mel,session,endpoint-info,mel,heartbeat,key-update,end"
    with reference_responder(private_copy(tmp_path), f"--trans TCP --ver 1.3 {P384}") as port:
        told = teeio_connect(port, "--transport", "tcp", "--ver", "1.3", "--operations", wanted)
    assert told.count("device classes, signature verified") == told.count("entries, which nothing signs") == 2


def test_their_requester_listens_and_our_device_inquires(tmp_path: Path) -> None:
    port = free_port()
    folder = private_copy(tmp_path)
    options = f"--port {port} --trans TCP --tcp_sub RI --ver 1.2 {P384} {FLOW}"
    requester = subprocess.Popen(
        ["./spdm_requester_emu", *options.split()],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(port)
        arguments = ["device", "--transport", "tcp", "--port", str(port), "--role-inquiry", "--psk", PSK]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.stderr
        _, errors = requester.communicate(timeout=20)
        assert (requester.returncode, errors) == (0, "")
    finally:
        requester.kill()


def test_our_requester_listens_and_their_responder_inquires(tmp_path: Path) -> None:
    port = free_port()
    folder = private_copy(tmp_path)
    command = [sys.executable, "-m", "teeio", "connect", f"127.0.0.1:{port}", "--transport", "tcp", "--role-inquiry"]
    connect = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(port)
        done = subprocess.run(
            ["./spdm_responder_emu", *f"--port {port} --trans TCP --tcp_sub RI --ver 1.2 {P384}".split()],
            cwd=folder,
            input="\n",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        told, errors = connect.communicate(timeout=20)
        assert connect.returncode == 0, errors
        assert "end of session" in told
    finally:
        connect.kill()


@pytest.mark.parametrize("version", ["1.0", "1.2"])
def test_the_raw_transport_both_ways(tmp_path: Path, version: str) -> None:
    folder = private_copy(tmp_path)
    flow = "--meas_op ALL --exe_conn DIGEST,CERT,CHAL,MEAS"
    with teeio_device("--transport", "none", "--ver", version) as port:
        reference_requester(folder, port, f"--trans NONE --ver {version} {P384} {flow}")
    with reference_responder(folder, f"--trans NONE --ver {version} {P384}") as port:
        assert "not on this transport" in teeio_connect(port, "--transport", "none", "--ver", version)


def test_their_requester_asks_for_the_terminus_id_over_mctp(tmp_path: Path) -> None:
    options = f"--trans MCTP --ver 1.2 {P384} --meas_op ALL --exe_conn DIGEST,CERT,CHAL --exe_session KEY_EX,APP"
    with teeio_device("--transport", "mctp") as port:
        reference_requester(private_copy(tmp_path), port, options)


IDENTITIES = [
    ("ecp256", "ECDSA_P256", "SHA_256"),
    ("ecp384", "ECDSA_P384", "SHA_384"),
    ("ecp521", "ECDSA_P521", "SHA_512"),
    ("rsa2048", "RSASSA_2048", "SHA_256"),
    ("rsa3072", "RSAPSS_3072", "SHA_384"),
]


@pytest.mark.parametrize(("kind", "asym", "base_hash"), IDENTITIES, ids=[kind for kind, _, _ in IDENTITIES])
def test_their_responder_with_an_identity_of_ours(tmp_path: Path, kind: str, asym: str, base_hash: str) -> None:
    folder = private_copy(tmp_path)
    made = CliRunner().invoke(app, ["identity", "make", str(folder), "--asym", asym, "--name", "Acme:NIC:77"])
    assert made.exit_code == 0, made.stderr
    options = f"--trans MCTP --ver 1.2 --hash {base_hash} --asym {asym} {NO_MUTUAL}"
    with reference_responder(folder, options) as port:
        told = teeio_connect(
            port, "--transport", "mctp", "--ver", "1.2", "--asym", asym, "--hash", base_hash, "--json",
            "--anchor", str(folder / kind / "ca.cert.der"),
        )  # fmt: skip
    assert "validated to a given anchor" in told
    assert "CN=Acme:NIC:77" in told


def test_our_device_with_the_emulators_identity(tmp_path: Path) -> None:
    with teeio_device("--transport", "mctp", "--identity", str(BIN), "--asym", "RSAPSS_3072,ECDSA_P384") as port:
        options = f"--trans MCTP --ver 1.3 --hash SHA_384 --asym RSAPSS_3072 {NO_MUTUAL} --meas_op ALL"
        reference_requester(private_copy(tmp_path), port, f"{options} --exe_conn DIGEST,CERT,CHAL --exe_session KEY_EX")
