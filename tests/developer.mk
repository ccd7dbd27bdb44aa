# Targets for developers, included by the Makefile.
# make check          run the linter, the format check and the type checker
# make check-lock     check without the data, as CI does, that dvc.lock matches the code and params; list outdated stages
# make lock           update requirements.lock after a change of pyproject.toml; UPGRADE=1 selects the newest versions
# make audit          check requirements.lock for known vulnerabilities
# make chaos          kill every stage ten times with every signal, and check that nothing is lost
# make fuzz           feed 1,000 malformed inputs to every parser; N=20000 for more
# make full-size      measure time and memory of every stage on 1,000, 10,000 and 123,287 images; SIZES="..."
# make zip-to-scores  time the pipeline at the size of COCO, on a GPU if there is one; IMAGES=2000 for fewer

.PHONY: check check-lock lock audit chaos fuzz full-size zip-to-scores

check: $(READY)
	ruff check
	ruff format --check
	mypy

# dvc exits with 0 even if a stage would run, so check its last line of output.
check-lock: $(READY)
	@if output=$$(dvc repro --dry --allow-missing --keep-going 2>&1) && echo "$$output" | grep -q "^Data and pipelines are up to date"; \
	then echo "dvc.lock is up to date"; \
	else echo "$$output" | grep -v "skipping$$"; \
	echo "error: dvc.lock is out of date: run dvc repro and commit what it changes" >&2; exit 1; fi

lock: $(READY)
	uv pip compile --quiet --universal --python-version 3.11 --extra demo --group dev pyproject.toml -o requirements.lock \
		$(if $(UPGRADE),--upgrade)

# --strict: fail if a package cannot be looked up.
audit: $(READY)
	uv tool run pip-audit --strict --no-deps --disable-pip -r requirements.lock

chaos: $(READY)
	KILLS=10 pytest -s tests/test_chaos.py

fuzz: $(READY)
	FUZZ=$(or $(N),1000) pytest tests/fuzz

full-size: $(READY)
	python -m tests.benchmarks.full_size $(SIZES)

zip-to-scores: $(READY)
	python -m tests.benchmarks.zip_to_scores $(IMAGES)
