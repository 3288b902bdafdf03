"""What an administrator sets for all runs of a cluster: the operator reads it at its start, and again where the file
changes under it. The chart's does not: it is mounted by itself (subPath), and a changed one replaces the pod."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from gapo.api.base import ApiModel
from gapo.api.pods import AnnotationValue, LabelKey, LabelValue, ObjectName, Toleration
from gapo.api.quantity import Quantity
from gapo.errors import SpecError
from gapo.tasks import STOP_GRACE_SECONDS

log = logging.getLogger(__name__)

Name = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Prefix = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9][A-Za-z0-9./_-]*$")
]
"""Of a key. It cannot be empty: that would allow all, gapo's own labels too."""
Image = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class StorageLocation(ApiModel):
    """A place for runs. Addresses stand here and nowhere else: a run names a location (docs/contracts/operator.md#storage-locations)."""

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

    @property
    def address(self) -> tuple[str | None, ...]:
        """What says which place it is."""
        return self.uri.rstrip("/"), self.endpoint, self.region

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
    grace_seconds: int = Field(STOP_GRACE_SECONDS, ge=5, le=3600)
    """Between the signal to stop and the end."""
    metrics_port: int = Field(9400, ge=0, le=65535)
    """Port of task pods on which Prometheus reads what they tell; 0: none."""


class PodProfile(ApiModel):
    """What runs may have beyond the "restricted" profile of pod security: they name it, and write none of it."""

    name: Name
    namespaces: list[Name] = Field(default_factory=list, max_length=1000)
    """Whose runs may name it; all where empty. Their pod security must admit what it grants."""
    capabilities: list[Annotated[str, StringConstraints(max_length=32, pattern=r"^[A-Z][A-Z_]*$")]] = Field(
        default_factory=list, max_length=8
    )
    """Linux capabilities of the trainer's container, such as IPC_LOCK."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    tolerations: list[Toleration] = Field(default_factory=list, max_length=16)
    runtime_class_name: ObjectName | None = None
    annotations: dict[LabelKey, AnnotationValue] = Field(default_factory=dict, max_length=16)
    """Of the pods, such as `k8s.v1.cni.cncf.io/networks`."""
    limits: dict[LabelKey, Quantity] = Field(default_factory=dict, max_length=8)
    """Added to the pods' limits, such as `rdma/hca: 1`."""


class OperatorConfig(ApiModel):
    """The operator's configuration file."""

    storage_locations: list[StorageLocation] = Field(min_length=1, max_length=100)
    trainer: Trainer
    allowed_label_prefixes: list[Prefix] = Field(default_factory=list, max_length=32)
    """Beginnings of keys of labels that runs may give their pods, such as `example.com/`."""
    allowed_annotation_prefixes: list[Prefix] = Field(default_factory=list, max_length=32)
    """The same of annotations."""
    allowed_service_accounts: list[ObjectName] = Field(default_factory=list, max_length=100)
    """Service accounts of their namespace that runs may choose, beside `trainer.serviceAccountName`."""
    pod_profiles: list[PodProfile] = Field(default_factory=list, max_length=32)

    @model_validator(mode="after")
    def _names_differ(self) -> OperatorConfig:
        for field, names in (
            ("storageLocations", [location.name for location in self.storage_locations]),
            ("podProfiles", [profile.name for profile in self.pod_profiles]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{field}: {', '.join(twice)} is there twice")
        return self

    def location(self, name: str, namespace: str) -> StorageLocation:
        """Raises SpecError where the cluster has none of that name, or not for this namespace."""
        for location in self.storage_locations:
            if location.name == name and location.allows(namespace):
                return location
        allowed = ", ".join(one.name for one in self.storage_locations if one.allows(namespace)) or "none"
        raise SpecError(
            f"spec.storage.location {name!r} is not for namespace {namespace} in this cluster (known: {allowed}); "
            "ask whoever runs the operator"
        )

    def profile(self, name: str, namespace: str, field: str) -> PodProfile:
        """Raises SpecError, which names the `field` that asks for it, where there is none for this namespace."""
        allowed = [one for one in self.pod_profiles if not one.namespaces or namespace in one.namespaces]
        for profile in allowed:
            if profile.name == name:
                return profile
        raise SpecError(
            f"{field}: {name!r} is not for namespace {namespace} in this cluster (known: "
            f"{', '.join(one.name for one in allowed) or 'none'}); ask whoever runs the operator"
        )


def load_config(path: Path) -> OperatorConfig:
    """Raises SpecError with one line a problem."""
    try:
        return OperatorConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SpecError("\n".join(lines)) from None
    except ValueError as error:  # of a value that YAML takes for a date, and is none
        raise SpecError(f"{path}: not YAML: {error}") from None


class ConfigFile:
    """The configuration as its file says it now. What cannot be read leaves what was read before in force."""

    def __init__(self, path: Path) -> None:
        """Raises SpecError with one line a problem."""
        self._path, self.current = path, load_config(path)
        self._read = self._content()

    def refresh(self) -> bool:
        """Reads the file again where it has changed; True where that says something else."""
        content = self._content()
        if content is None or content == self._read:
            return False
        self._read = content
        try:
            config = load_config(self._path)
        except SpecError as error:
            log.error(
                "the configuration has changed and cannot be used; the one before stays in force: %s", error
            )
            return False
        changed, self.current = config != self.current, config
        if changed:
            log.info("the configuration has changed")
        return changed

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None
