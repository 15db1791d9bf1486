# Each target sets up what it needs in $(VENV), once; tools/setup-venv says how.
#   make demo                            the main job on the embedded pair
#   make PYTHON=python3.12 VENV=env test another interpreter, another place

VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python

.PHONY: help demo demo-text test test-all lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       guided decoding on the embedded pair: one transcript and a c x k table"
	@echo "make demo-text  the same on real language, with SmolLM2-135M"
	@echo "make test       ruff, mypy and pytest"
	@echo "make test-all   the same, and every kernel compiled at every shape (many minutes)"
	@echo "make lint       ruff and mypy"
	@echo "make clean      remove caches and build outputs; $(VENV) and runs/ stay"

demo: $(VENV)/.stamp-runtime
	@$(RUN) -m dodona demo

demo-text: $(VENV)/.stamp-runtime $(VENV)/.stamp-text
	@$(RUN) -m dodona demo --text

test: lint $(VENV)/.stamp-text
	$(RUN) -m pytest

test-all: test
	$(RUN) -m pytest -m exhaustive

lint: $(VENV)/.stamp-test
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bench dodona engine eval kernels tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-%: setup.py tools/setup-venv
	@PYTHON="$(PYTHON)" tools/setup-venv "$(VENV)" $*
