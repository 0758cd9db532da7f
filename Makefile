.DEFAULT_GOAL := help
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PATHS ?= examples/plugins

.PHONY: help
help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# `python3 -m venv` needs ensurepip, which Debian packages apart.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (PYTHON=...)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || sh scripts/apt-install python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml hatch_build.py $(wildcard gatewright/gateways/*/*.c)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable '.[all]'
	@touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(BIN)/pip install --quiet --group tests
	@touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(BIN)/pip install --quiet --group tests --group lint
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## Install the runner into .venv

.PHONY: setup
setup: $(VENV)/.tests $(VENV)/.lint ## Install everything a developer needs

.PHONY: dev
dev: $(VENV)/.installed ## Run the example plugins behind the development gateway
	@$(BIN)/gatewright dev $(PATHS)

# What building the modules in C wants. Without, all works, slower.
IN_C := $(wildcard gatewright/_*.c gatewright/gateways/*/_*.c gatewright/server/drivers/*/_*.c)
.PHONY: compiler
compiler: $(BIN)/python
	@command -v cc >/dev/null || sh scripts/apt-install gcc libc6-dev
	@test -e "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
		sh scripts/apt-install python3-dev || echo "no headers of Python: the modules in C are not built"

# What the tests want on the machine. PATH leads to the environment's own python, coverage and checkers.
.PHONY: for-tests
for-tests: compiler $(VENV)/.tests
	@(for source in $(IN_C); do test "$${source%.c}.abi3.so" -nt "$$source" || exit 1; done) || \
		$(BIN)/pip install --quiet --no-deps --editable .
	@command -v redis-server >/dev/null || sh scripts/apt-install redis-server
	@test -e /usr/share/nginx/modules/ngx_http_lua_module.so || sh scripts/apt-install nginx libnginx-mod-http-lua
	@command -v chromium >/dev/null || sh scripts/apt-install chromium || echo "no Chromium: the inspector's page is not tested"
	@test -e $(VENV)-kong/bin/kong-python-pluginserver || { $(PYTHON) -m venv $(VENV)-kong && \
		$(VENV)-kong/bin/pip install --quiet 'kong-pdk>=0.36' || echo "kong-pdk can't be installed: no comparison with it"; }

TESTS := GATEWRIGHT_KONG_PDK=$(VENV)-kong PATH="$(abspath $(BIN)):$$PATH" sh scripts/run-tests

.PHONY: test
test: for-tests ## Run the tests side by side, then those that want the machine to themselves
	$(TESTS) $(ARGS)

.PHONY: coverage
coverage: for-tests ## Run the tests and measure what they cover, in the processes that they start, too
	COVERAGE=1 $(TESTS) $(ARGS)

# Models' own frameworks, half a gigabyte, of which only tests that take minutes know, MLServer in an environment of its own,
# and pyright. Where they can't be had, that is told. TORCH_FROM='--index-url …' has PyTorch come from where its builds need no CUDA.
.PHONY: frameworks
frameworks: $(VENV)/.tests
	@test -e $(VENV)/.frameworks || { $(BIN)/pip install --quiet --group frameworks && \
		$(BIN)/pip install --quiet $(TORCH_FROM) 'torch>=2.5' && touch $(VENV)/.frameworks; } || \
		echo "PyTorch or TensorFlow can't be installed: their models are not tested"
	@test -e $(VENV)-mlserver/bin/mlserver || { $(PYTHON) -m venv $(VENV)-mlserver && \
		$(VENV)-mlserver/bin/pip install --quiet 'mlserver>=1.6' || echo "MLServer can't be installed: it is not tested against"; }
	@$(BIN)/python -c 'import pyright' 2>/dev/null || $(BIN)/pip install --quiet 'pyright[nodejs]>=1.1.390' || \
		echo "pyright can't be installed: what it says to authors is not tested"

.PHONY: test-long
test-long: for-tests ## Run the long tests that need nothing more
	SELECT="long and not soak" $(TESTS) $(ARGS)

.PHONY: test-all
test-all: for-tests frameworks ## Run also the tests that take minutes
	SELECT="long or not long" GATEWRIGHT_MLSERVER=$(abspath $(VENV)-mlserver/bin/mlserver) $(TESTS) $(ARGS)

.PHONY: lint
lint: $(VENV)/.lint ## Check style, types and layers, of Python and Lua
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@command -v luacheck >/dev/null || sh scripts/apt-install lua-check
	luacheck -q lua tests/lean/lua

.PHONY: bench
bench: $(VENV)/.tests ## Measure the runner against the C floor
	@command -v cc >/dev/null || sh scripts/apt-install gcc libc6-dev
	$(BIN)/python -m benchmarks.run $(ARGS)

.PHONY: endure
endure: $(VENV)/.tests ## Reload, kill and soak the runner under full load, some twelve minutes
	@command -v cc >/dev/null || sh scripts/apt-install gcc libc6-dev
	$(BIN)/python -m benchmarks.endure reload $(ARGS)
	$(BIN)/python -m benchmarks.endure kill $(ARGS)
	$(BIN)/python -m benchmarks.endure soak --seconds 600

.PHONY: docs
docs: $(VENV)/.tests ## Run every command and snippet of the documentation
	$(BIN)/python -m pytest tests/docs $(ARGS)

.PHONY: clean
clean: ## Remove what was made
	rm -rf $(VENV) $(VENV)-kong $(VENV)-mlserver build dist benchmarks/build .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
