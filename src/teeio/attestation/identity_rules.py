"""Rules on who the device is, over which session the evidence came, and that it is fresh and whole."""

from __future__ import annotations

from dataclasses import fields

from teeio.attestation.evidence import STATEMENT_HASH
from teeio.attestation.rule import Case, Judgement, Rule, Severity, all_of, failed, passed, shown, unchecked
from teeio.crypto.certificates import (
    DeviceInfo,
    PciIdentity,
    Revocation,
    device_info,
    errors,
    leaf_public_key,
    load_certificate,
    pci_identity,
    revocation_status,
)
from teeio.crypto.certificates import Severity as FindingSeverity
from teeio.crypto.kdf import digest, equal
from teeio.crypto.keys import public_key_der
from teeio.spdm.messages import AlgType, selected
from teeio.spdm.signing import verify_transcript
from teeio.spdm.transcript import MEASUREMENTS_CONTEXT

_PATH_CHECKS = frozenset({"structure", "anchor", "path"})


# -- certificates ------------------------------------------------------------------------------------------------------


def _chain(case: Case) -> Judgement:
    if not case.expectations.anchors:
        return unchecked("no trust anchor is configured")
    problems = [str(finding) for finding in errors(case.chain_findings) if finding.check in _PATH_CHECKS]
    return all_of(problems, "the chain leads from a trust anchor to the leaf")


def _leaf_profile(case: Case) -> Judgement:
    load_certificate(case.leaf)
    problems = [str(finding) for finding in errors(case.chain_findings) if finding.check not in _PATH_CHECKS]
    return all_of(problems, "the leaf is what DSP0274 and CMA ask for")


def _leaf_recommendations(case: Case) -> Judgement:
    load_certificate(case.leaf)
    warnings = [str(finding) for finding in case.chain_findings if finding.severity is FindingSeverity.WARNING]
    return all_of(warnings, "the leaf follows all recommendations")


def _revocation(case: Case) -> Judgement:
    lists = case.expectations.revocation_lists
    if lists is None:
        return unchecked("no revocation lists are at hand")
    status, reason = revocation_status(
        case.evidence.certificate_chain,
        case.expectations.anchors,
        case.negotiation.base_hash,
        case.expectations.at_time,
        lists,
    )
    outcomes = {Revocation.GOOD: passed, Revocation.REVOKED: failed, Revocation.UNKNOWN: unchecked}
    return outcomes[status](reason)


def _identity(case: Case) -> Judgement:
    expected = case.expectations
    if expected.device is None and expected.pci is None:
        return unchecked("no identity is expected, so any device of the vendor would do")
    leaf = load_certificate(case.leaf)
    problems = []
    if expected.device is not None:
        problems += _differences("device name", expected.device, device_info(leaf))
    if expected.pci is not None:
        problems += _differences("PCI identity", expected.pci, pci_identity(leaf))
    return all_of(problems, "the leaf names the expected device")


def _differences(what: str, expected: DeviceInfo | PciIdentity, actual: DeviceInfo | PciIdentity | None) -> list[str]:
    """Compare what is expected; a field that is expected to be None or "", or a serial number of 0, is not compared."""
    if actual is None:
        return [f"the leaf has no {what}, expected {expected}"]
    wanted = {field.name: getattr(expected, field.name) for field in fields(expected)}
    known = {name: value for name, value in wanted.items() if value or (value == 0 and name != "serial")}
    wrong = [name for name, value in known.items() if value != getattr(actual, name)]
    return [f"{what}: {', '.join(wrong)} of {actual} is not that of {expected}"] if wrong else []


def _session_identity(case: Case) -> Judgement:
    stated = case.evidence.statement.public_key_hash
    if not stated:
        return unchecked("the TSM does not say whose key its SPDM session is with")
    actual = digest(STATEMENT_HASH, public_key_der(leaf_public_key(case.leaf)))
    if not equal(actual, stated):
        return failed(f"the TSM's SPDM session is with key {shown(stated)}, the leaf's key is {actual.hex()}")
    return passed("the TSM's SPDM session is with the key of this leaf")


