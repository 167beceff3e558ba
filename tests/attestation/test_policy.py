"""The policy: good evidence is accepted, evidence with one defect is refused by the rule made for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from evidence_scene import (
    DEVICE,
    ENTROPY,
    FIRMWARE,
    GOOD,
    GOOD_TCB,
    LOCK,
    NOW,
    OBJECTS,
    PCI,
    SHA_384,
    VALIDITY,
    WINDOW,
    Scene,
    good_blocks,
    identity_of,
    mmio,
    outcomes,
    raw_block,
    tcb_of,
    vendor,
)
from teeio.attestation import (
    RULES,
    AlgorithmFloor,
    Decision,
    Outcome,
    PlacedRange,
    Policy,
    Profile,
    ReferenceValue,
    ReferenceValues,
    RegisterWindow,
    Rule,
    Severity,
    Verdict,
)
from teeio.attestation.device_mode import DebugMode, DeviceMode, OperationalMode
from teeio.crypto.algorithms import (
    P256_SUITE,
    P384_SUITE,
    BaseAsym,
    BaseHash,
    Dhe,
    MeasurementHash,
    Suite,
)
from teeio.crypto.certificates import (
    CertificateModel,
    DeviceIdentity,
    DeviceInfo,
    OperationalFlags,
    TcbInfo,
    Validity,
)
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.kdf import digest
from teeio.errors import Misuse
from teeio.spdm.messages import (
    AlgorithmTable,
    AlgType,
    MeasurementBlock,
    MeasurementType,
)
from teeio.tdisp.messages import (
    InterfaceInfo,
    LockFlags,
    MmioRange,
    RangeAttributes,
)

# -- good evidence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize(
    ("suite", "version"), [(P384_SUITE, 0x12), (P256_SUITE, 0x12), (P384_SUITE, 0x13), (P256_SUITE, 0x14)]
)
def test_good_evidence_passes_every_rule(profile: Profile, suite: Suite, version: int) -> None:
    scene = Scene(suite=suite, version=version, versions=(0x1200, 0x1300, 0x1400))
    under(profile, scene)
    verdict = scene.verdict(Policy(profile))
    assert outcomes(verdict, Outcome.PASSED) == {rule.id for rule in Policy(profile).rules}
    assert verdict.decision is Decision.ACCEPT
    assert verdict.accepted


def under(profile: Profile, scene: Scene) -> None:
    """Make good evidence good under a TSM of that profile."""
    if profile is Profile.PEERS:
        scene.statement.update(lock_flags=WITH_PEERS)
        scene.report.update(info=LEGACY | InterfaceInfo.ATS_ENABLED)


def profile_of(rule: str) -> Profile:
    """Give a profile under which a rule applies."""
    found = next(one.profile for one in RULES if one.id == rule)
    return found if found is Profile.PEERS else Profile.TDX


def test_evidence_of_version_1_1_signs_without_vca() -> None:
    verdict = Scene(version=0x11, expectations={"minimum_version": 0x11}).verdict()
    assert verdict.decision is Decision.ACCEPT, str(verdict)


def test_the_tdx_profile_adds_rules() -> None:
    added = {rule.id for rule in Policy(Profile.TDX).rules} - {rule.id for rule in Policy(Profile.BASE).rules}
    assert added == {"tdx-lock-flags", "tdx-interface-info", "tdx-controls"}
    other = {rule.id for rule in Policy(Profile.PEERS).rules} - {rule.id for rule in Policy(Profile.BASE).rules}
    assert other == {"peers-lock-flags", "peers-interface-info", "peers-controls"}


def test_rule_identifiers_are_unique() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


def allow_more(scene: Scene) -> None:
    """Give index 3 alternatives, and values for other hash algorithms."""
    other = ReferenceValue(3, MeasurementType.HARDWARE_CONFIGURATION, MeasurementHash.SHA_256, (bytes(32),))
    more = [replace(v, allowed=(bytes(48), *v.allowed)) if v.index == 3 else v for v in scene.reference.values]
    scene.reference = ReferenceValues((other, *more), 7)


def report_firmware_raw(scene: Scene) -> None:
    scene.change(2, raw=1, value=FIRMWARE)


def leave_out_what_is_optional(scene: Scene) -> None:
    values = tuple(replace(v, optional=True) if v.index == 4 else v for v in scene.reference.values)
    scene.reference = ReferenceValues(values, 7)
    del scene.blocks[scene.at(4)]


def ignore_the_manifest(scene: Scene) -> None:
    values = [replace(v, allowed=(), any_value=True) if v.index == 0xFD else v for v in scene.reference.values]
    scene.reference = ReferenceValues(tuple(values), 7)
    scene.change(0xFD, value=b"another manifest")


def raise_the_svn(scene: Scene) -> None:
    scene.change(0x10, value=(8).to_bytes(8, "little"))


@pytest.mark.parametrize(
    "vary", [allow_more, report_firmware_raw, leave_out_what_is_optional, ignore_the_manifest, raise_the_svn]
)
def test_variations_that_are_allowed(vary: Callable[[Scene], None]) -> None:
    scene = Scene()
    vary(scene)
    verdict = scene.verdict()
    assert verdict.accepted, str(verdict)


# -- defects -----------------------------------------------------------------------------------------------------------

Spoil = Callable[[Scene], None]


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong (or not known), which rule must notice, and which rules it cannot but touch too."""

    rule: str
    label: str
    spoil: Spoil
    also: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.rule}: {self.label}"


