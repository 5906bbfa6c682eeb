"""The demonstration: a nested ResNet50 learns phantom mammograms, and is explained while it learns."""

from __future__ import annotations

import functools

import keras
import numpy as np
from keras import layers

from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets import phantom
from keras_explain.engine import Round
from keras_explain.explainers.integrated_gradients import IntegratedGradients
from keras_explain.explainers.lime import Lime
from keras_explain.records import Attribution
from keras_explain.tracking import MlflowTracker
from keras_explain.verdicts import verdicts

_PEAKS = {1.0: "in lesion", 0.0: "elsewhere"}
_VALIDATION = 250
_BATCH = 32
_FREQUENCY = 2


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
        ["vanilla", "guided", "rectified", IntegratedGradients(tolerance=0.05), Lime(samples=300), "gradient_shap"],
        class_names=phantom.CLASS_NAMES,
        frequency=_FREQUENCY,
        roi=validation.masks,
        why_not=["vanilla"],
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
        callbacks=[callback, keras.callbacks.LambdaCallback(on_epoch_end=functools.partial(_say, epochs))],
        verbose=0,
    )
    print(f"\nValidation accuracy {history.history['val_accuracy'][-1]:.2f} (chance 0.20), {tracker.where}\n")
    print(table(callback.latest))
    print(
        "\nRun this, and open the run: 'Model metrics' has the pictures with a step slider over epochs, 'Artifacts' the"
        "\npage explanations/report.html."
        f"\n\n    mlflow ui --backend-store-uri {tracking_uri}\n"
    )


def _say(epochs: int, epoch: int, logs: dict[str, float]) -> None:
    explained = "  explained" if epoch % _FREQUENCY == 0 or epoch + 1 == epochs else ""
    print(
        f"epoch {epoch + 1}:  loss {logs['loss']:.3f}  accuracy {logs['accuracy']:.2f}  "
        f"validation accuracy {logs['val_accuracy']:.2f}{explained}",
        flush=True,
    )


def table(found: Round | None, method: str = "integrated_gradients") -> str:
    """What a round found of one method, a line an image, with the verdicts that speak against it.

    Args:
        found: the last round, `callback.latest`.
        method: whose numbers are shown.
    """
    if found is None or method not in found.methods:
        return f"No round of {method} was completed."
    samples, attribution = found.samples, found.attributions[found.methods.index(method)]
    lines = [
        f"{'':<24}{'':>6}{'':>11}{'completeness':>14}{'inside lesion':>17}{'highest':>11}{'outside breast':>17}",
        f"{'class':<24}{'image':>6}{'confidence':>11}{'error':>14}{'share':>9}{'chance':>8}{'pixel':>11}{'share':>9}{'chance':>8}"
        "  against it",
    ]
    for i, name in enumerate(samples.ids):
        line = f"{samples.class_name(int(samples.targets[i, 0])):<24}{name:>6}{samples.confidence[i]:>11.4f}"
        line += f"{attribution.relative_completeness_error[i]:>14.2%}"
        line += _percent(attribution, "relevance_mass", i, 9) + _percent(attribution, "roi_area", i, 8)
        line += f"{_PEAKS.get(_number(attribution, 'pointing_game', i), '-'):>11}"
        line += _percent(attribution, "border_share", i, 9) + _percent(attribution, "border_area", i, 8)
        against = [verdict.words.split(":")[0] for verdict in verdicts(attribution, i) if not verdict.good]
        lines.append(f"{line}  {', '.join(against) or '-'}")
    for _, absent in samples.missing:
        lines.append(f"{samples.class_name(absent):<24}no image of this class is predicted correctly")
    return "\n".join([*lines, f"\nAll numbers are those of {method.replace('_', ' ')}."])


def _number(attribution: Attribution, measure: str, i: int) -> float:
    return float(attribution.measures[measure][i]) if measure in attribution.measures else np.nan


def _percent(attribution: Attribution, measure: str, i: int, width: int) -> str:
    number = _number(attribution, measure, i)
    return f"{'-':>{width}}" if np.isnan(number) else f"{number:>{width}.0%}"
