# make demo   sets everything up and labels the shipped sample
# make test   sets everything up, lints, checks types and runs the tests against the installed wheel
# make check  make test without installing anything but the package itself
# make reliability   runs the tests behind docs/reliability.md, the slow ones too
# make audit  asks a service on the network for advisories of every pinned library
# make experiment   tunes an annotator and runs the experiment of docs/experiment.md; hours, it can be stopped
# make report   measures the matrix of docs/report/matrix.toml; needs models/ and data/ as docs/benchmarks.md says

PYTHON ?= python3
VENV ?= .venv
EXPERIMENT_OUT ?= experiment
REPORT_OUT ?= report
# the parts of llama.cpp that run texts, less than half of the compilation; give CMAKE_ARGS for another build (a GPU's)
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/.ci/llama.cmake
PIP = $(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: demo test reliability audit experiment report check install clean

demo: install
	$(VENV)/bin/pairgrade demo

test: install
	$(PIP) '.[all]'
	$(MAKE) check

reliability: install
	$(PIP) '.[all]'
	PAIRGRADE_LONG=1 $(VENV)/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m reliability

audit: install
	$(PIP) pip-audit
	$(VENV)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

experiment:
	@test -n "$(EXPERIMENT_DATA)" -a -n "$(ZERO_SHOT)" || \
		{ echo 'give EXPERIMENT_DATA=FOLDER ZERO_SHOT=MODEL, as docs/experiment.md says'; exit 2; }
	$(MAKE) install
	$(PIP) '.[rerank,train,onnx]'
	$(if $(TUNED),,$(MAKE) $(call TUNED_ON,trecdl20)/int8)
	$(if $(BOTH_WAYS),$(if $(TUNED_BACK),,$(MAKE) $(call TUNED_ON,trecdl19)/int8))
	$(VENV)/bin/python -m pairgrade.bench.experiment --data $(EXPERIMENT_DATA) --out $(EXPERIMENT_OUT) \
		--train trecdl20 --test trecdl19 --other cranfield antique_test --annotator-as-ranker --zero-shot $(ZERO_SHOT) \
		$(if $(TUNED),--tuned $(TUNED),$(call GIVEN,--tuned,--held-out,trecdl20)) \
		$(if $(BOTH_WAYS)$(TUNED_BACK),--both-ways \
		$(if $(TUNED_BACK),--tuned-back $(TUNED_BACK),$(call GIVEN,--tuned-back,--held-out-back,trecdl19))) \
		$(EXPERIMENT_OPTIONS)

TUNED_ON = $(EXPERIMENT_OUT)/tuned/$(1)
GIVEN = $(1) $(call TUNED_ON,$(3))/int8 $(2) $(call TUNED_ON,$(3))/adapter/held-out.qrels
TEXTS = --queries $(EXPERIMENT_DATA)/$(1)/queries.jsonl --docs $(EXPERIMENT_DATA)/$(1)/docs.jsonl

# an annotator tuned on a collection; each of the three folders appears whole, and a stopped training goes on
$(EXPERIMENT_OUT)/tuned/%/int8:
	mkdir -p $(@D)
	test -d $(@D)/adapter || $(VENV)/bin/pairgrade train $(EXPERIMENT_DATA)/$*/qrels.txt $(call TEXTS,$*) \
		--base $(ZERO_SHOT) --out $(@D)/adapter $(TRAIN_OPTIONS)
	test -d $(@D)/annotator || $(VENV)/bin/pairgrade merge $(@D)/adapter --out $(@D)/annotator
	$(VENV)/bin/pairgrade export $(@D)/annotator --to onnx --quant int8 --out $@ --allow-below-floor \
		--calibration-pairs $(EXPERIMENT_DATA)/$*/qrels.txt $(call TEXTS,$*)

report:
	@test -d models -a -d data/trecdl19 || { echo 'make models/ and data/trecdl19, as docs/benchmarks.md says'; exit 2; }
	$(MAKE) install
	$(PIP) '.[all,peers]'
	$(VENV)/bin/pairgrade bench --matrix docs/report/matrix.toml --out $(REPORT_OUT)

check:
	rm -rf build
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps --force-reinstall .
	bash .ci/check $(VENV)

# without what an earlier build left: a module that is gone would be installed again
install: $(VENV)/installed
	rm -rf build
	$(PIP) --no-deps --force-reinstall .

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo 'installing; llama.cpp is compiled for this machine, which takes some minutes'
	$(PIP) '.[demo]'
	touch $@

clean:
	rm -rf build dist *.egg-info $(VENV)
