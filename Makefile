# Works on Debian 12 with Rust installed; `deps` brings the rest.
.PHONY: help deps demo test stories sim store-soak bench bench-peers failover interop lint

export PATH := $(HOME)/.cargo/bin:$(PATH)
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

help:
	@echo 'make demo   a takeover before your eyes, in network namespaces of this machine (root);'
	@echo '            POLICY=renegotiate: with new SAs instead of the old ones'
	@echo 'make test   all tests'
	@echo 'make stories  every story of the lab with all its variants, and ten calm minutes under full load (root); target/takeover, target/calm'
	@echo 'make sim    N=100000 SEED=1 KIND=pair: that many simulated schedules from that seed on; seeds that break a promise are printed and replayed'
	@echo '            KIND=registry: two to five appliances and a registry; KIND=split, KIND=planned: what the names say, and nothing else'
	@echo 'make store-soak  N=5000: that many owners of a store killed or fenced while they write, on one host and between two (root)'
	@echo 'make bench  what a packet and an IKE SA cost on this machine, into target/bench; DOCS=1: into docs/benchmarks.md, too'
	@echo 'make bench-peers  the same of DPDK'"'"'s ipsec-secgw and crypto drivers (fetches and builds the former)'
	@echo 'make failover  for how long a failover blocks traffic, and what it loses (root); target/failover/report.json; DOCS=1: into docs/failover.md, too;'
	@echo '            CASE=crash TUNNELS=100 RUNS=3: a part of it'
	@echo 'make interop  IKE against a stock strongSwan, all cases in both roles (root); target/interop/report.json'
	@echo 'make lint   formatting, clippy, and who may know whom'
	@echo 'make deps   install what is missing'

deps:
	@tools/scripts/install-deps.sh

demo: deps
	cargo build --locked --release --bins
	$(AS_ROOT) target/release/vipsec-lab demo $(if $(POLICY),--policy $(POLICY))

test: deps
	@tools/scripts/test.sh

stories: deps
	cargo build --locked --bins
	$(AS_ROOT) target/debug/vipsec-lab takeover
	$(AS_ROOT) target/debug/vipsec-lab calm --minutes $(or $(MINUTES),10)

sim: deps
	cargo run --locked --release -p vipsec-sim -- --count $(or $(N),10000) --seed $(or $(SEED),1) --kind $(or $(KIND),pair) --threads $$(nproc)

store-soak: deps
	$(AS_ROOT) env PATH="$$PATH" VIPSEC_STORE_OWNERS=$(or $(N),5000) cargo test --locked -p vipsec-store --test two_processes

bench: deps
	cargo build --locked --release -p vipsec-bench -p vipsec-control -p vipsec-ikegen -p vipsec-lab
	$(AS_ROOT) target/release/vipsec-lab ike
	$(AS_ROOT) target/release/vipsec-bench $(if $(DOCS),--write-docs)

bench-peers: deps
	command -v dpdk-test-crypto-perf >/dev/null || $(AS_ROOT) apt-get -q install -y --no-install-recommends dpdk-dev
	secgw=$$(tools/scripts/build-ipsec-secgw.sh target/bench/peers) && \
		$(AS_ROOT) tools/scripts/bench-peers.py $$secgw target/bench/peers.json

failover: deps
	cargo build --locked --release -p vipsec-control -p vipsec-tools -p vipsec-ikegen -p vipsec-lab
	$(AS_ROOT) target/release/vipsec-lab failover $(if $(CASE),--case $(CASE)) $(if $(TUNNELS),--tunnels $(TUNNELS)) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(DOCS),--write-docs)

interop: deps
	$(AS_ROOT) env PATH="$$PATH" cargo test --locked -p vipsec-ike --test interop -- --all --report target/interop/report.json

lint: deps
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@tools/scripts/check-directions
