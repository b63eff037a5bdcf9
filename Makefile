# Each target sets up .venv by itself (.ci/setup.sh) and prints what that does to stderr, so that stdout is the
# program's. ARGS is handed on: make run ARGS=--no-think, make test ARGS="-k pipe", make bench ARGS=...

# Where this is set, each process compiles all modules anew, which takes a fifth of a short one's time.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
TOY := build/toy-Q8_0.gguf

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-fast test-vulkan lint format docs bench lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## Make .venv: the locked packages, and llama-cpp-python built for this machine
	@bash .ci/setup.sh </dev/null

run: $(TOY) ## Chat with the bundled toy model; with piped input, answer it
	@$(BIN)/qwenctl chat -m $(TOY) $(ARGS)

$(TOY): $(wildcard tests/data/toy/*) $(wildcard quantize/*.py) | setup
	@mkdir -p $(@D)
	@rm -f $@
	@$(BIN)/qwenctl quantize tests/data/toy --type Q8_0 -o $@ </dev/null >&2

test: lint ## Everything that CI runs: lint and all tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-fast: setup ## Unit and structure tests that run no program
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" tests/unit tests/structure $(ARGS)

test-vulkan: ## Test experts in RAM and the rest on llama.cpp's Vulkan backend, without a GPU
	@bash tests/vulkan/run.sh $(ARGS)

lint: setup ## ruff, ruff format, mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: setup ## Put the sources in ruff's format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: export NO_MKDOCS_2_WARNING := 1
docs: setup ## Make the generated pages, man pages and the site in build/site
	@$(BIN)/python -m docs.generate
	@$(BIN)/mkdocs build --strict --quiet $(ARGS)

bench: setup ## Measure against llama.cpp
	@$(BIN)/python -m tests.benchmarks $(ARGS)

lock: setup ## Renew the lock files
	@bash .ci/lock.sh $(ARGS) </dev/null

clean: ## Remove all that the targets above have made in this folder
	@rm -rf .venv .venv-vulkan build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find quantize qwenctl docs tests -name __pycache__ -type d -prune -exec rm -rf {} +
