"""A network that learns a shortcut, and how its explanations give it away.

    python examples/shortcut.py [--out shortcut]

Two networks learn to tell benign from malignant phantom mammograms. The malignant images of the second one, those of
the validation too, bear a bright marker on the film, as the films of one hospital may. Its accuracy is perfect. The
tables, and the pictures in OUT/without_marker and OUT/with_marker, show what each of them looks at.
"""

import argparse
from pathlib import Path

import keras
from keras import layers

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets import phantom
from keras_explain.demo import table

SIZE = 64
MALIGNANT = (3, 4)


def lesions(count, seed, marker):
    """Phantoms with a lesion, labelled 0 for benign and 1 for malignant."""
    images, labels, masks = phantom.mammograms(count, SIZE, seed, marker=marker)
    found = labels > 0
    return images[found], (labels[found] >= min(MALIGNANT)).astype(int), masks[found]


def build_model():
    steps = [keras.Input((SIZE, SIZE, 1))]
    for filters in (16, 32, 64):
        steps += [layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization(momentum=0.9), layers.ReLU()]
        steps += [layers.MaxPooling2D()]
    steps += [layers.GlobalMaxPooling2D(), layers.Dense(2, activation="softmax")]
    model = keras.Sequential(steps)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(marker, folder, images, epochs):
    """Train on images whose classes in `marker` bear one, and explain the first and last epoch.

    Returns the callback, and the accuracy on held-out images and on the same images without their markers.
    """
    keras.utils.set_random_seed(0)
    x, y, _ = lesions(images, 0, marker)
    held_out, truth, masks = lesions(200, 1, marker)
    explain = ExplanationCallback(
        (held_out, truth),
        explainers=["vanilla", "integrated_gradients", kx.Lime(samples=300), "gradient_shap"],
        class_names=["benign", "malignant"],
        images_per_class=3,
        frequency=epochs,
        roi=masks,
        tracker=kx.DirectoryTracker(folder),
    )
    model = build_model()
    model.fit(x, y, validation_data=(held_out, truth), epochs=epochs, batch_size=32, callbacks=[explain], verbose=0)
    unmarked, _, _ = lesions(200, 1, marker=())
    accuracies = [model.evaluate(part, truth, verbose=0)[1] for part in (held_out, unmarked)]
    return explain, accuracies


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("shortcut"), help="folder of the pictures")
    parser.add_argument("--images", type=int, default=1000, help="phantoms to train on")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    for name, marker in (("without_marker", ()), ("with_marker", MALIGNANT)):
        explain, (accuracy, unmarked) = train(marker, options.out / name, options.images, options.epochs)
        print(f"\n{name.replace('_', ' ')}: validation accuracy {accuracy:.2f}", end="")
        print(f", {unmarked:.2f} on the same images without their markers" if marker else "")
        print(f"pictures in {explain.tracker.where}\n\n{table(explain.latest)}", flush=True)


if __name__ == "__main__":
    main()
