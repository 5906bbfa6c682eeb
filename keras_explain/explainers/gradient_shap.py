"""GradientShap: Integrated Gradients in expectation over a background of real images (expected gradients)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_explain.errors import InputError
from keras_explain.gradients import Scorer, columns
from keras_explain.records import Attribution, Samples

_MOST_UNLIKE = 20.0


def point_on_path(index: Any, alpha: Any, image: Any, background: Any) -> Any:
    """x' + alpha (x - x')."""
    baseline = ops.take(background, index, axis=0)
    return baseline + columns(alpha, image) * (image - baseline)


def contributions(gradients: Any, index: Any, alpha: Any, image: Any, background: Any) -> Any:
    """Sums over the points of (x - x') * gradient and of its square, for each target."""
    terms = (image - ops.take(background, index, axis=0)) * gradients
    return ops.sum(terms, axis=1), ops.sum(ops.square(terms), axis=1)


@dataclass(frozen=True)
class GradientShap:
    """Expected gradients: the contributions of the pixels compared with a background of real images.

        values = E over x' in background and alpha in [0, 1] of (x - x') * d f(x' + alpha (x - x'))[target] / d x
        sum(values) = f(x)[target] - E f(x')[target]    within `completeness_error`

    Sampling is stratified: alpha takes one value in each of `samples` equal parts of [0, 1], and every run of m
    neighbouring parts uses each of the m background images once, in random order.

    Args:
        background: (m, *image shape) images in the range of those explained; None takes `samples.background`.
        samples: points of the expectation, one gradient each.
        seed: of the sampling; every image uses the same points, so a map does not depend on its neighbours.

    Returns of `explain`: also `standard_error`, that of independent sampling, which stratification only lowers.

    Raises:
        InputError: no background, one of another shape or range, fewer than two samples.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
        >>> _ = model.layers[0].kernel.assign([[1.0, -1.0], [2.0, 0.0]])
        >>> background = np.array([[0.0, 1.0], [2.0, 1.0]])
        >>> kx.explain(model, np.array([[3.0, 2.0]]), kx.GradientShap(background, samples=10), targets=0).values
        array([[2., 2.]], dtype=float32)

    References:
        Erion et al. 2021, Improving performance of deep learning models with axiomatic attribution priors and expected
        gradients; Lundberg & Lee 2017 (SHAP). Known criticism: it equals Shapley values only for a linear model and
        independent pixels; blends of two images are no images; the answer depends on the background.
    """

    method: ClassVar[str] = "gradient_shap"
    background: np.ndarray | None = None
    samples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError(f"samples must be at least 2; got {self.samples}.")

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One map for each image and target."""
        background = self._checked_background(samples)
        index, alpha = self._points(len(background))
        # Sent once, and taken from on the device: to send one for each point takes a GPU as long as the gradients.
        used, index = np.unique(index, return_inverse=True)
        points, fixed = [index.astype("int32"), alpha], background[used]
        shape = samples.images.shape[1:]
        score = np.take_along_axis(scorer.logits(samples.images), samples.targets, axis=1)
        base_score = scorer.logits(background).mean(axis=0, dtype="float64")[samples.targets]
        values = np.zeros((*samples.targets.shape, *shape), "float32")
        error = np.zeros_like(values)
        for i, (image, targets) in enumerate(zip(samples.images, samples.targets, strict=True)):
            repeated = np.tile(targets, (self.samples, 1))
            _, (total, squares) = scorer.differentiate(
                point_on_path, contributions, repeated, points, [image[None], fixed]
            )
            values[i] = total / self.samples
            variance = np.maximum(squares / self.samples - values[i] ** 2, 0) * self.samples / (self.samples - 1)
            error[i] = np.sqrt(variance / self.samples)
        return Attribution(
            method=self.method,
            values=values.reshape(-1, *shape),
            targets=samples.targets.reshape(-1),
            rows=samples.rows,
            score=score.reshape(-1),
            base_score=base_score.reshape(-1),
            settings={"background": len(background), "samples": self.samples, "seed": self.seed},
            standard_error=error.reshape(-1, *shape),
        )

    def _points(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """Background index and alpha of each point."""
        random = np.random.default_rng(self.seed)
        runs = -(-self.samples // m)
        index = np.concatenate([random.permutation(m) for _ in range(runs)])[: self.samples]
        alpha = (np.arange(self.samples) + random.random(self.samples)) / self.samples
        return index, alpha.astype("float32")

    def _checked_background(self, samples: Samples) -> np.ndarray:
        background = np.asarray(samples.background if self.background is None else self.background, "float32")
        if not len(background):
            raise InputError(
                "GradientShap needs a background: GradientShap(background=images), or select(background=50)."
            )
        if background.shape[1:] != samples.images.shape[1:]:
            raise InputError(
                f"background has images of shape {background.shape[1:]}, the samples {samples.images.shape[1:]}."
            )
        if not np.isfinite(background).all():
            raise InputError("background must be finite; NaN or infinity came.")
        ranges = [(float(background.min()), float(background.max())), samples.value_range]
        width, expected = (high - low for low, high in ranges)
        if expected > 0 and not expected / _MOST_UNLIKE <= width <= expected * _MOST_UNLIKE:
            (low, high), (sample_low, sample_high) = ranges
            raise InputError(
                f"background lies in {low:g} to {high:g}, the samples in {sample_low:g} to {sample_high:g}. "
                "Scale both as in training."
            )
        return background
