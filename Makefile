# Needs Python 3.11 or newer, make, and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-avx2 test-lowest test-lowest-part test-gpu lint format docs browser wheel clean

# A study of twenty small trainings, two side by side on two cores. Its seeds chose nothing: see benchmarks/demo.py.
demo: .venv/installed
	rm -rf runs/demo
	mkdir -p runs/demo
	OMP_NUM_THREADS=1 $(BIN)/coterie study demo --out runs/demo/results.json --runs runs/demo/runs
	$(BIN)/coterie report runs/demo/results.json --out runs/demo/report.html

# One thread a process: small networks gain nothing from more, and the processes take the cores.
test: .venv/installed-for-tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests

# As on a processor without AVX-512: other kernels, another layout of memory. One process, at most 90 seconds.
test-avx2: .venv/installed-for-tests
	ONEDNN_MAX_CPU_ISA=AVX2 COTERIE_TEST_PRECISION=fp32 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m processor tests

# With the lowest versions that pyproject.toml allows; `make test` has the newest.
test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 tests

# Of that, what calls each library: at most 4 minutes.
test-lowest-part: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 -m "libraries or processor" tests

test-gpu: .venv/installed-for-tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu tests

# Chromium from Debian's packages, in which the tests open the page of `coterie serve`; without one they are skipped.
browser:
	apt-get update --quiet && apt-get install --yes --no-install-recommends chromium

lint: .venv/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-for-tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in site/. Every warning is an error: a link, an anchor or a name of the reference that leads nowhere.
docs: .venv/installed-for-docs
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The wheel and the sdist, in dist/, built in an environment of their own. pip install 'dist/NAME.whl[EXTRA]' installs it.
wheel: .venv/installed-for-tests
	$(BIN)/python -m build

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "coterie needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[studies]'  # what the demo needs
	@touch $@

.venv/installed-for-tests: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ .venv/installed

# The test tools too: signatures in the reference are set by ruff.
.venv/installed-for-docs: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test,docs]'
	@touch $@ .venv/installed .venv/installed-for-tests

# An environment of its own: a PyTorch with CUDA, 8 GB. Without --upgrade uv would keep the versions of an older file.
.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip compile --quiet --upgrade pyproject.toml --extra test --resolution lowest-direct \
	  --python .venv-lowest/bin/python --output-file .venv-lowest/lowest.txt
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --requirement .venv-lowest/lowest.txt
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --no-deps --editable .
	@touch $@

clean:
	rm -rf .venv .venv-lowest runs site build dist
