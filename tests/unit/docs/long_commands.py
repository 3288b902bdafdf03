"""Documented commands that take longer than a fast test may, each with what runs it."""

WALK = "tests/slow/test_documented_commands.py"

LONG: dict[str, str] = {
    "make quickstart": f"{WALK}::test_what_make_quickstart_runs_leaves_report_and_model",
    "gapo run examples/smoke.yaml": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo run run.yaml": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo status run.yaml": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo report run.yaml": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo export run.yaml model": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo run run.yaml --location local=/tmp/gapo-runs": f"{WALK}::test_a_run_as_the_pages_walk_through_it",
    "gapo run run.yaml --location local=s3://my-bucket/gapo --region eu-central-1": (
        f"{WALK}::test_a_run_in_a_bucket"
    ),
    "gapo status run.yaml --location local=s3://my-bucket/gapo --region eu-central-1 "
    "--endpoint https://objects.example.com": f"{WALK}::test_a_run_in_a_bucket",
    "make env": ".ci/run",
    "make check": ".ci/run",
    "make test": ".ci/run",
    ".venv/bin/python -m pytest tests/unit/planner": ".ci/run",
}
"""Command → the test that runs it, or the script that runs it or more."""
