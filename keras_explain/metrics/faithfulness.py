"""Does the score fall when the pixels that the map marks are taken away, and rise when only they are shown?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_explain.errors import InputError, check_counts
from keras_explain.explainers.masking import blurred
from keras_explain.metrics.context import Context
from keras_explain.records import Attribution


def exchanged_first(count: Any, rank: Any, image: Any, other: Any) -> Any:
    """The image with its `count` pixels of lowest rank taken from the other image, for each count."""
    first = ops.expand_dims(rank, 0) < ops.reshape(count, (-1, *(1,) * len(rank.shape)))
    return ops.where(ops.expand_dims(first, -1), other[None], image[None])


@dataclass(frozen=True)
class Faithfulness:
    """Deletion and insertion: the score while the pixels are exchanged, those the map ranks highest first.

        deletion  = area under f(image with its first k pixels taken from the baseline)   over k = 0 .. all
        insertion = area under f(baseline with its first k pixels taken from the image)

    with pixels in falling order of the signed channel sum (ties in random order), all channels of a pixel at once, k in
    `steps` even parts and the trapezoidal rule, so that a score that stays 1 has the area 1. Measures `deletion` and
    `insertion` of the probability, and `deletion_logit` and `insertion_logit` of the logit. A good map has a low
    deletion and a high insertion. Evaluations: 2 (steps + 1) for each map.

    Args:
        steps: parts in which the pixels are exchanged.
        baseline: `"blur"` (standard deviation of a tenth of each side), `"mean"` (the image's mean colour) or a
            number in the units of the images. Areas of different baselines must not be compared.
        seed: of the order of pixels with equal values.
        when: `"round"` or `"last"`.

    Raises:
        InputError: fewer than one step, an unknown baseline.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((1, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
        >>> model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
        >>> model.set_weights([np.array([[1.0, 0.0], [3.0, 0.0]]), np.zeros(2)])
        >>> samples = kx.Samples(np.ones((1, 1, 2, 1)), [0])
        >>> found = kx.explain(model, samples, "vanilla")
        >>> metric = kx.metrics.Faithfulness(steps=2, baseline=0.0)
        >>> kx.metrics.evaluate(model, samples, found, metrics=[metric])["deletion_logit"]  # 4, 1, 0
        1.5

    References:
        Petsiuk et al. 2018, RISE. Known criticism: half-exchanged images are none that the model knows; baseline and
        steps change the areas (Hooker et al. 2019).
    """

    steps: int = 16
    baseline: str | float = "blur"
    seed: int = 0
    when: str = "round"

    def __post_init__(self) -> None:
        check_counts(1, steps=self.steps)
        if self.baseline not in ("blur", "mean") and not (np.ndim(self.baseline) == 0 and _finite(self.baseline)):
            raise InputError(f"baseline must be 'blur', 'mean' or a number; got {self.baseline!r}.")

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """Four areas for each row."""
        scorer, samples = context.scorer, context.samples
        head = scorer.head(samples.images)
        measured: dict[str, list[float]] = {}
        for flat, row, target in zip(attribution.flat, attribution.rows, attribution.targets, strict=True):
            image = samples.images[row]
            baseline = self._baseline(image)
            rank, counts = self._rank(flat), self._counts(flat.size)
            for name, start, end in (("deletion", image, baseline), ("insertion", baseline, image)):
                logits = scorer.evaluate(exchanged_first, [counts], [rank, start, end])
                probability = head.probabilities(logits)[:, target]
                measured.setdefault(name, []).append(_area(probability, counts))
                measured.setdefault(f"{name}_logit", []).append(_area(logits[:, target], counts))
        return {name: np.array(areas) for name, areas in measured.items()}

    def _rank(self, flat: np.ndarray) -> np.ndarray:
        """Place of each pixel in falling order of its value, 0 the highest."""
        shuffled = np.random.default_rng(self.seed).permutation(flat.size)
        order = shuffled[np.argsort(-flat.ravel()[shuffled], kind="stable")]
        rank = np.empty(flat.size, "int32")
        rank[order] = np.arange(flat.size)
        return rank.reshape(flat.shape)

    def _counts(self, pixels: int) -> np.ndarray:
        return np.rint(np.linspace(0, pixels, self.steps + 1)).astype("int32")

    def _baseline(self, image: np.ndarray) -> np.ndarray:
        if self.baseline == "blur":
            return blurred(image).astype("float32")
        pixels = tuple(range(image.ndim - 1))
        level = image.mean(axis=pixels) if self.baseline == "mean" else self.baseline
        return np.broadcast_to(level, image.shape).astype("float32")


def _finite(number: Any) -> bool:
    return isinstance(number, (int, float, np.number)) and bool(np.isfinite(number))


def _area(scores: np.ndarray, counts: np.ndarray) -> float:
    return float(np.trapezoid(scores.astype("float64"), counts / counts[-1]))
