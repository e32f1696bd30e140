# One virtual environment for everything; scripts/bootstrap.py makes it and keeps it current.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
RUN := $(VENV)/bin

# A variable named on make's command line would reach the programs too: tinygrad, say, reads PYTHON.
unexport PYTHON VENV OUT PYTEST_ARGS TEST_WORKERS BENCH_ARGS CLIENTS_ARGS

.PHONY: help setup-python setup-demo setup-test demo test pythons check gen bench clients clean distclean

help: ## these lines
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup-python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found. Install: apt-get install python3 python3-venv" >&2; exit 2; }

setup-demo: setup-python
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) demo

setup-test: setup-python
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) demo test clients

demo: setup-demo ## set up; run the detector on an image through an offload server; save the picture
	@$(RUN)/rrto demo --output $(OUT)/demo

test: setup-test ## set up; run the tests
	@$(RUN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

pythons: setup-python ## set up each Python 3.10 to 3.13 that is there (.venvs); run the unit tests in each
	@$(PYTHON) scripts/pythons.py -- $(PYTEST_ARGS)

check: setup-test ## set up; ruff (rules and format), mypy, generated code, import order
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/python -m rrto_ros.shim.generate --check
	@$(RUN)/python -m rrto_ros.devices.cpu.support --check
	@$(RUN)/python -m rrto_ros.bringup.parameter_pages --check
	@$(RUN)/python -m pytest -q -p no:cacheprovider test/unit/test_layers.py

gen: setup-test ## make the generated files anew (fetches the CUDA headers from PyPI)
	@$(RUN)/python -m rrto_ros.shim.generate
	@$(RUN)/python -m rrto_ros.devices.cpu.support
	@$(RUN)/python -m rrto_ros.bringup.parameter_pages

bench: setup-test ## set up; measure the shim and the transport
	@$(RUN)/python bench/run_all.py $(BENCH_ARGS)

clients: setup-test ## set up; run CUDA programs of others from PyPI, write docs/clients.md
	@$(RUN)/python bench/clients.py --work $(OUT)/clients $(CLIENTS_ARGS)

clean: ## remove what was built and written, not the environment
	rm -rf build install log out .pytest_cache .mypy_cache .ruff_cache .hypothesis rrto_ros.egg-info rrto_ros/shim/lib
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV) .venvs .ci/venv
