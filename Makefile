# The two commands a newcomer needs are `make demo` and `make test`; everything lives in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-vllm test-long check lint types imports docs check-docs check-install shells clean

demo: $(VENV)/.installed
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

# where the shells and mandoc cannot be installed, the tests that need them are skipped, except in CI
test: $(VENV)/.test-installed
	@tools/install_shells.sh || echo "going on without"
	$(BIN)/pytest -n 2

# Against real vLLM on this machine's CPU, in an environment of its own: 2 GB that `make test` does without.
# driftkit goes in first: vLLM then has the last word on what both need, and pip no complaint of what is left out.
VLLM_VENV ?= .venv-vllm
test-vllm:
	@$(MAKE) -s --no-print-directory VENV=$(VLLM_VENV) $(VLLM_VENV)/.installed
	@$(MAKE) -s --no-print-directory $(VLLM_VENV)/.vllm-installed
	$(VLLM_VENV)/bin/pytest tests_vllm

$(VLLM_VENV)/.vllm-installed: tools/install_vllm.py
	$(VLLM_VENV)/bin/python tools/install_vllm.py
	@touch $@

# Hours of what `make test` does for seconds, and every test on a new process of the executable (tests/warm.py).
test-long: $(VENV)/.test-installed
	COLD=1 $(BIN)/pytest -n 2
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

# What is compiled is in pyproject.toml. Where nothing can be installed, without an index for instance, what was
# installed before goes on: sources edited since then run as plain Python.
COMPILED := $(shell sed -n 's|^  "\(driftkit/.*[.]py\)",$$|src/\1|p' pyproject.toml)
INSTALLED_FROM = pyproject.toml hatch_build.py tools/compiled_in_place.py $(COMPILED)

define install
@if $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '$(1)'; then touch $@ $(VENV)/.installed; \
else test -e $@ && echo "driftkit is not installed anew: going on with what is there"; fi
@test -e $(VENV)/lib/python*/site-packages/driftkit_compiled || \
	echo "the simulator runs as plain Python, two to three times slower: pip install -v -e . says why"
endef

$(VENV)/.installed: $(INSTALLED_FROM) | $(BIN)/python
	$(call install,.)

$(VENV)/.test-installed: $(INSTALLED_FROM) | $(BIN)/python
	$(call install,.[test])

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
