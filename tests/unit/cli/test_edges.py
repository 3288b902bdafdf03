"""`gapo` at the edges of a user's machine: terminals, pipes, homes and errors that nobody foresaw. Each test gives the
command in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
GAPO = [sys.executable, "-m", "gapo"]


def gapo(*arguments: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    kept = {k: v for k, v in os.environ.items() if k not in environment or environment[k]}
    return subprocess.run(
        [*GAPO, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        env={**kept, **{k: v for k, v in environment.items() if v}},
        timeout=60,
    )


def test_a_terminal_that_knows_ascii_alone_is_told_everything(tmp_path: Path) -> None:
    done = gapo("plan", QUICKSTART, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert b"data -> sft -> rm-warmup" in done.stdout
    named = tmp_path / "größe.yaml"
    named.write_bytes(QUICKSTART.read_bytes())
    done = gapo("validate", named, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert b"e.yaml: valid" in done.stdout


def test_a_file_name_that_is_no_text_is_told_all_the_same(tmp_path: Path) -> None:
    named = os.fsencode(tmp_path) + b"/caf\xe9.yaml"
    Path(os.fsdecode(named)).write_bytes(QUICKSTART.read_bytes())
    done = subprocess.run([*map(os.fsencode, GAPO), b"validate", named], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_reader_that_goes_away_is_no_error_worth_a_word(command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m gapo {command} "$1" | true', sys.executable, str(QUICKSTART)],
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""


def test_an_error_that_cannot_be_written_ends_with_its_own_code(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" -m gapo validate "$1" 2>&- ; echo $?', sys.executable, str(tmp_path / "none.yaml")],
        capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.stdout == b"64\n"


def test_a_manifest_comes_from_standard_input_too() -> None:
    read = gapo("validate", "-", "-o", "json", stdin=QUICKSTART.read_bytes())
    named = gapo("validate", QUICKSTART, "-o", "json")
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout) == json.loads(named.stdout)
    assert gapo("plan", "-", stdin=QUICKSTART.read_bytes()).returncode == 0
    status = gapo(
        "status", "-", "--location", "local=/nonexistent-gapo/../tmp", stdin=QUICKSTART.read_bytes()
    )
    assert b"has not been started" in status.stderr
    refused = gapo("validate", "-", stdin=b"spec: [")
    assert (refused.returncode, refused.stderr[:28]) == (64, b"error: standard input: not Y")


def test_rows_come_from_standard_input_too() -> None:
    rows = b'{"prompt": "p", "response": "r", "label": 1}\n'
    done = gapo("data", "stats", "-", stdin=rows)
    assert (done.returncode, done.stdout.split(b"\n")[0]) == (0, b"-: 1 rows, 1 accepted")
    assert b"-: line 2: is not JSON" in gapo("data", "check", "-", stdin=rows + b"{\n").stderr


def test_a_home_folder_is_found_where_no_shell_has_written_it_out(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(QUICKSTART.read_bytes())
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "response": "r", "label": 1}\n')
    assert gapo("validate", "~/run.yaml", HOME=str(tmp_path)).returncode == 0
    assert gapo("data", "stats", "~/rows.jsonl", HOME=str(tmp_path)).returncode == 0
    assert gapo("data", "make", "~/made", "--size", "50", HOME=str(tmp_path)).returncode == 0
    assert (tmp_path / "made" / "rows-train.jsonl").is_file()
    status = gapo("status", "~/run.yaml", "--location", "local=~/runs", HOME=str(tmp_path))
    assert f"nothing at {tmp_path}/runs/".encode() in status.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("validate", "{tmp}"), 64, "Is a directory"),
        (("validate", "~nobody-of-that-name/x.yaml"), 64, "there is no home folder here"),
        (("data", "stats", "{tmp}"), 65, "has no rows-train.jsonl"),
        (("data", "check", "{tmp}/none.jsonl"), 65, "cannot be read: No such file"),
        (("data", "make", "/proc/made", "--size", "50"), 64, "/proc/made"),
        (("data", "make", "{tmp}/file", "--size", "50"), 64, "{tmp}/file"),
        (("data", "export", "{tmp}/rows.jsonl", "{tmp}", "--format", "bce"), 64, "{tmp} is there already"),
        (("data", "check", "{tmp}/rows.jsonl", "--against", "{tmp}"), 65, "--against: {tmp}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_path_that_cannot_be_used_is_one_line_that_names_it(
    tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "response": "r", "label": 1}\n')
    done = gapo(*(one.format(tmp=tmp_path) for one in arguments))
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert said.startswith("error: ")
    assert told.format(tmp=tmp_path) in said
    assert said.count("\n") == 1


def test_an_error_that_nobody_foresaw_is_one_line_and_its_traceback_a_file(tmp_path: Path) -> None:
    """A room whose command fails as no room may: a plugin installed beside gapo."""
    plugin = tmp_path / "plugin"
    (plugin / "oops-1.dist-info").mkdir(parents=True)
    (plugin / "oops-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: oops\nVersion: 1\n")
    (plugin / "oops-1.dist-info" / "entry_points.txt").write_text(
        "[gapo.commands]\noops = oops:oops\npanic = oops:panic\n"
    )
    (plugin / "oops.py").write_text(
        "class PanicException(BaseException): pass\n"
        "def oops():\n    raise RuntimeError('the size of\\ntensor a')\n"
        "def panic():\n    raise PanicException('index out of bounds')\n"
    )
    for command, words in (
        ("oops", "RuntimeError: the size of tensor a"),
        ("panic", "PanicException: index"),
    ):
        done = gapo(command, PYTHONPATH=str(plugin), TMPDIR=str(tmp_path))
        said = done.stderr.decode()
        assert done.returncode == 70
        assert said.startswith(f"error: {words}")
        assert said.count("\n") == 1
        written = re.search(r"its traceback is in (\S+\.txt); please report it", said)
        assert written is not None
        assert "Traceback (most recent call last)" in Path(written[1]).read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_user_without_a_home_is_told_what_to_set(tmp_path: Path) -> None:
    script = (
        "import os, sys\nos.environ.pop('HOME', None)\nos.environ.pop('XDG_CACHE_HOME', None)\n"
        "from pathlib import Path\nfrom gapo.api.load import load_run\nfrom gapo.local.run_location import work_folder\n"
        "from gapo.errors import SpecError\n"
        "os.setuid(54321)\ntry:\n    work_folder(load_run(Path('-')))\nexcept SpecError as error:\n    sys.exit(f'told: {error}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=QUICKSTART.read_bytes(), capture_output=True, check=False
    )
    assert done.stderr.startswith(
        b"told: the folder for working files (XDG_CACHE_HOME): ~/.cache cannot be found"
    )
    assert b"set HOME" in done.stderr
