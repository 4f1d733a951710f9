# make demo   translates three clips of human speech, through the real split of device and cloud
# make test   lint, types and all tests
# Needs Python 3.10 or newer with pip. Everything else goes into .venv, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help demo test lint format clean

help:
	@sed -n 's/^# \(make\)/\1/p' Makefile

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache

# Each stamp is written last, so that an interrupted install is done again and a finished one is not.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "ESRT needs Python 3.10 or newer: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing esrt[cloud,tiny] into $(VENV) (some 1.5 GB, once)" >&2
	@$(PIP) -e '.[cloud,tiny]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing esrt[dev] into $(VENV) (some 1.5 GB, once)" >&2
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo
