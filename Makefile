# Needs Python 3.11 or newer with pip, git and make; everything else is installed into .venv from requirements.lock.
#
#   make reproduce   every table and figure of every paper, into figures/<profile>/<paper>/
#   make test        every test; make test-browser those in a browser
#
# One paper, a larger profile, a GPU, a cluster:
#   make reproduce PAPER=patch_mi PROFILE=gpu DEVICE=cuda
#   make reproduce PROFILE=paper CLUSTER='{engine: slurm, partition: gpu, gpus: 1}'     (docs/cluster.md)

PYTHON  ?= python3
PROFILE ?= laptop
PAPER   ?=
DEVICE  ?= auto
CLUSTER ?=
WORKERS ?=
SET     ?=
FAULTS  ?= tests/faults

VENV  := .venv
PY    := $(VENV)/bin/python
UV    := $(VENV)/bin/uv
UVPIN := uv==0.13.9
STAMP := $(VENV)/installed
DOCS  := .venv-docs
CLI   := $(PY) -m mi_utils

# One pytest process per core (at most 8), each test module whole in one of them.
PYTEST ?= -n logical --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help reproduce test test-browser test-cluster test-faults test-hostile lint bench lab docs lock clean distclean

help:
	@echo "make reproduce   run the papers' notebooks: PAPER= PROFILE=smoke|laptop|gpu|paper DEVICE= CLUSTER= WORKERS= SET="
	@echo "make test        install what is missing and run every test that needs no browser and no cluster"
	@echo "make test-browser  the notebooks in JupyterLab in Chromium; screenshots in test-output/browser/"
	@echo "make test-cluster  job arrays on a real Slurm of one node, installed where root and apt-get can"
	@echo "make test-faults  every fault in full: more than 100 kills, and their numbers in one line"
	@echo "make test-hostile  hostile files, and 12,000 mutated inputs"
	@echo "make lab         JupyterLab on notebooks/"
	@echo "make docs        the documentation site, into site/"
	@echo "make lint        ruff over modules and notebooks; notebooks must hold no outputs"
	@echo "make bench       the benchmarks"
	@echo "make lock        write requirements.lock and environment.yml anew (UPGRADE=--upgrade for newer versions)"
	@echo "make clean       remove caches of the tools; distclean also removes $(VENV) and $(DOCS)"

# The interpreter is checked before anything is made with it, so that an old one fails in one line.
$(PY):
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "$(PYTHON) not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("$(PYTHON) is Python %d.%d, 3.11 or newer is needed; name one: make PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv $(VENV)

# uv and nothing else comes by pip: pip's own configuration may point at a torch build that torchvision does not fit.
$(STAMP): $(PY) requirements.lock pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check "$(UVPIN)"
	$(UV) pip sync --quiet --python $(PY) --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

reproduce: $(STAMP)
	$(CLI) reproduce $(foreach paper,$(PAPER),--paper $(paper)) --profile $(PROFILE) --device $(DEVICE) \
	    $(if $(CLUSTER),--cluster '$(CLUSTER)') $(if $(WORKERS),--workers $(WORKERS)) $(if $(SET),--set '$(SET)')

test: $(STAMP)
	$(PY) -m pytest $(PYTEST) --ignore=tests/browser

# Two notebooks at a time, each with a server and a browser of its own.
test-browser: $(STAMP)
	$(PY) -m pytest tests/browser -n 2 --dist worksteal

test-faults: $(STAMP)
	$(PY) -m pytest $(PYTEST) $(FAULTS) --kills 3

test-hostile: $(STAMP)
	$(PY) -m pytest tests/hostile $(PYTEST)
	$(PY) -m tests.hostile

test-cluster: $(STAMP)
	MI_TEST_CLUSTER=1 $(PY) -m pytest tests/cluster

lint: $(STAMP)
	$(PY) -m ruff check .
	$(if $(wildcard notebooks/*.ipynb),$(VENV)/bin/nbstripout --verify $(wildcard notebooks/*.ipynb))

bench: $(STAMP)
	$(PY) -m tests.benchmarks

lab: $(STAMP)
	$(PY) -m jupyterlab --notebook-dir notebooks

docs: $(DOCS)/installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet

# An environment of its own: the site is built from text alone, without torch.
$(DOCS)/installed: requirements-docs.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check "$(UVPIN)"
	$(DOCS)/bin/uv pip sync --quiet --python $(DOCS)/bin/python --require-hashes requirements-docs.lock
	@touch $@

lock: $(STAMP)
	$(UV) pip compile pyproject.toml --quiet --extra test --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url $(UPGRADE) -o requirements.lock
	$(UV) pip compile --group pyproject.toml:docs --quiet --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url $(UPGRADE) -o requirements-docs.lock
	$(PY) -m mi_utils.environment > environment.yml

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis build test-output site
	find mi_utils tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

distclean: clean
	rm -rf $(VENV) $(DOCS) mi_utils.egg-info
