"""Which superpixels, which way to hide them and how many samples make LIME say something on mammograms?

    python -m benchmarks.lime_study --data DIR

DIR holds Info.txt and the mdb*.pgm of mini-MIAS. Two networks, one for phantoms and one for real crops, are explained
with every combination of segmentation and hiding, then with other numbers of superpixels and of samples. Each setting
is judged by what a reader needs of it:

    fit           weighted R2 of the surrogate
    stable        VSI of the five strongest superpixels over repetitions, in percent
    faithful      insertion less deletion of the probability, both with a blurred baseline
    localized     AUPRC against the lesion, beside its chance level

The first row is how it is often done: lime's own superpixels, hidden in black, and pixels of 0 to 255 for a network
that knows 0 to 1. Tables go to RESULTS.md, pictures to docs/images.
"""

import argparse
import dataclasses
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import layers
from scipy import ndimage
from skimage import filters, segmentation

import keras_explain as kx
from benchmarks import record
from keras_explain.datasets import mias, phantom
from keras_explain.metrics.stability import variables_stability

SIZE, EPOCHS = 128, 14
REPEATS, FEATURES = 3, 5
PICTURES = Path(__file__).parent.parent / "docs" / "images"


def build_model(classes):
    steps = [keras.Input((SIZE, SIZE, 1))]
    for width in (16, 32, 48, 64):
        steps += [layers.Conv2D(width, 3, padding="same"), layers.BatchNormalization(momentum=0.9), layers.ReLU()]
        steps += [layers.MaxPooling2D()]
    steps += [layers.GlobalMaxPooling2D(), layers.Dropout(0.3), layers.Dense(classes, activation="softmax")]
    model = keras.Sequential(steps)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def quickshift(kernel):
    return lambda image: segmentation.quickshift(
        image.astype("float64"), kernel_size=kernel, max_dist=200, ratio=0.2, rng=0
    )


def slic(count, compactness):
    """On the grey values alone: lime's three equal channels would be taken for a colour."""
    return lambda image: segmentation.slic(
        image[..., 0], n_segments=count, compactness=compactness, channel_axis=None, start_label=0
    )


def watershed(count, compactness):
    return lambda image: segmentation.watershed(
        filters.sobel(ndimage.gaussian_filter(image[..., 0], 1)), markers=count, compactness=compactness
    )


def grid(count):
    side = round(count**0.5)
    row = np.arange(SIZE) * side // SIZE
    return lambda image: row[:, None] * side + row[None]


def felzenszwalb(image):
    return segmentation.felzenszwalb(image[..., 0], scale=100)


def again(cut):
    """The superpixels that a first run has found, one image after the other."""
    one_by_one = iter(cut)
    return lambda image: next(one_by_one)


def surroundings(image, segments):
    """Each superpixel replaced by the Gaussian mean of what surrounds it."""
    sigma = min(image.shape[:2]) / 10
    filled = np.array(image)
    for s in range(segments.max() + 1):
        outside = (segments != s).astype("float64")
        weight = ndimage.gaussian_filter(outside, sigma) + 1e-6
        mean = ndimage.gaussian_filter(image[..., 0] * outside, sigma) / weight
        filled[segments == s, 0] = mean[segments == s]
    return filled


class Surrounded(kx.Lime):
    """LIME that hides by the surroundings."""

    def _hidden(self, image, segments):
        return surroundings(image, segments)


class Task:
    """A trained network with images to explain and where their lesions are."""

    def __init__(self, name, model, samples, accuracy):
        self.name, self.scorer, self.samples, self.accuracy = name, kx.Scorer(model), samples, accuracy

    def judge(self, segmentation, hide, samples, segments, factor):
        """One row of numbers, and the attribution."""
        given = dataclasses.replace(self.samples, images=self.samples.images * factor, value_range=(0, factor))
        lime, hide = (Surrounded, "mean") if hide == "surroundings" else (kx.Lime, hide)
        runs, times = [], []
        for seed in range(REPEATS):
            start = time.perf_counter()
            if runs:
                segmentation = again(runs[0].details["segments"])
            runs.append(lime(samples, segmentation, hide, segments, seed).explain(self.scorer, given))
            times.append((time.perf_counter() - start) / len(given))
        found = runs[0]
        weights = np.array([run.details["weights"] for run in runs])
        counts = np.isfinite(weights[0]).sum(axis=1)
        order = np.argsort(-np.abs(np.nan_to_num(weights)), axis=2, kind="stable")[:, :, :FEATURES]
        vsi = [variables_stability(order[:, i]) if n > FEATURES else np.nan for i, n in enumerate(counts)]
        measured = kx.metrics.measure(self.scorer, self.samples, found, ["faithfulness", "localization"]).measures
        row = {"superpixels": counts.mean(), "R2": np.nanmean(found.details["r2"]), "VSI": np.nanmean(vsi)}
        row |= {"faithful": (measured["insertion"] - measured["deletion"]).mean(), "seconds": times[0]}
        row |= {"AUPRC": np.nanmean(measured["auprc"]), "pointing": np.nanmean(measured["pointing_game"])}
        return {**row, "chance": np.nanmean(measured["roi_area"])}, found


