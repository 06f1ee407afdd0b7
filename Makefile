# Everything lives in .venv in this checkout. The stamps make a second run quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
DOCS_STAMP := $(VENV)/.installed-docs
OLDEST := .venv-oldest
OLDEST_STAMP := $(OLDEST)/.installed

.PHONY: demo test test-oldest check docs bench clean

demo: $(RUN_STAMP)
	$(BIN)/whybox demo --out whybox-demo

# Else ultralytics looks for a connection, and writes its settings into the home folder.
export YOLO_OFFLINE := true
export YOLO_CONFIG_DIR := $(CURDIR)/$(VENV)

test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# What old releases warn of about themselves: newer libraries beside them, and files that ray 2.9 leaves open.
OLD_WARNINGS := -W ignore::DeprecationWarning -W ignore::FutureWarning -W ignore::ResourceWarning

test-oldest: $(OLDEST_STAMP)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist worksteal $(OLD_WARNINGS)

check: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.detectors
	$(BIN)/python -m benchmarks.plain
	$(BIN)/python -m benchmarks.detection_transformers
	$(BIN)/python -m benchmarks.ultralytics
	$(BIN)/python -m benchmarks.perturbation
	$(BIN)/python -m benchmarks.matching
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.distillation_steps
	$(BIN)/python -m benchmarks.suppression

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[hf]'
	touch $@

# ultralytics without what it asks for: its opencv needs a window system, and its tables and plots are not used here.
$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps ultralytics ultralytics-thop opencv-python-headless
	touch $@ $(RUN_STAMP)

$(OLDEST)/bin/python:
	$(PYTHON) -m venv $(OLDEST)

$(OLDEST_STAMP): pyproject.toml constraints-oldest.txt | $(OLDEST)/bin/python
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[test]'
	touch $@

$(DOCS_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) whybox-demo site
