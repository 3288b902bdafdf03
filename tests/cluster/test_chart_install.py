"""The chart by Helm on a real API server: what an install, an upgrade and an uninstall leave, and the page that tells
how. Nothing runs pods here; the operator itself is started by hand as its Deployment would."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.chart import (
    CHART,
    FULLNAME,
    NAMESPACE,
    NAMESPACED,
    ROOT,
    SMALLEST,
    Manifest,
    Values,
    changed,
    helm,
    prepare,
    refusal,
    well,
)
from tests.cluster.control_plane import ControlPlane, control_plane, program
from tests.slow.gapo_command import SMOKE
from tests.unit.docs.pages import blocks

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster of its own that has never heard of gapo."""
    with control_plane(tmp_path_factory.mktemp("empty")) as server:
        prepare(server)
        yield server


def without_hooks(
    server: ControlPlane, *arguments: str, values: Values | None = None
) -> subprocess.CompletedProcess[str]:
    """Nothing runs pods here, so a check would wait for ever."""
    given = ["--values", "-"] if values is not None else []
    flags = ["--no-hooks", *given, "--namespace", NAMESPACE]
    return helm(*arguments, *flags, stdin=json.dumps(values), server=server)


def names(server: ControlPlane, kind: str, *flags: str) -> list[str]:
    return server.stdout_of("get", kind, "-o", "name", *flags).split()


OF_RELEASE = ("-l", "app.kubernetes.io/instance=gapo")
ALL = "deployment,service,serviceaccount,configmap,role,rolebinding,networkpolicy,poddisruptionbudget"


def test_a_release_is_installed_upgraded_and_gone_and_the_runs_are_still_there(empty: ControlPlane) -> None:
    assert "works on GapoRuns in all namespaces" in well(
        without_hooks(empty, "install", "gapo", str(CHART), values=SMALLEST)
    )
    empty.established()
    assert len(names(empty, ALL, "-n", NAMESPACE, *OF_RELEASE)) == 8
    empty.stdout_of("create", "-n", "red", "-f", "-", stdin=SMOKE.read_text())
    before = template(empty)

    well(
        without_hooks(empty, "upgrade", "gapo", str(CHART), values=changed({"trainer": {"graceSeconds": 90}}))
    )
    after = template(empty)
    assert before["metadata"]["annotations"] != after["metadata"]["annotations"]
    assert before["spec"] == after["spec"]

    assert "kept" in well(without_hooks(empty, "uninstall", "gapo"))
    assert names(empty, ALL, "-n", NAMESPACE, *OF_RELEASE) == []
    assert names(empty, "clusterrole,clusterrolebinding", *OF_RELEASE) == []
    assert len(names(empty, "gaporuns", "-n", "red")) == 1

    well(
        without_hooks(empty, "install", "gapo", str(CHART), values=SMALLEST)
    )  # what was kept is taken up again
    well(without_hooks(empty, "uninstall", "gapo"))


def template(server: ControlPlane) -> Manifest:
    deployment = server.stdout_of("get", "deployment", FULLNAME, "-n", NAMESPACE, "-o", "json")
    template: Manifest = json.loads(deployment)["spec"]["template"]
    return template


def test_a_crd_of_another_origin_is_taken_over_only_when_told_so(empty: ControlPlane) -> None:
    empty.run("delete", "crd", "gaporuns.gapo.dev")
    empty.stdout_of("apply", "--server-side", "-f", str(ROOT / "crds" / "gapo.dev_gaporuns.yaml"))
    refused = without_hooks(empty, "install", "gapo", str(CHART), values=SMALLEST)
    assert "gaporuns.gapo.dev" in refused.stderr
    assert refused.returncode != 0
    without_hooks(empty, "uninstall", "gapo")
    well(without_hooks(empty, "install", "gapo", str(CHART), "--take-ownership", values=SMALLEST))
    well(without_hooks(empty, "uninstall", "gapo"))


def test_a_namespaced_release_needs_no_right_over_the_cluster(empty: ControlPlane) -> None:
    """Installed by somebody who is administrator of three namespaces and nothing else."""
    for namespace in (NAMESPACE, "red", "blue"):
        empty.stdout_of(
            "create", "rolebinding", "lead", "--clusterrole=admin", "--user=lead", "-n", namespace
        )
        # Admin has no right over what the chart adds; who gives rights away must have them.
        empty.stdout_of(
            "create", "rolebinding", "lead-all", "--clusterrole=cluster-admin", "--user=lead", "-n", namespace
        )
    values = changed({"crds": {"enabled": False}}, of=NAMESPACED)
    lead = ["--kube-as-user", "lead"]
    well(without_hooks(empty, "install", "gapo", str(CHART), *lead, values=values))
    assert (
        len(names(empty, "role", "-A", *OF_RELEASE)) == 7
    )  # lease; operator, editor and viewer in two namespaces
    assert names(empty, "clusterrole,clusterrolebinding", *OF_RELEASE) == []
    well(without_hooks(empty, "uninstall", "gapo", *lead))


PAGE = ROOT / "docs" / "cluster.md"


def of_page(language: str) -> list[str]:
    """Blocks of the page's part about installing."""
    text = PAGE.read_text()
    after = text.index("\n## Install") + 1
    upto = text.find("\n## ", after)
    lines = text.count("\n", 0, after), text.count("\n", 0, upto if upto >= 0 else len(text))
    return [one.text for one in blocks(language) if one.page == PAGE and lines[0] < one.line <= lines[1]]


@pytest.mark.parametrize("values", of_page("yml"))
def test_values_of_the_install_page_are_taken(values: str) -> None:
    assert refusal(yaml.safe_load(values)) == ""


def test_the_commands_of_the_install_page(empty: ControlPlane, tmp_path: Path) -> None:
    for name in ("charts", "crds"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "values.yaml").write_text(of_page("yml")[0])
    empty.run("delete", "crd", "gaporuns.gapo.dev")
    path = ":".join([str(program("helm").parent), str(program("kubectl").parent), os.environ["PATH"]])
    commands = [line for block in of_page("sh") for line in block.splitlines()]
    assert len(commands) == 7
    for command in commands:
        # Nothing runs pods here, so a check would wait for ever.
        no_hooks = ["--no-hooks"] if command.startswith("helm") else []
        done = subprocess.run(
            [*shlex.split(command), *no_hooks],
            cwd=tmp_path,
            env=os.environ | {"KUBECONFIG": str(empty.kubeconfig), "PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert names(empty, ALL, "-n", NAMESPACE, *OF_RELEASE) == []
    assert empty.run("get", "crd", "gaporuns.gapo.dev").returncode == 1
