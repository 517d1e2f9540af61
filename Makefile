# Start with `make demo` and `make test`. Both create the environment that they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test soak check docs dist clean

demo: $(STAMP)  ## make a data set of handwritten digits, train, evaluate and predict
	rm -rf demo
	$(BIN)/cdetr demo --output demo

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest

soak: $(STAMP)  ## slow tests: kills, full disks, tens of thousands of generated inputs
	FUZZ_EXAMPLES=5000 $(BIN)/python -m pytest --override-ini addopts= tests/soak tests/unit/test_fuzz.py tests/unit/data/test_fuzz_files.py tests/unit/serving/test_fuzz_server.py

check: $(STAMP)  ## formatting, lint, types and the order of imports
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## the documentation as a website in docs/_build; fails on warnings, such as broken links
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build

dist: $(STAMP)  ## wheel and source distribution in dist/, checked as the package index checks them
	rm -rf dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo dist docs/_build
