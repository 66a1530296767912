# Each target sets up what it needs. PYTHON and VENV can be given: make test PYTHON=python3.13

SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROFILES := $(HOME)/.config/snakemake

.PHONY: help setup demo test lint bench schema clean

help: ## Show the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.ready ## Create the virtual environment and link the SLURM profile.
	@if [ -e "$(PROFILES)/slurm" ]; then \
	    if [ "$$(readlink -f "$(PROFILES)/slurm")" != "$(CURDIR)/profiles/slurm" ]; then \
	        echo "A profile $(PROFILES)/slurm exists already and was left alone;" \
	             "klmap's own is used with --profile profiles/slurm."; \
	    fi; \
	else \
	    mkdir -p "$(PROFILES)" && ln -sfn "$(CURDIR)/profiles/slurm" "$(PROFILES)/slurm" && \
	    echo "Linked profiles/slurm as $(PROFILES)/slurm, so that snakemake --profile slurm works."; \
	fi

# torch comes first, so that no other package pulls another build of it.
$(VENV)/.ready: envs/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "klmap needs Python 3.11 or newer; give one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep -E '^torch==' envs/requirements.txt)"
	$(BIN)/python -m pip install --quiet --requirement envs/requirements.txt
	@touch $@

demo: setup ## Train two dozen tiny models, score them and draw their map; no network, no GPU.
	$(BIN)/snakemake --cores all
	@echo
	@echo "The map is finished. Open:"
	@ls results/demo/map.html results/demo/figures/*.png results/demo/neighbors.tsv results/demo/models.tsv | sed 's/^/  /'

# Three processes: whole workflows mostly wait, the rest mostly computes.
# What starts a SLURM stands together, because there can be one at a time.
MACHINES := $(wildcard tests/test_slurm.py tests/test_selection_workflow.py tests/test_demo.py)
WORKFLOWS := $(filter-out $(MACHINES),$(wildcard tests/test_*_workflow.py))

test: setup ## Run the tests.
	@logs=$$(mktemp -d); \
	$(BIN)/python -m pytest $(WORKFLOWS) > "$$logs/workflows" 2>&1 & workflows=$$!; \
	$(BIN)/python -m pytest $(MACHINES) > "$$logs/machines" 2>&1 & machines=$$!; \
	$(BIN)/python -m pytest tests $(WORKFLOWS:%=--ignore=%) $(MACHINES:%=--ignore=%); status=$$?; \
	echo "The tests of SLURM and of the demo:"; wait $$machines || status=1; cat "$$logs/machines"; \
	echo "The tests of whole workflows:"; wait $$workflows || status=1; cat "$$logs/workflows"; \
	rm -rf "$$logs"; exit $$status

lint: setup ## Check style, types and the workflow.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy scripts/klmap scripts/*.py
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

bench: setup ## Measure speed and memory; writes docs/benchmarks.md.
	$(BIN)/python benchmarks/run.py

schema: setup ## Write the JSON schema of config.yaml, and which models transformers loads.
	$(BIN)/python scripts/schema.py > docs/config.schema.json
	$(BIN)/python scripts/natives.py

clean: ## Remove results, logs and caches; the virtual environment stays.
	rm -rf results logs .snakemake report.html .pytest_cache .mypy_cache .ruff_cache
