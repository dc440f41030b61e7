# On a bare machine with Python ≥ 3.11, pip and venv, run: make quickstart, or make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-fast check format docs gpu

quickstart: $(VENV)/installed  ## train on handwritten digits; two to seven minutes on two cores
	$(BIN)/diffexp train digits

test: $(VENV)/installed-dev  ## run all tests
	$(BIN)/pytest -n 3 --dist loadscope --no-loadscope-reorder --durations 15 --rehearse  # the tests for GPUs on the CPU

test-fast: $(VENV)/installed-dev  ## run the tests not marked slow
	$(BIN)/pytest -n 2 --dist loadscope -m "not slow"

check: $(VENV)/installed-dev  ## check lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## fix lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-dev  ## generate docs/reference/config.md from the schemas; build the site into docs/_build
	$(BIN)/python docs/write_reference.py
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build

OUT ?= benchmarks/results/gpu

gpu:  ## test and measure on a CUDA device, into OUT; it needs installed packages: benchmarks/gpu/README.md
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu/kit.py --out $(OUT)

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ $(VENV)/installed
