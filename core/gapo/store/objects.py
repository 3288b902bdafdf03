"""Objects under one prefix of a location: bounded reads, conditional creates, hashed transfers.

Every failure of the backend becomes a StoreError with one line that names the key and the location.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore

from gapo.errors import (
    BucketMissingError,
    InputArtifactError,
    InvariantError,
    StoreError,
    StoreRefusedError,
)
from gapo.store.layout import check_key
from gapo.store.records import ObjectRef

if TYPE_CHECKING:
    from obstore import GetOptions

RECORD_LIMIT = 256 * 1024
"""Bytes that a record may have, for writers and readers alike."""

Operation = Literal["create", "put", "get", "head", "delete", "upload", "download"]
Result = Literal["ok", "absent", "exists", "unchanged", "refused", "failed"]
Listener = Callable[[Operation, Result, float], None]
"""Told of each request once it is over: what it was, how it ended, and after how many seconds, retries included."""
_VERBS: dict[Operation, str] = {"put": "write", "get": "read", "head": "look up"}
"""What a request is called in messages, where that differs."""

_CHUNK = 8 * 1024 * 1024
_PARTS = 9_000
"""S3 allows 10,000 parts of one upload."""
_CREATE_ATTEMPTS = 8


def plain_message(error: BaseException) -> str:
    """One line of an obstore or OS error, without its debug dump; S3's own code and message where it sent some."""
    text = str(error).split("Debug source:")[0]
    sent = re.search(r"<Code>(.*?)</Code>(?:\s*<Message>(.*?)</Message>)?", text, re.DOTALL)
    if sent:
        text = ": ".join(part for part in sent.groups() if part)
    elif any(words in text for words in NO_KEYS):
        text = (
            "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the pod's identity"
        )
    elif isinstance(error, PermissionDeniedError | UnauthenticatedError):
        text = "permission denied; check the credentials, and what they may do there"
    elif "error sending request" in text or "onnection refused" in text:
        text = "the service does not answer; check the endpoint and the network"
    return " ".join(text.split())[:400] or type(error).__name__


