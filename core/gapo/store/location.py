"""Opening a storage location by its address.

Credentials are ambient: environment variables, pod identity or instance role. Profiles in ~/.aws are not read;
`aws configure export-credentials --format env` turns one into environment variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, ObjectStore, S3Store

from gapo.api.paths import at_home
from gapo.errors import LocationInvalidError, SpecError
from gapo.store.objects import plain_message

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = "s3://BUCKET[/PREFIX], gs://BUCKET[/PREFIX], az://CONTAINER[/PREFIX], file:///FOLDER, memory://, or a folder"

RETRY_FOR = timedelta(seconds=30)


@dataclass(frozen=True)
class Location:
    """A named place for runs, as an administrator lists it or `--location NAME=URI` gives it."""

    name: str
    uri: str
    endpoint: str | None = None
    region: str | None = None

    def open(self, *, retry_for: timedelta = RETRY_FOR) -> ObjectStore:
        return open_location(self.uri, endpoint=self.endpoint, region=self.region, retry_for=retry_for)


def open_location(
    uri: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    ca_file: Path | None = None,
    read_timeout: timedelta = timedelta(minutes=2),
    retry_for: timedelta = RETRY_FOR,
    options: Mapping[str, str] | None = None,
) -> ObjectStore:
    """The store at `uri`; a folder is created where it does not exist. No network request is made.

    `endpoint` is the URL of an S3-compatible or Azure service; plain http is allowed only by writing it there, or
    with AWS_ENDPOINT_URL and AWS_ALLOW_HTTP in the environment.
    `read_timeout` bounds one read or one uploaded part of at most some 16 MiB, not a whole transfer.
    `retry_for` bounds all retries of one request. `options` are further settings of obstore's store by name, such
    as `virtual_hosted_style_request`. Raises SpecError where the address cannot be understood, LocationInvalidError
    where endpoint, keys or certificate cannot be used.
    """
    scheme, bucket, path = _split(uri)
    _check_endpoint(uri, scheme, endpoint)
    region = _region(uri, scheme, region)
    if scheme == "memory":
        return MemoryStore()
    if scheme == "file":
        try:
            return LocalStore(Path(path), mkdir=True)
        except (BaseError, OSError, ValueError) as error:
            raise SpecError(
                f"storage location {uri!r}: cannot use the folder {path}: {plain_message(error)}"
            ) from error
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": read_timeout,
        "timeout": timedelta(days=1),
        "allow_http": _plain_http(endpoint),
    }
    if ca_file is not None:
        client["root_certificate"] = _certificate(uri, ca_file)
    settings: dict[str, Any] = {"client_options": client, "retry_config": _retries(retry_for)}
    settings |= {"prefix": path or None, **_keys(uri, scheme, options or {}), **(options or {})}
    if endpoint is not None:
        settings["endpoint"] = endpoint
    if region is not None:
        settings.setdefault("region", region)
    try:
        if scheme == "s3":
            return S3Store(bucket, **settings)
        if scheme == "gs":
            return GCSStore(bucket, **settings)
        return AzureStore(bucket, **settings)
    except (BaseError, ValueError) as error:
        what = plain_message(error)
        if ca_file is not None and ("certificate" in what or "builder error" in what):
            what = f"{ca_file} holds no certificate in PEM ({what})"
        raise LocationInvalidError(f"storage location {uri!r}: {what}") from error


def _retries(retry_for: timedelta) -> RetryConfig:
    """Time alone bounds the retries: ten of them, the library's limit, are over within four seconds."""
    return {
        "max_retries": 1000,
        "retry_timeout": retry_for,
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=3),
            "base": 2,
        },
    }


