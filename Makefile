# make repro    run the whole pipeline          make test       the tests, linter and type checker
# make bench    speed, as ratios                make test-all   the long end-to-end tests too
# Each sets up .venv first, if it must. make lock renews requirements.lock.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# dvc starts each stage as `python -m stages.NAME`: that must be this python.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test test-all check bench lock

setup: $(READY)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": give another with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	@touch $(READY)

repro: $(READY)
	dvc repro

check: $(READY)
	ruff check
	ruff format --check
	mypy

test: check
	pytest -m "not slow"

test-all: check
	pytest

bench: $(READY)
	pytest tests/benchmarks/bench_*.py

lock:
	uv pip compile --quiet --universal --python-version 3.11 --group dev pyproject.toml -o requirements.lock
