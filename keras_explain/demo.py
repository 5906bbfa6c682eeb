"""The demonstration: a nested ResNet50 learns phantom mammograms, and is explained while it learns."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets import phantom
from keras_explain.explainers.lime import Lime
from keras_explain.metrics import relevance_mass
from keras_explain.tracking import MlflowTracker

_VALIDATION = 250
_BATCH = 32


def build_model(size: int, classes: int, steps: int) -> keras.Model:
    """Input -> ResNet50 as one layer -> global average pooling -> softmax, from random weights.

    Args:
        size: side of the images in pixels.
        classes: number of outputs.
        steps: training steps over which the learning rate falls to zero.
    """
    backbone = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(size, size, 3))
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # the statistics must settle within a few hundred steps
    image = keras.Input((size, size, 3))
    features = layers.GlobalAveragePooling2D()(backbone(image))
    model = keras.Model(image, layers.Dense(classes, activation="softmax")(features), name="resnet50_phantoms")
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def run(size: int, epochs: int, images: int, tracking_uri: str) -> None:
    """Train, explain and say where to look.

    Args:
        size: side of the images in pixels.
        epochs: of training; every second and the last are explained.
        images: training images.
        tracking_uri: where MLflow keeps the run.
    """
    keras.utils.set_random_seed(0)
    print(f"Making {images + _VALIDATION} phantom mammograms of {size} x {size} pixels ...", flush=True)
    train = phantom.mammograms(images, size, seed=0, channels=3)
    validation = phantom.mammograms(_VALIDATION, size, seed=1, channels=3)
    tracker = MlflowTracker(tracking_uri=tracking_uri)
    callback = ExplanationCallback(
        (validation.images, validation.labels),
        # LIME with fewer samples than its 1000, so that the demo stays short on two cores.
        ["vanilla", "guided", "rectified", "integrated_gradients", Lime(samples=300), "gradient_shap"],
        class_names=phantom.CLASS_NAMES,
        frequency=2,
        tracker=tracker,
    )
    model = build_model(size, len(phantom.CLASS_NAMES), steps=epochs * -(-images // _BATCH))
    print("Training, and explaining epochs 1, 3, ... and the last one ...", flush=True)
    history = model.fit(
        train.images,
        train.labels,
        batch_size=_BATCH,
        epochs=epochs,
        validation_data=(validation.images, validation.labels),
        callbacks=[callback, keras.callbacks.LambdaCallback(on_epoch_end=_say)],
        verbose=0,
    )
    print(f"\nValidation accuracy {history.history['val_accuracy'][-1]:.2f} (chance 0.20), {tracker.where}\n")
    print(table(callback, validation.masks))
    print(
        "\nThe pictures, with a step slider over epochs: run this, open the run, then 'Model metrics'."
        f"\n\n    mlflow ui --backend-store-uri {tracking_uri}\n"
    )


def _say(epoch: int, logs: dict[str, float]) -> None:
    explained = "  explained" if "val_explain_classes_without_image" in logs else ""
    print(
        f"epoch {epoch + 1}:  loss {logs['loss']:.3f}  accuracy {logs['accuracy']:.2f}  "
        f"validation accuracy {logs['val_accuracy']:.2f}{explained}",
        flush=True,
    )


def table(callback: ExplanationCallback, masks: np.ndarray) -> str:
    """What the last round explained, a line a class.

    Args:
        callback: after training.
        masks: (n, h, w) bool, the lesion of each validation image.
    """
    lines = [
        f"{'class':<24}{'image':>6}{'confidence':>12}{'completeness error':>20}{'inside lesion':>15}{'lesion area':>13}"
    ]
    found = callback.latest
    if found is None:
        return "No round was completed."
    exact = next((a for a in found.attributions if a.method == "integrated_gradients"), None)
    for i, name in enumerate(found.samples.ids):
        mask = masks[int(name)]
        target = found.samples.class_name(int(found.samples.targets[i, 0]))
        line = f"{target:<24}{name:>6}{found.samples.confidence[i]:>12.4f}"
        if exact is not None:
            line += f"{exact.relative_completeness_error[i]:>20.2%}"
            share = relevance_mass(exact.values[i : i + 1], mask[None])[0]
            line += f"{share:>15.0%}{mask.mean():>13.0%}" if mask.any() else f"{'no lesion':>15}{'-':>13}"
        lines.append(line)
    for _, absent in found.samples.missing:
        lines.append(f"{found.samples.class_name(absent):<24}no image of this class is predicted correctly")
    lines.append("\nCompleteness error and share inside the lesion are those of Integrated Gradients.")
    return "\n".join(lines)
