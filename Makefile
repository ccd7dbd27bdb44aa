# make repro    run the whole pipeline          make test       the tests, linter and type checker
# make bench    speed, as ratios                make test-all   the long end-to-end tests too
# make coco2014 | coco2017 | flickr8k    fetch that data set and run the pipeline on it
# make local SET="-S dataset.local.images=... -S dataset.local.annotations=..."    the same on pictures of your own
# make compare    train an RNN and an LSTM, all else equal, and put them side by side in metrics/compare
# make caption IMAGE=photo.jpg    caption it, or a folder of pictures, with the trained model
# make demo       a page of your own to do so in, at http://127.0.0.1:8000
# make server     captions of val2014 and test2014, zipped as COCO's evaluation server wants them
# make diff A=... B=...    are the scores of two runs really different? revisions, experiments, folders, workspace
# make verify    read outputs and DVC's cache again, all of it, and name what is not as it was made; MEND=1 removes that
# make check-lock    without the data: is dvc.lock that of today's code and params, and if not, which stages' is not?
# make chaos     kill every stage ten times, with every signal, and see that nothing is lost
# make fuzz      wild input for every parser, 1,000 of each, and how many were tried; N=20000 for more
# make full-size    time and memory of every stage at 1,000, 10,000 and 123,287 pictures
# make zip-to-scores    all of COCO's size, on a GPU if there is one, some stages beside the least they could take; IMAGES=2000
# make audit     are there known vulnerabilities in what requirements.lock names?
# make provenance    what made the model: params, inputs, commit, versions, machine; MODEL=folder for another one
# Each sets up .venv first, if it must. make lock fits requirements.lock to pyproject.toml; UPGRADE=1: with the newest of all.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# dvc starts each stage as `python -m stages.NAME`: that must be this python.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro coco2014 coco2017 flickr8k local compare caption demo server diff verify check-lock chaos fuzz audit provenance \
	test test-all check bench full-size zip-to-scores lock

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": give another with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $(READY)

repro: $(READY)
	dvc repro

# Photographs want a larger CNN and decoder than `scenes`. SET holds further settings, which win:
#     make coco2014 SET="-S dataset.limit=1000 -S backbone.name=mobilenet_v3_large"
PHOTOGRAPHS := -S backbone.name=resnet50 -S backbone.weights=DEFAULT -S features.kind=pooled \
	-S model.attention=none -S model.embedding=512 -S model.hidden=512 -S model.dropout=0.3 \
	-S train.epochs=10 -S train.batch_size=64 -S train.learning_rate=0.001 -S train.ema_decay=0.995 \
	-S train.label_smoothing=0.1 -S train.monitor=val_cider_d \
	-S generate.beam_size=5 -S generate.length_penalty=1.2 -S generate.no_repeat_ngram_size=3

coco2014 coco2017: $(READY)
	dvc exp run -S dataset.name=$@ $(PHOTOGRAPHS) $(SET)

# Where there are thousands of pictures and not a hundred thousand, the CNN learns first what captions speak of, and test
# pictures are captioned with an eye to what was said of those like them.
FEW := -S backbone.tune.epochs=8 -S backbone.tune.size=192 -S generate.beam_size=20 -S generate.length_penalty=1.0 \
	-S generate.consensus.neighbours=20 -S generate.consensus.weight=3.0

flickr8k local: $(READY)
	dvc exp run -S dataset.name=$@ $(PHOTOGRAPHS) $(FEW) $(SET)

# WHAT is cell, implementation or features (stages/tools/compare.py). In SET, single quotes let $(PHOTOGRAPHS) through:
#     make compare WHAT=features SET='-S dataset.name=flickr8k $(PHOTOGRAPHS)'
WHAT := cell

compare: $(READY)
	python -m stages.tools.compare '$(WHAT)' $(SET)

# A path goes by the environment, in which make puts what its command line sets: it may hold blanks, quotes and all.
caption: $(READY)
	caption "$(if $(IMAGE),$$IMAGE,$(error which picture? make caption IMAGE=photo.jpg))" $(SET)

demo: $(READY)
	python -m lib.app.demo $(SET)

server: $(READY)
	python -m stages.tools.coco_submission

A := HEAD
B := workspace

diff: $(READY)
	@python -m stages.tools.significance '$(A)' '$(B)'

verify: $(READY)
	@python -m stages.tools.verify_cache $(if $(MEND),mend)

check-lock: $(READY)
	@python -m stages.tools.check_lock

chaos: $(READY)
	KILLS=10 pytest -s tests/test_chaos.py

fuzz: $(READY)
	FUZZ=$(or $(N),1000) pytest tests/fuzz

# --strict: a package that the advisories cannot be had for is a failure, and not passed over.
audit: $(READY)
	uv tool run pip-audit --strict --no-deps --disable-pip -r requirements.lock

provenance: $(READY)
	@python -m stages.tools.provenance $(if $(MODEL),"$$MODEL")

check: $(READY)
	ruff check
	ruff format --check
	mypy

# A file's tests on each core, and each of them with one thread: threads would only wait for one another's cores.
test: check
	OMP_NUM_THREADS=1 pytest -m "not slow" --numprocesses=logical --maxprocesses=4 --dist=loadfile

# One after another: some kill what they started, fill a disk, or watch the memory; and with all threads.
test-all: check
	pytest

bench: $(READY)
	pytest tests/benchmarks/bench_*.py

full-size: $(READY)
	python -m tests.benchmarks.full_size $(SIZES)

zip-to-scores: $(READY)
	python -m tests.benchmarks.zip_to_scores $(IMAGES)

lock: $(READY)
	uv pip compile --quiet --universal --python-version 3.11 --extra demo --group dev pyproject.toml -o requirements.lock \
		$(if $(UPGRADE),--upgrade)
