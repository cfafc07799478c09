PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# As many as there are cores, 2 to 4; and of those that mostly wait.
TESTS_AT_ONCE ?= $(shell cores=$$(nproc 2> /dev/null || echo 2); echo $$((cores < 2 ? 2 : cores > 4 ? 4 : cores)))
QUIET_TESTS_AT_ONCE ?= 5
# Where that variable is set, each of some hundred processes would compile the package for itself.
PYTEST := PYTHONDONTWRITEBYTECODE=
# Several threads that wait for each other by spinning take the cores from the tests beside them.
PYTEST += OPENBLAS_NUM_THREADS=1 GOMP_SPINCOUNT=0 $(BIN)/python -m pytest
READY := $(VENV)/.ready
# uv installs in a quarter of pip's time; pip is for networks of which only pip has the settings.
INSTALL := --quiet --constraint constraints.txt --editable '.[dev]'
# Where a user's settings have pip install elsewhere, that would leave the venv empty.
PIP := env -u PIP_TARGET -u PIP_PREFIX PIP_USER=0 $(BIN)/python -m pip --disable-pip-version-check install
UV := $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help setup train check test oldest lint bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Where there was no compiler before, there may be one now.
setup: $(READY) ## Create .venv, install the exact versions that were tested, compile the kernels
	@$(BIN)/python -m lenet_dist.kernels.build

$(READY): pyproject.toml constraints.txt setup.py $(wildcard lenet_dist/kernels/*.cpp lenet_dist/kernels/*.h) lenet_dist/kernels/build.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --quiet --constraint constraints.txt uv && $(UV) $(INSTALL) || $(PIP) $(INSTALL)
	@touch $@

# One process per GPU, or one on the CPU. Without a launch file Accelerate warns about its defaults.
GPUS = $(shell nvidia-smi --list-gpus 2> /dev/null | grep -c ^GPU)
LAUNCH = configs/launch/$(if $(filter 0 1,$(GPUS)),gpu,gpus).yaml --num_processes $(if $(filter 0,$(GPUS)),1,$(GPUS))

train: $(READY) ## Fetch MNIST and train the default recipe, about a minute on two CPU cores
	$(BIN)/accelerate launch --config_file $(LAUNCH) -m lenet_dist.train --config configs/default.yaml $(ARGS)

check: $(READY) ## Run the tests that start no processes, in about a minute
	$(PYTEST) -m "not processes and not quiet and not timed and not alone" --numprocesses $(TESTS_AT_ONCE) $(ARGS)

# After the tests that keep the cores busy come those that mostly wait or are held to the clock, and
# then those that measure. Those that wait share what takes long by file: runs, and SLURM's clusters.
# Exit code 5: ARGS leaves none of a kind.
test: $(READY) ## Run the whole test suite, several tests at a time
	@failed=; \
	run() { $(PYTEST) -m "$$1" --numprocesses $$2 $$3 $(ARGS) || [ $$? -eq 5 ] || failed=1; }; \
	run "not quiet and not timed and not alone" $(TESTS_AT_ONCE); \
	run "quiet or timed" $(QUIET_TESTS_AT_ONCE) "--dist=loadfile --no-loadscope-reorder"; run alone 0; \
	[ -z "$$failed" ]

oldest: ## Run the tests, but for SLURM's, with the oldest supported version of every package
	$(MAKE) test VENV=.venv-oldest INSTALL="--quiet --resolution lowest-direct --editable '.[dev]'" \
		ARGS="--ignore-glob='tests/test_slurm*' $(ARGS)"

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## Measure this job against its alternatives, on this machine
	$(BIN)/python -m lenet_dist.benchmark $(ARGS)

clean: ## Remove the venvs and caches; runs and data stay
	rm -rf $(VENV) .venv-oldest *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
