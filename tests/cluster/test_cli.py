"""`gapo` against a real API server with the operator's real process; pods are played in milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.conftest import CRD, ROOT
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.instant_pods import InstantPods, instant_pods
from tests.cluster.operator_process import OperatorProcess, operator
from tests.cluster.processes import wait_until
from tests.cluster.s3 import REGION, S3Server

import gapo.cli
from gapo.api.load import load_run

pytestmark = pytest.mark.cluster
NAMESPACE = "cli"
ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "tenant"},
    "rules": [{"apiGroups": ["gapo.dev"], "resources": ["gaporuns"], "verbs": ["get", "list", "watch"]}],
}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Gapo = Callable[..., Said]


@dataclass
class Room:
    """A namespace that an operator watches."""

    cluster: ControlPlane
    s3: S3Server
    pods: InstantPods
    operator: OperatorProcess

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.said("-n", NAMESPACE, *arguments, stdin=stdin)

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", "gaporun", name, "-o", "json")).get(
            "status", {}
        )
        return found

    def wait_for(self, state: str, name: str) -> None:
        self.operator.wait_until(lambda: self.status(name).get("state") == state, f"{name} is {state}")


@pytest.fixture(scope="module")
def room(cluster: ControlPlane, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("cli")
    cluster.said("create", "namespace", NAMESPACE)
    config = folder / "operator.yaml"
    location = {"name": "local", "uri": s3.uri, "endpoint": s3.endpoint, "region": REGION}
    config.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer:test"}}))
    arguments = ("--namespace", NAMESPACE, "--lease-namespace", NAMESPACE)
    environment = s3.operator.environment()
    previous = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # the played pods come with the operator's keys
    try:
        with (
            instant_pods(cluster.kubeconfig, NAMESPACE) as pods,
            operator(folder, cluster.kubeconfig, config, *arguments) as process,
        ):
            process.wait_until_ready()
            yield Room(cluster, s3, pods, process)
    finally:
        for name, value in previous.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    cluster.run("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def gapo_(
    cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Gapo:
    """The command in this process: an interpreter each would take longer than all else."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["gapo", *shlex.split(command)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            gapo.cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        assert "Traceback" not in said.err
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return run


