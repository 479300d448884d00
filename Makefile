# One-line verbs; what they do is in scripts/ and in cargo. `make` prints this list.
.DEFAULT_GOAL := help
.PHONY: help setup wasm static images up down check test test-browser test-compose test-valkey test-failovers test-matrix test-all e2e soak chaos demo bench simulate fuzz fmt clean
CARGO_FLAGS := --locked
# Compose is a command of its own where Docker has no plugin for it.
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
# End-to-end tests often wait, so more of them run at once than there are processors.
E2E_JOBS := $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: the wasm target, cargo-nextest, Envoy, the libraries of real clients
	@scripts/setup

wasm: ## build the filter: target/berth.wasm
	@scripts/build-wasm

static: ## build berth and the node of envoy/compose for containers that hold nothing else: target/static
	@scripts/build-static

images: wasm static ## write container images, without an engine: target/images
	@scripts/build-images

up: images ## start envoy/compose: two Envoys, three nodes, two state services, Valkey and its replica
	@for image in berth berth-node; do docker load -q -i target/images/$$image.tar || exit 1; done
	$(COMPOSE) -f envoy/compose/compose.yaml up -d
	@for port in 10001 10002; do \
	  curl -sfo /dev/null --retry 30 --retry-connrefused --retry-all-errors --retry-delay 1 http://127.0.0.1:$$port/ || exit 1; done

down: ## end envoy/compose and remove it
	$(COMPOSE) -f envoy/compose/compose.yaml down -v

demo: ## see it work, then keep it running; ARGS=--once checks every promise and ends, --jwt is of tokens
	@scripts/setup demo
	@scripts/build-wasm
	@cargo build -q $(CARGO_FLAGS) --release -p berth-state
	@cargo run $(CARGO_FLAGS) --release -p berth-harness --bin demo -- --with-make $(ARGS)

test: setup check e2e ## everything: check, then the promises in real Envoy

check: wasm ## formatting, lints, docs, and all tests that need no Envoy
	cargo fmt --all --check
	scripts/check-deps
	scripts/check-paths
	scripts/check-prose
	scripts/check-chart
	cargo clippy $(CARGO_FLAGS) --workspace --exclude berth-filter --all-targets -- -D warnings
	cargo clippy $(CARGO_FLAGS) --profile wasm -p berth-filter --target wasm32-wasip1 -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc -q $(CARGO_FLAGS) --no-deps --workspace --exclude berth-filter
	cargo nextest run $(CARGO_FLAGS) -p berth-core -p berth-state
	cargo test -q $(CARGO_FLAGS) --doc --workspace --exclude berth-filter
	cargo test -q $(CARGO_FLAGS) --release -p berth-sim --test seeds

e2e: setup wasm static ## the promises in real Envoy; BERTH_HARNESS=process or docker, T=name for one of them
	cargo build $(CARGO_FLAGS) --release -p berth-state
	scripts/build-previous
	cargo nextest run $(CARGO_FLAGS) -p berth-harness --test-threads $(E2E_JOBS) $(T)

test-browser: wasm ## a page in a real browser: Chromium, which it installs, or CHROMIUM=path
	@scripts/setup browser
	cargo build $(CARGO_FLAGS) --release -p berth-state
	cargo nextest run $(CARGO_FLAGS) -p berth-harness --test pins --run-ignored only -E 'test(/^browser::/)'

test-compose: setup wasm static ## envoy/compose through pauses, kills and partings; needs Docker and docker-compose
	cargo nextest run $(CARGO_FLAGS) -p berth-harness --test shipped --run-ignored only -E 'test(/^compose::/)'

test-failovers: setup ## what services answer of the same sessions through ten deaths of primaries, a minute
	BERTH_FAILOVERS=10 cargo nextest run $(CARGO_FLAGS) -p berth-state --no-capture -E 'binary(histories)'

# PyPI's binary was built without TLS.
VALKEY_CAN := -E 'not test(redis_is_reached_over_tls_as_an_acl_user)'
test-valkey: setup wasm ## the state service's tests, alone and behind Envoy, with Valkey in the place of Redis
	cargo build $(CARGO_FLAGS) --release -p berth-state
	scripts/build-previous
	BERTH_REDIS_SERVER=$$(scripts/get-valkey) cargo nextest run $(CARGO_FLAGS) -p berth-state $(VALKEY_CAN)
	BERTH_REDIS_SERVER=$$(scripts/get-valkey) cargo nextest run $(CARGO_FLAGS) -p berth-harness --test-threads $(E2E_JOBS) \
	  -E 'binary(state_service)'

test-matrix: setup static ## the end-to-end tests on every line of Envoy, an hour; target/matrix/report.md; ARGS='1.37.0 1.39.3' for these
	@E2E_JOBS=$(E2E_JOBS) scripts/test-matrix $(ARGS)

MINUTES ?= 60
SESSIONS ?= 20000
soak: setup wasm ## live WebSockets through drains, deaths and failovers, an hour; target/soak/report.md; MINUTES=60 SESSIONS=20000
	cargo build -q $(CARGO_FLAGS) --release -p berth-state
	@BERTH_HARNESS=process cargo run -q $(CARGO_FLAGS) --release -p berth-harness --bin soak -- --minutes $(MINUTES) --sessions $(SESSIONS)

chaos: setup wasm ## each fault of one table done to each part under load, ten minutes; target/chaos/report.md; ARGS=Redis for some rows
	cargo build -q $(CARGO_FLAGS) --release -p berth-state
	@BERTH_HARNESS=process cargo run -q $(CARGO_FLAGS) --release -p berth-harness --bin chaos -- $(ARGS)

test-all: test test-browser test-compose test-valkey test-failovers fuzz ## test, browser, compose, Valkey, failovers, fuzzing, chaos, a minute of soak, both demos, the CRDs, and the end-to-end tests again without Docker
	scripts/check-crds
	$(MAKE) soak MINUTES=1 SESSIONS=400
	$(MAKE) demo ARGS=--once
	$(MAKE) demo ARGS='--once --jwt'
	BERTH_HARNESS=process $(MAKE) e2e
	$(MAKE) chaos

bench: setup wasm ## costs beside peers in the same run: requests, tokens, workers (target/bench/report.md), resolves, the ring
	cargo build -q $(CARGO_FLAGS) --release -p berth-state
	BERTH_HARNESS=process cargo run -q $(CARGO_FLAGS) --release -p berth-harness --bin bench
	scripts/bench-state
	cargo bench $(CARGO_FLAGS) -p berth-core --bench ring

simulate: ## a fleet on one clock; ARGS='--seeds 100000 --first 1' runs more seeds, docs/simulation.md says what it looks for
	@cargo run -q $(CARGO_FLAGS) --release -p berth-sim --bin simulate -- $(ARGS)

fuzz: ## each fuzz target for a minute; ARGS='--runs 10000000 token' for so many inputs of one
	@scripts/setup fuzz
	@scripts/fuzz $(ARGS)

fmt: ## format the code
	cargo fmt --all

clean: ## remove what was built
	cargo clean
