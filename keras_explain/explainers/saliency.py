"""Saliency: the gradient of the class logit, vanilla, guided or rectified, and its mean over noise (SmoothGrad)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_explain.errors import InputError
from keras_explain.gradients import Rows, Scorer, as_they_are, identity
from keras_explain.records import Attribution, Samples
from keras_explain.rules import RULES, relu_replacements


def noisy(noise: Any, image: Any) -> Any:
    """x + noise."""
    return image + noise


def sum_over_points(gradients: Any, noise: Any, image: Any) -> Any:
    """The sum over the noisy copies, for each target."""
    return (ops.sum(gradients, axis=1),)


@dataclass(frozen=True)
class Saliency:
    """The gradient of the class logit with respect to the image.

        vanilla, guided, rectified:  d f(x)[target] / d x   with the backward rule of `keras_explain.rules`
        SmoothGrad:                  the mean of that over x + noise, signs kept

    Args:
        rule: `"vanilla"`, `"guided"` or `"rectified"`.
        smooth: noisy copies to average over; 0 takes the image itself.
        noise: standard deviation of the Gaussian noise, as a share of each image's range of values.
        seed: of the noise.

    Raises:
        InputError: an unknown rule, a negative number.
        RuleError: at use, for a rule on a model without ReLUs or with leaky ones.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
        >>> _ = model.layers[0].kernel.assign([[1.0, -1.0], [2.0, 0.0]])
        >>> kx.explain(model, np.ones((1, 2)), kx.Saliency(), targets=0).values
        array([[1., 2.]], dtype=float32)

    References:
        Simonyan et al. 2014, Deep Inside Convolutional Networks; Smilkov et al. 2017, SmoothGrad. Known criticism: a
        gradient says what a small change of a pixel would do, not what the pixel contributed, and it is noisy and
        saturates; for guided and rectified see `keras_explain.rules`. Values are in logits per unit of pixel value.
    """

    rule: str = "vanilla"
    smooth: int = 0
    noise: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"rule must be one of {', '.join(RULES)}; got {self.rule!r}.")
        if self.smooth < 0 or self.noise < 0:
            raise InputError(f"smooth and noise must not be negative; got {self.smooth} and {self.noise}.")

    @property
    def method(self) -> str:
        """Short name of what is configured."""
        return f"smoothgrad_{self.rule}".removesuffix("_vanilla") if self.smooth else self.rule

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One gradient map for each image and target."""
        scores, gradients = scorer.differentiate(
            identity, as_they_are, samples.targets, [samples.images], rule=self.rule
        )
        if self.smooth:
            gradients = np.stack(
                [self._smoothed(scorer, x, t) for x, t in zip(samples.images, samples.targets, strict=True)]
            )
        return Attribution(
            method=self.method,
            values=gradients.reshape(-1, *samples.images.shape[1:]),
            targets=samples.targets.reshape(-1),
            rows=samples.rows,
            score=scores.reshape(-1),
            unit="logit per unit of pixel value",
            settings={**vars(self), "relus_rewritten": len(relu_replacements(scorer.model, self.rule))},
        )

    def _smoothed(self, scorer: Scorer, image: np.ndarray, targets: np.ndarray) -> np.ndarray:
        scale = np.float32(self.noise * np.ptp(image))

        def made(part: range) -> np.ndarray:
            copies = (np.random.default_rng((self.seed, i)) for i in part)
            return scale * np.stack([random.standard_normal(image.shape, "float32") for random in copies])

        noise = Rows(self.smooth, image.shape, made)
        repeated = np.tile(targets, (self.smooth, 1))
        _, (total,) = scorer.differentiate(noisy, sum_over_points, repeated, [noise], [image[None]], self.rule)
        return np.asarray(total) / self.smooth
