"""Explain three-dimensional cells, also for the classes that they are not.

    python examples/cells_3d.py [--out cells]

A small 3-D ResNet learns which of five structures is labelled in phantom cells of three channels (structure, DNA,
membrane). While it learns, the surest cell of each class is explained; afterwards one cell of each class is explained
for every class: why this one, and why not the others. The sum of each explanation stands beside the change of the score
that it has to explain. Pictures, arrays and a page that scrolls through the slices go to OUT.
"""

import argparse
from pathlib import Path

import keras
from keras import layers
from tqdm import tqdm

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets.cells import CHANNEL_NAMES, CLASS_NAMES, cells
from keras_explain.report import write_report


def build_model(depth, side):
    """Three residual blocks of 3-D convolutions."""
    image = keras.Input((depth, side, side, len(CHANNEL_NAMES)))
    x = layers.Conv3D(12, 3, padding="same")(image)
    for filters, stride in ((12, 1), (24, 2), (32, 2)):
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        shortcut = x if stride == 1 else layers.Conv3D(filters, 1, stride)(y)
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.Conv3D(filters, 3, stride, "same")(y)))
        x = layers.Add()([layers.Conv3D(filters, 3, padding="same")(y), shortcut])
    x = layers.GlobalMaxPooling3D()(layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x)))
    model = keras.Model(image, layers.Dense(len(CLASS_NAMES), activation="softmax")(x), name="resnet3d")
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cells"), help="folder of pictures, arrays and page")
    parser.add_argument("--cells", type=int, default=400, help="to train on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--side", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100, help="of Integrated Gradients")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    volumes, labels, _ = cells(options.cells, options.depth, options.side, seed=0)
    held_out, truth, masks = cells(100, options.depth, options.side, seed=1)
    explain = ExplanationCallback(
        (held_out, truth),
        explainers=["vanilla", kx.IntegratedGradients(32), kx.Lime(samples=200)],
        class_names=CLASS_NAMES,
        channel_names=CHANNEL_NAMES,
        roi=masks,
        frequency=max(1, options.epochs - 1),
        tracker=kx.DirectoryTracker(options.out),
    )
    model = build_model(options.depth, options.side)
    model.fit(
        volumes,
        labels,
        validation_data=(held_out, truth),
        epochs=options.epochs,
        batch_size=16,
        callbacks=[explain],
        verbose=0,
    )

    scorer = kx.Scorer(model)
    samples = kx.select(scorer, (held_out, truth), class_names=CLASS_NAMES, channel_names=CHANNEL_NAMES, roi=masks)
    method = kx.IntegratedGradients(options.steps)
    for i in tqdm(range(len(samples)), "cells explained", disable=None):
        cell = samples[[i]]
        why = kx.explain(scorer, cell, method, targets="all")
        true = CLASS_NAMES[cell.labels[0]]
        tqdm.write(f"\nHeld-out cell {cell.ids[0]}, {true}:")
        for row, target in enumerate(why.targets):
            delta, total = why.score[row] - why.base_score[row], why.values[row].sum()
            words = f"  why {'' if CLASS_NAMES[target] == true else 'not '}{CLASS_NAMES[target]}?"
            tqdm.write(f"{words:<27} Delta from baseline: {delta:6.2f}. Sum of attributions: {total:6.2f}")
        figure = kx.figures.panel(cell, [why], title=f"a cell with its {true}")
        figure.savefig(options.out / f"why-{cell.labels[0]}-{true.replace(' ', '_')}.png")
    page = write_report(options.out / "explanations", options.out / "report.html", "Phantom cells")
    print(f"\nThe page that scrolls through the slices is {page}")
    print(f"Pictures are in {options.out}, rounds of the training in {explain.tracker.where}")


if __name__ == "__main__":
    main()
