"""The commands and what they share. Heavy imports happen inside the commands, so that `--help` is quick."""

from __future__ import annotations

import typer

from teeio import __version__
from teeio.cli.attack import attack
from teeio.cli.bench import bench
from teeio.cli.connect import connect
from teeio.cli.decode import decode
from teeio.cli.device import device
from teeio.cli.explore import explore
from teeio.cli.fault import fault
from teeio.cli.identity import identity
from teeio.cli.identity_certify import certify
from teeio.cli.interop import interop
from teeio.cli.operation_help import CommandWithOperations
from teeio.cli.outcome import EXIT_MEANINGS
from teeio.cli.peer import peer
from teeio.cli.run import run
from teeio.cli.sysfs import sysfs

_EXIT_CODES = "Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in EXIT_MEANINGS.items()) + "."

app = typer.Typer(
    name="teeio",
    help="PCIe TEE-I/O in software: SPDM, IDE and TDISP, both sides of every protocol, and the platform they run on.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"teeio {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Take the options before the command."""


app.command(rich_help_panel="Platform")(run)
app.command(rich_help_panel="Platform")(attack)
app.command(rich_help_panel="Platform")(fault)
app.command(rich_help_panel="Platform")(explore)
app.command(rich_help_panel="Platform")(sysfs)
app.command(rich_help_panel="Platform")(peer)
app.add_typer(bench, rich_help_panel="Platform")
app.command(rich_help_panel="Peers")(device)
app.command(rich_help_panel="Peers", cls=CommandWithOperations)(connect)
app.command(rich_help_panel="Peers")(interop)
app.command(rich_help_panel="Captures")(decode)
identity.command("certify")(certify)
app.add_typer(identity, rich_help_panel="Certificates")


def main() -> None:
    """Run the command line."""
    app(prog_name="teeio")
