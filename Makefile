# `make help` lists the targets. What CI runs is `make demo test`.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
FUZZ_SECONDS ?= 30

.PHONY: help deps build packages demo demo-clean test bench bench-quick bench-ratio bench-micro bench-cluster nat-matrix nat-gaps nat-relays nat-mesh fuzz guards

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what the build, the tests and the demo need and this Debian lacks (as root).
	@.ci/deps

build: ## Build the release binaries: switchd, switchctl, controller, skippy, node-agent.
	$(CARGO) build --release -p switchd -p controller -p skippy -p node-agent

packages: deps ## Build a Debian package for each daemon into target/debian, and check their units.
	@.ci/packages

demo: deps build ## Show a controller, three nodes and five instances: join, ping, migrate, drain; then remove them, but with KEEP=1 (as root).
	@$(CARGO) build --release -q -p netns-tests --bin demo
	@$(TARGET)/release/demo

demo-clean: ## Remove a demo that KEEP=1 left up (as root).
	@$(CARGO) build --release -q -p netns-tests --bin demo
	@$(TARGET)/release/demo --clean

test: deps ## Run everything that CI runs: format, guards, lints, unit, property and corpus tests, docs, namespace tests (as root).
	@.ci/test

bench: ## Measure switchd beside the underlay, plaintext VXLAN and encrypted peers, and put the tables into docs/performance.md (as root, an hour and a quarter; ARGS="--seconds 1": 40 minutes).
bench-quick: ## The same in a few minutes: what the goals need, nothing written but target/bench.json (as root).
bench bench-quick: deps build
	@CARGO="$(CARGO)" .ci/deps-bench
	@$(CARGO) build --release -q -p bench --bin bench
	@$(TARGET)/release/bench $(if $(filter bench-quick,$@),--quick,--write docs/performance.md) $(ARGS)

bench-ratio: deps build ## Measure one TCP flow and ping beside plaintext kernel VXLAN (as root, about a minute and a half).
	@$(CARGO) build --release -q -p bench --bin bench-ratio
	@$(TARGET)/release/bench-ratio

bench-micro: ## Measure the core's parts: nanoseconds and allocations for each frame, super-frame and segment (two minutes; ARGS=decide: what has that in its name).
	@$(CARGO) bench -q -p bench-micro -- $(ARGS)

bench-cluster: build ## Measure one controller with 1,000 nodes and 100,000 bindings (at most four minutes; ARGS=--small: seconds).
	@$(CARGO) build --release -q -p bench --bin cluster-sim
	@$(TARGET)/release/cluster-sim $(ARGS)

nat-matrix: ## Connect nodes behind each kind of NAT with each, and put the table into docs/performance.md (as root, about six minutes).
nat-gaps: ## Measure how long a TCP flow is cut by what happens to paths, addresses and servers, 20 times each (as root).
nat-relays: ## Measure throughput through the controller's relay and through coturn beside the direct path (as root).
nat-mesh: ## Link 50 nodes, each with every other: time, memory, idle traffic (as root).
nat-matrix nat-gaps nat-relays nat-mesh: deps build
	@$(CARGO) build --release -q -p netns-tests --bin natlab
	@$(TARGET)/release/natlab $(@:nat-%=%) --write docs/performance.md $(ARGS)

fuzz: ## Fuzz each target for FUZZ_SECONDS (30) with cargo-fuzz, or run the corpora if it is not installed.
	@if command -v cargo-fuzz >/dev/null; then \
	  for target in $$(cd switchd/core/fuzz/fuzz_targets && ls *.rs | sed 's/\.rs$$//'); do \
	    $(CARGO) fuzz run --fuzz-dir switchd/core/fuzz --features libfuzzer -s none $$target -- \
	      -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	  done; \
	else \
	  echo "cargo-fuzz is not installed (cargo install cargo-fuzz): running the corpora only"; \
	  $(CARGO) test --release -p switch-core-fuzz; \
	fi

guards: ## Prove the import rules, where unsafe may stand, file lengths, and that no secret is in the tree.
	@.ci/guards
