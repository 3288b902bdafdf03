"""Arguments that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import gapo
from gapo.api.paths import user_path


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


Manifest = Annotated[
    Path,
    typer.Argument(metavar="FILE", parser=user_path, help="YAML file with one GapoRun; - is standard input."),
]
Locations = Annotated[
    list[str] | None,
    typer.Option(
        "--location",
        metavar="NAME=URI",
        help="Where storage.location NAME lies: a folder, file://, s3://, gs:// or az://. Default: local=./runs.",
    ),
]
Endpoint = Annotated[str | None, typer.Option(help="URL of an S3-compatible service, for s3:// locations.")]
Region = Annotated[str | None, typer.Option(help="Region of the bucket, for s3:// locations.")]
Format = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]

Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="Namespace; the kubeconfig's where unset.")
]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig; its current one where unset.")]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        parser=user_path,
        help="Kubeconfig file; $KUBECONFIG, then ~/.kube/config where unset.",
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gapo {gapo.__version__}")
        raise typer.Exit


def version_option(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None:
    """Options of the whole command line; the help's first line is the application's own."""


@dataclass(frozen=True)
class Where:
    """Which cluster and namespace a command is for; unset parts are the kubeconfig's."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None

    @property
    def given(self) -> bool:
        return self != Where()
