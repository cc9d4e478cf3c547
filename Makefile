# make train      set up, then train on the embedded digits       (ARGS="--config ... key=value" for anything else)
# make test       set up, then run all tests                      (ARGS="-k name" for some)
# make test-fast  half of the tests, which take a few minutes together
# make quality    check style;  make style  mend what it finds

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := modeling_perceiver_study scripts tests

.PHONY: train test test-fast quality style
.DELETE_ON_ERROR:

train: $(VENV)/installed
	$(BIN)/accelerate launch scripts/train.py $(ARGS)

test: $(VENV)/installed
	$(BIN)/python tests/fetch_transformers_tests.py
	$(BIN)/python -m pytest -n auto $(ARGS)

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -n auto -m "not slow" $(ARGS)

quality: $(VENV)/installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

style: $(VENV)/installed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@
