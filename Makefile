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

test: lint $(VENV)/.redis
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

# A real Redis for tests: Debian's packages, unpacked and not installed, which needs no root and starts no service.
# Where there is neither Redis nor apt-get, those tests are left out.
REDIS := redis-server redis-tools libjemalloc2 liblzf1

$(VENV)/.redis: $(VENV)/.python
	@if ! command -v redis-server && command -v apt-get; then \
		echo "unpacking Debian's redis-server into $(VENV) (some 3 MB, once)" >&2; \
		rm -rf $(VENV)/redis && mkdir $(VENV)/redis && cd $(VENV)/redis || exit; \
		[ "$$(id -u)" != 0 ] || apt-get -qq update || true; \
		apt-get -qq -o APT::Sandbox::User=root download $(REDIS) || exit; \
		for package in *.deb; do dpkg-deb -x "$$package" . && rm "$$package" || exit; done; \
	fi > /dev/null
	@touch $@
