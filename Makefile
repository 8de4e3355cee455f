# The targets that README names. Each can be repeated; `make venv` is remade when setup.py changes.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv

.PHONY: venv lint types test clean

venv: $(VENV)/.made

$(VENV)/.made: setup.py pyproject.toml
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || apt-get install -y -q python3-venv
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: venv
	$(VENV)/bin/mypy

# All that CI runs; the summary of pytest comes last.
test: lint types
	$(VENV)/bin/pytest

clean:
	rm -rf $(VENV) build dist *.egg-info
