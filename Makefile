# Everything a newcomer or a developer runs. `make help` lists it.
# Needs Python 3.11 or later with its venv module, and a network to the package registries.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := src tests bench examples
# One process a core. The tests of one file stay together: they share its servers, and wait for time limits more than
# they compute.
SPREAD := -n logical --dist loadfile
# The first of the seeds that `make nightly` goes through: another number each night finds more.
FIRST ?= 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick check format nightly bench programs clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/demo-installed  ## start three nodes and a balancer on this machine, and print a URL
	@exec $(BIN)/sojourn demo --nodes 3 --store local:

test: $(VENV)/dev-installed programs  ## run all tests
	$(BIN)/python -m pytest $(SPREAD)

test-quick: $(VENV)/dev-installed  ## run all but the slow tests, in under a minute
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"

check: $(VENV)/dev-installed  ## lint, types, layers, and the code in the docs
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_public_names.py tests/test_docs.py

format: $(VENV)/dev-installed  ## lay the code out
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

nightly: $(VENV)/dev-installed programs  ## simulate ten thousand clusters, break real ones for hours; prints what was wrong
	$(BIN)/python -m sojourn.testing.simulation --seeds $(FIRST) $$(($(FIRST) + 10000))
	SOJOURN_TRIALS=200 SOJOURN_HISTORIES=tests/output/histories $(BIN)/python -m pytest -s tests/faults/peers

bench: $(VENV)/bench-installed programs  ## measure; prints tables, fails nothing
	$(BIN)/python -m bench

programs: $(VENV)/dev-installed  ## as root on Debian: install the servers that tests start, where they are missing
	@$(BIN)/python -m tests.servers.install

clean:  ## remove what the other commands made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info tests/output

# The stamps make the second call fast: pip runs only when pyproject.toml has changed since.
$(VENV)/%-installed: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "sojourn needs Python 3.11 or later; say which with: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "this Python lacks its venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
