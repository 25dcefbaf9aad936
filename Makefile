# `make` or `make help` lists what there is. Every target works from a fresh clone: those that need it call `setup` first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# A compiler new enough for Cargo.toml's rust-version: the one on the path, else Debian's.
CARGO := tools/cargo
# Brokers and their clients, which tests start for themselves, and what checks the unit and the schema. Not part of `setup`: Debian starts some as services.
TEST_PACKAGES := mosquitto mosquitto-clients python3-paho-mqtt nats-server systemd python3-jsonschema python3-yaml libssl-dev faketime curl nodejs
# What tests and lints have on, beside what is passed on: one set for all of them, so that nothing is compiled twice.
FEATURES := --features kafka
# Where `make install` puts things; DESTDIR is for packagers.
PREFIX ?= /usr
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Debian packages, promtool, Rust, ONNX Runtime, starter model, demo clip; does only what is missing
	@tools/setup.sh

.PHONY: runtime-cuda
runtime-cuda: ## ONNX Runtime with CUDA and TensorRT into runtime-cuda/, beside the CPU one; the GPU's own libraries are not in it
	@tools/setup/runtime_provider.sh cuda

.PHONY: runtime-openvino
runtime-openvino: ## ONNX Runtime with OpenVINO into runtime-openvino/, beside the CPU one
	@tools/setup/runtime_provider.sh openvino

.PHONY: build
build: setup ## the release binary, target/release/vtagd
	@tools/build_progress.py $(CARGO) build --release --locked

.PHONY: demo
demo: setup ## tag a real RTSP camera; ends after three different tags (FOREVER=1: runs until Ctrl-C)
	@tools/demo.sh

.PHONY: test
test: export INSTA_UPDATE := no
test: setup ## all tests, with cargo-nextest where it is installed
	@tools/setup/packages.sh $(TEST_PACKAGES)
	@tools/setup/schemathesis.sh
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --locked --workspace $(FEATURES) && $(CARGO) test --locked --workspace $(FEATURES) --doc; \
	else \
		$(CARGO) test --locked --workspace $(FEATURES); \
	fi

.PHONY: test-fast
test-fast: export INSTA_UPDATE := no
test-fast: setup ## the library and the quick scenarios: no camera, no broker, no model of others
	@$(CARGO) test --locked --workspace $(FEATURES) --lib --test configuration --test labels --test preprocessing --test reading

.PHONY: test-page
test-page: setup ## the page in a headless Chromium (Debian's; playwright-core and axe-core from npm)
	@tools/test_page.sh test

.PHONY: screenshots
screenshots: setup ## the pictures of docs/page.md, of the demo's camera
	@tools/test_page.sh screenshots

.PHONY: bench
bench: setup ## measures into target/bench/result.json; fails if a ratio is worse than in benches/baseline.json
	@benches/guard.py run
	@benches/guard.py compare

.PHONY: trust
trust: build ## the trust report of the shown footage (FOOTAGE=, MODEL=), written into docs/trust.md
	@cd benches && ../.setup/venv/bin/python trust.py --vtagd ../target/release/vtagd --footage $(abspath $(or $(FOOTAGE),../shared/footage)) --model $(abspath $(or $(MODEL),models/starter)) --out ../docs/trust.md

.PHONY: bench-baseline
bench-baseline: setup ## measures, and makes that the new benches/baseline.json
	@benches/guard.py run
	@benches/guard.py baseline

.PHONY: soak
soak: build ## hours of random faults on 16 cameras, then 200 lost connections: memory, threads, files, accounts (MINUTES=60)
	@$(CARGO) build --release --locked --workspace --bins --examples
	@python3 benches/soak.py --minutes $(or $(MINUTES),60)
	@VTAGD_CYCLES=200 $(CARGO) test --locked --examples --test cameras faults_cycles:: -- --nocapture

.PHONY: fuzz
fuzz: setup ## every fuzz target for a minute, on a nightly compiler (TARGET=http SECONDS=3600: one, for an hour)
	@tools/fuzz.sh "$(TARGET)" "$(or $(SECONDS),60)"

.PHONY: fmt
fmt: setup ## format the sources
	@tools/setup/rust_tool.sh fmt
	@$(CARGO) fmt --all

.PHONY: lint
lint: lint-rust lint-deny ## formatting, clippy, documentation, licences and sources of the dependencies

.PHONY: lint-rust
lint-rust: setup
	@tools/setup/rust_tool.sh fmt
	@tools/setup/rust_tool.sh clippy
	@tools/setup/packages.sh libssl-dev
	@$(CARGO) fmt --check --all
	@$(CARGO) clippy --locked --workspace --all-targets $(FEATURES) -- -D warnings
	@$(CARGO) clippy --locked --lib --bins -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --locked --no-deps --package vtagd-checkpoint --package vtagd-pictures

# Advisories need a database from the network or a copy of it, the rest does not: what cannot be had is said, not failed.
.PHONY: lint-deny
lint-deny: setup
	@tools/setup/rust_tool.sh deny
	@$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources
	@tools/advisories.sh

