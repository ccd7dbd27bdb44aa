# make setup       create .venv with the packages of requirements.lock; every other target does this first if needed
# make repro       run the whole pipeline
# make test        run the linter, the type checker and the tests; make test-all adds the long end-to-end tests
# make bench       measure speed relative to a baseline in the same run
# make coco2014 | coco2017 | flickr8k    download that data set and run the pipeline on it
# make local SET="-S dataset.local.images=... -S dataset.local.annotations=..."    run it on your own images
# make compare     train an RNN, an LSTM and a Transformer of equal size, and compare them in metrics/compare
# make caption IMAGE=photo.jpg    caption an image, or a folder of images, with the trained model
# make demo        serve a page on http://127.0.0.1:8000 that captions images
# make diff A=... B=...    test whether two runs score differently; A and B: revision, experiment, folder or workspace
# make verify      re-read the outputs and DVC's cache, and list damaged files; MEND=1 removes them
# make provenance  print how the model was made: params, inputs, commit, versions, machine; MODEL=folder for another model
# make server      caption val2014 and test2014 for COCO's evaluation server
# Targets for developers are in tests/developer.mk.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# dvc runs each stage as `python -m stages.NAME`, with the python of .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test test-all bench coco2014 coco2017 flickr8k local compare caption demo diff verify provenance server
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

# Photographs need a larger CNN and decoder than `scenes`. SET adds settings, and overrides these:
#     make coco2014 SET="-S dataset.limit=1000 -S backbone.name=mobilenet_v3_large"
PHOTOGRAPHS := -S backbone.name=resnet50 -S backbone.weights=DEFAULT -S features.kind=pooled \
	-S model.attention=none -S model.embedding=512 -S model.hidden=512 -S model.dropout=0.3 \
	-S train.epochs=10 -S train.batch_size=64 -S train.learning_rate=0.001 -S train.ema_decay=0.995 \
	-S train.label_smoothing=0.1 -S train.monitor=val_cider_d \
	-S generate.beam_size=5 -S generate.length_penalty=1.2 -S generate.no_repeat_ngram_size=3

coco2014 coco2017: needs-git scm
	dvc exp run -S dataset.name=$@ $(PHOTOGRAPHS) $(SET)

# Settings for data sets of thousands of images (COCO has a hundred thousand): first tune the CNN on the words of the
# captions; rerank captions by the captions of similar train images.
FEW := -S backbone.tune.epochs=8 -S backbone.tune.size=192 -S generate.beam_size=20 -S generate.length_penalty=1.0 \
	-S generate.consensus.neighbours=20 -S generate.consensus.weight=3.0

# No shell replaces the ~ of SET="-S dataset.local.images=~/photos".
override SET := $(subst =~/,=$(HOME)/,$(SET))

flickr8k local: needs-git scm
	dvc exp run -S dataset.name=$@ $(PHOTOGRAPHS) $(FEW) $(SET)

# WHAT is cell, implementation or features. Put SET in single quotes, so that make expands $(PHOTOGRAPHS), not the shell:
#     make compare WHAT=features SET='-S dataset.name=flickr8k $(PHOTOGRAPHS)'
WHAT := cell

compare: needs-git scm
	python -m stages.tools.compare '$(WHAT)' $(SET)

# make exports IMAGE and MODEL to the shell, so that paths may hold blanks and quotes.
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

include tests/developer.mk
