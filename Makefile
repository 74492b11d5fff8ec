# Two commands on a fresh machine: `make quickstart` runs the main job, `make test` runs the checks.
PYTHON ?= python3
BIN := .venv/bin
CHROMIUM ?= /usr/lib/chromium
# Engines whose file formats an export can add; each has its own environment.
ENGINES := openvino-ir litert executorch
# Each test file runs in one worker, because its tests share servers and models; long files first.
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile \
	--no-loadscope-reorder
HERE := not optimum and not provider and not application and not infinity and not sample
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help quickstart test ci demo evidence lint format types contracts unit full slow rest optimum devices applications matrix \
	clients samples docs clean

help:
	@echo "make quickstart   distil, export to int8, compare (installs into .venv first)"
	@echo "make demo         serve the comparison page"
	@echo "make evidence     repeat all benchmarks that two cores can run (several nights), write the tables"
	@echo "make test         lint, types, import contracts, tests (installs into .venv first)"
	@echo "make ci           the same with slow tests, and make optimum, in one run"
	@echo "make slow         all tests, with 20,000 fuzz inputs per reader (hours)"
	@echo "make rest         only the slow tests that make test leaves out"
	@echo "make optimum      tests with optimum, in a separate environment"
	@echo "make devices      tests with other builds of onnxruntime, compilers for NPUs, and the engines of"
	@echo "                  --target openvino, litert and executorch, each in a separate environment"
	@echo "make applications tests that open a student in other Python packages, in separate environments"
	@echo "make matrix       oldest and newest versions, oldest and newest Python, base and all (hours)"
	@echo "make clients      install npm packages for tests that open a bundle in Node and Chromium"
	@echo "make samples      test the applications of demo/ that need cc, Java or a bundler (240 MB to download)"
	@echo "make docs         build the documentation site, strictly and offline, into build/site"
	@echo "make format       format the code"

quickstart: .venv/.installed-all
	$(BIN)/tinyclip-edge quickstart
	@echo "to put tinyclip-edge on the PATH of this shell: . $(BIN)/activate"

demo: .venv/.installed-all
	$(BIN)/tinyclip-edge demo

# make evidence JOBS="--only half quarter --minutes 480"; JOBS=--list prints them.
evidence: .venv/.installed-dev
	$(BIN)/python benchmarks/evidence.py $(JOBS)

# Two jobs: the type checks take one core for a minute, and the tests start meanwhile.
test: .venv/.installed-dev
	$(MAKE) --jobs=2 --keep-going lint types contracts unit

# A single run collects the tests once, and no core idles between the quick and the slow tests.
ci: .venv/.installed-dev
	$(MAKE) --jobs=2 --keep-going lint types contracts full optimum

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev
	$(BIN)/mypy

contracts: .venv/.installed-dev
	$(BIN)/lint-imports

unit: .venv/.installed-dev
	$(PYTEST) -m "not slow and not hours and not gpu and $(HERE)"

full: .venv/.installed-dev
	$(PYTEST) -m "not gpu and not hours and not excerpt and $(HERE)"

slow: .venv/.installed-dev
	$(PYTEST) -m "not excerpt and $(HERE)"

rest: .venv/.installed-dev
	$(PYTEST) -m "slow and not gpu and not hours and $(HERE)"

# optimum-onnx needs older versions of some packages. pip warns that gradio needs a newer
# huggingface_hub than this environment has; these tests do not use gradio.
optimum: .venv/.installed-optimum
	.venv/optimum/bin/python -m pytest -m optimum tests/parity/test_optimum.py

