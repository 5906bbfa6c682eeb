"""Do the maps of a network trained on real mammograms lie on the lesions?

    python -m benchmarks.localization --data DIR

DIR holds Info.txt and the mdb*.pgm of mini-MIAS. A ResNet50 learns normal tissue against findings on shifted crops, in
folds of women; every held-out finding is explained by every method for the class "finding", right or wrong, and each
map is compared with the radiologist's circle. Two maps that know no network stand beside them.
"""

import argparse

import keras
import numpy as np
from keras import layers

import keras_explain as kx
from benchmarks import record
from keras_explain.datasets import mias

MEASURES = ("pointing_game", "relevance_mass", "relevance_rank", "auprc", "otsu_iou")
LARGEST = 0.5  # circles that fill more of the crop say nothing of where a map lies


class Random:
    """Noise."""

    def explain(self, scorer, samples):
        values = np.random.default_rng(0).normal(size=samples.images.shape)
        return kx.Attribution("random", values, samples.targets[:, 0], samples.rows, [0.0] * len(samples))


class Brightness:
    """The image itself."""

    def explain(self, scorer, samples):
        return kx.Attribution("brightness", samples.images, samples.targets[:, 0], samples.rows, [0.0] * len(samples))


def build_model(size):
    backbone = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(size, size, 3))
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    image = keras.Input((size, size, 1))
    features = layers.GlobalAveragePooling2D()(backbone(layers.Concatenate()([image, image, image])))
    model = keras.Model(image, layers.Dense(2, activation="softmax")(features))
    model.compile(keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def interval(values, random):
    """Mean and 95 % interval, by 2000 resamplings of the images."""
    means = values[random.integers(len(values), size=(2000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--region", type=int, default=320, help="side of a crop in pixels of the mammogram")
    parser.add_argument("--shift", type=int, default=80, help="so that findings are not always in the middle")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--samples", type=int, default=300, help="of LIME; GradientShap takes a third")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    cut = {"size": options.size, "region": options.region, "shift": options.shift}
    train, test = (
        mias.crops(options.data, copies=copies, seed=seed, **cut) for copies, seed in ((options.copies, 0), (1, 1))
    )
    methods = {
        "vanilla": kx.Saliency(),
        "guided": kx.Saliency("guided"),
        "rectified": kx.Saliency("rectified"),
        "smoothgrad": kx.Saliency(smooth=25),
        "integrated_gradients": kx.IntegratedGradients(),
        "gradient_shap": kx.GradientShap(samples=options.samples // 3),
        "lime": kx.Lime(samples=options.samples),
        "random": Random(),
        "brightness": Brightness(),
    }
    found = {name: {measure: [] for measure in (*MEASURES, "roi_area")} for name in methods}
    right = []
    women = np.unique(test.women)
    for fold in range(options.folds):
        model = build_model(options.size)
        apart = women[fold :: options.folds]
        seen, held_out = ~np.isin(train.women, apart), np.isin(test.women, apart)
        labels = (train.labels[seen] > 0).astype(int)
        weights = {k: len(labels) / (2 * (labels == k).sum()) for k in (0, 1)}
        model.fit(train.images[seen], labels, epochs=options.epochs, batch_size=16, class_weight=weights, verbose=0)
        predicted = model.predict(test.images[held_out], verbose=0).argmax(axis=1)
        right.extend(predicted == (test.labels[held_out] > 0))
        area = test.masks.mean(axis=(1, 2))
        chosen = held_out & (area > 0) & (area < LARGEST)
        samples = kx.Samples(
            test.images[chosen],
            np.ones(chosen.sum(), int),
            roi=test.masks[chosen],
            background=train.images[seen][:: seen.sum() // 50],
            value_range=(0, 1),
        )
        scorer = kx.Scorer(model)
        for name, method in methods.items():
            attribution = kx.metrics.measure(scorer, samples, method.explain(scorer, samples), ["localization"])
            for measure, values in found[name].items():
                values.extend(attribution.measures[measure])
        print(f"fold {fold + 1}: {chosen.sum()} findings, accuracy so far {np.mean(right):.2f}", flush=True)

    random = np.random.default_rng(0)
    area = np.array(found["vanilla"]["roi_area"])
    lines = [
        f"mini-MIAS, {len(area)} held-out findings of {options.folds} folds of women, crops of {options.region} pixels "
        f"scaled to {options.size}, circles of less than {LARGEST:.0%} of the crop. ResNet50 from random weights, "
        f"normal against finding: held-out accuracy {np.mean(right):.2f}, {np.mean(test.labels > 0):.2f} are findings.",
        "Means and 95 % bootstrap intervals over images.",
        "",
        "| map | " + " | ".join(MEASURES) + " |",
        "|---" * (1 + len(MEASURES)) + "|",
        "| chance: the circle's share of the area | " + " | ".join([f"{area.mean():.3f}"] * 4) + " | - |",
    ]
    for name, measured in found.items():
        lines.append(f"| {name} | " + " | ".join(interval(np.array(measured[m]), random) for m in MEASURES) + " |")
    lines += [
        "",
        "Written by `python -m benchmarks.localization --data DIR`; `random` is noise, `brightness` the image.",
    ]
    record("Localization on mini-MIAS", lines)


if __name__ == "__main__":
    main()
