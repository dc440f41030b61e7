# Two commands for a bare machine with Python ≥ 3.11, pip and venv: make quickstart, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-fast check format docs gpu

quickstart: $(VENV)/installed  ## train on handwritten digits, two to four minutes on two cores
	$(BIN)/diffexp train digits

test: $(VENV)/installed-dev  ## the whole test suite
	$(BIN)/pytest -n 3 --dist worksteal --durations 15
	$(BIN)/pytest -n 3 --dist worksteal -m gpu --rehearse tests/gpu  # what of the tests on GPUs a CPU can run

test-fast: $(VENV)/installed-dev  ## without the tests marked slow, under three minutes
	$(BIN)/pytest -n 2 -m "not slow"

check: $(VENV)/installed-dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-dev  ## write docs/reference/config.md from the schemas and build the site into docs/_build
	$(BIN)/python docs/write_reference.py
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build

OUT ?= benchmarks/results/gpu

gpu:  ## on a machine with a CUDA device and the packages: test and measure into OUT; benchmarks/gpu/README.md
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu/kit.py --out $(OUT)

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ $(VENV)/installed
