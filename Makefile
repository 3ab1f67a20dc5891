# `make demo` and `make test` work on a fresh machine that has Python 3.11 or newer, and nothing else.
# The install (mostly torch) takes a couple of minutes, once; it runs again only when pyproject.toml changes.

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python3.14 python,\
	$(shell $(p) -c '$(SUITABLE)' 2>/dev/null && echo $(p))))

help:
	@echo "make demo     install, then the whole investigation on built-in data (report: demo/synthetic-tissue/report.html)"
	@echo "make test     install, then the test suite"
	@echo "make slow     the longer tests"
	@echo "make check    style and types"
	@echo "make format   let ruff mend the style"
	@echo "make clean    remove the environment and the caches"

demo: $(VENV)/.installed
	$(BIN)/roteq demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build src/*.egg-info

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Error: roteq needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || echo none)." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 demo" >&2; exit 1; fi
	@$(PYTHON) -c '$(SUITABLE)' || { \
		echo "Error: roteq needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Error: $(PYTHON) -m venv failed (see above)." >&2; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing roteq into $(VENV) (mostly torch: a couple of minutes, once)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing roteq and its test tools into $(VENV) (mostly torch: a couple of minutes, once)"
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@
