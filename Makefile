# Every verb makes .venv by itself the first time. The same verbs run in .ci/run.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
NODE := tests/e2e/grpc_js
PYRIGHT := tests/typing/pyright
NODE_READY := $(NODE)/node_modules/.ready $(PYRIGHT)/node_modules/.ready

.PHONY: demo test test-all bench sim format lint types gen drift check build

# A hub, a host and a caller as real processes; cuts the host's connection in mid-stream.
demo: $(READY)
	@$(BIN)/python -m samples.greeter.demo

test: $(READY) $(NODE_READY)
	$(BIN)/python -m pytest -q -m 'not slow and not browser'

test-all: $(READY) $(NODE_READY)
	$(BIN)/python -m pytest -q -m 'not browser'

bench: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks $(ARGS)

# make sim SEEDS=200 runs that many seeds; make sim SEED=17 replays one.
sim: $(READY)
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200))

format: $(READY)
	$(BIN)/ruff check --fix --select I .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy
	$(BIN)/mypy -p relayrpc_codegen

gen: $(READY)
	$(BIN)/python -m codegen.generate

# Fails when `make gen` would change a committed file.
drift: $(READY)
	$(BIN)/python -m codegen.generate --check

# What CI runs, in its order; the last thing printed is pytest's summary.
check: lint types drift
	@$(MAKE) --no-print-directory test

build: $(READY)
	$(BIN)/python -m build

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# A gRPC client in another language, and a second type checker; where npm is not here or finds no packages, their
# tests are skipped.
$(NODE_READY): %/node_modules/.ready: %/package-lock.json
	@cd $* && npm ci --ignore-scripts --no-audit --no-fund --silent && touch node_modules/.ready \
		|| echo "nothing of $*/package.json: npm is not here, or found no packages"
