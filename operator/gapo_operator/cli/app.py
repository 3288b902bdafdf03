"""`kubectl gapo`: the commands for a cluster, and those about manifests, as a plugin of kubectl."""

from __future__ import annotations

import typer

from gapo.cli.app import end_with
from gapo.cli.options import version_option
from gapo.cli.validate import plan, validate
from gapo_operator.cli.doctor.command import doctor
from gapo_operator.cli.logs import logs
from gapo_operator.cli.status import status
from gapo_operator.cli.submit import submit
from gapo_operator.cli.suspend import resume, suspend

app = typer.Typer(
    name="kubectl gapo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Send GapoRuns to the cluster and follow them.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 bad command line, 64 bad manifest, 65 bad data, "
    "69 refused by the cluster, 75 try again later, 130 interrupted.",
)
app.callback()(version_option)
for command in (submit, status, logs, suspend, resume, doctor, validate, plan):
    app.command(command.__name__)(command)


def main() -> None:
    """Entry point of the console script `kubectl-gapo`."""
    end_with(app)