def phantoms(images):
    x, y, _ = phantom.mammograms(1500, SIZE, seed=0)
    held_out, truth, masks = phantom.mammograms(250, SIZE, seed=1)
    model = build_model(5)
    model.fit(x, y, epochs=EPOCHS, batch_size=32, verbose=0)
    samples = kx.select(
        model, (held_out, truth), class_map={k: k for k in range(1, 5)}, images_per_class=images, roi=masks
    )
    return Task("phantoms", model, samples, samples.accuracy)


def mammograms(folder, images):
    cut = {"size": SIZE, "region": 320, "shift": 60}
    train, _ = mias.crops(folder, copies=8, **cut).split()
    _, held_out = mias.crops(folder, copies=1, seed=1, **cut).split()
    labels = (train.labels > 0).astype(int)
    model = build_model(2)
    weights = {k: len(labels) / (2 * (labels == k).sum()) for k in (0, 1)}
    model.fit(train.images, labels, epochs=EPOCHS, batch_size=32, class_weight=weights, verbose=0)
    predicted = model.predict(held_out.images, verbose=0)
    accuracy = (predicted.argmax(axis=1) == (held_out.labels > 0)).mean()
    area = held_out.masks.mean(axis=(1, 2))
    chosen = np.flatnonzero((area > 0) & (area < 0.3))
    chosen = chosen[np.argsort(-predicted[chosen, 1])][: 4 * images]
    samples = kx.Samples(
        held_out.images[chosen], np.ones(len(chosen), int), roi=held_out.masks[chosen], ids=held_out.ids[chosen]
    )
    return Task("mini-MIAS", model, samples, accuracy)


SEGMENTATIONS = {
    "quickshift, kernel 4 (lime)": quickshift(4),
    "quickshift, kernel for the size": "quickshift",
    "slic, compactness 0.1": slic(50, 0.1),
    "slic, compactness 0.01": slic(50, 0.01),
    "watershed": "watershed",
    "watershed, compactness / 10": watershed(50, 1e-4),
    "grid": grid(49),
    "felzenszwalb": felzenszwalb,
}
HIDES = {"black": 0.0, "mean": "mean", "blur": "blur", "surroundings": "surroundings"}
COLUMNS = ("superpixels", "R2", "VSI", "insertion - deletion", "AUPRC (times chance)", "pointing game", "seconds")
FIRST = ("at first: quickshift, black, 1000 samples of 0 to 255", quickshift(4), 0.0, 1000, 50, 255.0)
BEFORE = ("before: quickshift for the size, mean, 1000", "quickshift", "mean", 1000, 50, 1.0)
NOW = ("now: watershed, blur, 1000", "watershed", "blur", 1000, 50, 1.0)


def settings(samples):
    """Name, segmentation, hide, samples, segments and factor of every setting, the first one first."""
    yield from (FIRST, BEFORE, NOW)
    for name, segment in SEGMENTATIONS.items():
        for hide, way in HIDES.items():
            yield f"{name}; {hide}", segment, way, samples, 50, 1.0
    for count in (25, 100, 200):
        yield f"watershed; blur; {count} segments", "watershed", "blur", samples, count, 1.0
    for number in (100, 1000, 3000):
        yield f"watershed; blur; {number} samples", "watershed", "blur", number, 50, 1.0


def line(name, row):
    """A row of the table."""
    shown = [f"{row['superpixels']:.0f}", f"{row['R2']:.2f}", f"{row['VSI']:.0f}", f"{row['faithful']:.3f}"]
    shown += [f"{row['AUPRC']:.3f} ({row['AUPRC'] / row['chance']:.1f} x)", f"{row['pointing']:.2f}"]
    return f"| {name} | " + " | ".join([*shown, f"{row['seconds']:.1f}"]) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=3, help="of each class of phantoms; 4 times it of mini-MIAS")
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keras.utils.set_random_seed(0)
    for task in (phantoms(options.images), mammograms(options.data, options.images)):
        chance = np.mean(task.samples.roi)
        lines = [
            f"{len(task.samples)} images of {SIZE} pixels with a lesion of {chance:.3f} of their area on average; a "
            f"small network with an accuracy of {task.accuracy:.2f}. {options.samples} samples and 50 segments unless "
            f"it says otherwise, {REPEATS} repetitions, VSI of {FEATURES} superpixels.",
            "",
            "| setting | " + " | ".join(COLUMNS) + " |",
            "|---" * (1 + len(COLUMNS)) + "|",
        ]
        shown = []
        for name, segment, hide, samples, segments, factor in settings(options.samples):
            row, found = task.judge(segment, hide, samples, segments, factor)
            lines.append(line(name, row))
            print(lines[-1], flush=True)
            if name in (FIRST[0], BEFORE[0], NOW[0]):
                shown.append(dataclasses.replace(found, method=name.split(":")[0]))
        draw(task, shown)
        record(f"LIME on {task.name}", [*lines, "", "Written by `python -m benchmarks.lime_study --data DIR`."])


def draw(task, shown):
    """Two images with what the first, the former and the present settings say of them."""
    rows = [0, len(task.samples) // 2]
    kept = [dataclasses.replace(a, values=a.values[rows], rows=[0, 1], targets=a.targets[rows], score=a.score[rows],
        base_score=a.base_score[rows], details={k: v[rows] for k, v in a.details.items()}) for a in shown]  # fmt: skip
    figure = kx.figures.panel(task.samples[rows], kept, title=f"LIME on {task.name}")
    figure.savefig(PICTURES / f"lime_{task.name.replace('-', '_').lower()}.png")


if __name__ == "__main__":
    main()