# -- negotiation -------------------------------------------------------------------------------------------------------


def _version_floor(case: Case) -> Judgement:
    version, floor = case.negotiation.version, case.expectations.minimum_version
    if version not in case.negotiation.responder_versions:
        return failed(f"version {version:#04x} is not among those that VERSION lists")
    if version < floor:
        return failed(f"SPDM version {version:#04x} is below the floor {floor:#04x}")
    return passed(f"SPDM version {version:#04x}")


def _algorithm_floor(case: Case) -> Judgement:
    negotiation, floor = case.negotiation, case.expectations.floor
    problems = []
    for name in ("base_hash", "base_asym", "measurement_hash", "dhe", "aead"):
        chosen, good = getattr(negotiation, name), getattr(floor, name)
        optional = name in ("dhe", "aead") and not chosen
        if not optional and (not chosen or int(chosen) & ~int(good)):
            problems.append(f"{name} {chosen!r} is below the floor")
    return all_of(problems, "all algorithms are good enough")


def _algorithms_offered(case: Case) -> Judgement:
    offer, selection = case.negotiation.offer, case.negotiation.selection
    pairs: list[tuple[str, int, int]] = [
        ("base_hash", offer.base_hash, selection.base_hash),
        ("base_asym", offer.base_asym, selection.base_asym),
        ("pqc_asym", offer.pqc_asym, selection.pqc_asym),
        ("measurement_specification", offer.measurement_specification, selection.measurement_specification),
    ]
    pairs += [(kind.name, selected(offer.tables, kind), selected(selection.tables, kind)) for kind in AlgType]
    problems = [f"{name} {chosen:#x} was not offered" for name, offered, chosen in pairs if chosen & ~offered]
    problems += [f"{name} {chosen:#x} is more than one" for name, _, chosen in pairs if chosen.bit_count() > 1]
    return all_of(problems, "the responder selected from the offer")


# -- signature and freshness -------------------------------------------------------------------------------------------


def _signature(case: Case) -> Judgement:
    if not case.expectations.anchors:
        return unchecked("without a trust anchor there is no authentic key to verify with")
    if not case.leaf_is_authentic:
        return unchecked("the leaf is not authentic, so its signature proves nothing")
    negotiation, record = case.negotiation, case.record
    key, algorithm = leaf_public_key(case.leaf), negotiation.base_asym
    verify_transcript(key, algorithm, negotiation, MEASUREMENTS_CONTEXT, record.transcript, record.signature)
    return passed(f"{negotiation.base_asym.name} signature over VCA and measurements verifies under the leaf")


def _slot(case: Case) -> Judgement:
    expected = case.expectations.slot
    seen = {
        "chain": case.evidence.slot,
        "GET_MEASUREMENTS": case.record.request.slot & 0xF,
        "MEASUREMENTS": case.record.response.slot,
    }
    wrong = [f"{where} is of slot {slot}, not {expected}" for where, slot in seen.items() if slot != expected]
    return all_of(wrong, f"chain and signature are of slot {expected}")


def _nonce_bound(case: Case) -> Judgement:
    signed, chosen = case.record.request.nonce, case.evidence.nonce
    if not equal(signed, chosen):
        return failed(f"stale: the signed request holds nonce {shown(signed)}, the verifier chose {shown(chosen)}")
    return passed("the signed request holds the verifier's nonce")


def _nonce_single_use(case: Case) -> Judgement:
    problem = case.expectations.nonces.redeem(case.evidence.nonce, case.expectations.at_time)
    return failed(f"freshness not proven: the nonce {problem}") if problem else passed("the nonce is fresh")