def manifest(folder: Path, name: str, metadata: Mapping[str, Any] | None = None, **spec: Any) -> Path:
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": name, **(metadata or {})},
        "spec": {
            "data": {"generate": {"grammar": "micro", "size": 100}},
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "stages": {"max": 1},
            "storage": {"location": "local"},
            **spec,
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_manifest_is_created_then_unchanged_then_configured(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "first")
    run_id = load_run(file).run_id
    first = gapo_(f"submit {file} -n cli")
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == [
        f"GapoRun cli/first created, run {run_id}",
        "  gapo status first -n cli --watch",
        "  gapo logs first -n cli -f",
    ]
    room.wait_for("Succeeded", "first")
    assert room.status("first")["runID"] == run_id
    assert gapo_(f"submit {file} -n cli").out.startswith("GapoRun cli/first unchanged")
    manifest(tmp_path, "first", stages={"max": 2})
    assert gapo_(f"submit {file} -n cli").out.startswith("GapoRun cli/first configured")
    managers = json.loads(room.kubectl("get", "gaporun", "first", "-o", "json", "--show-managed-fields"))
    applied = [m["manager"] for m in managers["metadata"]["managedFields"] if m["operation"] == "Apply"]
    assert applied == ["gapo"]


def test_what_is_misspelt_is_refused_here_and_named(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    said = gapo_(f"submit {manifest(tmp_path, 'misspelt', stagess={'max': 1})} -n cli")
    assert said.code == 64
    assert said.err.endswith("spec.stagess: unknown field; did you mean stages?\n")
    assert room.cluster.run("-n", NAMESPACE, "get", "gaporun", "misspelt").returncode == 1


def test_files_of_this_machine_are_refused_with_what_to_do(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "response": "b", "label": 1}\n')
    file = manifest(
        tmp_path,
        "files",
        data={"sources": [{"uri": "mine.jsonl"}]},
        generator={"model": "models/small"},
        rewardModel={"model": "hf://org/encoder"},
    )
    said = gapo_(f"submit {file} -n cli")
    assert said.code == 64
    first, second = said.err.splitlines()
    assert "data.sources.0.uri" in first
    assert "upload it" in first
    assert "generator.model models/small is a folder of this machine" in second
    assert room.cluster.run("-n", NAMESPACE, "get", "gaporun", "files").returncode == 1


def test_a_dry_run_is_checked_by_the_server_and_stored_nowhere(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    said = gapo_(f"submit {manifest(tmp_path, 'dry')} -n cli --dry-run -o json")
    assert (said.code, json.loads(said.out)["done"], json.loads(said.out)["dryRun"]) == (0, "created", True)
    assert room.cluster.run("-n", NAMESPACE, "get", "gaporun", "dry").returncode == 1


def test_what_something_else_has_set_is_told_and_taken_over_only_by_force(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    suspended = manifest(tmp_path, "shared", suspend=True, stages={"max": 3})
    room.kubectl("apply", "--server-side", "--field-manager", "team-b", "-f", str(suspended))
    file = manifest(tmp_path, "shared", suspend=True, stages={"max": 4})
    said = gapo_(f"submit {file} -n cli")
    assert said.code == 69
    assert f"{file}: spec.stages.max was set by team-b to something else" in said.err
    assert "--force-conflicts" in said.err
    assert gapo_(f"submit {file} -n cli --force-conflicts").out.startswith("GapoRun cli/shared configured")
    assert room.kubectl("get", "gaporun", "shared", "-o", "jsonpath={.spec.stages.max}") == "4"


def test_another_run_under_the_same_name_is_refused_by_the_servers_rule(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "fixed", stages={"max": 0})
    assert gapo_(f"submit {file} -n cli --wait --timeout 2m").code == 0
    manifest(tmp_path, "fixed", stages={"max": 0}, seed=7)
    said = gapo_(f"submit {file} -n cli")
    assert said.code == 64
    assert said.err.startswith(f"error: {file}: ")
    assert "another name" in said.err, said.err


def test_the_namespace_of_the_file_and_of_the_command_must_agree(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "placed", {"namespace": "other"}, suspend=True)
    said = gapo_(f"submit {file} -n cli")
    assert said.code == 64
    assert "metadata.namespace is other, but -n says cli" in said.err
    manifest(tmp_path, "placed", {"namespace": "cli"}, suspend=True)
    assert gapo_(f"submit {file}").out.startswith("GapoRun cli/placed created")
    missing = gapo_(f"submit {manifest(tmp_path, 'nowhere')} -n absent")
    assert (missing.code, missing.err) == (
        69,
        "error: there is no namespace absent; create it, or choose another by -n\n",
    )


def test_waiting_shows_what_happens_and_ends_with_the_run(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    said = gapo_(f"submit {manifest(tmp_path, 'waited')} -n cli --wait --timeout 3m")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert "TaskCommitted: 0/data" in lines
    assert any(line.startswith(("StageDecided: stage 1", "TaskStarted: 1/ppo")) for line in lines)
    assert lines[-1].startswith("Succeeded, A1/1")


def test_waiting_for_a_run_that_fails_gives_the_tasks_words_and_a_code(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    room.pods.misbehave = {"0/data/0": "exit:65"}
    said = gapo_(f"submit {manifest(tmp_path, 'failing', seed=1)} -n cli --wait --timeout 3m")
    room.pods.misbehave = {}
    assert said.code == 1
    assert said.err.startswith("error: cli/failing: PermanentFailure: ")
    assert "rows.jsonl line 3: label is missing" in said.err
    again = gapo_("status failing -n cli --watch")
    assert (again.code, again.err) == (1, said.err)


def test_waiting_for_a_run_that_nobody_lets_go_on_says_who_must_act(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "elsewhere", storage={"location": "elsewhere"})
    said = gapo_(f"submit {file} -n cli --wait --timeout 3m")
    assert said.code == 64
    assert "spec.storage.location 'elsewhere' is not for namespace cli" in said.err


def test_a_wait_that_is_too_long_ends_with_75_and_the_run_goes_on(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "patient", suspend=True)
    said = gapo_(f"submit {file} -n cli --wait --timeout 3s")
    assert said.code == 75
    assert "cli/patient is not over after 3 s: Suspended" in said.err
    assert "the run itself goes on" in said.err
    assert gapo_(f"submit {file} --timeout 3s").code == 2
    assert gapo_(f"submit {file} --wait --timeout soon").code == 2


def test_status_shows_stages_tasks_problems_and_events(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    room.pods.misbehave = {"1/ppo/0": "unschedulable"}
    assert gapo_(f"submit {manifest(tmp_path, 'shown', seed=2)} -n cli").code == 0
    room.operator.wait_until(
        lambda: any(c["reason"] == "Unschedulable" for c in room.status("shown").get("conditions", [])),
        "it cannot be scheduled",
    )
    text = gapo_("status shown -n cli").out
    assert text.startswith("cli/shown (")
    assert "): Pending, A1/1 ppo" in text
    assert "1 Insufficient nvidia.com/gpu" in text
    assert "TaskCommitted" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "0.400", "0.900"] in [row[:3] for row in rows]
    assert ["ppo", "0", "Pending"] in [row[:3] for row in rows]
    body = json.loads(gapo_("status shown -n cli -o json").out)
    assert (body["state"], body["stage"], body["stages"][0]["satisfaction"]) == ("Pending", 1, 0.4)
    assert body["tasks"][0]["kind"] == "ppo"
    room.pods.misbehave = {}
    room.kubectl("delete", "gaporun", "shown")


def test_status_of_a_file_is_of_this_machine_unless_the_cluster_is_asked(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "both", {"namespace": "cli"}, suspend=True)
    assert gapo_(f"submit {file}").code == 0
    here = gapo_(f"status {file}")
    assert here.code == 65
    assert "has not been started" in here.err
    room.wait_for("Suspended", "both")
    assert gapo_(f"status {file} --cluster").out.startswith("cli/both")
    assert gapo_(f"status {file} -n cli").out.startswith("cli/both")
    absent = gapo_("status both -n default")
    assert (absent.code, absent.err) == (69, "error: there is no GapoRun both in namespace default\n")
    assert gapo_("status absent.yaml").code == 64
    mixed = gapo_(f"status {file} --cluster --location local=/tmp")
    assert mixed.code == 64
    assert "are for a FILE" in mixed.err


def test_a_suspended_run_is_resumed(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    assert gapo_(f"submit {manifest(tmp_path, 'paused', seed=3)} -n cli").code == 0
    assert gapo_("suspend paused -n cli").out.startswith("GapoRun cli/paused suspended")
    assert gapo_("suspend paused -n cli").out == "GapoRun cli/paused is suspended already\n"
    room.wait_for("Suspended", "paused")
    assert gapo_("resume paused -n cli").out == "GapoRun cli/paused resumed\n"
    assert gapo_("status paused -n cli --watch").code == 0
    assert gapo_("suspend nobody -n cli").code == 69


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pending:ImagePullBackOff", "0 data is pending: ImagePullFailed: "),
        ("unschedulable", "0 data is pending: Unschedulable: 0/1 nodes are available"),
        ("refused:exceeded quota: gpus", "0 data is pending: QuotaExceeded: exceeded quota: gpus"),
    ],
)
def test_logs_say_why_there_are_none_yet(
    room: Room, gapo_: Gapo, tmp_path: Path, how: str, words: str
) -> None:
    name = f"quiet-{how[0]}"
    room.pods.misbehave = {"0/data/0": how}
    assert gapo_(f"submit {manifest(tmp_path, name, seed=4)} -n cli").code == 0
    room.operator.wait_until(
        lambda: any(
            c["type"] == "TasksHealthy" and c["status"] == "False"
            for c in room.status(name).get("conditions", [])
        ),
        "it is known why",
    )
    said = gapo_(f"logs {name} -n cli")
    assert said.code == 75
    assert words in said.err
    room.pods.misbehave = {}
    room.kubectl("delete", "gaporun", name)


def test_logs_of_a_run_without_a_pod_say_how_the_run_stands(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    assert gapo_(f"submit {manifest(tmp_path, 'podless', suspend=True)} -n cli").code == 0
    room.wait_for("Suspended", "podless")
    said = gapo_("logs podless -n cli --stage 3 --kind ppo")
    assert said.code == 69
    assert "no pod of A3 ppo is there: GapoRun cli/podless is Suspended" in said.err
    assert gapo_("logs nobody -n cli").code == 69


def findings(said: Said) -> dict[str, str]:
    return {check["check"]: check["level"] for check in json.loads(said.out)["checks"]}


def test_doctor_finds_a_working_cluster_well(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    room.cluster.said("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    location = f"--location local={room.s3.uri} --endpoint {room.s3.endpoint} --region {REGION}"
    said = gapo_(f"doctor -n cli {location} -o json")
    assert said.code == 0, said.out
    assert findings(said) == {
        "api server": "ok",
        "definition": "ok",
        "rights": "ok",
        "rights for logs": "ok",
        "operator": "ok",
        "watched": "warn",  # a process of the tests has no Deployment
        "pod security": "ok",
        "gpus": "warn",  # nor is there a node
        "location local": "ok",
    }
    assert not list((room.s3.folder / NAMESPACE / ".gapo").rglob("*-race"))


def test_doctor_says_what_the_operators_configuration_asks_of_the_namespace(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    location = {"name": "team", "uri": "s3://runs", "endpoint": room.s3.endpoint, "region": REGION}
    location |= {"credentials": "mountedSecret", "secretName": "keys"}
    other = {"name": "red", "uri": "s3://red", "namespaces": ["red"]}
    config = tmp_path / "operator.yaml"
    config.write_text(
        yaml.safe_dump({"storageLocations": [location, other], "trainer": {"image": "trainer:test"}})
    )
    said = gapo_(f"doctor -n cli --config {config}")
    assert said.code == 69
    assert "secret keys is not in namespace cli" in said.out
    assert "locations for namespace cli: team\n" in said.out
    room.kubectl("create", "secret", "generic", "keys", "--from-literal=AWS_ACCESS_KEY_ID=x")
    well = gapo_(f"doctor -n cli --config {config} --location team")
    assert well.code == 0, well.out
    assert "secret keys is in namespace cli" in well.out
    assert "s3://runs honours conditional creates below cli/" in well.out
    assert "namespace cli would take a pod of a run" in well.out
    limits = {"limits": [{"type": "Pod", "min": {"memory": "1Ti"}}]}
    limit_range = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "huge"}, "spec": limits}
    room.kubectl("create", "-f", "-", stdin=json.dumps(limit_range))
    wait_until(
        lambda: "would be refused" in gapo_(f"doctor -n cli --config {config}").out, "the limit counts"
    )
    refused = gapo_(f"doctor -n cli --config {config}")
    room.kubectl("delete", "limitrange", "huge")
    assert refused.code == 69
    assert "minimum memory usage per Pod is 1Ti" in refused.out
    assert not room.kubectl("get", "pods", "-o", "name", "-l", "gapo.dev/run=doctor")


def test_doctor_sees_that_the_operator_is_gone(room: Room, gapo_: Gapo) -> None:
    room.operator.kill()
    try:
        wait_until(
            lambda: findings(gapo_("doctor -n cli -o json"))["operator"] == "fail", "the Lease is too old"
        )
        said = gapo_("doctor -n cli")
        assert said.code == 69
        assert "no operator leads since " in said.out
    finally:
        room.operator.start()
        room.operator.wait_until_ready()


@pytest.fixture(scope="module")
def tenant(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of someone who may read GapoRuns and nothing else."""
    room.kubectl("create", "-f", "-", stdin=json.dumps(ROLE))
    room.kubectl("create", "serviceaccount", "tenant")
    room.kubectl("create", "rolebinding", "tenant", "--role=tenant", "--serviceaccount=cli:tenant")
    token = room.kubectl("create", "token", "tenant").strip()
    document = yaml.safe_load(room.cluster.kubeconfig.read_text())
    document["users"] = [{"name": "admin", "user": {"token": token}}]
    document["contexts"][0]["context"]["namespace"] = NAMESPACE
    file = tmp_path_factory.mktemp("tenant") / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return file


def test_one_who_may_only_read_runs_sees_them_and_is_told_what_is_missing(
    room: Room, tenant: Path, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "readable", suspend=True)
    assert gapo_(f"submit {file} -n cli").code == 0
    room.wait_for("Suspended", "readable")
    assert gapo_(f"status readable --kubeconfig {tenant}").out.startswith("cli/readable")
    refused = gapo_(f"submit {file} --kubeconfig {tenant}")
    assert refused.code == 69
    assert 'cannot patch resource "gaporuns"' in refused.err
    assert "ask an administrator" in refused.err
    hidden = gapo_(f"logs readable --kubeconfig {tenant}")
    assert hidden.code == 69
    assert 'cannot list resource "pods"' in hidden.err
    said = gapo_(f"doctor --kubeconfig {tenant} -o json")
    assert said.code == 69
    assert findings(said) == {
        "api server": "ok",
        "definition": "warn",
        "rights": "fail",
        "rights for logs": "warn",
        "operator": "ok",
        "pod security": "warn",
        "gpus": "warn",
    }
    assert "you may not create gaporuns.gapo.dev, patch gaporuns.gapo.dev in namespace cli" in said.out


def test_one_who_may_see_pods_but_not_their_logs_is_told_at_once(
    room: Room, tenant: Path, gapo_: Gapo, tmp_path: Path
) -> None:
    room.kubectl("create", "role", "looker", "--verb=get,list,watch", "--resource=pods")
    room.kubectl("create", "rolebinding", "looker", "--role=looker", "--serviceaccount=cli:tenant")
    room.pods.misbehave = {"0/data/0": "hang"}
    assert gapo_(f"submit {manifest(tmp_path, 'closed', seed=9)} -n cli").code == 0
    room.wait_for("Running", "closed")
    for follow in ("", "-f"):
        said = gapo_(f"logs closed --kubeconfig {tenant} {follow}")
        assert said.code == 69
        assert 'cannot get resource "pods/log"' in said.err
    room.pods.misbehave = {}
    room.kubectl("delete", "gaporun", "closed")


def test_a_cluster_that_cannot_be_reached_is_one_line(
    cluster: ControlPlane, gapo_: Gapo, tmp_path: Path
) -> None:
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    away = tmp_path / "away"
    away.write_text(yaml.safe_dump(document))
    said = gapo_(f"status run --kubeconfig {away}")
    assert said.code == 75
    assert said.err.startswith("error: the API server https://127.0.0.1:1 does not answer")
    assert gapo_(f"status run --kubeconfig {tmp_path / 'absent'}").code == 69
    context = gapo_("status run --context prod")
    assert context.code == 69
    assert "context 'prod'" in context.err
    document["users"] = [{"name": "admin", "user": {"token": "wrong"}}]
    document["clusters"] = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"]
    away.write_text(yaml.safe_dump(document))
    unknown = gapo_(f"status run --kubeconfig {away}")
    assert (unknown.code, "log in to the cluster again" in unknown.err) == (69, True)


@dataclass
class Terminal:
    """A command on a terminal of its own."""

    process: subprocess.Popen[bytes]
    screen: bytearray

    def shows(self, words: str) -> Callable[[], bool]:
        return lambda: words.encode() in self.screen

    def end(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture
def terminal(room: Room) -> Iterator[Callable[..., Terminal]]:
    ours: list[Terminal] = []

    def start(*arguments: str, kubeconfig: Path = room.cluster.kubeconfig) -> Terminal:
        master, slave = pty.openpty()
        gapo = str(Path(sys.executable).with_name("gapo"))
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "COLUMNS": "120", "TERM": "xterm"}
        process = subprocess.Popen(
            [gapo, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        made = Terminal(process, bytearray())

        def read() -> None:
            with contextlib.suppress(OSError):  # the other end is closed
                while chunk := os.read(master, 4096):
                    made.screen.extend(chunk)
            os.close(master)

        threading.Thread(target=read, daemon=True).start()
        ours.append(made)
        return made

    yield start
    for one in ours:
        one.process.kill()
        one.process.wait()


def test_a_login_program_is_asked_again_when_its_token_is_no_longer_taken(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    document = yaml.safe_load(room.cluster.kubeconfig.read_text())
    token = document["users"][0]["user"]["token"]
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    (tmp_path / "old").write_text(json.dumps({**answer, "status": {"token": "expired"}}))
    (tmp_path / "new").write_text(json.dumps({**answer, "status": {"token": token}}))
    script = f"cd {tmp_path}; if [ -e asked ]; then cat new; else touch asked; cat old; fi"
    program = {"command": "sh", "args": ["-c", script], "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": {"apiVersion": answer["apiVersion"], **program}}
    file = tmp_path / "by-program"
    file.write_text(yaml.safe_dump(document))
    assert gapo_(f"submit {manifest(tmp_path, 'renewed', suspend=True)} -n cli").code == 0
    said = gapo_(f"status renewed -n cli --kubeconfig {file}")
    assert (said.code, (tmp_path / "asked").exists()) == (0, True)
    assert said.out.startswith("cli/renewed")


def test_on_a_terminal_the_view_changes_with_the_run_and_ctrl_c_leaves_the_run_alone(
    room: Room, gapo_: Gapo, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    assert gapo_(f"submit {manifest(tmp_path, 'viewed', seed=6, suspend=True)} -n cli").code == 0
    left, stays = (terminal("status", "viewed", "-n", NAMESPACE, "-w") for _ in range(2))
    for one in (left, stays):
        room.operator.wait_until(one.shows("Suspended"), "it shows the state")
    left.process.send_signal(signal.SIGINT)
    assert left.end() == 130
    assert b"Traceback" not in left.screen
    assert room.status("viewed")["state"] == "Suspended"
    assert gapo_("resume viewed -n cli").code == 0
    assert stays.end() == 0
    room.operator.wait_until(stays.shows("all 1 stages are done"), "it shows the end")


class Wire:
    """Carries bytes to the API server and back, until it is cut."""

    def __init__(self, port: int) -> None:
        self.upstream, self.cut, self.open = port, False, 0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        started = threading.Event()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            server = self._loop.run_until_complete(asyncio.start_server(self._carry, "127.0.0.1", 0))
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            self._loop.run_forever()

        threading.Thread(target=serve, daemon=True).start()
        started.wait(10)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.close()
            return
        self.open += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
        self._writers |= {writer, back}
        await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def break_(self) -> None:
        self.cut = True
        self._loop.call_soon_threadsafe(lambda: [writer.close() for writer in self._writers])

    def close(self) -> None:
        self.break_()
        self._loop.call_soon_threadsafe(self._loop.stop)


def test_a_view_outlives_an_api_server_that_is_away_for_a_while(
    room: Room, gapo_: Gapo, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    document = yaml.safe_load(room.cluster.kubeconfig.read_text())
    cluster = document["clusters"][0]["cluster"]
    wire = Wire(int(cluster["server"].rpartition(":")[2]))
    cluster["server"] = f"https://127.0.0.1:{wire.port}"
    file = tmp_path / "by-wire"
    file.write_text(yaml.safe_dump(document))
    assert gapo_(f"submit {manifest(tmp_path, 'wired', seed=8, suspend=True)} -n cli").code == 0
    view = terminal("status", "wired", "-n", NAMESPACE, "-w", kubeconfig=file)
    room.operator.wait_until(view.shows("Suspended"), "it shows the state")
    wire.break_()
    assert gapo_("resume wired -n cli").code == 0
    room.wait_for("Succeeded", "wired")
    assert view.process.poll() is None
    opened, wire.cut = wire.open, False
    assert view.end() == 0
    wire.close()
    assert wire.open > opened
    room.operator.wait_until(view.shows("all 1 stages are done"), "it shows what it had missed")


def test_kubectl_has_it_as_a_plugin(room: Room, tmp_path: Path) -> None:
    suspended = manifest(tmp_path, "plugged", suspend=True)
    environment = {
        **os.environ,
        "KUBECONFIG": str(room.cluster.kubeconfig),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def kubectl(*arguments: str) -> str:
        done = subprocess.run(
            [str(room.cluster.kubectl), "gapo", *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert kubectl("submit", str(suspended), "-n", NAMESPACE).startswith("GapoRun cli/plugged created")
    room.wait_for("Suspended", "plugged")
    assert kubectl("status", "plugged", "-n", NAMESPACE).startswith("cli/plugged")


def test_the_commands_of_the_page(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text().partition("## Submit and follow")[2]
    written = [line for line in page.splitlines() if line.startswith(("gapo ", "kubectl gapo "))]
    assert len(written) >= 8
    location = {"name": "team", "uri": room.s3.uri, "endpoint": room.s3.endpoint, "region": REGION}
    (tmp_path / "operator.yaml").write_text(
        yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer:test"}})
    )
    manifest(tmp_path, "smoke", seed=5).rename(tmp_path / "run.yaml")
    for command in written:
        if command.startswith("gapo logs"):
            continue  # needs a node: test_cli_node.py
        said = gapo_(command.removeprefix("kubectl ").removeprefix("gapo ").replace("-n red", "-n cli"))
        assert said.code == 0, (command, said)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster that has never heard of gapo."""
    with control_plane(tmp_path_factory.mktemp("bare")) as server:
        yield server


def test_a_cluster_without_gapo_says_how_to_install_it_and_one_of_another_release_what_it_lacks(
    bare: ControlPlane, gapo_: Gapo, tmp_path: Path
) -> None:
    at = f"--kubeconfig {bare.kubeconfig}"
    file = manifest(tmp_path, "early", stages={"max": 1, "rolloutsPerIteration": 128})
    for command in (f"submit {file} {at}", f"status early {at}", f"logs early {at}"):
        said = gapo_(command)
        assert (said.code, said.err.count("\n")) == (69, 1)
        assert "kubectl apply --server-side -f crds/gapo.dev_gaporuns.yaml" in said.err
    doctor = gapo_(f"doctor {at} -o json")
    assert (doctor.code, findings(doctor)["definition"], findings(doctor)["operator"]) == (69, "fail", "fail")

    older = yaml.safe_load(CRD.read_text())
    spec = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["checkpoint"]
    bare.said("apply", "--server-side", "-f", "-", stdin=json.dumps(older))
    bare.said("wait", "--for=condition=Established", "crd/gaporuns.gapo.dev", "--timeout=60s")
    manifest(tmp_path, "early", checkpoint={"interval": 60})
    said = gapo_(f"submit {file} {at}")
    assert said.code == 64
    assert "of another release than this gapo" in said.err
    assert "checkpoint" in said.err
    doctor = gapo_(f"doctor {at}")
    assert "lacks 2 fields of this release, such as spec.checkpoint" in doctor.out

    bare.said("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    wait_until(
        lambda: findings(gapo_(f"doctor {at} -o json"))["definition"] == "ok",
        "the definition is this release's",
    )
    assert gapo_(f"submit {file} {at}").code == 0
    assert "no operator has looked at it yet" in gapo_(f"status early {at}").out
