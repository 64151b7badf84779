# The two commands a newcomer needs are `make demo` and `make test`; everything lives in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-long check lint types imports docs check-docs check-install shells clean

demo: $(VENV)/.installed
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

# where the shells and mandoc cannot be installed, the tests that need them are skipped, except in CI
test: $(VENV)/.test-installed
	@tools/install_shells.sh || echo "going on without"
	$(BIN)/pytest -n 2

# Hours of what `make test` does for seconds.
test-long: $(VENV)/.test-installed
	FUZZ_CASES=100000 $(BIN)/pytest -n 2 tests/test_fuzz.py

check: lint types imports check-docs

# the man pages and completions, from the commands
docs: $(VENV)/.test-installed
	$(BIN)/python tools/make_docs.py

check-docs: $(VENV)/.test-installed
	$(BIN)/python tools/make_docs.py --check

# the wheel from the sdist, in an empty environment
check-install: $(VENV)/.test-installed
	$(BIN)/python tools/check_install.py

shells:
	tools/install_shells.sh

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test-installed
	$(BIN)/mypy

imports: $(VENV)/.test-installed
	PYTHONPATH=src $(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test-installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
