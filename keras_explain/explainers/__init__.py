"""Explaining: a method by its name or as an object, applied to images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from keras_explain.errors import InputError
from keras_explain.explainers.cam import GradCam, GradCamPlusPlus
from keras_explain.explainers.gradient_shap import GradientShap
from keras_explain.explainers.integrated_gradients import IntegratedGradients
from keras_explain.explainers.lime import Lime
from keras_explain.explainers.masking import Occlusion, Rise
from keras_explain.explainers.saliency import Saliency
from keras_explain.explainers.score_cam import ScoreCam
from keras_explain.gradients import Scorer
from keras_explain.observer import untouched
from keras_explain.records import Attribution, Samples
from keras_explain.selection import check_images


@runtime_checkable
class Explainer(Protocol):
    """Anything that can explain; a user's own object with this method is accepted wherever a method's name is."""

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One map for each image and target of the samples."""


METHODS: dict[str, Callable[..., Explainer]] = {
    "vanilla": Saliency,
    "guided": lambda **options: Saliency("guided", **options),
    "rectified": lambda **options: Saliency("rectified", **options),
    "smoothgrad": lambda **options: Saliency(**{"smooth": 25, **options}),
    "integrated_gradients": IntegratedGradients,
    "gradient_shap": GradientShap,
    "lime": Lime,
    "grad_cam": GradCam,
    "grad_cam_plus_plus": GradCamPlusPlus,
    "score_cam": ScoreCam,
    "occlusion": Occlusion,
    "rise": Rise,
}


def resolve(method: str | Explainer, **options: Any) -> Explainer:
    """The explainer of a name with its options, or the given object itself.

    Args:
        method: one of `keras_explain.explainers.METHODS`, or an object with `explain(scorer, samples)`.
        options: passed to the method's constructor; only with a name.

    Raises:
        InputError: an unknown name or option, or an object that cannot explain.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise InputError(f"There is no method {method!r}; known are {', '.join(METHODS)}, or pass your own object.")
        try:
            return METHODS[method](**options)
        except TypeError as error:
            raise InputError(f"The options {sorted(options)} do not fit {method!r}: {error}") from error
    if isinstance(method, type) or not isinstance(method, Explainer):
        raise InputError(f"A method is a name or an object with explain(scorer, samples); got {method!r}.")
    if options:
        raise InputError(f"Options {sorted(options)} belong into the constructor of {type(method).__name__}.")
    return method


def named(methods: Sequence[str | Explainer], seed: int) -> list[tuple[str, Explainer]]:
    """Every explainer with a name of its own, under which its numbers are kept: the second of a kind is "name 2".

    Args:
        methods: names or objects, as in `resolve`.
        seed: of those given by name.
    """
    found: list[tuple[str, Explainer]] = []
    for method in methods:
        explainer: Any = resolve(method)
        name = method if isinstance(method, str) else str(getattr(explainer, "method", type(explainer).__name__))
        if isinstance(method, str) and hasattr(explainer, "seed"):
            explainer = dataclasses.replace(explainer, seed=seed)
        again = sum(other == name or other.startswith(f"{name} ") for other, _ in found)
        found.append((f"{name} {again + 1}" if again else name, explainer))
    return found


def explain(
    model: Scorer | keras.Model,
    images: Samples | np.ndarray,
    method: str | Explainer,
    targets: Any = None,
    *,
    value_range: tuple[float, float] | None = None,
    output: str | None = None,
    **options: Any,
) -> Attribution:
    """Explain images by one method.

    Args:
        model: a Keras classifier, or a `Scorer` of one (which keeps what it compiled).
        images: `Samples`, or an array (n, *image shape) exactly as the model receives it.
        method: a name (see `keras_explain.explainers.METHODS`) or an explainer object.
        targets: which class logits to explain: one class for all images; a list of classes, each for every image;
            `"all"`; or an (n, t) array. None takes those of the samples, or the predicted class of each image.
        value_range: (lowest, highest) pixel that the model was trained on; images outside are refused.
        output: name of the output, where the model has several.
        options: of the method, when it is given by name.

    Returns:
        One row for each image and target, images slow and targets fast; all targets of an image share forward passes.

    Raises:
        InputError: images, targets, names or options that do not fit.
        HeadError: the model's output cannot be switched to logits.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
        >>> _ = model.layers[0].kernel.assign([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
        >>> kx.explain(model, np.array([[1.0, 1.0, 1.0]]), "integrated_gradients", targets=0).values.round(3)
        array([[1., 2., 3.]], dtype=float32)
    """
    explainer = resolve(method, **options)
    scorer = Scorer.of(model, output)
    pixels = images.images if isinstance(images, Samples) else np.asarray(images, "float32")
    if not len(pixels):
        raise InputError("There are no images to explain.")
    # Samples come from a pipeline that was checked when they were selected.
    if not isinstance(images, Samples) or value_range is not None:
        check_images(pixels, scorer.model, value_range)
    with untouched(scorer.model):
        classes = scorer.head(pixels).classes
        if not isinstance(images, Samples):
            asked = scorer.logits(pixels).argmax(axis=1)[:, None] if targets is None else targets
            images = Samples(pixels, _target_table(asked, len(pixels), classes))
        else:
            asked = images.targets if targets is None else targets
            images = images.asking(_target_table(asked, len(pixels), classes))
        return explainer.explain(scorer, images)


def _target_table(targets: Any, n: int, classes: int) -> np.ndarray:
    """(n, t) classes from what a user may write."""
    if isinstance(targets, str):
        if targets != "all":
            raise InputError(f"targets must be classes or 'all'; got {targets!r}.")
        targets = np.arange(classes)
    table = np.asarray(targets)
    if table.dtype.kind not in "iu" or table.ndim > 2 or table.size == 0:
        raise InputError(f"targets must be class numbers; got {targets!r}.")
    if table.ndim == 2 and len(table) != n:
        raise InputError(f"targets has {len(table)} rows for {n} images.")
    if table.min() < 0 or table.max() >= classes:
        raise InputError(f"targets must be classes 0 to {classes - 1}; got {table.min()} to {table.max()}.")
    return table if table.ndim == 2 else np.tile(np.atleast_1d(table), (n, 1))
