"""What the callback adds to 20 epochs of training, by part: `python -m benchmarks.overhead`.

The same training runs without the callback, with it, and with `max_overhead`. Its share is measured in two ways: from
the wall times of the fits, which move with the machine, and inside one fit from the time spent in the callback's hooks.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_explain as kx
from benchmarks import record
from keras_explain.callbacks import ExplanationCallback, TopConfidence
from keras_explain.datasets import phantom

SIZE, LIMIT = 96, 0.05


class Timed(ExplanationCallback):
    """Counts the seconds spent in its hooks."""

    inside = 0.0

    def on_epoch_end(self, epoch, logs=None):
        start = time.perf_counter()
        super().on_epoch_end(epoch, logs)
        self.inside += time.perf_counter() - start

    def on_train_end(self, logs=None):
        start = time.perf_counter()
        super().on_train_end(logs)
        self.inside += time.perf_counter() - start


class Epochs(keras.callbacks.Callback):
    """Seconds of every epoch, other callbacks' hooks not counted."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


def network():
    """A convolutional network of which an epoch takes seconds."""
    keras.utils.set_random_seed(0)
    stack = [keras.Input((SIZE, SIZE, 1))]
    for filters in (32, 64, 96, 128):
        stack += [keras.layers.Conv2D(filters, 3, padding="same"), keras.layers.BatchNormalization()]
        stack += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    stack += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5, activation="softmax")]
    model = keras.Sequential(stack)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy", TopConfidence()])
    return model


def arrays(stream):
    """All images and labels of a stream."""
    batches = [stream[i] for i in range(len(stream))]
    return tuple(np.concatenate([np.asarray(batch[part]) for batch in batches]) for part in (0, 1))


def fit(train, valid, epochs, callback=None):
    """Wall seconds of a fit, and those of its epochs."""
    model, counted = network(), Epochs()
    start = time.perf_counter()
    callbacks = [counted] if callback is None else [counted, callback]
    model.fit(*train, epochs=epochs, verbose=0, validation_data=valid, callbacks=callbacks)
    return time.perf_counter() - start, counted.seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    train = arrays(phantom.Stream(options.images, size=SIZE, seed=0))
    valid = arrays(phantom.Stream(400, size=SIZE, seed=1))
    fit(train, valid, 1)
    alone, epochs = fit(train, valid, options.epochs)
    lines = [
        f"{options.epochs} epochs of {options.images} phantoms of {SIZE} pixels, {np.median(epochs):.1f} s each; the "
        "six default methods, LIME of 300 samples, images from TopConfidence, a folder for a tracker.",
        "",
        "| fit | wall, s | more than alone | hooks' share of the fit | rounds | median epoch, s | while drawing |",
        "|---|---|---|---|---|---|---|",
        f"| alone | {alone:.0f} | - | - | 0 | {np.median(epochs):.2f} | - |",
    ]
    parts = {}
    for limit in (None, LIMIT):
        folder = Path(tempfile.mkdtemp())
        methods = ["vanilla", "guided", "rectified", "integrated_gradients", kx.Lime(300), "gradient_shap"]
        tracker = kx.DirectoryTracker(folder)
        callback = Timed(valid, methods, max_overhead=limit, tracker=tracker, on_error="raise")
        taken, epochs = fit(train, valid, options.epochs, callback)
        made = sorted((folder / "explanations").glob("epoch_*"))
        after = [int(path.name[-4:]) + 1 for path in made]
        drawing = [epochs[i] for i in after if i < len(epochs)]
        lines.append(
            f"| {'no limit' if limit is None else f'max_overhead={limit}'} | {taken:.0f} "
            f"| {100 * (taken / alone - 1):.1f} % "
            f"| {100 * callback.inside / (taken - callback.inside):.1f} % | {len(made)} | {np.median(epochs):.2f} "
            f"| {np.median(drawing):.2f} |"
        )
        for path in made:
            told = json.loads((path / "settings.json").read_text())["seconds"]
            parts[f"{'no limit' if limit is None else limit}, {path.name}"] = {
                name: second for name, second in told.items() if second > 0.05
            }
    lines += ["", "Seconds of each round by part:", ""]
    for name, seconds in parts.items():
        lines.append(f"- {name}: " + ", ".join(f"{part} {second:.1f}" for part, second in seconds.items()))
    record("Overhead in training", lines)


if __name__ == "__main__":
    main()
