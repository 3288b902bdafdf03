"""Puts the commands together, those of other rooms included, and turns errors into one message and an exit code."""

from __future__ import annotations

import importlib.metadata
import sys

import typer

from gapo.cli.inspect import export, report, status
from gapo.cli.run import run
from gapo.cli.validate import plan, validate
from gapo.errors import GapoError, RetryableError

app = typer.Typer(
    name="gapo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a generator by PPO against a reward model that is retrained on the generator's own output.",
    epilog="Exit codes: 0 done, 2 bad command line, 64 bad manifest, 65 bad data, 66 damaged checkpoint, "
    "69 refused by the cluster, 70 broken invariant, 73 gate not passed, 75 try again later, "
    "130 interrupted (run again to go on).",
)
app.command("run")(run)
app.command("validate")(validate)
app.command("plan")(plan)
app.command("status")(status)
app.command("report")(report)
app.command("export")(export)


def add_rooms(application: typer.Typer) -> None:
    """Adds the commands of whatever else is installed (entry points `gapo.commands`: a function is a command, a
    Typer a group of them)."""
    for entry in sorted(importlib.metadata.entry_points(group="gapo.commands"), key=lambda e: e.name):
        try:
            room = entry.load()
        except ImportError:
            continue  # that room's own libraries are not installed; its commands are not offered
        if isinstance(room, typer.Typer):
            application.add_typer(room, name=entry.name)
        else:
            application.command(entry.name)(room)


def main() -> None:
    """Entry point of the console script."""
    # `gapo --help` and `gapo data` need the other rooms; the rest starts faster without them.
    if len(sys.argv) < 2 or sys.argv[1].startswith("-") or sys.argv[1] not in _OWN:
        add_rooms(app)
    end_with(app)


def end_with(application: typer.Typer) -> None:
    """Runs a command line to its end; of an error there is one message and its exit code."""
    try:
        application()  # exits by itself: 0, the code of a typer.Exit, or 2 for a command line that it cannot read
    except GapoError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.code)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {name}{error.strerror or error}\n")
        sys.exit(RetryableError.code)


_OWN = {"run", "validate", "plan", "status", "report", "export"}
