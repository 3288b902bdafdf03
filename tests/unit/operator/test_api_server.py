"""What the operator and the commands share of an API server's answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from gapo_operator.kube.api_server import all_items, json_object
from gapo_operator.kube.resource_paths import core_path, jobs_path, runs_path


def test_a_list_is_read_to_its_last_page() -> None:
    queries: list[Mapping[str, Any]] = []

    async def page(query: Mapping[str, Any]) -> dict[str, Any]:
        queries.append(dict(query))
        start = int(query.get("continue", 0))
        more = {"continue": str(start + 2)} if start < 4 else {}
        return {"items": [{"n": start}, {"n": start + 1}], "metadata": more}

    items = asyncio.run(all_items(page, {"labelSelector": "a=b"}))
    assert [item["n"] for item in items] == [0, 1, 2, 3, 4, 5]
    assert [query.get("continue") for query in queries] == [None, "2", "4"]
    assert all(query["labelSelector"] == "a=b" and query["limit"] == "500" for query in queries)


def test_an_answer_that_is_no_json_object_holds_nothing() -> None:
    assert [json_object(data) for data in (b"", b"[1]", b"<html>", b"\xff")] == [{}, {}, {}, {}]


def test_paths_are_those_that_the_api_server_serves() -> None:
    assert runs_path(None) == "/apis/gapo.dev/v1alpha1/gaporuns"
    assert runs_path("red", "run") == "/apis/gapo.dev/v1alpha1/namespaces/red/gaporuns/run"
    assert jobs_path("red") == "/apis/batch/v1/namespaces/red/jobs"
    assert core_path("red", "pods", "pod-1") == "/api/v1/namespaces/red/pods/pod-1"
