"""Shared by all tests: real data where there are any, small models, and a real MLflow server."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


BACKEND = keras.backend.backend()
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")
traced_only = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs eagerly, nothing is traced")


@pytest.fixture
def test_data():
    """The folder of real mammograms and old model files, or a skip."""
    folder = os.environ.get("KERAS_EXPLAIN_TEST_DATA")
    if not folder:
        pytest.skip("KERAS_EXPLAIN_TEST_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def small_cnn(head="softmax", classes=3, size=8, channels=1, seed=0, normalise=False):
    """A small convolutional classifier with random weights and biases, the same on every backend."""
    keras.utils.set_random_seed(seed)
    random = np.random.default_rng(seed)
    wide = keras.initializers.RandomNormal(0, 0.5)  # that they have initializers at all is what some tests look at
    bias = keras.initializers.RandomNormal(0, 0.3)
    first = layers.Conv2D(6, 3, activation="relu", bias_initializer=bias)
    second = layers.Conv2D(6, 3, bias_initializer=bias)
    dense = layers.Dense(classes, head, kernel_initializer=wide)
    body = [first, *([layers.BatchNormalization()] if normalise else []), second, layers.ReLU(), layers.Flatten()]
    model = keras.Sequential([keras.Input((size, size, channels)), *body, dense])
    for layer, spread in ((first, 0.3), (second, 0.2), (dense, 0.5)):
        shapes = [weight.shape for weight in layer.get_weights()]
        layer.set_weights([random.normal(0, spread, shapes[0]), random.normal(0, 0.3, shapes[1])])
    return model


def outputs(model, images):
    """What a model gives, as NumPy has it."""
    return keras.ops.convert_to_numpy(model(images, training=False))


def linear_model(weights, bias=None):
    """Softmax over z = x W + b on flat images (n, d): every attribution is known in closed form."""
    weights = np.asarray(weights, "float32")
    model = keras.Sequential([keras.Input((len(weights),)), layers.Dense(weights.shape[1], activation="softmax")])
    model.set_weights([weights, np.zeros(weights.shape[1]) if bias is None else np.asarray(bias)])
    return model


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    """A fit that a test has interrupted is not closed, and told of, in the next test."""
    yield
    publishing = sys.modules.get("keras_explain.callbacks.publishing")
    if publishing is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            publishing.close_abandoned(at_exit=True)


@pytest.fixture
def table(request):
    """Adds a row to the table of faults at the end of the run."""

    def add(*row):
        request.node.user_properties.append(("fault", row))

    return add


def pytest_terminal_summary(terminalreporter):
    ended = [one for found in terminalreporter.stats.values() for one in found if getattr(one, "when", None) == "call"]
    rows = [row for one in ended for name, row in one.user_properties if name == "fault"]
    if rows:
        rows = [("fault", "what happened to training", "what was stored", "lost", "doubled"), *rows]
        widths = [max(len(str(row[k])) for row in rows) for k in range(5)]
        terminalreporter.section("faults")
        for row in rows:
            cells = [str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)]
            terminalreporter.write_line("  ".join(cells).rstrip())


CHROMIUM = shutil.which("chromium")


@pytest.fixture
def browser():
    """Headless Chromium that says nothing to the world outside, or a skip."""
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium on the path")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield running
        running.close()


def wait_for(url, seconds=60):
    """Until a server on this machine answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(f"{url} does not answer")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """The address of a real MLflow server on a loopback port."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "store"),
    ]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


@pytest.fixture
def server(mlflow_server, monkeypatch, tmp_path_factory):
    """A client of the real server, at which the fluent API points too until the test is over, in an empty folder."""
    import mlflow

    monkeypatch.chdir(tmp_path_factory.mktemp("here"))

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_server)
    yield mlflow.MlflowClient(mlflow_server)
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
