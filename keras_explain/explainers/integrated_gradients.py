"""Integrated Gradients: contributions along the straight path from a baseline, which sum to the change of the score."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_explain.errors import ExplanationWarning, InputError
from keras_explain.gradients import Scorer, columns
from keras_explain.records import Attribution, Samples

_MOST_STEPS = 1024


def point_on_path(alpha: Any, weight: Any, image: Any, baseline: Any) -> Any:
    """x' + alpha (x - x')."""
    return baseline + columns(alpha, image) * (image - baseline)


def integrand(gradients: Any, alpha: Any, weight: Any, image: Any, baseline: Any) -> Any:
    """Sum over the nodes of weight * (x - x') * gradient, for each target."""
    return (ops.sum(columns(weight, image) * (image - baseline) * gradients, axis=1),)


@dataclass(frozen=True)
class IntegratedGradients:
    """Contributions of the pixels along the straight path from a baseline x' to the image x.

        values = (x - x') * integral over alpha in [0, 1] of  d f(x' + alpha (x - x'))[target] / d x
        sum(values) = f(x)[target] - f(x')[target]    within `completeness_error`

    The integral is taken with Gauss-Legendre nodes, or, where a tolerance is given, with the trapezoidal rule, of which
    the steps can be halved without losing what was computed. Sums of equal weights need several times as many steps.

    Args:
        steps: nodes of the integral, one gradient each; with a tolerance, the first steps, between one node more.
        baseline: what counts as "nothing there", in the units of the images: a number, or an array of the image shape.
        tolerance: relative completeness error to reach; the steps of images above it are halved, up to 1024 of them.
            None takes `steps` as they are.

    `settings["steps_used"]` of what `explain` returns holds the gradients taken for each image.

    Raises:
        InputError: fewer than one step, a tolerance that is not positive, a baseline of another shape.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
        >>> _ = model.layers[0].kernel.assign([[1.0, -1.0], [2.0, 0.0]])
        >>> kx.explain(model, np.array([[10.0, 5.0]]), kx.IntegratedGradients(steps=4), targets=0).values
        array([[10., 10.]], dtype=float32)

    References:
        Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks. Known criticism: a pixel equal to the
        baseline gets nothing, so a black baseline is blind to black pixels (Sturmfels et al. 2020); the path leaves
        the images that the model knows.
    """

    method: ClassVar[str] = "integrated_gradients"
    steps: int = 64
    baseline: float | np.ndarray = 0.0
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be at least 1; got {self.steps}.")
        if self.tolerance is not None and self.tolerance <= 0:
            raise InputError(f"tolerance must be positive; got {self.tolerance}.")

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One map for each image and target."""
        shape = samples.images.shape[1:]
        try:
            baseline = np.broadcast_to(np.asarray(self.baseline, "float32"), shape)[None]
        except ValueError as error:
            raise InputError(f"baseline has shape {np.shape(self.baseline)}, the images {shape}.") from error
        score = np.take_along_axis(scorer.logits(samples.images), samples.targets, axis=1)
        base_score = scorer.logits(baseline)[0][samples.targets]
        values, steps = np.zeros((*samples.targets.shape, *shape), "float32"), np.zeros(len(samples), int)
        for i in range(len(samples)):
            values[i], steps[i] = self._integrate(scorer, samples[i], baseline, score[i] - base_score[i])
        return Attribution(
            method=self.method,
            values=values.reshape(-1, *shape),
            targets=samples.targets.reshape(-1),
            rows=samples.rows,
            score=score.reshape(-1),
            base_score=base_score.reshape(-1),
            settings={**vars(self), "steps_used": steps.tolist()},
        )

    def _integrate(
        self, scorer: Scorer, sample: Samples, baseline: np.ndarray, change: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """The integral for all targets of one image, and the gradients it took."""

        def integral(alpha: np.ndarray, weight: np.ndarray) -> np.ndarray:
            targets = np.tile(sample.targets, (len(alpha), 1))
            nodes = [alpha.astype("float32"), weight.astype("float32")]
            _, (values,) = scorer.differentiate(point_on_path, integrand, targets, nodes, [sample.images, baseline])
            return np.asarray(values)

        if self.tolerance is None:
            nodes, weights = np.polynomial.legendre.leggauss(self.steps)
            return integral((nodes + 1) / 2, weights / 2), self.steps

        def missed(values: np.ndarray) -> bool:
            error = np.abs(values.reshape(len(change), -1).sum(axis=1, dtype="float64") - change)
            return bool((error > self.tolerance * np.abs(change)).any())

        # The trapezoidal rule keeps what it has when its steps are halved: the points between are added.
        steps = self.steps
        ends = np.where(np.isin(np.arange(steps + 1), (0, steps)), 0.5, 1.0)
        values = integral(np.linspace(0, 1, steps + 1), ends / steps)
        while missed(values) and 2 * steps <= _MOST_STEPS:
            between = (np.arange(steps) + 0.5) / steps
            values = (values + integral(between, np.full(steps, 1 / steps))) / 2
            steps *= 2
        if missed(values):
            warnings.warn(
                f"Integrated Gradients of {sample.ids[0]} misses tolerance={self.tolerance} at {steps} steps.",
                ExplanationWarning,
                stacklevel=2,
            )
        return values, steps + 1
