"""`gapo submit`: what is sent, refused, told, and waited for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cluster.cli.room import NAMESPACE, Gapo, Room, manifest

from gapo.api.load import load_run

pytestmark = pytest.mark.cluster


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
    result = gapo_(f"submit {manifest(tmp_path, 'misspelt', stagess={'max': 1})} -n cli")
    assert result.code == 64
    assert result.err.endswith("spec.stagess: unknown field; did you mean stages?\n")
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
    result = gapo_(f"submit {file} -n cli")
    assert result.code == 64
    first, second = result.err.splitlines()
    assert "data.sources.0.uri" in first
    assert "upload it" in first
    assert "generator.model models/small is a folder of this machine" in second
    assert room.cluster.run("-n", NAMESPACE, "get", "gaporun", "files").returncode == 1


def test_a_dry_run_is_checked_by_the_server_and_stored_nowhere(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    result = gapo_(f"submit {manifest(tmp_path, 'dry')} -n cli --dry-run -o json")
    assert (result.code, json.loads(result.out)["done"], json.loads(result.out)["dryRun"]) == (
        0,
        "created",
        True,
    )
    assert room.cluster.run("-n", NAMESPACE, "get", "gaporun", "dry").returncode == 1


def test_what_something_else_has_set_is_told_and_taken_over_only_by_force(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    suspended = manifest(tmp_path, "shared", suspend=True, stages={"max": 3})
    room.kubectl("apply", "--server-side", "--field-manager", "team-b", "-f", str(suspended))
    file = manifest(tmp_path, "shared", suspend=True, stages={"max": 4})
    result = gapo_(f"submit {file} -n cli")
    assert result.code == 69
    assert f"{file}: spec.stages.max was set by team-b to something else" in result.err
    assert "--force-conflicts" in result.err
    assert gapo_(f"submit {file} -n cli --force-conflicts").out.startswith("GapoRun cli/shared configured")
    assert room.kubectl("get", "gaporun", "shared", "-o", "jsonpath={.spec.stages.max}") == "4"


def test_another_run_under_the_same_name_is_refused_by_the_servers_rule(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "fixed", stages={"max": 0})
    assert gapo_(f"submit {file} -n cli --wait --timeout 2m").code == 0
    manifest(tmp_path, "fixed", stages={"max": 0}, seed=7)
    result = gapo_(f"submit {file} -n cli")
    assert result.code == 64
    assert result.err.startswith(f"error: {file}: ")
    assert "another name" in result.err, result.err


def test_the_namespace_of_the_file_and_of_the_command_must_agree(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "placed", {"namespace": "other"}, suspend=True)
    result = gapo_(f"submit {file} -n cli")
    assert result.code == 64
    assert "metadata.namespace is other, but -n says cli" in result.err
    manifest(tmp_path, "placed", {"namespace": "cli"}, suspend=True)
    assert gapo_(f"submit {file}").out.startswith("GapoRun cli/placed created")
    missing = gapo_(f"submit {manifest(tmp_path, 'nowhere')} -n absent")
    assert (missing.code, missing.err) == (
        69,
        "error: there is no namespace absent; create it, or choose another by -n\n",
    )


def test_waiting_shows_what_happens_and_ends_with_the_run(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    result = gapo_(f"submit {manifest(tmp_path, 'waited')} -n cli --wait --timeout 3m")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert "TaskCommitted: 0/data" in lines
    assert any(line.startswith(("StageDecided: stage 1", "TaskStarted: 1/ppo")) for line in lines)
    assert lines[-1].startswith("Succeeded, A1/1")


def test_waiting_for_a_run_that_fails_gives_the_tasks_words_and_a_code(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    room.pods.misbehave = {"0/data/0": "exit:65"}
    result = gapo_(f"submit {manifest(tmp_path, 'failing', seed=1)} -n cli --wait --timeout 3m")
    room.pods.misbehave = {}
    assert result.code == 1
    assert result.err.startswith("error: cli/failing: PermanentFailure: ")
    assert "rows.jsonl line 3: label is missing" in result.err
    again = gapo_("status failing -n cli --watch")
    assert (again.code, again.err) == (1, result.err)


def test_waiting_for_a_run_that_nobody_lets_go_on_says_who_must_act(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "elsewhere", storage={"location": "elsewhere"})
    result = gapo_(f"submit {file} -n cli --wait --timeout 3m")
    assert result.code == 64
    assert "spec.storage.location 'elsewhere' is not for namespace cli" in result.err


def test_a_wait_that_is_too_long_ends_with_75_and_the_run_goes_on(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "patient", suspend=True)
    result = gapo_(f"submit {file} -n cli --wait --timeout 3s")
    assert result.code == 75
    assert "cli/patient is not over after 3 s: Suspended" in result.err
    assert "the run itself goes on" in result.err
    assert gapo_(f"submit {file} --timeout 3s").code == 2
    assert gapo_(f"submit {file} --wait --timeout soon").code == 2
