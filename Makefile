# Everything a person would do here. Each target makes the virtual environment it needs.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
# Tests wait as much as they compute: three for two processors.
LONG   := tests/browser tests/sinks/test_kill.py tests/store/test_occurring.py \
          $(addprefix tests/test_,bench.py fuzzed_edge.py tailing.py) \
          $(addprefix tests/behaviours/test_,bombs.py chaos.py deliveries.py edge_load.py limits_sdk.py \
          nginx_differential.py origins.py recovery.py secrets.py tls.py tls_process.py)
WORKERS = $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-long chaos growth bench bench-pages bench-recorder soak attacks fuzz \
        lint types contracts check screenshots format clean

help:  ## list every target
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

$(VENV)/.run: setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	@touch $@

demo: $(VENV)/.run  ## an agent run through the gateway, and in its viewer until Ctrl-C; no key, no network
	@$(BIN)/sidestream demo

serve: $(VENV)/.run  ## run the gateway with its defaults
	@$(BIN)/sidestream serve

test: $(VENV)/.dev  ## run the tests, but for the long ones; less than three minutes
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(LONG:%=--ignore %)

test-long: $(VENV)/.dev  ## pages in a browser (a Chromium, where there is one), kills, outages, full disks, bombs, nginx (where there is one)
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(LONG)

chaos: $(VENV)/.dev  ## kills, outages, reloads and a full disk under load; about ten minutes, prints tables
	@PYTHONPATH=tests $(BIN)/python -m chaos

growth: $(VENV)/.dev  ## what a run of 200 turns costs to store and to push; half a minute, prints a table
	@PYTHONPATH=tests $(BIN)/python bench/growth.py

bench: $(VENV)/.dev  ## what relaying and tracing cost, beside nginx and what else there is; fifteen minutes, for the README
	@$(BIN)/python -m bench.relay --json bench/results/relay.json && $(BIN)/python -m bench.relay readme

bench-pages: $(VENV)/.dev  ## how long the viewer takes with 100,000 turns; ten minutes at first, then five, prints a table
	@PYTHONPATH=tests $(BIN)/python bench/pages.py

bench-recorder: $(VENV)/.dev  ## what an exchange costs to read, understand, store and claim, by stage; a minute, prints a table
	@PYTHONPATH=tests $(BIN)/python bench/understanding.py

soak: $(VENV)/.dev  ## 1,000 streams at once for ten minutes (SECONDS=60): each byte, each trace, and memory
	@$(BIN)/python -m bench.soak $(if $(SECONDS),--seconds $(SECONDS))

attacks: $(VENV)/.dev  ## one attack after the other, and how a healthy client fares meanwhile; five minutes
	@$(BIN)/python -m bench.attacks $(if $(SECONDS),--seconds $(SECONDS))

fuzz: $(VENV)/.dev  ## streams and requests made up by chance (COUNT=100000); some minutes
	@PYTHONPATH=tests $(BIN)/python -m fuzz.streams --count $(or $(COUNT),20000)
	@PYTHONPATH=tests $(BIN)/python -m fuzz.edge --count $(or $(COUNT),20000)

lint: $(VENV)/.dev  ## style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## static types
	@$(BIN)/mypy

contracts: $(VENV)/.dev  ## imports point downward only
	@$(BIN)/lint-imports

check: lint types contracts test test-long  ## what CI runs: all of these

screenshots: $(VENV)/.dev  ## pictures of the viewer into build/screenshots and docs/images; needs a Chromium
	@PYTHONPATH=tests $(BIN)/python bench/screenshots.py

format: $(VENV)/.dev  ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment and caches
	@rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
