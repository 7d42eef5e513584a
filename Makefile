# make demo   environment, install, then the whole of FDBPL on the embedded world: a table and a report with pictures
# make test   environment with the test extra, then the test suite
# make lint   ruff, formatting, codespell and pyright
#
# The environment is .venv, made with PYTHON (python3 unless told otherwise) when there is none. An install runs again
# only when setup.py has changed since.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without warnings: setuptools prints a page about editable installs in general.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?= -n auto --dist loadfile
DEMO_DIR ?= runs/demo
DEMO_ARGS ?=
# Large pages for large arrays (Linux; others ignore it): without them a training on CPU spends a fifth of its time on page faults.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format clean

help:
	@sed -n 's/^# //p' Makefile | sed -n '1,3p'

# An environment whose interpreter is gone (a moved folder, an upgraded system) is repaired in place, never deleted.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py | $(BIN)/python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: setup.py | $(BIN)/python
	$(PIP) install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: setup.py | $(BIN)/python
	$(PIP) install --quiet --editable '.[lint]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python -m launch.compare --config=configs/fdbpl_world.py --workdir=$(DEMO_DIR) \
	    --methods=zeroshot,coop,kdpl_online,fdbpl --seeds=1 $(DEMO_ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
