# make repro    run the whole pipeline          make test       the tests, linter and type checker
# make bench    speed, as ratios                make test-all   the long end-to-end tests too
# make coco2014 | coco2017 | flickr8k    fetch that data set and run the pipeline on it
# make compare    train an RNN and an LSTM, all else equal, and put them side by side in metrics/compare
# Each sets up .venv first, if it must. make lock renews requirements.lock.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# dvc starts each stage as `python -m stages.NAME`: that must be this python.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro coco2014 coco2017 flickr8k compare test test-all check bench lock

setup: $(READY)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": give another with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	@touch $(READY)

repro: $(READY)
	dvc repro

# Photographs want a larger CNN and decoder than `scenes`. SET holds further settings, which win:
#     make coco2014 SET="-S dataset.limit=1000 -S backbone.name=mobilenet_v3_large"
PHOTOGRAPHS := -S backbone.name=resnet50 -S backbone.weights=DEFAULT -S features.kind=pooled \
	-S model.attention=none -S model.embedding=512 -S model.hidden=512 -S model.dropout=0.3 \
	-S train.epochs=8 -S train.batch_size=64 -S train.learning_rate=0.001 -S train.averaging=0.995 \
	-S train.label_smoothing=0.1 -S train.best_by=val_cider_d \
	-S generate.beam_size=5 -S generate.length_penalty=1.0

coco2014 coco2017 flickr8k: $(READY)
	dvc exp run -S dataset.name=$@ $(PHOTOGRAPHS) $(SET)

# WHAT is cell, implementation or features (stages/compare.py). In SET, single quotes let $(PHOTOGRAPHS) through:
#     make compare WHAT=features SET='-S dataset.name=flickr8k $(PHOTOGRAPHS)'
WHAT := cell

compare: $(READY)
	python -m stages.compare '$(WHAT)' $(SET)

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
