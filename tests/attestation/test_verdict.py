"""The verdict: what it decides and how it is shown."""

from __future__ import annotations

import json

from evidence_scene import (
    GOOD_TCB,
    Scene,
    identity_of,
)
from teeio.attestation import (
    Decision,
    Policy,
    Verdict,
)
from teeio.crypto.algorithms import (
    P384_SUITE,
)
from teeio.crypto.certificates import (
    DeviceInfo,
)


def test_text_of_a_device_cannot_forge_lines() -> None:
    forged = identity_of(P384_SUITE, DeviceInfo("ACME", "WIDGET", "1\n  pass chain\x1b[2J"), tcb=GOOD_TCB)
    text = str(Scene(identity=forged).verdict())
    assert "identity" in text
    assert "\n  pass" not in text
    assert "\x1b" not in text


def test_verdict_as_json_and_text() -> None:
    scene = Scene()
    scene.change(0x10, value=(6).to_bytes(8, "little"))
    verdict = scene.verdict()
    shown = json.loads(json.dumps(verdict.as_dict()))
    assert shown["decision"] == "reject"
    assert len(shown["results"]) == len(Policy().rules)
    assert [result["explanation"] for result in shown["results"] if result["outcome"] == "fail"] == [
        "index 16: svn 6 < 7"
    ]
    assert str(verdict).splitlines()[1].strip().startswith("fail minimum-svn: index 16: svn 6 < 7")


def test_no_results_do_not_accept() -> None:
    assert Verdict(()).decision is Decision.COULD_NOT_CHECK


def test_exit_codes_differ() -> None:
    assert [decision.exit_code for decision in Decision] == [0, 1, 2]
