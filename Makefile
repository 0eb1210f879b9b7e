# make demo   sets everything up and labels the shipped sample
# make test   sets everything up, lints, checks types and runs the tests against the installed wheel
# make reliability   runs the tests behind docs/reliability.md, the slow ones too
# make check  the same without installing anything but the package itself

PYTHON ?= python3
VENV ?= .venv
PROMISES = run hostile_input tokenizer folder_tokenizer llama annotator onnx_backend atomic journal prompt spool lock \
	gguf_export merge pipeline worker advisories
PIP = $(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: demo test reliability check install clean

demo: install
	$(VENV)/bin/pairgrade demo

test: install
	$(PIP) '.[all]'
	$(MAKE) check

reliability: install
	$(PIP) '.[all]'
	$(VENV)/bin/python -m pytest -q tests/reliability $(addprefix tests/test_,$(addsuffix .py,$(PROMISES)))

check:
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps --force-reinstall .
	bash .ci/check $(VENV)

install: $(VENV)/installed
	$(PIP) --no-deps --force-reinstall .

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo 'installing; llama.cpp is compiled for this machine, which takes some minutes'
	$(PIP) '.[demo]'
	touch $@

clean:
	rm -rf build dist *.egg-info $(VENV)
