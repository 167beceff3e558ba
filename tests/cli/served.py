"""`teeio device` in a thread and `teeio connect` against it, as the commands run them."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.testing import CliRunner, Result

from teeio.cli.app import app
from teeio.cli.choices import Choices
from teeio.cli.offering import make_offer
from teeio.cli.serving import DeviceServer
from teeio.crypto.entropy import SeededEntropy
from teeio.observe import ignore
from teeio.transport.kinds import Transport

runner = CliRunner()
DEFAULT = Choices()


@contextmanager
def device(
    transport: Transport = Transport.MCTP,
    choices: Choices = DEFAULT,
    *,
    plain: bool = False,
    once: bool = True,
    said: list[str] | None = None,
    doe_connections: tuple[int, ...] = (),
    **options: Any,
) -> Iterator[str]:
    """Serve a device; give its address. With `once` it must have ended by itself when one connection has."""
    entropy, now = SeededEntropy(b"device"), time.time()
    ready, ports, tasks = threading.Event(), [], []

    def say(text: str) -> None:
        if said is not None:
            said.append(text)
        if text.startswith("listening on"):
            ports.append(text.split()[2])
            ready.set()

    offer = make_offer(choices, transport, entropy, now, say=say, **options)
    server = DeviceServer(transport, entropy, now, ignore, say, offer, plain=plain, doe_connections=doe_connections)

    async def serve() -> None:
        task = asyncio.ensure_future(server.serve("127.0.0.1", 0, once=once))
        tasks.append((asyncio.get_running_loop(), task))
        await asyncio.wait([task])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield ports[0]
    if not once:
        loop, task = tasks[0]
        loop.call_soon_threadsafe(task.cancel)
    thread.join(10)
    assert not thread.is_alive()


def run(peer: str, *options: str, transport: Transport = Transport.MCTP) -> Result:
    """Run `teeio connect`."""
    return runner.invoke(app, ["connect", peer, "--transport", transport.value, *options])


def connect(peer: str, *options: str, transport: Transport = Transport.MCTP) -> dict[str, Any]:
    """Run `teeio connect`, which must succeed; give what it found."""
    result = run(peer, "--json", *options, transport=transport)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def done(peer: str, operations: str, *options: str) -> list[dict[str, Any]]:
    """Perform operations, which must succeed; give what each of them found, without the negotiation before them."""
    found: list[dict[str, Any]] = connect(peer, "--operations", operations, *options)["operations"]
    return found[1:] if found[0]["operation"] == "negotiate" else found