class Objects:
    """The objects of `store` under `prefix`; keys are relative to it. Safe to share between threads."""

    def __init__(
        self,
        store: ObjectStore,
        prefix: str = "",
        *,
        where: str | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.store = store
        self.prefix = check_key(prefix) if prefix else ""
        self.where = where or str(store)
        self.listener = listener

    def under(self, prefix: str) -> Objects:
        """The objects under a further prefix."""
        below = f"{self.prefix}/{prefix}" if self.prefix else prefix
        return Objects(self.store, below, where=self.where, listener=self.listener)

    def create(self, key: str, data: bytes) -> bool:
        """Creates the object if there is none. False: the store says that there is one.

        S3 may say so although nothing landed, and a retried request may find its own first try;
        `create_or_read` settles both.
        """
        with self._request("create", key) as request:
            try:
                obstore.put(self.store, self._path(key), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                request.result = "exists"
                return False
            self._flush(key)
        return True

    def create_or_read(self, key: str, data: bytes, *, sleep: Callable[[float], None] = time.sleep) -> bytes:
        """Creates the object unless there is one; returns the bytes that are now there, ours or another's."""
        for attempt in range(_CREATE_ATTEMPTS):
            if self.create(key, data):
                return data
            stored = self.get(key)
            if stored is not None:
                return stored
            sleep(min(0.1 * 2**attempt, 5.0))
        raise StoreError(
            f"cannot create {key} in {self.where}: after {_CREATE_ATTEMPTS} tries the store says both that it exists"
            " and that it does not"
        )

    def put(self, key: str, data: bytes) -> None:
        """Writes the object, over another if there is one. Only for progress.json."""
        with self._request("put", key):
            obstore.put(self.store, self._path(key), data, use_multipart=False)

    def get(self, key: str, limit: int = RECORD_LIMIT) -> bytes | None:
        """The whole object, or None where there is none. Raises InputArtifactError beyond `limit` bytes."""
        data_and_etag = self.get_newer(key, None, limit)
        return None if data_and_etag is None else data_and_etag[0]

    def get_newer(
        self, key: str, etag: str | None, limit: int = RECORD_LIMIT
    ) -> tuple[bytes, str | None] | None:
        """The whole object with its ETag; None where there is none, or none but the one with `etag`, of which nothing
        is sent then. Raises InputArtifactError beyond `limit` bytes."""
        with self._request("get", key) as request:
            try:
                options: GetOptions = {} if etag is None else {"if_none_match": etag}
                result = obstore.get(self.store, self._path(key), options=options)
            except FileNotFoundError as error:
                _require_bucket(error)
                request.result = "absent"
                return None
            except NotModifiedError:
                request.result = "unchanged"
                return None
            size = result.meta["size"]
            if size > limit:
                raise InputArtifactError(
                    f"{key} in {self.where} has {size} bytes; at most {limit} are read", manifest=key
                )
            return bytes(result.bytes()), result.meta["e_tag"]

    def head(self, key: str) -> int | None:
        """Size in bytes, or None where there is no such object."""
        with self._request("head", key) as request:
            try:
                return obstore.head(self.store, self._path(key))["size"]
            except FileNotFoundError as error:
                _require_bucket(error)
                request.result = "absent"
                return None

    def exists(self, key: str) -> bool:
        return self.head(key) is not None

    def delete(self, key: str) -> None:
        """Deletes the object; one that is not there is no error."""
        with self._request("delete", key) as request:
            try:
                obstore.delete(self.store, self._path(key))
            except FileNotFoundError as error:
                _require_bucket(error)
                request.result = "absent"

    def upload_file(self, path: Path, key: str) -> ObjectRef:
        """Streams a local file into the object; size and sha256 are those of the bytes that were sent."""
        with self._request("upload", key):
            reader = _HashingReader(path)
            size = path.stat().st_size
            chunk = max(_CHUNK, -(-size // _PARTS))
            if size <= chunk:
                data = b"".join(reader.chunks(chunk))
                obstore.put(self.store, self._path(key), data, use_multipart=False)
            else:
                obstore.put(
                    self.store, self._path(key), reader.chunks(chunk), chunk_size=chunk, max_concurrency=4
                )
            self._flush(key)
        return ObjectRef(key=key, size=reader.size, sha256=reader.sha256.hexdigest())

    def upload_folder(self, folder: Path, prefix: str) -> dict[str, ObjectRef]:
        """Uploads every file below `folder` to `prefix`; returns relative name → object, as a manifest lists them."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        return {
            name: self.upload_file(path, f"{prefix}/{name}") for name, path in zip(names, files, strict=True)
        }

    def download_file(self, ref: ObjectRef, path: Path, *, manifest: str) -> None:
        """Streams the object to `path`, which appears only once size and sha256 agree with `ref`.

        Raises InputArtifactError, naming `manifest`, for an object that is absent, cut short or changed.
        """
        with self._request("download", ref.key, to=path), _appearing(path) as file:
            self._copy_verified(ref, file, manifest)

    def download_unnamed(self, key: str, path: Path) -> bool:
        """Streams an object that no record names, a user's file, to `path`, which appears only once all of it is there.

        False: there is none, or no such bucket, which for a user's address is the same.
        """
        with self._request("download", key, to=path) as request:
            try:
                result = obstore.get(self.store, self._path(key))
            except FileNotFoundError:
                request.result = "absent"
                return False
            with _appearing(path) as file:
                for chunk in result.stream(min_chunk_size=_CHUNK):
                    file.write(chunk)
        return True

    def _copy_verified(self, ref: ObjectRef, file: BinaryIO, manifest: str) -> None:
        def bad(what: str) -> InputArtifactError:
            return InputArtifactError(f"{ref.key}, which {manifest} names, {what}", manifest=manifest)

        try:
            result = obstore.get(self.store, self._path(ref.key))
        except FileNotFoundError as error:
            _require_bucket(error)
            raise bad("is absent") from error
        if result.meta["size"] != ref.size:
            raise bad(f"has {result.meta['size']} bytes instead of {ref.size}")
        sha256 = hashlib.sha256()
        for chunk in result.stream(min_chunk_size=_CHUNK):
            sha256.update(chunk)
            file.write(chunk)
        if sha256.hexdigest() != ref.sha256:
            raise bad(f"has sha256 {sha256.hexdigest()} instead of {ref.sha256}")

    def _path(self, key: str) -> str:
        try:
            check_key(key)
        except ValueError as error:
            raise InvariantError(str(error)) from error
        return f"{self.prefix}/{key}" if self.prefix else key

    def _flush(self, key: str) -> None:
        """On a local disk: survive a power cut. Objects reach the disk before the manifest that names them does."""
        if not isinstance(self.store, LocalStore):
            return
        path = Path(str(self.store.prefix or "/")) / self._path(key)
        for target in (path, path.parent):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextmanager
    def _request(self, operation: Operation, key: str, *, to: Path | None = None) -> Iterator[_Request]:
        """Turns what the backend or the local disk raises into a StoreError, and tells the listener."""
        _refuse_after_fork()
        request, began = _Request(), time.monotonic()
        try:
            yield request
        except BaseException as error:
            if not (isinstance(error, BaseError | OSError) or _is_panic(error)):
                raise
            target, kind = f" to {to}" if to else "", _kind_of(error)
            request.result = "refused" if issubclass(kind, StoreRefusedError) else "failed"
            verb = _VERBS.get(operation, operation)
            raise kind(f"cannot {verb} {key} in {self.where}{target}: {plain_message(error)}") from error
        finally:
            if self.listener is not None:
                self.listener(operation, request.result, time.monotonic() - began)


NO_KEYS = ("169.254.169.254", "Failed to read token file")
"""Words of errors of a client that found no credentials: the first is where it looked for an instance's last."""
REFUSALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken")
"""S3's codes for credentials that do not do, some of which come with other statuses than 401 and 403."""


def _kind_of(error: BaseException) -> type[StoreError]:
    """The class of our errors that says whether time may help, or a person alone."""
    text = str(error)
    if "NoSuchBucket" in text:
        return BucketMissingError
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StoreRefusedError
    codes = (f"<Code>{code}</Code>" for code in REFUSALS)
    return StoreRefusedError if any(words in text for words in (*NO_KEYS, *codes)) else StoreError


def _is_panic(error: BaseException) -> bool:
    """Of the library beneath, whose exception cannot be imported."""
    return type(error).__name__ == "PanicException"


@dataclass
class _Request:
    """One request, while it is under way."""

    result: Result = "ok"


_used_by: int | None = None


def _refuse_after_fork() -> None:
    """obstore's threads are not there in a forked child, where every call would wait for ever."""
    global _used_by
    if _used_by is None:
        _used_by = os.getpid()
    elif _used_by != os.getpid():
        raise InvariantError(
            "object storage was used in this process before it forked; fork first, then open stores in the child"
        )


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name once the block has ended well."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _HashingReader:
    """Reads a file in chunks and hashes what it hands out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.sha256 = hashlib.sha256()

    def chunks(self, size: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(size):
                self.sha256.update(chunk)
                self.size += len(chunk)
                yield chunk


def _require_bucket(error: BaseException) -> None:
    """An absent bucket is a fault of the location, never an absent object: a run must not start afresh for it."""
    if "NoSuchBucket" in str(error):
        raise error
