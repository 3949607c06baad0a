# Every target sets up what it needs itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The containers: WITH adds layers (make up WITH="gpu observability"), compose.override.yaml is yours.
LAYERS := $(WITH:%=deploy/compose/compose.%.yaml) $(wildcard deploy/compose/compose.override.yaml)
COMPOSE := docker compose -f deploy/compose/compose.yaml $(LAYERS:%=-f %)

VLLM := .venv-vllm
SINKS := .venv-sinks
TRL := .venv-trl
CLIENTS := .venv-clients
# vLLM leaves a socket of its own to the collector, which complains after the last test.
LATE := default::pytest.PytestUnraisableExceptionWarning

.PHONY: help setup docs demo test test-vllm test-clients test-sinks check format bench bench-trl screenshots chaos outages up down logs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(VENV)/.done  ## create .venv with the triune command

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[local,torch,deepspeed,lora,8bit,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps sphinxcontrib-katex
	touch $@

demo: setup  ## train a tiny VLM on eight tasks on this machine (embedded NATS and Redis)
	$(BIN)/triune demo

test: setup  ## all tests that need no GPU
	$(BIN)/pytest

test-vllm: setup $(VLLM)/.done  ## the vllm engine on a CPU, alone and in the whole loop, in an environment of its own
	PYTHONPATH=services/rollout/engines/vllm/site $(VLLM)/bin/pytest -m vllm -W $(LATE) tests/rollout/test_vllm.py tests/models/test_processors.py
	$(BIN)/pytest -m vllm tests/loop/test_vllm_loop.py

test-sinks: $(SINKS)/.done  ## every sink with its real library, in an environment of its own
	$(SINKS)/bin/pytest tests/monitor/test_sinks.py

$(SINKS)/.done: pyproject.toml
	$(PYTHON) -m venv $(SINKS)
	$(SINKS)/bin/pip install --quiet --disable-pip-version-check --editable '.[tensorboard,wandb,mlflow,trackio]' pytest pytest-asyncio pytest-timeout hypothesis
	touch $@

$(VLLM)/.done: pyproject.toml requirements-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --retries 10 --no-deps --requirement requirements-vllm.txt
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --retries 10 --no-deps --editable .
	touch $@

test-clients: setup $(CLIENTS)/.done  ## five trainers' own reward clients against one server, in an environment of their own
	$(CLIENTS)/bin/pytest -c clients/pyproject.toml clients/tests

$(CLIENTS)/.done: requirements-clients.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-clients.txt
	touch $@

check: setup  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## bring the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## the documentation as a site in site/; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: setup  ## the numbers of docs/performance.md, as JSON lines
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench

bench-trl: setup $(TRL)/.done  ## the whole loop against TRL's GRPOTrainer, in an environment of its own
	$(BIN)/python -m bench.against_trl --python $(TRL)/bin/python

# torchvision for TRL's processor, without what it asks for: its wheel fits this torch and no other.
$(TRL)/.done: constraints.txt
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt trl==1.16.0 datasets pillow
	$(TRL)/bin/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	touch $@

screenshots: setup  ## the pictures of the page in docs/page/, from the test that looks at every view
	SCREENSHOTS=docs/page $(BIN)/pytest tests/monitor/test_page_walk.py -k every_view

chaos: setup  ## deaths and outages by seed against real jobs: make chaos SEEDS=50 [AGAINST=runs/ID]
	$(BIN)/python -m tests.chaos --seeds $(or $(SEEDS),2) $(AGAINST:%=--against %)

outages: setup  ## blob store, NATS and Redis away for SECONDS each in the middle of a job: make outages SECONDS="60 600"
	$(BIN)/python -m tests.chaos.outages --seconds $(or $(SECONDS),60)

up: deploy/compose/.env  ## the whole system in containers; SCALE="--scale reward=4" for more replicas
	$(COMPOSE) up --build --detach --wait $(SCALE)

deploy/compose/.env:
	umask 077 && sh deploy/compose/write-env.sh > $@

down: deploy/compose/.env  ## stop the containers and remove their volumes
	$(COMPOSE) --profile '*' down --volumes --remove-orphans

logs: deploy/compose/.env  ## follow the containers' logs
	$(COMPOSE) logs --follow

clean:  ## remove what the targets above have made
	rm -rf site $(VENV) $(VLLM) $(SINKS) $(CLIENTS) $(TRL) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
