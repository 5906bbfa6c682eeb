"""A layer of TensorFlow that fails while it runs, as real models do: by an error, or by memory that runs out."""

import contextlib
import os
import subprocess
import sys

import keras
import tensorflow as tf

RAISES, RUNS_OUT = 2.0, 1.0
_HUGE = 2**43  # numbers of 8 bytes, which no machine has


@keras.saving.register_keras_serializable("tests")
class Faulty(keras.layers.Layer):
    """Passes its input on, as long as `fault` is 0."""

    def build(self, shape):
        self.fault = self.add_weight(shape=(), initializer="zeros", trainable=False, dtype="float32", name="fault")

    def call(self, x):
        fault = tf.cast(tf.convert_to_tensor(self.fault), "float32")
        with tf.control_dependencies([tf.debugging.assert_none_equal(fault, RAISES, message="the layer fails")]):
            size = tf.cast(tf.equal(fault, RUNS_OUT), "int64") * _HUGE
            return x + tf.cast(tf.reduce_sum(tf.range(size)), x.dtype)


class Failing:
    """An explainer during which the model fails.

    Args:
        inner: what explains.
        fault: 0, RAISES or RUNS_OUT.
    """

    def __init__(self, inner, fault):
        self.inner, self.fault, self.method = inner, fault, inner.method

    def explain(self, scorer, samples):
        with failing(scorer.model, self.fault):
            return self.inner.explain(scorer, samples)


@contextlib.contextmanager
def failing(model, fault):
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, Faulty)]
    for layer in layers:
        layer.fault.assign(fault)
    try:
        yield
    finally:
        for layer in layers:
            layer.fault.assign(0.0)


def memory_runs_out_at_once(request):
    """False in a process in which it does not: then the test has been run in one in which it does.

    With oneDNN, TensorFlow waits ten seconds for memory to become free before it gives up.
    """
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return True
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid]
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    folder = request.config.rootpath
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "1 passed" in done.stdout
    return False
