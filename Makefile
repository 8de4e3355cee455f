# The targets that README names. Each can be repeated; what is there already is kept.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
# What tests need of Debian beyond Python; the lab installs its own needs.
PACKAGES := bind9-dnsutils curl dnsmasq-base openssh-client openssh-server vagrant
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: venv packages lint types test unit demo demo-down clean

venv: $(VENV)/.made

$(VENV)/.made: setup.py pyproject.toml
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { apt-get update -q && apt-get install -y -q --no-install-recommends python3 python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[dev]'
	@touch $@

# openssh-server is for tests on loopback: its own service must not be started by the install.
packages:
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { \
	  apt-get update -q && \
	  { [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; made=1; }; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(PACKAGES); code=$$?; \
	    [ -z "$$made" ] || rm /usr/sbin/policy-rc.d; exit $$code; }; }

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: venv
	$(VENV)/bin/mypy

# Everything that CI runs; the summary of pytest comes last. Files in two strands, each with a lab of its own: one
# strand waits half of its time, for machines and for what must not happen. What tests/again.py says follows a failure.
test: packages lint types
	clis="$$(for suite in bullseye trixie forky; do vagrant/lab docker-cli $$suite || exit 1; done)" && \
	export SWARMSH_DOCKER_CLIS="$$(echo $$clis | tr ' ' :)" SWARMSH_TEST_DOCKER_CLI="$${clis##*$$'\n'}" && \
	{ $(VENV)/bin/pytest -n 2 --dist loadfile --cache-clear || $(VENV)/bin/python -m tests.again $$?; }

# What needs no lab: seconds instead of minutes.
unit: lint types
	$(VENV)/bin/pytest -m 'not e2e' tests/unit tests/contract tests/component

# The main job on three real kernels, step by step.
demo: packages venv
	vagrant/demo up

demo-down:
	vagrant/demo down

clean:
	rm -rf $(VENV) build dist *.egg-info
