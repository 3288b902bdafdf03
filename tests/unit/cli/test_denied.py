"""`gapo run` where storage refuses: one message, at once, and nothing tried again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.store.s3_servers import Answer, fault_proxy, moto_server

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            (403, b"<Error><Code>AccessDenied</Code><Message>no right</Message></Error>"),
            "AccessDenied: no right",
        ),
        (
            (404, b"<Error><Code>NoSuchBucket</Code><Message>no bucket</Message></Error>"),
            "NoSuchBucket: no bucket",
        ),
    ],
)
def test_denied_access_ends_the_command_with_one_message(tmp_path: Path, answer: Answer, words: str) -> None:
    with moto_server("runs") as upstream, fault_proxy(upstream) as proxy:
        proxy.instead = lambda method, path: answer
        where = ["--location", "local=s3://runs", "--endpoint", proxy.url, "--region", "us-east-1"]
        done = subprocess.run(
            [sys.executable, "-m", "gapo", "run", str(QUICKSTART), *where],
            env=os.environ | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        asked = len(proxy.seen)
    assert (done.returncode, done.stdout) == (75, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert asked == 1
