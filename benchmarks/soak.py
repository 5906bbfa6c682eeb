"""A long training: what the process holds after hundreds of rounds. `python -m benchmarks.soak`."""

import argparse
import gc
import os
import tempfile
import threading
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_explain as kx
from benchmarks import record
from benchmarks.memory import resident

METHODS = [kx.Saliency(), kx.Saliency("guided"), kx.IntegratedGradients(16), kx.Lime(100)]


class Watching(keras.callbacks.Callback):
    """Looks at the process after every round but those of the beginning, in which libraries fill their caches."""

    def __init__(self, first):
        super().__init__()
        self.first, self.found = first, []

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= self.first and epoch % 10 == 0:
            gc.collect()
            files = len(list(Path("/proc/self/fd").iterdir()))
            self.found.append((epoch, resident(), threading.active_count(), files))


def train(rounds, size, first, tracker):
    """What the process held in a training with a round each epoch; and the seconds of it."""
    random = np.random.default_rng(0)
    x, y = random.random((64, size, size, 1), "float32"), np.arange(64) % 3
    body = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.MaxPooling2D(), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((size, size, 1)), *body, keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    explain = kx.callbacks.ExplanationCallback((x, y), METHODS, frequency=1, tracker=tracker)
    watching, begun = Watching(first), time.perf_counter()
    model.fit(x, y, validation_data=(x, y), epochs=rounds, verbose=0, callbacks=[explain, watching])
    return watching.found, time.perf_counter() - begun


def main():
    """Run, and record what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--first", type=int, default=100, help="round from which on memory is compared")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tracker = kx.MlflowTracker(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        found, seconds = train(options.rounds, options.size, options.first, tracker)
        kept = len(list(Path(folder).rglob("epoch_*/settings.json")))
        os.chdir(here)
    (_, before, *_), (_, after, *_) = found[0], found[-1]
    slope = np.polyfit([epoch for epoch, *_ in found], [held for _, held, *_ in found], 1)[0]
    threads, files = ([row[k] for row in found] for k in (2, 3))
    lines = [
        f"{options.rounds} rounds in one `fit`, one each epoch, of 3 images of {options.size} x {options.size} by "
        f"{', '.join(method.method for method in METHODS)}, into MLflow (SQLite): {seconds / 60:.0f} minutes, "
        f"{kept} rounds kept.",
        "",
        f"| | after round {found[0][0]} | at the end | |",
        "|---|---|---|---|",
        f"| resident memory | {before / 1e6:.0f} MB | {after / 1e6:.0f} MB | {after / before - 1:+.1%}, "
        f"{1000 * slope / 1e6:+.1f} MB per 1000 rounds |",
        f"| threads | {threads[0]} | {threads[-1]} | {min(threads)} to {max(threads)} between |",
        f"| open files | {files[0]} | {files[-1]} | {min(files)} to {max(files)} between |",
    ]
    record("Soak", lines)


if __name__ == "__main__":
    main()