def _certificate(uri: str, ca_file: Path) -> bytes:
    try:
        return ca_file.read_bytes()
    except OSError as error:
        raise LocationInvalidError(
            f"storage location {uri!r}: the certificate {ca_file} cannot be read ({error.strerror}); on a cluster it is "
            "the key ca.crt of the ConfigMap that the location names"
        ) from error


ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def _check_endpoint(uri: str, scheme: str, endpoint: str | None) -> None:
    """What is no address is refused here: the library beneath would panic at the first request."""
    written = [("endpoint", endpoint)]
    if endpoint is None and scheme == "s3":
        written = [(name, os.environ.get(name)) for name in ENDPOINT_VARIABLES]
    for name, value in written:
        if value and not is_endpoint(value):
            raise LocationInvalidError(
                f"storage location {uri!r}: {name} {value!r} is no address; write http://HOST[:PORT] or https://HOST[:PORT]"
            )


def _region(uri: str, scheme: str, region: str | None) -> str | None:
    """The location's region, or, as only S3 has them there, that of the environment without the line's end that a
    Secret made from a file often has."""
    name = "region"
    if region is None and scheme == "s3":
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            if region := os.environ.get(name, "").strip() or None:
                break
    if region and not re.fullmatch(r"[A-Za-z0-9_-]+", region):
        raise LocationInvalidError(
            f"storage location {uri!r}: {name} {region!r} is no region; write its name alone, such as eu-central-1"
        )
    return region


KEY_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
}


def _keys(uri: str, scheme: str, options: Mapping[str, str]) -> dict[str, str]:
    """The environment's keys without the line's end that a Secret made from a file often has; none where `options` has
    some. What no request could carry is refused, as with endpoints."""
    if scheme != "s3" or any(name.lower().removeprefix("aws_") == "access_key_id" for name in options):
        return {}
    keys = {option: os.environ.get(name, "").strip() for name, option in KEY_VARIABLES.items()}
    for name, option in KEY_VARIABLES.items():
        if keys[option] and not (keys[option].isascii() and keys[option].isprintable()):
            raise LocationInvalidError(
                f"storage location {uri!r}: {name} in the environment is no key: it has characters that no request can carry"
            )
    return {option: value for option, value in keys.items() if value}


def is_endpoint(text: str) -> bool:
    """Whether it is the URL of a service, such as https://minio.example:9000."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host or port == 0 or parts.query or parts.fragment:
        return False
    return text.isascii() and text.isprintable() and not any(one in text for one in ' <>"{}|\\^`@')


def _plain_http(endpoint: str | None) -> bool:
    """Given options, obstore does not look into the environment for this one."""
    if endpoint is not None:
        return endpoint.lower().startswith("http://")
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")


def _split(uri: str) -> tuple[str, str, str]:
    """(scheme, bucket, path); for folders the path is absolute."""
    if "://" not in uri:
        if not uri.strip() or uri.startswith(("s3:", "gs:", "az:", "file:", "memory:")):
            raise SpecError(f"storage location {uri!r}: expected {SCHEMES}")
        return "file", "", str(at_home(Path(uri), what="storage location").absolute())
    parts = urlsplit(uri)
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise SpecError(
            f"storage location {uri.split('?')[0].split('@')[-1]!r}: credentials and options do not belong in the"
            " address; give credentials in the environment"
        )
    if parts.scheme == "file":
        host = "" if parts.netloc == "localhost" else parts.netloc
        folder = unquote(host + parts.path)
        if not folder:
            raise SpecError(
                f"storage location {uri!r} names no folder; write file:///absolute/path or a folder"
            )
        return "file", "", str(Path(folder).absolute())
    if parts.scheme == "memory":
        return "memory", "", ""
    if parts.scheme not in {"s3", "gs", "az"}:
        raise SpecError(f"storage location {uri!r}: unknown scheme {parts.scheme!r}; expected {SCHEMES}")
    if not parts.netloc:
        raise SpecError(f"storage location {uri!r} names no bucket; expected {SCHEMES}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", parts.netloc):
        raise SpecError(
            f"storage location {uri!r}: {parts.netloc!r} is no name of a bucket; letters, digits, ., _ and - make one"
        )
    return parts.scheme, parts.netloc, parts.path.strip("/")