def defect(rule: str, label: str, *spoils: Spoil, also: tuple[str, ...] = ()) -> Defect:
    def spoil(scene: Scene) -> None:
        for one in spoils:
            one(scene)

    return Defect(rule, label, spoil, frozenset(also))


def put(part: str, **values: Any) -> Spoil:
    """Put values into one of the scene's parts."""
    return lambda scene: getattr(scene, part).update(values)


def give(**values: Any) -> Spoil:
    """Replace attributes of the scene."""

    def spoil(scene: Scene) -> None:
        for name, value in values.items():
            setattr(scene, name, value)

    return spoil


def change(index: int, **values: Any) -> Spoil:
    return lambda scene: scene.change(index, **values)


def mode(**values: Any) -> Spoil:
    return lambda scene: scene.change(
        0xFE, value=replace(DeviceMode.decode(scene.blocks[scene.at(0xFE)].value), **values).encode()
    )


def add(*blocks: MeasurementBlock) -> Spoil:
    return lambda scene: scene.blocks.extend(blocks)


def drop(index: int) -> Spoil:
    return lambda scene: scene.blocks.__delitem__(scene.at(index))


def flip(name: str, at: int) -> Spoil:
    """Change a byte of an object after the TSM gave its digest."""

    def spoil(scene: Scene) -> None:
        data = bytearray(getattr(scene.build()[0], name))
        data[at] ^= 1
        scene.evidence[name] = bytes(data)

    return spoil


def use_up_the_nonce(scene: Scene) -> None:
    assert scene.nonces.redeem(scene.nonce, NOW) is None


def swap_digests(scene: Scene) -> None:
    first, second = scene.blocks[scene.at(1)].value, scene.blocks[scene.at(2)].value
    scene.change(1, value=second)
    scene.change(2, value=first)


def reference_of_another_algorithm(scene: Scene) -> None:
    values = (replace(v, algorithm=MeasurementHash.SHA_256) if v.index == 3 else v for v in scene.reference.values)
    scene.reference = ReferenceValues(tuple(values), 7)


def ranges(*parts: MmioRange) -> Spoil:
    return put("report", ranges=parts)


def mapped(*parts: PlacedRange) -> Spoil:
    return put("expectations", mapped=parts)


def tcb(info: TcbInfo | None) -> Spoil:
    return give(identity=identity_of(P384_SUITE, tcb=info))


