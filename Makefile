# Two commands on a fresh machine: `make quickstart` runs the main job, `make test` runs the checks.
PYTHON ?= python3
BIN := .venv/bin
CHROMIUM ?= /usr/lib/chromium
# Environments of the engines whose own files an export can add.
ENGINES := openvino-ir litert executorch
# A file is one worker's, with the servers and models its tests share; long files come first.
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile \
	--no-loadscope-reorder
HERE := not optimum and not provider and not application and not infinity and not sample
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help quickstart test ci demo evidence lint format types contracts unit full slow rest optimum devices applications matrix \
	clients samples docs clean

help:
	@echo "make quickstart   distil, export to int8, compare (installs into .venv first)"
	@echo "make demo         serve the comparison page"
	@echo "make evidence     measure again what two cores can in some nights, and write the tables"
	@echo "make test         lint, types, import contracts, tests (installs into .venv first)"
	@echo "make ci           the same with slow tests, and make optimum, in one run"
	@echo "make slow         all tests, 20,000 fuzz inputs a reader as well (hours); make rest: slow ones alone"
	@echo "make optimum      the tests beside optimum, in an environment of their own"
	@echo "make devices      the tests of other builds of onnxruntime, of NPUs' compilers, and of"
	@echo "                  the engines of --target openvino, litert and executorch, likewise"
	@echo "make matrix       oldest and newest versions, oldest and newest Python, base and all (hours)"
	@echo "make applications the tests that open a student in other people's Python packages, likewise"
	@echo "make clients      npm packages for the tests that open a bundle in Node and in Chromium"
	@echo "make samples      the applications of demo/ that need cc, Java or a bundler (240 MB of packages)"
	@echo "make docs         build the documentation site, strictly and offline, into build/site"
	@echo "make format       format the code"

quickstart: .venv/.installed-all
	$(BIN)/tinyclip-edge quickstart
	@echo "once per shell, so that tinyclip-edge is found by its name: . $(BIN)/activate"

demo: .venv/.installed-all
	$(BIN)/tinyclip-edge demo

# make evidence JOBS="--only half quarter --minutes 480"; JOBS=--list prints them.
evidence: .venv/.installed-dev
	$(BIN)/python benchmarks/evidence.py $(JOBS)

# The checks of types take a minute of one core, in which the tests have begun.
test: .venv/.installed-dev
	$(MAKE) --jobs=2 --keep-going lint types contracts unit

# One run of all tests collects them once, and no core waits at the end of the first half.
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

# optimum-onnx wants older copies of some packages. That gradio goes with a newer hub, as pip says
# then, is true there: the tests do without.
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

# Needs cc, libcjson-dev, libstb-dev, libpython, libandroid-json-org-java and Java. onnxruntime's C header is in its package
# for Unity, Kotlin's compiler and esbuild in packages of their own; none is installed, they are only unpacked.
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

# Environments of what cannot stand beside the packages of .venv, in front of those.
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
