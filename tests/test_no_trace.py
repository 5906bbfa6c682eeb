"""Nothing is changed by explaining: every method, whether it works or fails, on every kind of model."""

import atexit
import gc
import logging
import os
import random
import re
import signal
import sys
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.explainers import METHODS
from tests.conftest import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="the layer that fails is of TensorFlow")
X = np.random.default_rng(0).random((24, 12, 12, 1), "float32")
Y = np.arange(24) % 3
FAULTS = {"normal": 0.0, "raising": 2.0, "out of memory": 1.0}


def build(policy, nested):
    """Activations as strings and as layers, batch normalization, dropout; flat, or a model within a model."""
    from tests.faulty_layer import Faulty

    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    try:
        body = [
            keras.Input((12, 12, 1)),
            Faulty(),
            layers.Conv2D(6, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(6, 3),
            layers.ReLU(),
            layers.Dropout(0.3),
        ]
        head = [layers.Flatten(), layers.Dense(3, activation="softmax", dtype="float32")]
        if nested:
            found = keras.Sequential([keras.Input((12, 12, 1)), keras.Sequential(body), *head])
        else:
            found = keras.Sequential([*body, *head])
        found.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    finally:
        keras.config.set_dtype_policy("float32")
    return found


def every_method():
    """All methods, with few evaluations."""
    small = {
        "smoothgrad": {"smooth": 3},
        "integrated_gradients": {"steps": 4},
        "gradient_shap": {"samples": 8},
        "lime": {"samples": 40, "segments": 6},
        "occlusion": {"window": 6, "stride": 6},
        "rise": {"samples": 20},
    }
    return {name: make(**small.get(name, {})) for name, make in METHODS.items()}


def of_model(model):
    found = {"trainable": [layer.trainable for layer in model._flatten_layers()]}
    found["policies"] = [layer.dtype_policy.name for layer in model._flatten_layers()]
    found["activations"] = [id(getattr(layer, "activation", None)) for layer in model._flatten_layers()]
    found["calls"] = [id(layer.call.__func__) for layer in model._flatten_layers()]
    found["losses"] = [len(layer._losses) for layer in model._flatten_layers()]
    found["layers"] = [id(layer) for layer in model._flatten_layers()]
    return found


def of_process():
    """Everything that a process shares."""
    import matplotlib
    import matplotlib.pyplot as plt
    import mlflow
    from tensorflow.python.framework import ops as registries

    gc.collect()
    loggers = {name: logger for name, logger in logging.root.manager.loggerDict.items() if hasattr(logger, "handlers")}
    return {
        "python's generator": hash(random.getstate()),
        "numpy's generator": hash(np.random.get_state()[1].tobytes()),
        "policy": keras.config.dtype_policy().name,
        "floatx": keras.config.floatx(),
        "image format": keras.config.image_data_format(),
        "custom objects": sorted(keras.saving.get_custom_objects()),
        # TensorFlow registers one for every custom gradient of a traced function, its own ones too.
        "registered gradients": [n for n in sorted(registries.gradient_registry.list()) if "CustomGradient-" not in n],
        "matplotlib": dict(matplotlib.rcParams),
        "figures": plt.get_fignums(),
        "open files": open_files(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "root handlers": list(map(id, logging.root.handlers)),
        "handlers": {name: list(map(id, logger.handlers)) for name, logger in loggers.items() if logger.handlers},
        "warnings": [str(entry) for entry in warnings.filters],
        "showwarning": id(warnings.showwarning),
        "alarm": (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)),
        "numpy's errors": np.geterr(),
        "hooks": (id(sys.excepthook), id(threading.excepthook), id(sys.stdout), id(sys.stderr)),
        "at exit": atexit._ncallbacks(),
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "mlflow run": mlflow.active_run(),
        "mlflow address": mlflow.get_tracking_uri(),
        "garbage": list(map(id, gc.callbacks)),
        "fit": id(keras.Model.fit),
    }


def open_files():
    """What the process has open, but for the fonts that matplotlib keeps once it has drawn them."""
    found = []
    for path in list(Path("/proc/self/fd").iterdir()):
        try:
            found.append(re.sub(r"\d+", "", str(path.readlink())))
        except FileNotFoundError:
            continue
    return sorted(name for name in found if "mpl-data/fonts" not in name)


def fit(model, *callbacks):
    keras.utils.set_random_seed(7)
    np.random.seed(11)
    random.seed(13)
    history = model.fit(X, Y, validation_data=(X, Y), epochs=2, batch_size=8, verbose=0, callbacks=callbacks)
    return history.history["loss"]


def weights(model):
    return [np.asarray(keras.ops.convert_to_numpy(v)).tobytes() for v in model.weights + model.optimizer.variables]


MODELS = [(policy, nested) for policy in ("float32", "mixed_bfloat16") for nested in (False, True)]
CASES = [(fault, *model) for fault in FAULTS for model in MODELS]
QUICK = {("normal", "mixed_bfloat16", True), ("raising", "float32", False)}


@pytest.mark.parametrize(
    ("fault", "policy", "nested"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
    ids=["-".join([fault, policy, "nested" if nested else "flat"]) for fault, policy, nested in CASES],
)
def test_no_method_leaves_a_trace(fault, policy, nested, tmp_path, request):
    from tests.faulty_layer import Failing, memory_runs_out_at_once

    if fault == "out of memory" and not memory_runs_out_at_once(request):
        return

    plain = build(policy, nested)
    losses, expected, generator = fit(plain), weights(plain), random.getstate()
    methods = every_method()
    model, tracker = build(policy, nested), kx.DirectoryTracker(tmp_path)
    explainers = [Failing(methods[name], FAULTS[fault]) for name in methods]
    callback = ExplanationCallback((X, Y), explainers, frequency=1, background=4, metrics=["border"], tracker=tracker)
    shown = Showing(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", kx.ExplanationWarning)
        with warnings.catch_warnings():
            kx.explain(model, X[:1], "vanilla", targets=0)  # what is imported at first use is imported
        before = of_process()
        assert fit(model, shown, callback, shown.after) == losses
        after = of_process()
    assert weights(model) == expected
    assert random.getstate() == generator
    assert shown.found[0] == shown.found[1]
    different = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert set(different) <= {"python's generator", "numpy's generator"}, different  # fit draws from them itself
    failed = callback.latest.failures
    assert (len(failed) == len(methods)) == (fault != "normal"), failed
    assert (callback.latest.methods == []) == (fault != "normal")
    if fault == "out of memory":
        assert all(re.search("Memory runs out on a single image|OOM when allocating", w) for w in failed.values()), (
            failed
        )
    if fault == "raising":
        assert all("the layer fails" in words for words in failed.values())
    words = [str(one.message) for one in said if one.category is kx.ExplanationWarning and "failed" in str(one.message)]
    assert len(words) == len(set(words)) == len(failed)  # each said once, in two rounds


class Showing(keras.callbacks.Callback):
    """Looks at the model just before and just after a round."""

    def __init__(self, model):
        super().__init__()
        self.found = []
        self.after = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self.look(model))
        self.watched = model

    def on_epoch_end(self, epoch, logs=None):
        self.look(self.watched)

    def look(self, model):
        self.found.append((of_model(model), weights(model), random.getstate(), np.random.get_state()[1].tobytes()))
