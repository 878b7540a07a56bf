# Needs python3 (3.10 or newer, with venv) and g++; everything else is installed into folders of this checkout.
PYTHON ?= python3
TOOLS = .venv-tools
NOX = $(TOOLS)/bin/nox --non-interactive

.PHONY: test test-thorough docs fuzz test-sanitized test-aarch64 lint demo demo-web demo-ort-training demo-distributed gpu-check clean

SESSIONS = test stranger fuzz exchange deployment variants cuda_kernels cuda test_pure_python torch docs

test: $(TOOLS)/ready
	$(NOX) --session $(SESSIONS)

# Every case of every test in every environment that repeats them, every engine of replicas: an hour on two cores.
test-thorough: $(TOOLS)/ready
	$(NOX) --session $(SESSIONS) sanitized -- thorough

# 20,000 mutated models and 20,000 hostile calls; `make test` tries as many as there is time for in 20 seconds.
fuzz: $(TOOLS)/ready
	$(NOX) --session fuzz -- long

# The processor's kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.
test-sanitized: $(TOOLS)/ready
	$(NOX) --session sanitized

# The kernels for AArch64: minutes of compiling for what rarely breaks.
test-aarch64: $(TOOLS)/ready
	$(NOX) --session aarch64

# The site of docs/, in build/site.
docs: $(TOOLS)/ready
	$(NOX) --session docs

lint: $(TOOLS)/ready
	$(NOX) --session lint

demo: $(TOOLS)/ready
	$(NOX) --session demo

# With npm, and Debian's chromium and chromium-driver.
demo-web: $(TOOLS)/ready
	$(NOX) --session demo-web

demo-ort-training: $(TOOLS)/ready
	$(NOX) --session demo-ort-training

demo-distributed: $(TOOLS)/ready
	$(NOX) --session demo-distributed

# On a machine with a GPU, nvcc, and PyTorch in $(PYTHON).
gpu-check:
	$(PYTHON) tests/gpu/check.py

$(TOOLS)/ready:
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet 'nox[uv]>=2025.2.9'
	touch $@

clean:
	rm -rf $(TOOLS) .venv-gpu .nox build dist demo-web
