"""The trusted life of a device as one story: everything `teeio connect` does without being told what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from teeio.cli.visits import authentication, information, negotiation, sessions, streams
from teeio.cli.visits.visit import MEASURES, Visit
from teeio.spdm.constants import Version


def visit_responder(visit: Visit, *, discovery: bool, with_sessions: bool = True, with_streams: bool = True) -> None:
    """Do everything in order: discovery, authentication, measurements, a session, IDE_KM and TDISP up to RUN and back.

    With a pre-shared key a session on it follows. `with_sessions` says whether the transport carries any (SPDM 1.0 has none),
    `with_streams` whether IDE and TDISP are asked for.
    """
    if discovery:
        negotiation.discover(visit)
    negotiation.negotiate(visit)
    authentication.authenticate(visit)
    measures = visit.offers(MEASURES)
    if measures:
        information.measure(visit)
    if not with_sessions or visit.connection.version < Version.V1_1:
        sessions.no_session(visit, "not on this transport" if not with_sessions else "SPDM 1.0 has none")
        return
    sessions.open_session(visit)
    with _always_ended(visit):
        if measures:
            information.measure(visit)
        sessions.keep_alive(visit)
        if with_streams and streams.key_stream(visit):
            streams.live_interface(visit)
            streams.stop_stream(visit)
    if visit.plan.psk is not None:
        sessions.open_psk_session(visit)
        with _always_ended(visit):
            sessions.keep_alive(visit)


@contextmanager
def _always_ended(visit: Visit) -> Iterator[None]:
    """End the session whatever happens in it, without hiding what happened."""
    try:
        yield
    except BaseException:
        if visit.latest is not None:
            with suppress(Exception):
                sessions.end(visit)
        raise
    sessions.end(visit)