STATED = "evidence-digests"
OTHER = identity_of(P384_SUITE, DeviceInfo("ACME", "WIDGET", "0002"), tcb=GOOD_TCB)
NAMELESS = identity_of(P384_SUITE, pci=None, tcb=GOOD_TCB)
SELF_MADE = DeviceIdentity.generate(DEVICE, SeededEntropy(b"self-made"), VALIDITY, pci=PCI, tcb=GOOD_TCB)
EXPIRED = DeviceIdentity.issue(
    vendor(P384_SUITE)[1], DEVICE, ENTROPY, Validity(1_700_000_000, 1_710_000_000), pci=PCI, tcb=GOOD_TCB
)
ROOT, ISSUER = vendor(P384_SUITE)
ROOT_LIST = ROOT.revoke([], 1, WINDOW)
WITH_PEERS = LockFlags.NO_FW_UPDATE | LockFlags.BIND_P2P
LEGACY = InterfaceInfo.NO_FW_UPDATE_WHILE_LOCKED | InterfaceInfo.DMA_WITHOUT_PASID
A, B = PlacedRange(0, 0x80000, 0xD0000, 4), PlacedRange(0, 0x80006, 0xD0006, 2)
C, D = PlacedRange(2, 0x90000, 0xD0100, 8), PlacedRange(2, 0x90008, 0xD0108, 8)
FIRST, SECOND, THIRD = mmio(0, 0xD0000, 4), mmio(0, 0xD0006, 2), mmio(2, 0xD0100, 16)
CHACHA = tuple(AlgorithmTable(alg_type=kind, supported=bit) for kind, bit in ((AlgType.DHE, 16), (AlgType.AEAD, 4)))

