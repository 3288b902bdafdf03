"""Puts the commands together, those of other rooms included, and turns errors into one message and an exit code."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import sys
from typing import NoReturn

import typer

from gapo.cli.options import version_option
from gapo.cli.read_commands import export, report, status
from gapo.cli.run import run
from gapo.cli.terminal import adapt_streams, write_traceback
from gapo.cli.validate import plan, validate
from gapo.errors import GapoError, RetryableError, SpecError, UnforeseenError

app = typer.Typer(
    name="gapo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a generator by PPO against a reward model that is retrained on the generator's own output.",
    epilog="Exit codes: 0 done, 2 bad command line, 64 bad manifest, 65 bad data, 66 damaged checkpoint, "
    "69 refused by the cluster, 70 broken invariant or an error that nobody foresaw, 73 gate not passed, 75 try again later, "
    "130 interrupted (run again to go on).",
)
CLOSED_PIPE = 141
"""What a shell shows of a program that SIGPIPE ended: 128 + 13."""
WRONG_PLACES = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
WRONG_PLACE_NUMBERS = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
"""A path that cannot be used is as wrong at the next attempt."""
app.callback()(version_option)
app.command("run")(run)
app.command("validate")(validate)
app.command("plan")(plan)
app.command("status")(status)
app.command("report")(report)
app.command("export")(export)


def add_plugin_commands(application: typer.Typer) -> None:
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
        add_plugin_commands(app)
    end_with(app)


def end_with(application: typer.Typer) -> None:
    """Runs a command line to its end; of an error there is one message and its exit code."""
    adapt_streams()
    try:
        application()  # exits by itself: 0, the code of a typer.Exit, or 2 for a command line that it cannot read
    except GapoError as error:
        _end(str(error), error.code)
    except BrokenPipeError:
        os._exit(CLOSED_PIPE)  # whoever read has gone, and what is left to write would fail again
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        of_a_path = isinstance(error, WRONG_PLACES) or error.errno in WRONG_PLACE_NUMBERS
        _end(f"{name}{error.strerror or error}", SpecError.code if of_a_path else RetryableError.code)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        _end(_unforeseen(error), UnforeseenError.code)


def _end(message: str, code: int) -> NoReturn:
    try:
        if sys.stderr is not None:  # a shell may have closed it
            sys.stderr.write(f"error: {message}\n")
            sys.stderr.flush()
    except OSError:
        os._exit(code)
    sys.exit(code)


def _unforeseen(error: BaseException) -> str:
    path = write_traceback(error)
    report = f"its traceback is in {path}; please report it with that file" if path else "please report it"
    return f"{UnforeseenError.of(error)}; {report}"


_OWN = {"run", "validate", "plan", "status", "report", "export"}
