# make setup       create .venv with the packages of requirements.lock; every other target does this first if needed
# make repro       run the whole pipeline
# make test        run the linter, the type checker and the tests; make test-all adds the long end-to-end tests
# make bench       measure speed relative to a baseline in the same run
# make coco2014 | coco2017 | flickr8k    download that data set and run the pipeline on it; RECIPE=recipes/coco_best.yaml
# make local SET="-S dataset.local.images=... -S dataset.local.annotations=..."    run it on your own images
# make compare     train an RNN, an LSTM and a Transformer of equal size, and compare them in metrics/compare
# make caption IMAGE=photo.jpg    caption an image, or a folder of images, with the trained model
# make demo        serve a page on http://127.0.0.1:8000 that captions images
# make diff A=... B=...    test whether two runs score differently; A and B: revision, experiment, folder or workspace
# make verify      re-read the outputs and DVC's cache, and list damaged files; MEND=1 removes them
# make provenance  print how the model was made: params, inputs, commit, versions, machine; MODEL=folder for another model
# make tour        open docs/tour.ipynb in Jupyter, after make repro; SET=--no-browser on a server, SET=--allow-root as root
# make server      caption val2014 and test2014 for COCO's evaluation server
# make check-exercises FILE=my_exercises.py    check a student's copy of docs/exercises/stubs.py
# Targets for developers are in tests/developer.mk.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# dvc runs each stage as `python -m stages.NAME`, with the python of .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test test-all bench coco2014 coco2017 flickr8k local compare caption demo diff verify provenance server
.PHONY: check-exercises tour
.PHONY: scm needs-git

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: $(PYTHON) is Python " + sys.version.split()[0] + ", but 3.11 or newer is needed: run make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $(READY)

# DVC must know if this is a Git repository. A downloaded zip is not one.
scm: $(READY)
	@if [ ! -e .git ]; then dvc config --local core.no_scm true; \
	elif grep -qs no_scm .dvc/config.local; then dvc config --local --unset core.no_scm; fi

needs-git:
	@[ -e .git ] || { echo "error: make $(MAKECMDGOALS) runs a DVC experiment, which needs a Git repository:" \
	"run git init && git add -A && git commit -m start" >&2; exit 1; }

repro: scm
	dvc repro

# One process per core, each with one thread, because threads would compete for the cores. One process runs all tests of a file.
test: check
	OMP_NUM_THREADS=1 pytest -m "not slow" --numprocesses=logical --maxprocesses=4 --dist=loadfile

# One process with all threads, because some tests kill processes, fill a disk or measure memory.
test-all: check
	pytest

bench: $(READY)
	pytest tests/benchmarks/bench_*.py

# No shell replaces the ~ of SET="-S dataset.local.images=~/photos".
override SET := $(subst =~/,=$(HOME)/,$(SET))

# SET adds settings to the recipe, and overrides it: make flickr8k RECIPE=recipes/mine.yaml SET="-S dataset.limit=1000"
coco2014 coco2017: export RECIPE := recipes/coco_fast.yaml
flickr8k local: export RECIPE := recipes/few.yaml

coco2014 coco2017 flickr8k local: needs-git scm
	python -m stages.tools.experiment "$$RECIPE" -S dataset.name=$@ $(SET)

# WHAT is cell, implementation or features. Without RECIPE, all runs have the values of params.yaml.
WHAT := cell

compare: needs-git scm
	python -m stages.tools.compare '$(WHAT)' $(if $(RECIPE),--recipe "$$RECIPE") $(SET)

# make exports IMAGE, MODEL and RECIPE to the shell, so that paths may hold blanks and quotes.
caption: $(READY)
	caption "$(if $(IMAGE),$$IMAGE,$(error which image? make caption IMAGE=photo.jpg))" $(SET)

demo: $(READY)
	python -m lib.app.demo $(SET)

A := HEAD
B := workspace

diff: $(READY)
	@python -m stages.tools.significance '$(A)' '$(B)'

verify: scm
	@python -m stages.tools.verify_cache $(if $(MEND),mend)

provenance: $(READY)
	@python -m stages.tools.provenance $(if $(MODEL),"$$MODEL")

server: $(READY)
	python -m stages.tools.coco_submission

check-exercises: $(READY)
	@python -m docs.exercises.check $(if $(FILE),"$$FILE")

# The packages of the extra `tour` are not in requirements.lock.
tour: $(READY)
	@[ -e data/model/decoder.json ] || { echo "error: the notebook needs the model of make repro, but data/model has none:" \
	"run make repro first" >&2; exit 1; }
	@[ -x $(BIN)/jupyter-lab ] || uv pip install --quiet --requirements pyproject.toml --extra tour
	jupyter lab docs/tour.ipynb $(SET)

include tests/developer.mk
