"""Mutants that more than one story needs: attacks play them, the exploration must notice them."""

from __future__ import annotations

from teeio.device.tdi import Tdi
from teeio.pcie import ide_key
from teeio.scenarios.scenario import without

_FIRST_IV = ide_key.initialization_vector(ide_key.FIRST_INVOCATION)

NO_MAC = without("the comparison of the MAC", ide_key, "compare_digest", lambda *_: True)
NO_COUNTER = without("the invocation counter in the IV", ide_key, "initialization_vector", lambda _: _FIRST_IV)
NO_STATE_RULES = without("the device's rules on T bit and state", Tdi, "handles", lambda *_: True)
