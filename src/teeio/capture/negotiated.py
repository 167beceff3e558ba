"""What version, capability and algorithm negotiation of a captured connection have agreed on.

Adds to `spdm.state.Connection` what the engines do not negotiate but captures show: post-quantum algorithms, the
requester's own algorithm, connections with several keys. An algorithm of which nothing is known has size 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from teeio.crypto.algorithms import BaseAsym, Kem, PqcAsym
from teeio.crypto.keys import hash_algorithm
from teeio.errors import Incompatible
from teeio.spdm import messages as m
from teeio.spdm import negotiation
from teeio.spdm.constants import Capability, Version
from teeio.spdm.state import Connection

VERSIONS = frozenset(int(version) for version in Version)
NO_ASYM, NO_PQC_ASYM, NO_KEM = BaseAsym(0), PqcAsym(0), Kem(0)


@dataclass(frozen=True, slots=True)
class Signer:
    """The signature algorithm of one side: one of the two is set, or none."""

    base_asym: BaseAsym = NO_ASYM
    pqc_asym: PqcAsym = NO_PQC_ASYM

    @property
    def algorithm(self) -> BaseAsym | PqcAsym:
        """The algorithm."""
        return self.base_asym or self.pqc_asym

    @property
    def size(self) -> int:
        """Size of a signature in bytes."""
        return _size(lambda: self.algorithm.signature_size) if self.algorithm else 0


def _size(measure: Callable[[], int]) -> int:
    try:
        return measure()
    except KeyError:
        return 0


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The facts of one connection so far."""

    connection: Connection = field(default_factory=Connection)
    responder: Signer = Signer()
    requester: Signer = Signer()
    kem: Kem = NO_KEM
    requester_multi_key: bool = False
    facts: m.Facts = field(default_factory=m.Facts)

    @property
    def hash_implemented(self) -> bool:
        """Tell whether digests of the base hash can be computed."""
        try:
            hash_algorithm(self.connection.base_hash)
        except Incompatible:
            return False
        return True

    def with_capabilities(self, version: int, request: m.GetCapabilities, response: m.Capabilities) -> Negotiated:
        """Enter GET_CAPABILITIES and CAPABILITIES."""
        connection = replace(
            self.connection,
            version=version,
            requester_capabilities=negotiation.known_flags(request.flags, version),
            responder_capabilities=negotiation.known_flags(response.flags, version),
        )
        return replace(self, connection=connection, facts=m.Facts(version=version))

    def with_algorithms(self, request: m.NegotiateAlgorithms, response: m.Algorithms) -> Negotiated:
        """Enter NEGOTIATE_ALGORITHMS and ALGORITHMS."""
        flags = self.connection.responder_capabilities
        offered = bool(flags & Capability.MULTI_KEY_NEG and request.responder_multi_key)
        multi_key = bool(flags & Capability.MULTI_KEY_ONLY) or offered
        chosen = negotiation.chosen(response)
        connection = replace(self.connection, multi_key=multi_key, **chosen)  # type: ignore[arg-type]
        agreed = replace(
            self,
            connection=connection,
            responder=Signer(response.base_asym, response.pqc_asym),
            requester=Signer(
                BaseAsym(m.selected(response.tables, m.AlgType.REQ_BASE_ASYM)),
                PqcAsym(m.selected(response.tables, m.AlgType.REQ_PQC_ASYM)),
            ),
            kem=Kem(m.selected(response.tables, m.AlgType.KEM)),
            requester_multi_key=bool(response.requester_multi_key),
        )
        return replace(agreed, facts=agreed._facts())

    def _facts(self) -> m.Facts:
        c = self.connection
        request_size = _size(lambda: c.dhe.exchange_size if c.dhe else self.kem.request_size)
        response_size = _size(lambda: c.dhe.exchange_size if c.dhe else self.kem.response_size)
        return m.Facts(
            version=c.version,
            hash_size=_size(lambda: c.base_hash.size),
            signature_size=self.responder.size,
            req_signature_size=self.requester.size,
            request_exchange_size=request_size,
            response_exchange_size=response_size,
            handshake_in_the_clear=bool(c.common_capabilities & Capability.HANDSHAKE_IN_THE_CLEAR),
            multi_key=c.multi_key,
        )

    def facts_of(self, version: int, *, encapsulated: bool = False) -> m.Facts:
        """Give the facts for decoding a message of `version`; in an encapsulated one the requester answers."""
        if encapsulated:
            return self.facts._replace(
                version=version,
                signature_size=self.facts.req_signature_size,
                multi_key=self.requester_multi_key,
            )
        return self.facts if self.facts.version == version else self.facts._replace(version=version)
