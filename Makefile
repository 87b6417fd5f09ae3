# `make` alone lists the targets. Each installs what is missing first (scripts/setup).
#
# All targets but `bench`, `clusterbench`, `microbench` and `fuzz` use the dev profile, which builds RocksDB
# optimised (Cargo.toml), so that tests, lints, documents, package and demo share its objects. They
# share one target directory too: cargo keeps the artefacts of the two codecs side by side under
# different hashes, so that switching rebuilds nothing. The second codec gives bindgen's own
# dependencies other features, and with them RocksDB another hash; ccache spares its compilation.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz sim nemesis crash bench clusterbench large microbench package

STAGE := scripts/stage
# In CI the committed Cargo.lock must fit; at a desk cargo may bring it up to date.
LOCKED := $(if $(CI),--locked)
PROST := --features driver,testing,metrics $(LOCKED)
# raft-rs cannot have both codecs on, and other members ask for the default one: the root
# package alone is built with this.
PROTOBUF := --package raft-rocks --no-default-features --features protobuf-codec,driver,testing,metrics $(LOCKED)
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= entry_codec keys peer_frames resp storage_ops
CRASH_ROUNDS ?= 160

help: ## Lists the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## Installs what this machine lacks to build and test (Debian, Ubuntu), or says what
	@scripts/setup

demo: setup ## Runs three servers under load, kills them, cuts them apart, lets a fourth join, and judges
	@$(STAGE) "demo: a cluster under load and kills" cargo run $(LOCKED) --package raft-rocks-nemesis -- demo $(DEMO)

test: setup ## Runs what CI runs: format, lints, all tests with both codecs, documents, package
	@$(STAGE) "format" cargo fmt --all --check
	@$(STAGE) "format of the fuzz targets" cargo fmt --manifest-path fuzz/Cargo.toml --check
	@$(STAGE) "lints, prost codec" cargo clippy --workspace --all-targets $(PROST) -- -D warnings
	@$(STAGE) "lints, protobuf codec" cargo clippy --all-targets $(PROTOBUF) -- -D warnings
	@$(STAGE) "tests, prost codec" cargo test --workspace $(PROST)
	@$(STAGE) "tests, protobuf codec" cargo test $(PROTOBUF)
	@$(STAGE) "benches run once" cargo bench --profile dev --bench '*' $(PROST) -- --test
	@$(STAGE) "documents" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps $(PROST)
	@$(STAGE) "package" cargo package --package raft-rocks --allow-dirty $(LOCKED)

fuzz: ## Runs each fuzz target for FUZZ_SECONDS (60) on nightly Rust; stops at the first finding
	@scripts/setup fuzz
	@scripts/fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

sim: setup ## Simulated clusters: 10,000 seeds of faults (SIM passes flags: --seed N, --seeds N), 50 on a RAM disk
	@$(STAGE) "simulation" cargo run --release --features driver,testing $(LOCKED) --example sim -- $(or $(SIM),--seeds 10000)
	@$(STAGE) "simulation on the durable store" cargo run --release --features driver,testing $(LOCKED) --example sim -- --seeds 50 --durable /dev/shm

nemesis: setup ## Real clusters under faults: 200 histories (NEMESIS passes flags: --histories 20 --seed 7 --fault kill)
	@$(STAGE) "nemesis: clusters under faults" cargo run $(LOCKED) --package raft-rocks-nemesis -- run $(NEMESIS)

crash: setup ## Cuts the power, fails I/O, fills disks, damages files (root); CRASH_ROUNDS scales it
	@$(STAGE) "fault harness" cargo run $(LOCKED) --package raft-rocks-crash -- --rounds $(CRASH_ROUNDS) $(CRASH)

bench: setup ## Compares raft-rocks with its peers, side by side; COMPARE passes flags (--quick)
	@$(STAGE) "comparison" cargo run --release $(LOCKED) --package raft-rocks-bench -- compare $(COMPARE)

clusterbench: ## Three nodes of raft-rocks-server beside three of etcd under puts; CLUSTER passes flags
	@scripts/setup bench
	@$(STAGE) "build" cargo build --release $(LOCKED) --package raft-rocks-server --package raft-rocks-bench
	@$(STAGE) "cluster benchmark" target/release/raft-rocks-bench cluster $(CLUSTER)

large: setup ## Streams a state of 1 GiB to a new node and measures what memory that takes
	@$(STAGE) "large snapshot" cargo test --release $(LOCKED) --features driver --test driver -- --ignored --nocapture

microbench: setup ## Runs the criterion benches in the bench profile; BENCH names one of them
	@$(STAGE) "benches" cargo bench --bench '$(or $(BENCH),*)' $(PROST)

package: setup ## Makes the crate as it would be published and builds it from its archive
	@$(STAGE) "package, built from its archive" cargo package --package raft-rocks $(LOCKED)
