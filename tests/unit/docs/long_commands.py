"""Documented commands that take longer than a fast test may, each with what runs it."""

WALK = "tests/slow/test_documented_commands.py"
DOCS = "tests/unit/docs/test_docs.py"
CLI = "tests/cluster/cli/test_status_and_logs.py::test_the_commands_of_the_page"
INSTALL = "tests/cluster/test_chart_install.py::test_the_commands_of_the_install_page"
RUNS = "tests/cluster/operator/test_runs.py::test_the_commands_of_the_page_on_runs"

LONG: dict[str, str] = {
    "make quickstart": f"{WALK}::test_what_make_quickstart_runs_leaves_report_and_model",
    # What they run is held there; that it comes to its end, on real servers, by `make vllm`, a part of `make test`.
    "make quickstart-vllm": f"{DOCS}::test_the_quickstart_with_servers_is_the_other_but_for_them_and_its_heads",
    "gapo run examples/quickstart-vllm.yaml": (
        f"{DOCS}::test_the_quickstart_with_servers_is_the_other_but_for_them_and_its_heads"
    ),
    "gapo run examples/smoke.yaml": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo run run.yaml": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo run run.yaml --metrics-port 9100": (
        "tests/unit/telemetry/test_live_run.py::test_gapo_run_serves_its_figures_while_it_lasts"
    ),
    "gapo status run.yaml": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo report run.yaml": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo export run.yaml model": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo run run.yaml --location local=/tmp/gapo-runs": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo run run.yaml --location local=s3://my-bucket/gapo --region eu-central-1": (
        f"{WALK}::test_a_run_in_a_bucket"
    ),
    "gapo status run.yaml --location local=s3://my-bucket/gapo --region eu-central-1 "
    "--endpoint https://objects.example.com": f"{WALK}::test_a_run_in_a_bucket",
    "helm install gapo charts/gapo-operator --namespace gapo-system --create-namespace --values values.yaml": INSTALL,
    "kubectl create secret generic gapo-storage --namespace gapo-system --from-literal=AWS_ACCESS_KEY_ID=operator --from-literal=AWS_SECRET_ACCESS_KEY=secret": INSTALL,
    "kubectl create secret generic gapo-storage --namespace red --from-literal=AWS_ACCESS_KEY_ID=red --from-literal=AWS_SECRET_ACCESS_KEY=secret": INSTALL,
    "kubectl apply --server-side -f crds/gapo.dev_gaporuns.yaml": INSTALL,
    "helm upgrade gapo charts/gapo-operator --namespace gapo-system --values values.yaml": INSTALL,
    "helm uninstall gapo --namespace gapo-system": INSTALL,
    "kubectl delete customresourcedefinition gaporuns.gapo.dev": INSTALL,
    "gapo submit run.yaml -n red": CLI,
    "gapo status smoke -n red --watch": CLI,
    "gapo logs smoke -n red -f": "tests/cluster/test_cli_node.py::test_logs_go_on_from_task_to_task",
    "gapo suspend smoke -n red": CLI,
    "gapo resume smoke -n red": CLI,
    "gapo submit run.yaml -n red --wait --timeout 12h": CLI,
    "kubectl gapo status smoke -n red -o json": CLI,
    "gapo doctor -n red": CLI,
    "gapo doctor -n red --config operator.yaml --location team": CLI,
    "kubectl apply -f examples/quickstart.yaml": RUNS,
    "kubectl get gaporuns": RUNS,
    "kubectl wait --for=condition=Succeeded gaporun/quickstart --timeout=1h": RUNS,
    """kubectl patch gaporun quickstart --type=merge --patch='{"spec":{"suspend":true}}'""": RUNS,
    """kubectl patch gaporun quickstart --type=merge --patch='{"spec":{"suspend":false}}'""": RUNS,
    "make env": ".ci/run",
    "make check": ".ci/run",
    "make test": ".ci/run",
    ".venv/bin/python -m pytest tests/unit/planner": ".ci/run",
}
"""Command → the test that runs it, or the script that runs it or more."""
