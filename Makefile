# Everything happens in .venv, made at first use from the python3 on the path (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2
# Two tests at once: much of a test is tracing, on one core.
PYTEST := $(BIN)/pytest -n 2 --dist worksteal

# What JAX and PyTorch run of the suite where TensorFlow runs all of it; a ResNet50 alone takes a minute to compile.
CORE := tests/test_backends.py tests/test_explainers.py tests/test_outputs.py tests/test_rules.py tests/test_cam.py \
	tests/test_masking.py tests/test_peers.py \
	tests/test_top_confidence.py::test_the_running_best_are_those_of_sorting_everything \
	tests/test_top_confidence.py::test_a_round_takes_its_images_from_the_metric \
	tests/test_callback.py::test_a_seeded_training_is_the_same_to_the_bit_with_and_without \
	tests/test_callback.py::test_layers_that_draw_and_count_at_inference_are_put_back \
	tests/test_callback.py::test_what_a_round_keeps tests/test_callback.py::test_later_rounds_compile_nothing_new \
	--deselect tests/test_peers.py::test_completeness_of_integrated_gradients_on_resnet50 \
	--deselect tests/test_outputs.py::test_seed_architecture_with_a_nested_resnet50

.PHONY: install backends demo check test test-core test-all test-distributed test-faults soak fuzz docs screenshots bench clean

install: .venv/installed

backends: .venv/backends

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[tensorflow,dev]"
	touch $@

.venv/backends: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[backends]"
	touch $@

demo: install
	$(BIN)/keras-explain demo

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: install
	$(PYTEST) -m "not slow"

test-core: backends
	KERAS_BACKEND=jax $(PYTEST) -m "not slow" $(CORE)
	KERAS_BACKEND=torch $(PYTEST) -m "not slow" $(CORE)

test-all: backends
	KERAS_BACKEND=tensorflow $(PYTEST)
	KERAS_BACKEND=jax $(PYTEST)
	KERAS_BACKEND=torch $(PYTEST)

# Several devices, several processes, and Ray with a worker that is killed.
test-distributed: backends
	$(BIN)/pytest tests/test_distributed.py tests/test_sharded.py
	KERAS_BACKEND=jax $(BIN)/pytest tests/test_distributed.py
	KERAS_BACKEND=torch $(BIN)/pytest tests/test_distributed.py

# Every fault against real processes, with a table of what was stored, lost and doubled; minutes.
test-faults: install
	$(PYTEST) tests/test_faults.py tests/test_trouble.py tests/test_no_trace.py tests/test_hostile.py

soak: install
	$(BIN)/python -m benchmarks.soak

fuzz: install
	$(BIN)/python -m benchmarks.fuzz

# Into site/; and the pictures in it anew, which takes minutes and Debian's chromium.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: install
	$(BIN)/python docs/screenshots.py

# Peers whose pins ask for an older TensorFlow.
.peers/installed:
	$(PYTHON) -m venv .peers
	.peers/bin/pip install --quiet "tensorflow-cpu<2.21" xplique tf-explain opencv-python-headless tensorboard
	touch $@

bench: install .peers/installed
	$(BIN)/python -m benchmarks --peers .peers/bin/python
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.overhead

clean:
	rm -rf .venv .peers build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
