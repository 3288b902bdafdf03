"""A real S3 server (versitygw over a folder) with one bucket and an account for the operator and for each tenant.

The operator's may do everything in the bucket. A tenant is a namespace: its account reads and writes below its own
prefix and nothing else (docs/contracts/operator.md#rights-in-storage).
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.processes import Process, free_ports, running, wait_until
from tests.cluster.programs import program

from gapo.store.location import open_location
from gapo.store.objects import Objects

REGION = "us-east-1"
BUCKET = "runs"
TENANTS = ("tenant-a", "tenant-b")


@dataclass(frozen=True)
class Account:
    """Who may come to the server."""

    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """As processes and the Secrets of pods have it."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    operator: Account
    tenants: Mapping[str, Account]
    """By namespace."""
    access_log: Path
    """One line a request, in the format of S3's own server access logs."""
    folder: Path
    """The bucket's objects, as files."""

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}"

    def objects(self, account: Account, prefix: str = "") -> Objects:
        """What is below a prefix, as that account sees it."""
        keys = {"access_key_id": account.access_key, "secret_access_key": account.secret_key}
        store = open_location(self.uri, endpoint=self.endpoint, region=REGION, options=keys)
        return Objects(store, prefix, where=self.uri)


@contextmanager
def s3_server(
    folder: Path, address: str = "127.0.0.1", tenants: tuple[str, ...] = TENANTS
) -> Iterator[S3Server]:
    """Starts a server on a free port of `address`, with an empty bucket under `folder`."""
    root, operator = _account("root"), _account("operator")
    (port,) = free_ports(1, address)
    endpoint = f"http://{address}:{port}"
    data, users = folder / "s3", folder / "s3-accounts"
    data.mkdir()
    users.mkdir()
    command = [
        program("versitygw"), "--port", f"{address}:{port}", "--access", root.access_key, "--secret", root.secret_key,
        "--region", REGION, "--iam-dir", users, "--access-log", folder / "s3-access.log", "--quiet", "posix", data,
    ]  # fmt: skip
    server = S3Server(
        endpoint,
        operator,
        {name: _account(name) for name in tenants},
        folder / "s3-access.log",
        data / BUCKET,
    )
    with running(Process("s3", command), folder) as process:
        wait_until(lambda: _listens(address, port), "the S3 server listens", [process])
        for account in (operator, *server.tenants.values()):
            _create_user(root, endpoint, account)
        client = _client(root, endpoint)
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy(operator, server.tenants)))
        yield server


def policy(operator: Account, tenants: Mapping[str, Account]) -> dict[str, Any]:
    """The bucket's policy, as an administrator would write it for any S3."""
    bucket = f"arn:aws:s3:::{BUCKET}"
    statements = [
        {
            "Effect": "Allow",
            "Principal": {"AWS": [operator.access_key]},
            "Action": ["s3:*"],
            "Resource": [bucket, f"{bucket}/*"],
        }
    ]
    for namespace, account in tenants.items():
        statements.append(
            {
                "Effect": "Allow",
                "Principal": {"AWS": [account.access_key]},
                "Action": [
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                "Resource": [f"{bucket}/{namespace}/*"],
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


def _account(name: str) -> Account:
    return Account(f"{name}-{secrets.token_hex(4)}", secrets.token_hex(16))


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def _create_user(root: Account, endpoint: str, account: Account) -> None:
    admin = {"ADMIN_ACCESS_KEY_ID": root.access_key, "ADMIN_SECRET_ACCESS_KEY": root.secret_key}
    done = subprocess.run(
        [str(program("versitygw")), "admin", "--endpoint-url", endpoint, "--region", REGION, "create-user",
         "--access", account.access_key, "--secret", account.secret_key, "--role", "user"],
        env=os.environ | admin, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _client(account: Account, endpoint: str) -> Any:
    import boto3  # type: ignore[import-untyped]

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=account.access_key,
        aws_secret_access_key=account.secret_key,
    )
