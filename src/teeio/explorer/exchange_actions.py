"""What the VMM does with the data objects that it carries: mishaps, and exchanges that wait while other things happen."""

from __future__ import annotations

from collections.abc import Callable

from teeio.abi.operands import DevifOperation, KmOperation
from teeio.explorer.action import Common, Leaves, Own, Topic
from teeio.explorer.courier import Mishap, Waiting
from teeio.explorer.vmm_actions import lock_parameters
from teeio.explorer.world import Tenant, World
from teeio.host.vmm.resumable import interface_exchange, stream_keys


def _ask(operation: DevifOperation) -> Own:
    def ask(world: World, own: Tenant) -> None:
        world.courier.ask(interface_exchange(world.tsm, own.function_id, operation, lock_parameters(operation)))

    return Own("VMM", f"ask for {operation.name}, and let it wait", Topic.EXCHANGE, ask, of="A")


def _ask_for_keys(world: World) -> None:
    found = world.connection
    world.courier.ask(stream_keys(world.tsm, found.spdm_id, found.stream.stream_id, KmOperation.REFRESH))


def _befalls(mishap: Mishap) -> Common:
    return Common("VMM", mishap.value, Topic.EXCHANGE, lambda world: world.courier.do_next(mishap))


def _give(what: str, answer: Callable[[World, Waiting], bytes | None]) -> Common:
    return Common(
        "VMM",
        f"give the TSM {what}",
        Topic.EXCHANGE,
        lambda world: world.courier.give(lambda waiting: answer(world, waiting)),
        Leaves.SENT,
    )


EXCHANGE_ACTIONS: tuple[Own, ...] = (
    _ask(DevifOperation.LOCK),
    _ask(DevifOperation.START),
    _ask(DevifOperation.STOP),
)
"""Exchanges with an interface that the VMM begins and does not go on with."""

EXCHANGE_COMMON: tuple[Common, ...] = (
    Common("VMM", "ask for new IDE keys, and let it wait", Topic.EXCHANGE, _ask_for_keys),
    Common("VMM", "take the waiting request to the device", Topic.EXCHANGE, lambda world: world.courier.take()),
    _give("the waiting answer", lambda _, waiting: waiting.answer),
    _give("no answer", lambda *_: b""),
    _give("the last answer", lambda world, _: world.courier.last),
    *(_befalls(mishap) for mishap in Mishap),
)
"""What becomes of them, and of all others."""