# WebGPU runs in software, on Chromium's SwiftShader.
devices: .venv/.installed-openvino .venv/.installed-webgpu .venv/.installed-native \
		$(ENGINES:%=.venv/.installed-%)
	.venv/native/bin/python -m pytest -m provider tests/parity/test_native_engines.py
	.venv/openvino/bin/python -m pytest -m provider tests/parity/test_real_devices.py
	LD_LIBRARY_PATH=$(CHROMIUM) VK_ICD_FILENAMES=$(CHROMIUM)/vk_swiftshader_icd.json \
		.venv/webgpu/bin/python -m pytest -m provider -k "not openvino" tests/parity/test_real_devices.py
	for engine in $(ENGINES); do \
		.venv/$$engine/bin/python -m pytest -m provider tests/parity/test_engine_files.py || exit 1; done

applications: .venv/.installed-applications .venv/.installed-infinity
	.venv/applications/bin/python -m pytest -m application tests/applications
	.venv/infinity/bin/python -m pytest -m infinity tests/applications

# make matrix LEGS="newest-3.14-all lowest-3.10-base"
matrix: .venv/bin/uv
	$(BIN)/python .ci/matrix.py --uv $(BIN)/uv $(LEGS)

clients: tests/clients/node_modules/.installed

# Needs cc, libcjson-dev, libstb-dev, libpython, libandroid-json-org-java and Java. onnxruntime's C header comes from
# its package for Unity, Kotlin's compiler and esbuild from their own npm packages; these are unpacked, not installed.
samples: .venv/.installed-samples build/samples/.unpacked
	.venv/samples/bin/python -m pytest -m sample tests/samples

docs: .venv/.installed-dev
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache tests/clients/node_modules

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info < (3, 15) else "tinyclip-edge needs Python 3.10 to 3.14; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/.installed-all: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet --editable ./tinyclip_starter --editable '.[all]'
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet --editable ./tinyclip_starter --editable '.[dev]'
	@touch $@ .venv/.installed-all

# Packages whose versions conflict with those in .venv. Each gets an environment that is searched first, with .venv's
# packages behind it.
FRONT_optimum := --editable '.[optimum]'
FRONT_applications := --editable '.[extensions]' fastembed sentence-transformers
FRONT_samples := --editable '.[extensions]'
FRONT_infinity := 'infinity-emb[torch]' aiohttp
FRONT_openvino := onnxruntime-openvino
FRONT_webgpu := onnxruntime-webgpu
FRONT_native := --editable '.[qnn,coreml]'
FRONT_openvino-ir := --editable '.[openvino]'
FRONT_litert := --editable '.[litert]'
FRONT_executorch := --editable '.[executorch]'

.venv/.installed-optimum .venv/.installed-openvino .venv/.installed-webgpu .venv/.installed-native \
		.venv/.installed-applications .venv/.installed-infinity .venv/.installed-samples \
		$(ENGINES:%=.venv/.installed-%): \
		.venv/.installed-%: .venv/.installed-dev
	$(BIN)/python -m venv .venv/$*
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $$(.venv/$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beneath.pth
	.venv/$*/bin/python -m pip install --quiet $(FRONT_$*)
	@touch $@

.venv/bin/uv: | .venv/bin/python
	$(PIP) install --quiet 'uv>=0.9'

HEADERS := com.github.asus4.onnxruntime@0.4.9
KOTLIN := kotlin-compiler@2.4.20
ESBUILD := @esbuild/linux-x64@0.25.0

build/samples/.unpacked: Makefile
	rm -rf build/samples && mkdir -p build/samples
	cd build/samples && npm pack --silent $(HEADERS) $(KOTLIN) $(ESBUILD) > packages.txt
	cd build/samples && tar xzf com.github.asus4.onnxruntime-*.tgz --wildcards --transform='s|.*/|include/|' \
		'*/ios-arm64_x86_64-simulator/onnxruntime.framework/Headers/*.h'
	cd build/samples && mkdir kotlin esbuild && tar xzf kotlin-compiler-*.tgz -C kotlin --strip-components=1 \
		&& tar xzf esbuild-linux-x64-*.tgz -C esbuild --strip-components=1 && rm *.tgz
	@touch $@

tests/clients/node_modules/.installed: tests/clients/package.json tests/clients/.npmrc
	cd tests/clients && npm install --silent
	@touch $@