def _evidence_digests(case: Case) -> Judgement:
    evidence, statement = case.evidence, case.evidence.statement
    pairs = {
        "certificate chain": (evidence.certificate_chain, statement.certificate_chain_digest),
        "VCA": (evidence.vca, statement.vca_digest),
        "measurements": (evidence.measurements, statement.measurements_digest),
        "interface report": (evidence.report, statement.report_digest),
    }
    changed = [
        name for name, (data, stated) in pairs.items() if stated and not equal(digest(STATEMENT_HASH, data), stated)
    ]
    if changed:
        return failed(f"not what the TSM received from the device: {', '.join(changed)}")
    missing = [name for name, (_, stated) in pairs.items() if not stated]
    if missing:
        return unchecked(f"the TSM gives no digest of: {', '.join(missing)}")
    return passed("every object is what the TSM received from the device")


IDENTITY_RULES = (
    Rule(
        "chain",
        "The certificate chain reaches a trust anchor",
        "a device presents a self-made, broken or expired chain, with a root of its own",
        "DSP0274 certificate chain format; RFC 5280 section 6.1",
        _chain,
    ),
    Rule(
        "leaf-profile",
        "The leaf certificate may sign for an SPDM responder",
        "a certificate made for another purpose, or for an authority, is used as a device's",
        "DSP0274 leaf certificate requirements; PCIe 6.1 section 6.31.3",
        _leaf_profile,
    ),
    Rule(
        "leaf-recommendations",
        "The leaf certificate follows the recommendations",
        "a device cannot be told from another one",
        "DSP0274 leaf certificate requirements; PCIe 6.1 section 6.31.3",
        _leaf_recommendations,
        Severity.ADVISORY,
    ),
    Rule(
        "revocation",
        "No certificate of the chain is revoked",
        "a device whose key was stolen keeps being accepted; the network hides the revocation",
        "RFC 5280 section 6.3",
        _revocation,
    ),
    Rule(
        "identity",
        "The leaf names the expected device",
        "the VMM swaps in another genuine device",
        "PCIe 6.1 section 6.31.3; DSP0274 otherName",
        _identity,
    ),
    Rule(
        "session-identity",
        "The TSM's SPDM session is with the device of the certificate",
        "the VMM relays attestation to a genuine device elsewhere",
        "PCIe Base 11.2: identity of the SPDM session",
        _session_identity,
    ),
    Rule(
        "version-floor",
        "The SPDM version is not below the floor",
        "the VMM strips higher versions from VERSION",
        "DSP0274 VERSION",
        _version_floor,
    ),
    Rule(
        "algorithm-floor",
        "No algorithm is below the floor",
        "the VMM or the device negotiates weak algorithms",
        "DSP0274 ALGORITHMS",
        _algorithm_floor,
    ),
    Rule(
        "algorithms-offered",
        "The responder selected from what was offered",
        "a device chooses algorithms that nobody offered",
        "DSP0274 ALGORITHMS",
        _algorithms_offered,
    ),
    Rule(
        "signature",
        "The measurement signature verifies under the validated leaf",
        "the VMM edits negotiation or measurements, or replays them from another connection",
        "DSP0274 signature generation; L1",
        _signature,
    ),
    Rule(
        "slot",
        "Chain and signature are of the expected slot",
        "a device signs with the key of another slot",
        "DSP0274 SlotID",
        _slot,
    ),
    Rule(
        "nonce-bound",
        "The signed request holds the verifier's nonce",
        "the VMM replays an old MEASUREMENTS response",
        "DSP0274 GET_MEASUREMENTS: Nonce",
        _nonce_bound,
    ),
    Rule(
        "nonce-single-use",
        "The nonce is fresh and used for the first time",
        "a fixed nonce makes old evidence look new",
        "RFC 9334 section 10",
        _nonce_single_use,
    ),
    Rule(
        "evidence-digests",
        "The VMM carried the evidence unchanged",
        "the VMM edits or truncates the interface report or other evidence",
        "TDX Connect: TDG.DEVIF.READ digests",
        _evidence_digests,
    ),
)
