# Two commands for a newcomer: `make demo` and `make test`. Both make what they need: one .venv beside this file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test soak check clean

demo: $(STAMP)  ## train on handwritten digits, evaluate, predict: pictures in demo/predictions
	rm -rf demo
	$(BIN)/cdetr demo --output demo

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest

soak: $(STAMP)  ## what takes long: kills, full disks, tens of thousands of odd inputs
	FUZZ_EXAMPLES=5000 $(BIN)/python -m pytest --override-ini addopts= tests/soak tests/unit/test_fuzz.py tests/unit/data/test_fuzz_files.py

check: $(STAMP)  ## formatting, lint, types and the order of imports
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
