"""Peak memory of a job and of one ten times as large: `python -m benchmarks.memory`.

Every job runs in a process of its own. Counted is what the process holds at most, above what it held when the model was
loaded and had run once, less the arrays that the job is given and those that it returns.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_explain as kx
from benchmarks import record

PAGE = 4096
SMALL = {"images": 1, "classes": 5, "background": 10, "samples": 32, "steps": 32, "lime": 64, "smooth": 32}


def resident():
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Peak(threading.Thread):
    """Watches what the process holds, every few milliseconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes, self.ended = resident(), False

    def run(self):
        while not self.ended:
            self.bytes = max(self.bytes, resident())
            time.sleep(0.005)


def method_of(kind, numbers, background):
    """The explainer that a job is about."""
    if kind == "gradient_shap":
        return kx.GradientShap(background, numbers["samples"])
    if kind == "integrated_gradients":
        return kx.IntegratedGradients(numbers["steps"])
    if kind == "lime":
        return kx.Lime(numbers["lime"])
    return kx.Saliency(smooth=numbers["smooth"]) if kind == "smoothgrad" else kx.Saliency()


def measure(kind, size, numbers):
    """Print the peak of one job and its seconds, as JSON."""
    warnings.simplefilter("ignore")
    shape, random = (size, size, 3), np.random.default_rng(0)
    model = keras.applications.ResNet50(weights=None, classes=numbers["classes"], input_shape=shape)
    images = random.random((numbers["images"], *shape), "float32")
    background = random.random((numbers["background"], *shape), "float32")
    scorer = kx.Scorer(model, batch_size=16)
    scorer.logits(np.repeat(images, 16, axis=0)[:16])
    before, peak = resident(), Peak()
    peak.start()
    start = time.perf_counter()
    targets = "all" if kind in ("vanilla", "gradient_shap") else 0
    found = kx.explain(scorer, images, method_of(kind, numbers, background), targets=targets)
    taken, peak.ended = time.perf_counter() - start, True
    peak.join()
    returned = found.values.nbytes + (0 if found.standard_error is None else found.standard_error.nbytes)
    print(json.dumps([peak.bytes - before, returned, taken]))


def run(kind, size, **changed):
    """Peak in GB above the loaded model, what of it is returned, and seconds."""
    numbers = {**SMALL, **changed}
    command = [sys.executable, "-m", "benchmarks.memory", "--one", kind, "--size", str(size), "--numbers"]
    done = subprocess.run([*command, json.dumps(numbers)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak, returned, taken = json.loads(done.stdout.splitlines()[-1])
    return peak / 1e9, returned / 1e9, taken


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--one", help="one job, in this process")
    parser.add_argument("--numbers", type=json.loads)
    options = parser.parse_args()
    if options.one:
        measure(options.one, options.size, options.numbers)
        return
    lines = [
        f"ResNet50, {options.size} x {options.size} x 3, chunks of 16 images. GB above the loaded model after a pass.",
        "",
        "| job | what is ten times as large | peak | ten times | ratio | of it returned | ratio without |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, name in (
        ("gradient_shap", "samples"),
        ("gradient_shap", "background"),
        ("gradient_shap", "images"),
        ("gradient_shap", "classes"),
        ("integrated_gradients", "steps"),
        ("smoothgrad", "smooth"),
        ("lime", "lime"),
        ("vanilla", "images"),
    ):
        base = {**SMALL, "images": 32 if kind == "vanilla" else 1}
        (one, back, _), (ten, returned, _) = (
            run(kind, options.size, **{**base, name: factor * base[name]}) for factor in (1, 10)
        )
        lines.append(
            f"| {kind} | {name}: {base[name]} | {one:.2f} | {ten:.2f} | {ten / one:.2f} "
            f"| {returned:.2f} | {(ten - returned) / (one - back):.2f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    peak, returned, taken = run("gradient_shap", 299, images=4, background=50, samples=32)
    lines += [
        "",
        f"4 images, 50 background images, 5 classes, 32 samples at 299 x 299: {peak:.2f} GB, of which {returned:.2f} "
        f"are returned, in {taken:.0f} s.",
    ]
    record("Memory", lines)


if __name__ == "__main__":
    main()
