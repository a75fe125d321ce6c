# Everything here sets up what it needs: a virtual environment in .venv, the pinned packages of constraints.txt, and Mosquitto.
# Second runs start in seconds: .venv/.installed is as old as the last installation.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup broker-installed demo picture test test-vllm test-extras lint format clean

help:  ## this list
	@echo "make demo [ARGS=\"--duration 60 --json out.json\"]   the whole system on this machine (demo --help: latentbus demo --help)"
	@echo "make picture   the picture in README.md, drawn from a run of a minute: docs/img/demo.svg"
	@echo "make test [ARGS=\"-k protocol\"]   formatting, lint, types, import rules, then the tests against a real Mosquitto"
	@echo "make test-extras   what make test may skip or does in short, all of it; a missing tool fails it (half an hour)"
	@echo "make test-vllm   a real vLLM against the model in process; installs it in .vllm (3.4 GB), needs 4 GB of memory"
	@echo "make lint      formatting, lint, types and import rules alone"
	@echo "make format    rewrite the sources in the project's format"
	@echo "make setup     only set up: $(VENV) with the pinned packages, and Mosquitto"
	@echo "make clean     remove $(VENV) and every cache"
	@echo "Variables: PYTHON (default python3, must be 3.11 or later), VENV (default .venv)"

setup: $(VENV)/.installed broker-installed  ## virtual environment and broker

$(VENV)/.installed: pyproject.toml constraints.txt scripts/make_venv.sh
	@sh scripts/make_venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

broker-installed:
	@sh scripts/install_mosquitto.sh

demo: setup
	@$(BIN)/latentbus demo $(ARGS)

picture: setup
	@$(BIN)/latentbus demo --duration 60 --no-compare --picture docs/img/demo.svg $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup lint
	@sh scripts/install_nftables.sh
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

test-vllm: setup  ## a real vLLM against the model in process; installs it in .vllm (3.4 GB), needs 4 GB of memory
	sh scripts/vllm.sh install .vllm
	LATENTBUS_VLLM=.vllm $(BIN)/python -m pytest tests/cloud/test_real_vllm.py

test-extras: setup  ## every optional check
	@sh scripts/test_extras.sh "$(BIN)"

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .demo .chaos .attack .replay .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
