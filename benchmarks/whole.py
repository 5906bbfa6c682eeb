"""A whole data set in shards: two workers of one thread each against one, and memory as the data grow.

python -m benchmarks.whole
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_explain as kx
from benchmarks import record

METHODS = ["vanilla", "integrated_gradients"]
SIDE, IMAGES, SHARD = 64, 512, 16
MAMMOGRAMS, GPUS = 10**7, 8
# A gradient of ResNet50 at 299 pixels takes about 3 x 8 GFLOP; an H100 reaches about a third of its 67 TFLOP/s in
# float32 tensor operations (TF32 is faster). No GPU was at hand: this is arithmetic, not a measurement.
FLOP_PER_GRADIENT, REACHED = 24e9, 20e12


def model():
    """A small network of a few convolutions."""
    keras.utils.set_random_seed(0)
    steps = [keras.Input((SIDE, SIDE, 1))]
    for filters in (16, 32, 64):
        steps += [keras.layers.Conv2D(filters, 3, activation="relu"), keras.layers.MaxPooling2D()]
    return keras.Sequential([*steps, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5, "softmax")])


def images_per_second(workers):
    """Between the first shards' end and the last one's, from the times of the index files: starting is not counted."""
    x = np.random.default_rng(0).random((IMAGES, SIDE, SIDE, 1), "float32")
    with tempfile.TemporaryDirectory() as folder:
        kx.explain_dataset(
            model(),
            (x, np.zeros(IMAGES)),
            METHODS,
            folder,
            engine="ray",
            workers=workers,
            shard_size=SHARD,
            progress=False,
        )
        ends = sorted(file.stat().st_mtime for file in (Path(folder) / "index").glob("*.parquet"))
    warm = 2 * workers  # shards that compile
    return (len(ends) - warm) * SHARD / (ends[-1] - ends[warm - 1])


def peak(images):
    """The peak of resident memory of a local job, in MB."""
    code = f"""
import json, resource, tempfile, keras, numpy as np, keras_explain as kx
from benchmarks.whole import SIDE, model

class Made(keras.utils.PyDataset):
    def __len__(self):
        return {images} // 32
    def __getitem__(self, i):
        return np.random.default_rng(i).random((32, SIDE, SIDE, 1), "float32"), np.zeros(32, int)

with tempfile.TemporaryDirectory() as folder:
    kx.explain_dataset(model(), Made(), ["vanilla"], folder, shard_size=64, progress=False)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Measure and record."""
    pairs = [(images_per_second(1), images_per_second(2)) for _ in range(2)]
    ratios = [two / (2 * one) for one, two in pairs]
    small, large = peak(960), peak(9600)
    gradients = 1 + 64
    terabytes = 2 * MAMMOGRAMS * 299 * 299 * 3 * 4 / 1e12
    days = MAMMOGRAMS * gradients * FLOP_PER_GRADIENT / (GPUS * REACHED) / 86400
    record(
        "Whole data sets",
        [
            f"`{', '.join(METHODS)}` of {IMAGES} images of {SIDE} x {SIDE}, small network, shards of {SHARD}, on Ray.",
            "",
            "| | |",
            "|---|---|",
            f"| images a second, 1 worker of one thread | {', '.join(f'{one:.1f}' for one, _ in pairs)} |",
            f"| images a second, 2 workers of one thread | {', '.join(f'{two:.1f}' for _, two in pairs)} |",
            f"| efficiency (target 0.9) | {', '.join(f'{ratio:.2f}' for ratio in ratios)} |",
            f"| peak memory, local, 960 images | {small:.0f} MB |",
            f"| peak memory, local, 9600 images | {large:.0f} MB ({large / small:.2f} times) |",
            "",
            f"On paper: {MAMMOGRAMS:.0e} mammograms of 299 x 299 by vanilla and Integrated Gradients with ResNet50 are "
            f"{gradients} gradients each, {FLOP_PER_GRADIENT / 1e9:.0f} GFLOP a gradient; {GPUS} GPUs that reach "
            f"{REACHED / 1e12:.0f} TFLOP/s take {days:.1f} days. Their maps in float32 are "
            f"{terabytes:.0f} TB before compression (noise hardly shrinks): ask for the "
            "index alone (`maps=False`) where numbers will do. Not measured on a GPU.",
        ],
    )


if __name__ == "__main__":
    main()