.PHONY: install
install: ## install the built release into DESTDIR; never overwrites a configuration
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" UNITDIR="$(UNITDIR)" tools/install.sh

# What is given to others is the profile `dist`: no path or time of this machine in it, no symbols.
.PHONY: dist
dist: setup
	@tools/setup/packages.sh libssl-dev
	@tools/dist.sh

# What is packed is for this machine, or for ARCH=arm64, which is built here in a Debian of its own; DEB=FILE names a package that is there.
ARCH ?= $(shell dpkg --print-architecture 2>/dev/null)
NATIVE := $(shell dpkg --print-architecture 2>/dev/null)
ifeq ($(DEB),)
PACKAGE = $$(ls -t target/debian/vtagd_*_$(ARCH).deb | head -n 1)
else
PACKAGE = $(DEB)
endif

.PHONY: deb
ifneq ($(DEB),)
deb:
	@test -s "$(DEB)" || { echo "there is no $(DEB)" >&2; exit 1; }
else ifeq ($(ARCH),$(NATIVE))
deb: dist ## the Debian package, target/debian/vtagd_*.deb (ARCH=arm64: for that, as root; 5 GB)
	@tools/setup/rust_tool.sh deb
	@tools/deb.sh
else
deb: setup
	@tools/setup/packages.sh mmdebstrap
	@tools/cross.sh "$(ARCH)"
endif

.PHONY: test-deb
test-deb: deb ## install, run as a service, upgrade and purge the package in a clean Debian 12 (as root; 1.5 GB; ARCH=arm64, DEB=FILE)
	@tools/setup/packages.sh mmdebstrap lintian systemd-container
	@tools/test_deb.sh "$(PACKAGE)"

.PHONY: image
image: deb ## an OCI image without a registry, target/image/vtagd-*.tar (as root; 3 GB; ARCH=arm64, DEB=FILE)
	@tools/image.sh "$(PACKAGE)"

.PHONY: test-image
test-image: image ## run it with podman: every kind of source, reload, a restart over the same state (as root)
	@tools/test_image.sh "$$(ls -t target/image/vtagd-*-$(ARCH).tar | head -n 1)"

.PHONY: first-tag
first-tag: image ## how long it takes from a fresh Debian to the first tag, and what size things have (as root; DEB=FILE)
	@benches/first_tag.sh "$(PACKAGE)" "$$(ls -t target/image/vtagd-*-$(ARCH).tar | head -n 1)"

# Programs of others, which no test can stand for. Not in CI: they are large, and need root.
.PHONY: test-brokers
test-brokers: build ## a daemon at mosquitto, RabbitMQ, aedes and amqtt (as root; 400 MB, 7 minutes; ONLY=mosquitto: it alone)
	@tools/setup/packages.sh mmdebstrap mosquitto python3-paho-mqtt python3-yaml
	@tests/foreign/setup.sh brokers
	@/usr/bin/python3 tests/foreign/brokers.py $(ONLY)

.PHONY: test-fleet
test-fleet: build ## daemons at a real Triton and a real MLServer, without a GPU (1.5 GB, 5 minutes)
	@tests/foreign/setup_fleet.sh
	@/usr/bin/python3 tests/foreign/fleet.py

.PHONY: test-home-assistant
test-home-assistant: build ## a daemon and a real Home Assistant, in 18 scenarios (as root; 1.3 GB, 6 minutes; ONLY=fires: that alone)
	@tools/setup/packages.sh mmdebstrap mosquitto python3-paho-mqtt python3-yaml
	@tests/foreign/setup.sh home-assistant
	@/usr/bin/python3 tests/foreign/home_assistant.py $(ONLY)

.PHONY: test-kafka
test-kafka: setup ## a daemon with the Kafka client at tansu, read by confluent-kafka (as root; 80 MB, 15 minutes; ONLY=kills: that alone)
	@tools/setup/packages.sh libssl-dev python3-paho-mqtt
	@$(CARGO) build --release --locked $(FEATURES)
	@tests/foreign/setup.sh kafka
	@/usr/bin/python3 tests/foreign/kafka.py $(ONLY)

.PHONY: sbom
sbom: setup ## the bill of materials (CycloneDX), target/vtagd.cdx.json
	@tools/setup/packages.sh libssl-dev
	@tools/sbom.sh target/vtagd.cdx.json

.PHONY: reproducible
reproducible: dist ## build twice, in two folders, and compare (minutes; 1 GB)
	@tools/reproducible.sh

.PHONY: clean
clean: ## remove what the compiler and the demo made; what setup fetched stays
	@rm -rf target demo/events.jsonl demo/demo.yaml demo/*.log demo/api.token demo/state demo/history demo/snapshots

.PHONY: distclean
distclean: clean ## remove everything that setup made too
	@rm -rf .setup runtime runtime-cuda runtime-openvino models/starter demo
