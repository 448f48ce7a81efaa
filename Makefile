# make run     installs what this machine lacks, builds, and runs the demo
# make test    installs what this machine lacks, and runs every test, the browser's included
# make build   builds only (release)
# make check   format, lints and documentation, all warnings denied
# make torture CYCLES=200   kills, stops and starves a region of real processes under load, and prints a table
# make attack  hostile traffic of twelve kinds on a gateway with 200 pages, and half of the cores busy alone: what pages notice; five
#              rounds of SECONDS=10 each; ARGS='--only botnet'
# make simulate  the whole system under SEEDS=1000 seeds: virtual time, faults, an oracle. ARGS=--controls leaves out each rule in turn
# make bench   what an event costs the gateway, in CPU time
# make fuzz    throws bytes at everything that reads them from outside, SECONDS=600 a target; TARGET=batch for one
# make deny    licences, versions and sources of all that we build on;  make advisories   what is known against them
# make autobahn   the Autobahn suite against the gateway's WebSocket;  make h2spec   h2spec against its HTTP/2
#
# The parts that the Rust code embeds come first: the browser agent (gateway), the dashboard (central), the lists of
# user agents (gateway).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: run test build check bench torture attack simulate fuzz deny advisories autobahn h2spec clean parts machine test-machine agent libchdb toxiproxy

# Where rustup puts cargo, for shells that have not read its profile, and where Debian puts haproxy.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin
BUILD := $(or $(CARGO_TARGET_DIR),target)
say = @printf '==> %s\n'

run: build
	$(say) 'tideline up --demo (Ctrl-C stops it)'
	@exec $(BUILD)/release/tideline up --demo $(ARGS)

build: parts libchdb
	$(say) 'tideline: release build'
	@cargo build --release --locked

test: test-machine parts libchdb toxiproxy tests/browser/node_modules/.package-lock.json
	$(say) 'tideline: build for the tests'
	@cargo build --workspace --exclude simulation --all-targets --locked
	@# By itself: it compiles the gateway with a feature that nothing else may have.
	@cargo build -p simulation --all-targets --locked
	@scripts/test.sh

check: parts
	$(say) 'Rust: format'
	@cargo fmt --all --check
	$(say) 'Rust: lints'
	@cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	$(say) 'Rust: documentation'
	@# A crate's front page names its stations, private or not: the documentation is always built with private items.
	@RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --workspace --no-deps --document-private-items --locked --quiet
	$(say) 'dashboard: types'
	@cd dashboard && npm run --silent check
	$(say) 'scripts: the count of tests'
	@scripts/count-tests.test.sh

simulate: parts
	$(say) 'simulation: release build'
	@cargo build --locked --release -p simulation
	@$(BUILD)/release/simulation --seeds $(or $(SEEDS),1000) $(ARGS)

bench: parts
	@cargo bench --locked -p gateway --bench ingest

# Unattended, with a line for every fault and a table at the end; the figures are also in target/torture.json.
torture: test-machine build
	$(say) 'tideline: release build of the torture'
	@cargo build --release --locked -p harness --bin torture
	@$(BUILD)/release/torture --cycles $(or $(CYCLES),200) --json $(BUILD)/torture.json $(ARGS)

attack: test-machine build
	$(say) 'tideline: release build of the attackers'
	@cargo build --release --locked -p harness --bin attack
	@ulimit -n $$(ulimit -Hn) && $(BUILD)/release/attack --seconds $(or $(SECONDS),10) --json $(BUILD)/attack.json $(ARGS)

fuzz: parts
	@scripts/fuzz.sh $(or $(SECONDS),600) $(TARGET)

deny: machine
	$(say) 'dependencies: licences, versions, sources'
	@PATH="$$(scripts/fetch-cargo-tool.sh cargo-deny | tail -1):$$PATH" cargo deny --locked check licenses bans sources

# Beside `make deny`: what is known changes while our files do not, and the list of it comes from GitHub.
advisories: machine
	$(say) 'dependencies: advisories'
	@PATH="$$(scripts/fetch-cargo-tool.sh cargo-deny | tail -1):$$PATH" cargo deny --locked check advisories || { \
	  echo 'advisories: there are findings, or the list (https://github.com/RustSec/advisory-db) could not be fetched: then nothing is proved' >&2; \
	  exit 1; }

# Neither is part of `make test`: a release build, tools that take minutes to set up, and cases that change with the gateway's WebSocket
# and HTTP/2 only. docs/CONFORMANCE.md has what they printed.
autobahn: test-machine parts
	@scripts/test-autobahn.sh

h2spec: test-machine parts
	@scripts/test-h2spec.sh

clean:
	cargo clean
	rm -rf wasm-agent/dist dashboard/dist {wasm-agent,dashboard,gateway/user-agents,tests/browser}/node_modules

# What the machine itself must have. A second run only looks.
machine:
	@scripts/machine.sh build
test-machine:
	@scripts/machine.sh test

parts: machine agent dashboard/dist/index.html gateway/user-agents/node_modules/.package-lock.json

# It compares its sources with those of its last build itself.
agent: machine
	$(say) 'agent: WebAssembly and script'
	@wasm-agent/build.sh

libchdb:
	@scripts/fetch-libchdb.sh

toxiproxy: test-machine
	@scripts/fetch-toxiproxy.sh >/dev/null

dashboard_sources := $(shell find dashboard \( -name node_modules -o -name dist -o -name dev \) -prune -o -type f -print)

dashboard/dist/index.html: dashboard/node_modules/.package-lock.json $(dashboard_sources)
	$(say) 'dashboard: build'
	@cd dashboard && npm run --silent build -- --logLevel warn
	@touch $@

# npm writes this file last: it stands for the whole folder.
%/node_modules/.package-lock.json: %/package-lock.json | machine
	$(say) '$*: npm parts'
	@cd $* && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
