"""Who the responder is: digests, certificate chain, challenge."""

from __future__ import annotations

from collections.abc import Sequence

from teeio.cli.visits.visit import Visit
from teeio.crypto.certificates import load_certificate, parse_chain, validate_chain
from teeio.crypto.certificates.leaf import Severity
from teeio.crypto.certificates.revocation import revocation_findings
from teeio.errors import AuthenticationFailed
from teeio.spdm import flows
from teeio.spdm.constants import Capability


def get_digests(visit: Visit) -> None:
    """Ask which slots there are."""
    visit.digests = visit.run(flows.get_digests(visit.latest_id))
    slots = visit.digests.slots()
    visit.done("slots", list(slots), "digests", f"slots {', '.join(map(str, slots))}")


def get_certificate(visit: Visit, slot: int | None = None) -> None:
    """Read the certificate chain of the slot, and validate it if there are anchors."""
    slot = visit.plan.slot if slot is None else slot
    chain = visit.run(flows.get_certificate(visit.requester, slot, visit.latest_id))
    if visit.digests is not None:
        flows.check_digest(visit.requester, visit.digests, slot)
    _examine(visit, chain)


def _examine(visit: Visit, chain: bytes) -> None:
    c, plan = visit.connection, visit.plan
    certificates = [load_certificate(der) for der in parse_chain(chain, c.base_hash)[1]]
    subjects = [certificate.subject.rfc4514_string() for certificate in certificates]
    findings = []
    if plan.anchors:
        findings = validate_chain(
            chain, plan.anchors, c.base_hash, c.asym, plan.at_time, model=visit.model, version=c.version
        )
        broken = [finding for finding in findings if finding.severity is Severity.ERROR]
        if broken:
            raise AuthenticationFailed("; ".join(f"{finding.message} ({finding.clause})" for finding in broken))
    trust = "validated to a given anchor" if plan.anchors else "not validated: no --anchor given"
    visit.done(
        "certificates",
        {"subjects": subjects, "trust": trust, "findings": [finding.message for finding in findings]},
        "certificate",
        f"{len(certificates)} certificates, {len(chain)} bytes, {trust}",
    )
    if plan.revocation_lists is not None:
        _check_revocation(visit, chain, plan.revocation_lists)


def _check_revocation(visit: Visit, chain: bytes, lists: Sequence[bytes]) -> None:
    c, plan = visit.connection, visit.plan
    findings = revocation_findings(chain, plan.anchors, c.base_hash, plan.at_time, lists)
    if findings:
        raise AuthenticationFailed(
            "; ".join(f"{finding.message} ({finding.clause})" for finding in findings),
            remedy="do not trust a revoked device; else give the current list of every authority of the chain with --crl",
        )
    visit.done("revocation", "good", "revocation", "no certificate of the chain is on a list of its issuer")


def get_slot_size(visit: Visit, slot: int | None = None) -> None:
    """Ask how many bytes the slot holds."""
    slot = visit.plan.slot if slot is None else slot
    size = visit.run(flows.get_slot_size(visit.requester, slot, visit.latest_id))
    visit.done("slot_size", {"slot": slot, "bytes": size}, "slot size", f"slot {slot} holds {size} bytes")


def challenge(visit: Visit, slot: int | None = None) -> None:
    """Make the responder prove its private key; a responder may make us prove ours (basic mutual authentication)."""
    slot = visit.plan.slot if slot is None else slot
    response = visit.run(flows.challenge(visit.requester, slot, visit.summary_type))
    note = "the responder holds the leaf's private key"
    if response.basic_mutual_auth:
        visit.found["basic_mutual_authentication"] = True
        note += ", and has taken ours"
    visit.done("challenge", "signature verified", "challenge", note)


def authenticate(visit: Visit) -> None:
    """Read the certificate chain of a responder that has one, challenge a responder that takes challenges."""
    if visit.offers(Capability.CERT):
        get_digests(visit)
        get_certificate(visit)
    if visit.offers(Capability.CHAL):
        challenge(visit)
