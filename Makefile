# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Other Python or pip options: make PYTHON=python3.12 PIP_ARGS="--extra-index-url https://..." demo

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
# Test processes side by side, each with one thread of torch; 0 runs all in one.
WORKERS ?= 2
# What `make mutants` is told: files of madx, or --seconds 3600.
MUTANTS ?=
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --durations 10
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile
DEMO := recipes/fashion-mnist.yaml
SILENT_LOSS := recipes/fashion-mnist-silent-loss.yaml

.DEFAULT_GOAL := help
.PHONY: help install dev data demo demo-silent-loss test test-slow long stale mutants lint clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(BIN)/madx: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

# Tests start many processes: byte code is made once, by all cores, where pip would use one.
$(VENV)/dev.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true  # some packages hold templates, which are no code
	@touch $@ $(BIN)/madx

install: $(BIN)/madx ## a virtual environment with madx and the ONNX Runtime CPU engine

dev: $(VENV)/dev.done ## the same with everything that tests and checks need

data: $(BIN)/madx ## fetch Fashion-MNIST (30 MB) and check its SHA-256
	$(BIN)/madx data fetch fashion-mnist

demo: install data ## prune, export and verify the shipped robust network; ends in a verdict and an HTML report
	$(BIN)/madx run $(DEMO)

demo-silent-loss: install data ## lose robustness and keep clean accuracy; succeeds if the gate sees it: FAIL, exit code 1
	@echo "$(BIN)/madx run $(SILENT_LOSS)"; $(BIN)/madx run $(SILENT_LOSS); code=$$?; \
	echo "exit code: $$code (expected here: 1, a gate failed)"; test $$code -eq 1

test: dev ## the test suite, under eight minutes on two cores
	$(PYTEST) $(SIDE_BY_SIDE)

test-slow: dev data ## the slow tests: the whole chain on real data, kills and resumes, float64 references
	$(PYTEST) -n $(WORKERS) --dist worksteal --timeout 1800 -m "slow and not alone and not long and not gpu"
	OMP_NUM_THREADS=$(WORKERS) MKL_NUM_THREADS=$(WORKERS) $(PYTEST) --timeout 1800 -m "slow and alone and not long and not gpu"

long: dev data ## what no CI has time for: benchmarks and long tests that are older than the code they measured; hours
	$(BIN)/python benchmarks/long.py

stale: dev ## which committed results are older than the code they measured
	$(BIN)/python benchmarks/long.py --stale

mutants: dev ## is every small wrong change to what judges noticed by a test? hours, and resumable: MUTANTS="--seconds 3600"
	$(BIN)/python tests/mutants.py $(MUTANTS)

lint: dev ## ruff and mypy --strict; and which files and functions are the longest, for a reader to judge
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/room_sizes.py

clean: ## remove the virtual environment, runs and caches (not the data)
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