DEFECTS = [
    defect("chain", "root of its own", give(identity=SELF_MADE)),
    defect("chain", "expired leaf", give(identity=EXPIRED)),
    defect(
        "chain",
        "malformed",
        put("evidence", certificate_chain=b"\0"),
        also=(STATED, "leaf-profile", "leaf-recommendations", "identity", "session-identity", "firmware-identity"),
    ),
    defect("leaf-profile", "hardware identity in an alias", put("expectations", model=CertificateModel.ALIAS)),
    defect("leaf-recommendations", "no CMA name", give(identity=NAMELESS), put("expectations", pci=None)),
    defect(
        "revocation",
        "leaf revoked",
        put("expectations", revocation_lists=(ROOT_LIST, ISSUER.revoke([GOOD.leaf], 2, WINDOW))),
    ),
    defect("identity", "another serial number", give(identity=OTHER)),
    defect("identity", "another PCI device", put("expectations", pci=replace(PCI, device=0x11))),
    defect("identity", "another device serial number", put("expectations", pci=replace(PCI, serial=0x12))),
    defect("identity", "another revision", put("expectations", pci=replace(PCI, revision=0))),
    defect("identity", "no CMA name", give(identity=NAMELESS), also=("leaf-recommendations",)),
    defect("session-identity", "another key", put("statement", public_key_hash=bytes(48))),
    defect("version-floor", "below", put("expectations", minimum_version=0x13)),
    defect("version-floor", "not listed", give(versions=(0x1100, 0x1300))),
    defect("algorithm-floor", "signature", put("expectations", floor=AlgorithmFloor(base_asym=BaseAsym.ECDSA_P521))),
    defect("algorithm-floor", "hash", put("expectations", floor=AlgorithmFloor(base_hash=BaseHash.SHA_512))),
    defect("algorithm-floor", "DHE", put("expectations", floor=AlgorithmFloor(dhe=Dhe.SECP521R1))),
    defect("algorithms-offered", "AEAD", put("selection", tables=CHACHA)),
    defect(
        "algorithms-offered", "two at once", put("selection", measurement_specification=3), also=("measurement-hash",)
    ),
    defect("signature", "another key", give(signer=OTHER)),
    defect("signature", "edited measurements", flip("measurements", -110), also=(STATED,)),
    defect("signature", "edited negotiation", flip("vca", 21), also=(STATED,)),
    defect("slot", "chain", put("evidence", slot=1)),
    defect("slot", "request", put("request", slot=1)),
    defect("slot", "response", put("response", slot=1)),
    defect("nonce-bound", "replay", put("request", nonce=bytes(range(32)))),
    defect("nonce-single-use", "used", use_up_the_nonce),
    defect("nonce-single-use", "fixed", give(nonce=bytes(range(32)))),
    defect("nonce-single-use", "old", lambda scene: setattr(scene, "nonce", scene.nonces.issue(NOW - 301))),
    *(defect(STATED, name, put("statement", **{f"{name}_digest": bytes(48)})) for name in OBJECTS),
    defect("measurement-hash", "size", change(3, value=bytes(32)), also=("reference-values",)),
    defect("measurement-hash", "specification of a block", change(3, specification=2)),
    defect("measurement-hash", "specification", put("selection", measurement_specification=0)),
    defect(
        "measurement-hash",
        "none",
        put("selection", measurement_hash=MeasurementHash(0)),
        also=("algorithm-floor", "reference-values", "firmware-identity"),
    ),
    defect(
        "measurement-hash",
        "unknown",
        put("selection", measurement_hash=MeasurementHash(1 << 20)),
        also=("algorithm-floor", "reference-values", "firmware-identity"),
    ),
    defect("reference-values", "another value", change(3, value=bytes(48))),
    defect("reference-values", "digests swapped", swap_digests),
    defect("reference-values", "another type", change(3, type=MeasurementType.FIRMWARE_CONFIGURATION)),
    defect("reference-values", "missing", drop(3)),
    defect("reference-values", "raw", change(3, raw=1)),
    defect("reference-values", "another raw value", change(0xFD, value=b"other")),
    defect("reference-values", "digest of a raw value", change(0xFD, raw=0, value=digest(SHA_384, b"manifest"))),
    defect("reference-values", "another algorithm", reference_of_another_algorithm),
    defect("no-unexpected-block", "index 9", add(raw_block(9, MeasurementType.VERSION, b"1"))),
    defect("no-duplicate-block", "index 1", add(good_blocks(P384_SUITE)[0])),
    defect("minimum-svn", "rollback", change(0x10, value=(6).to_bytes(8, "little"))),
    defect("minimum-svn", "missing", drop(0x10)),
    defect("minimum-svn", "digest", change(0x10, raw=0, value=bytes(48))),
    defect("minimum-svn", "short", change(0x10, value=b"\xff")),
    defect("device-mode", "debug", mode(debug_state=DebugMode.INVASIVE_DEBUG_ACTIVE)),
    defect("device-mode", "debugged since reset", mode(debug_state=DebugMode.NON_INVASIVE_DEBUG_SINCE_RESET)),
    defect("device-mode", "RMA", mode(operational_state=OperationalMode.RMA)),
    defect("device-mode", "malformed", change(0xFE, value=bytes(15))),
    defect("firmware-identity", "other firmware", tcb(tcb_of(P384_SUITE, b"old"))),
    defect("firmware-identity", "debug", tcb(tcb_of(P384_SUITE, flags=OperationalFlags.DEBUG))),
    *(defect("interface-state", f"{state}", put("statement", state=state)) for state in (0, 2, 3, 9)),
    defect("lock-binding", "collected under another lock", put("evidence", bind_session_id=LOCK - 1)),
    defect("lock-binding", "locked again since", put("statement", bind_session_id=LOCK + 1)),
    defect("lock-binding", "nothing to start", put("expectations", bind_session_id=0)),
    defect("lock-flags", "firmware update allowed", put("statement", lock_flags=0)),
    defect("lock-flags", "report disagrees", put("report", info=InterfaceInfo.DMA_WITHOUT_PASID)),
    defect("lock-flags", "reserved", put("statement", lock_flags=0x101), also=("tdx-lock-flags",)),
    *(defect("tdx-lock-flags", f"{bit:#x}", put("statement", lock_flags=1 | bit)) for bit in (2, 4, 8, 16)),
    defect("tdx-interface-info", "no DMA", put("report", info=InterfaceInfo.NO_FW_UPDATE_WHILE_LOCKED)),
    *(defect("tdx-interface-info", f"{bit:#x}", put("report", info=LEGACY | InterfaceInfo(bit))) for bit in (4, 8, 16)),
    defect("tdx-controls", "LNR", put("report", lnr_control=1)),
    defect("tdx-controls", "TPH", put("report", tph_control=1)),
    defect("tdx-controls", "MSI-X", put("report", msi_x_message_control=1), also=("msix",)),
    defect("peers-lock-flags", "no P2P", put("statement", lock_flags=1)),
    defect("peers-lock-flags", "more", put("statement", lock_flags=WITH_PEERS | 4)),
    defect("peers-interface-info", "no ATS", put("report", info=LEGACY)),
    defect("peers-interface-info", "PRS", put("report", info=LEGACY | InterfaceInfo(8 | 16))),
    defect("peers-controls", "LNR", put("report", lnr_control=1)),
    defect("msix", "table", ranges(mmio(0, 0xD0000, 4, RangeAttributes.MSIX_TABLE), SECOND, THIRD)),
    defect("msix", "PBA", ranges(FIRST, SECOND, mmio(2, 0xD0100, 16, RangeAttributes.MSIX_PBA))),
    defect("report-ranges", "BARs descend", ranges(THIRD, FIRST, SECOND)),
    defect("report-ranges", "pages descend", ranges(SECOND, FIRST, THIRD), put("expectations", registers=())),
    defect("report-ranges", "empty", ranges(FIRST, SECOND, mmio(0, 0xD0009, 0), THIRD)),
    defect("report-ranges", "overlap", ranges(FIRST, mmio(0, 0xD0003, 2), SECOND, THIRD), also=("placed-ranges",)),
    defect("report-ranges", "beyond", ranges(FIRST, SECOND, THIRD, mmio(3, (1 << 52) - 1, 2)), also=("placed-ranges",)),
    defect("report-ranges", "offset", put("statement", mmio_reporting_offset=0xD000_0001)),
    defect("placed-ranges", "BAR missing", mapped(A, B)),
    defect("placed-ranges", "end missing", mapped(A, B, C)),
    defect("placed-ranges", "start missing", mapped(A, B, D)),
    defect("placed-ranges", "shifted", mapped(replace(A, report_page=0xD0001), B, C, D)),
    defect("placed-ranges", "not in the report", mapped(A, B, C, D, PlacedRange(3, 0xA0000, 0xE0000, 1))),
    defect("placed-ranges", "another BAR", mapped(replace(A, bar=1), B, C, D)),
    defect("placed-ranges", "non-TEE range", mapped(A, B, C, D, PlacedRange(0, 0x80004, 0xD0004, 2))),
    defect("placed-ranges", "device page twice", mapped(A, B, C, D, PlacedRange(2, 0xA0000, 0xD0100, 8))),
    defect("placed-ranges", "guest page twice", mapped(A, B, C, replace(D, gpa_page=0x90000))),
    defect("placed-ranges", "other order", mapped(A, B, replace(C, gpa_page=0x90008), replace(D, gpa_page=0x90000))),
    defect("tee-registers", "non-TEE", put("expectations", registers=(RegisterWindow(0, 0, 5),))),
    defect("tee-registers", "beyond", put("expectations", registers=(RegisterWindow(2, 0, 17),))),
    defect("tee-registers", "no such BAR", put("expectations", registers=(RegisterWindow(4, 0, 1),))),
]
"""Evidence with one defect each."""

