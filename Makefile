PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench clean

demo: .venv/installed
	$(BIN)/gatescope demo --out runs/demo

# One thread a process: the models are tiny, and as many processes as cores. Files are begun in the order that tests/conftest.py
# gives them, the longest first. Bytecode is written, even where the environment says not to: a hundred processes would otherwise
# compile the package each for itself.
test: .venv/installed
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist loadfile --no-loadscope-reorder

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(MAKE) test

bench: .venv/installed
	@for file in $(filter-out $(addprefix benchmarks/,common.py shapes.py synthetic.py jsonl.py report_page.py open_run.py),$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file --preset toy --device cpu || exit 1; done
	@for file in benchmarks/jsonl.py benchmarks/report_page.py benchmarks/open_run.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# Everything either command needs, once, and again when the dependencies change. uv unpacks several gigabytes of torch in
# a fifth of pip's time; pip takes over where uv cannot reach the index that pip is configured for. Bytecode is compiled at once,
# by all cores: later, processes that begin together would each compile the same. But not the half of it that is never imported.
SELDOM := /(tests?|testing|models|rllib|tune|train|serve|llm|dashboard)/|/(wandb|nltk|plotly|sklearn|networkx|pip|setuptools|fontTools)/
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gatescope needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]' || $(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)' .venv/lib || true
	touch .venv/installed

clean:
	rm -rf .venv
