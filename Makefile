# `make demo` and `make test` are the two commands of the README; `make check` is the developer's loop.
PYTHON ?= python3
export PYTHONDONTWRITEBYTECODE = 1
DEMO = PYTHONPATH=tools:molecule:service $(PYTHON) -m demo

.PHONY: help venv controller check test demo demo-down demo-local docs gpu-check

help:
	@echo 'make demo        roll out to a throw-away systemd host and fetch speech from it'
	@echo 'make demo-down   remove that host'
	@echo 'make demo-local  the same job without a host'
	@echo 'make test        everything (lint, unit, patches, three test hosts, the demo)'
	@echo 'make check       lint and unit tests'
	@echo 'make controller  .venv-ansible: what ansible-playbook needs, on your side'
	@echo 'make venv        .venv (CPU runtime, patched, and test tools) and .venv-ansible (controller)'
	@echo 'make gpu-check   on a machine with a GPU: parity, benchmark tables, load'
	@echo 'make docs        write the generated tables into README.md'

# Both are left alone when their locks, patches and Python did not change.
venv: controller
	$(PYTHON) tools/venv.py .venv --runtime cpu --lock develop --editable

controller:
	@$(PYTHON) tools/venv.py .venv-ansible --lock controller

check: venv
	$(PYTHON) tools/suites.py measuring unit lint

test: venv
	$(PYTHON) tools/suites.py

demo: controller
	@$(DEMO) up

demo-down:
	@$(DEMO) down

demo-local:
	@$(DEMO) local

docs: venv
	.venv/bin/python tools/variables.py --write

# Not with .venv, which has a torch for the CPU: PYTHON is one with torch for the GPU and the service's wheels.
gpu-check:
	PYTHONPATH=service $(PYTHON) tools/gpu_check.py