UNKNOWNS = [
    defect("chain", "no anchors", put("expectations", anchors=()), also=("signature", "revocation")),
    defect("revocation", "no lists", put("expectations", revocation_lists=None)),
    defect("revocation", "list missing", put("expectations", revocation_lists=(ROOT_LIST,))),
    defect("identity", "nobody expected", put("expectations", device=None, pci=None)),
    defect("session-identity", "not stated", put("statement", public_key_hash=b"")),
    *(defect(STATED, f"no digest of {name}", put("statement", **{f"{name}_digest": b""})) for name in OBJECTS),
    defect("reference-values", "no values", give(reference=ReferenceValues((), 7)), also=("no-unexpected-block",)),
    defect(
        "reference-values",
        "all optional, none there",
        give(
            reference=ReferenceValues((ReferenceValue(0x33, MeasurementType.VERSION, None, (b"1",), optional=True),), 7)
        ),
        lambda scene: scene.blocks.__delitem__(slice(0, 4)),
        drop(0xFD),
        tcb(None),
        also=("firmware-identity",),
    ),
    defect(
        "minimum-svn",
        "no minimum",
        lambda scene: setattr(scene, "reference", replace(scene.reference, minimum_svn=None)),
    ),
    defect("device-mode", "not reported", drop(0xFE)),
    defect("device-mode", "digest", change(0xFE, raw=0, value=bytes(48))),
    defect("device-mode", "debug not reportable", mode(debug_capabilities=DebugMode.INVASIVE_DEBUG_ACTIVE)),
    defect("device-mode", "mode not reported", mode(operational_state=OperationalMode(0))),
    defect("firmware-identity", "no TcbInfo", tcb(None)),
    defect("placed-ranges", "not known", put("expectations", mapped=None)),
    defect("tee-registers", "not known", put("expectations", registers=None)),
]
"""Good evidence that a verifier cannot check for want of something."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_has_a_defect(rule: Rule) -> None:
    assert [case for case in DEFECTS if case.rule == rule.id]


@pytest.mark.parametrize("case", DEFECTS, ids=str)
def test_a_defect_is_found_by_its_rule_and_rejects(case: Defect) -> None:
    scene, profile = Scene(), profile_of(case.rule)
    under(profile, scene)
    case.spoil(scene)
    verdict = scene.verdict(Policy(profile))
    assert outcomes(verdict, Outcome.FAILED) == {case.rule} | case.also, str(verdict)
    advisory = next(rule for rule in RULES if rule.id == case.rule).severity is Severity.ADVISORY
    assert verdict.decision is (Decision.ACCEPT if advisory else Decision.REJECT)


@pytest.mark.parametrize("case", UNKNOWNS, ids=str)
def test_what_could_not_be_checked_never_accepts_unless_waived(case: Defect) -> None:
    def verdict(policy: Policy) -> Verdict:
        scene = Scene()
        case.spoil(scene)
        return scene.verdict(policy)

    plain = verdict(Policy())
    assert outcomes(plain, Outcome.UNCHECKED) == {case.rule} | case.also, str(plain)
    assert plain.decision is Decision.COULD_NOT_CHECK
    waived = verdict(Policy.with_waivers(Profile.TDX, {case.rule, *case.also}))
    assert waived.decision is Decision.ACCEPT
    assert "(waived)" in str(waived)


def test_a_waiver_never_covers_a_failure() -> None:
    for case in DEFECTS:
        scene, profile = Scene(), profile_of(case.rule)
        policy = Policy.with_waivers(profile, {rule.id for rule in RULES})
        under(profile, scene)
        case.spoil(scene)
        found = scene.verdict(policy)
        assert found.decision is not Decision.COULD_NOT_CHECK
        assert found.accepted is False or case.rule == "leaf-recommendations"


def test_waivers_name_rules_that_exist() -> None:
    with pytest.raises(Misuse, match="no rule is named"):
        Policy.with_waivers(Profile.BASE, {"everything"})
