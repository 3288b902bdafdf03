"""What an administrator sets for all runs of a cluster: the chart writes it, the operator reads it at its start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from gapo.api.base import ApiModel
from gapo.api.quantity import Quantity
from gapo.errors import SpecError

Name = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Image = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class StorageLocation(ApiModel):
    """A place for runs. Addresses stand here and nowhere else: a run names a location (docs/contracts.md 16)."""

    name: Name
    uri: str = Field(max_length=1024, pattern=r"^(s3|gs|az)://[^/]+(/.*)?$")
    """`s3://BUCKET[/PREFIX]`, `gs://…` or `az://…`."""
    endpoint: str | None = Field(None, max_length=1024, pattern=r"^https?://")
    """Of an S3-compatible service."""
    region: str | None = Field(None, max_length=63)
    namespaces: list[Name] = Field(default_factory=list, max_length=1000)
    """Whose runs may use it; all where empty."""
    credentials: Literal["ambient", "mountedSecret"] = "ambient"
    """How pods of a run come by credentials: their service account, or a Secret of their own namespace."""
    secret_name: Name | None = None
    """`mountedSecret`: a Secret in each of those namespaces, with keys such as AWS_ACCESS_KEY_ID."""
    ca_config_map: Name | None = None
    """A ConfigMap in each of those namespaces whose key ca.crt signs the endpoint's certificate."""

    @model_validator(mode="after")
    def _secret_named(self) -> StorageLocation:
        if (self.credentials == "mountedSecret") != (self.secret_name is not None):
            raise ValueError("credentials: mountedSecret and secretName belong together")
        return self

    def allows(self, namespace: str) -> bool:
        return not self.namespaces or namespace in self.namespaces


class Trainer(ApiModel):
    """Defaults of task pods."""

    image: Image
    """Where a role of the run names none."""
    service_account_name: Name | None = None
    """In the run's namespace; its default one where unset. No token of it is mounted."""
    image_pull_secrets: list[Name] = Field(default_factory=list, max_length=8)
    user: int = Field(65532, ge=1)
    """User and group that pods run as; it is never 0."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm; counts against the pod's memory."""
    grace_seconds: int = Field(60, ge=5, le=3600)
    """Between the signal to stop and the end."""


class OperatorConfig(ApiModel):
    """The operator's configuration file."""

    storage_locations: list[StorageLocation] = Field(min_length=1, max_length=100)
    trainer: Trainer

    @model_validator(mode="after")
    def _names_differ(self) -> OperatorConfig:
        names = [location.name for location in self.storage_locations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"storageLocations: {', '.join(twice)} is there twice")
        return self

    def location(self, name: str, namespace: str) -> StorageLocation:
        """Raises SpecError where the cluster has none of that name, or not for this namespace."""
        for location in self.storage_locations:
            if location.name == name and location.allows(namespace):
                return location
        known = ", ".join(one.name for one in self.storage_locations if one.allows(namespace)) or "none"
        raise SpecError(
            f"spec.storage.location {name!r} is not for namespace {namespace} in this cluster (known: {known}); "
            "ask whoever runs the operator"
        )


def load_config(path: Path) -> OperatorConfig:
    """Raises SpecError with one line a problem."""
    try:
        return OperatorConfig.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SpecError("\n".join(lines)) from None
