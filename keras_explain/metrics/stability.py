"""Does the explanation stay when nothing that matters has changed?"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_explain.errors import InputError, check_counts
from keras_explain.explainers.lime import Lime
from keras_explain.metrics.context import Context
from keras_explain.records import Attribution


@dataclass(frozen=True)
class Sensitivity:
    """Max-sensitivity: how far the map moves when the image is moved by a little noise.

        max_sensitivity = max over draws u of ||map(x + u) - map(x)|| / ||map(x)||,   u uniform in [-r, r]

    Evaluations: those of the method, once for each draw.

    Args:
        samples: draws.
        radius: r as a share of the data's range of pixel values.
        seed: of the noise.
        when: `"last"` or `"round"`.

    Raises:
        InputError: fewer than one draw, a radius that is not positive; at use, a missing explainer.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> samples = kx.Samples(np.random.default_rng(0).random((1, 4, 4, 1)), targets=[0])
        >>> found = kx.explain(model, samples, "vanilla")
        >>> kx.metrics.evaluate(model, samples, found, metrics=["sensitivity"], explainer=kx.Saliency())
        {'max_sensitivity': 0.0}

    References:
        Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations. Known criticism: a constant map is the
        least sensitive of all, and a model that jumps should have an explanation that jumps.
    """

    samples: int = 10
    radius: float = 0.02
    seed: int = 0
    when: str = "last"

    def __post_init__(self) -> None:
        check_counts(1, samples=self.samples)
        if not 0 < self.radius < np.inf:
            raise InputError(f"radius must be positive; got {self.radius}.")

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """The largest relative change of each row."""
        if context.explainer is None:
            raise InputError("Max-sensitivity explains again: give it the explainer.")
        explainer: Any = copy.copy(context.explainer)
        samples = context.samples
        low, high = samples.value_range
        radius = self.radius * (high - low)
        if radius == 0:  # one flat image and no range of the data: no noise is small or large beside it
            return {"max_sensitivity": np.full(len(attribution), np.nan)}
        random, largest = np.random.default_rng(self.seed), np.zeros(len(attribution))
        for _ in range(self.samples):
            noise = random.uniform(-radius, radius, samples.images.shape)
            moved = dataclasses.replace(samples, images=samples.images + noise)
            change = explainer.explain(context.scorer, moved).values - attribution.values
            largest = np.maximum(largest, _norms(change))
        own = _norms(attribution.values)
        return {"max_sensitivity": largest / np.where(own > 0, own, np.nan)}


def _norms(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(values.reshape(len(values), -1).astype("float64"), axis=1))


def variables_stability(chosen: np.ndarray) -> float:
    """VSI: how many of the k strongest features two repetitions share, in percent, on average over all pairs.

        100 * mean over pairs (i, j) of |F_i and F_j| / k

    Args:
        chosen: (repetitions, k) numbers of the features that each repetition found strongest.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import variables_stability
        >>> variables_stability(np.array([[0, 1], [1, 2]]))
        50.0
    """
    sets = [set(map(int, row)) for row in chosen]
    shared = [len(a & b) / chosen.shape[1] for a, b in itertools.combinations(sets, 2)]
    return float(100 * np.mean(shared))


def coefficients_stability(chosen: np.ndarray, weights: np.ndarray, errors: np.ndarray) -> float:
    """CSI: how often the 95 % intervals of a feature's weight overlap between repetitions, in percent.

        100 * mean over features of the share of pairs of repetitions with overlapping weight +- 1.96 error

    taken over the repetitions that found the feature among their strongest, and features found at least twice.

    Args:
        chosen: (repetitions, k) as in `variables_stability`.
        weights, errors: (repetitions, features) coefficients of the surrogate and their standard errors.

    Returns:
        NaN where no feature was found twice with a known error.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import coefficients_stability
        >>> weights, errors = np.array([[1.0, 5.0], [1.1, 9.0]]), np.full((2, 2), 0.1)
        >>> coefficients_stability(np.array([[0, 1], [0, 1]]), weights, errors)
        50.0
    """
    shares = []
    for feature in np.unique(chosen):
        runs = np.flatnonzero((chosen == feature).any(axis=1))
        overlaps = [
            abs(weights[i, feature] - weights[j, feature]) <= 1.96 * (errors[i, feature] + errors[j, feature])
            for i, j in itertools.combinations(runs, 2)
            if np.isfinite(errors[[i, j], feature]).all()
        ]
        if overlaps:
            shares.append(np.mean(overlaps))
    return float(100 * np.mean(shares)) if shares else np.nan


@dataclass(frozen=True)
class Stability:
    """LIME repeated with other random subsets of the same superpixels: does it give the same answer?

    Measures `vsi` and `csi`, see `variables_stability` and `coefficients_stability`, of the `features` superpixels of
    largest absolute weight; NaN where there are no more than these. For LIME only. Evaluations: those of LIME, once for
    each repetition.

    Args:
        repeats: repetitions.
        features: superpixels that count as the answer.
        when: `"last"` or `"round"`.

    Raises:
        InputError: fewer than two repetitions, fewer than one feature.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> samples = kx.Samples(np.random.default_rng(0).random((1, 4, 4, 1)), targets=[0])
        >>> lime = kx.Lime(50, lambda image: np.arange(16).reshape(4, 4) // 4, hide=0.0)
        >>> found = kx.explain(model, samples, lime)
        >>> metric = kx.metrics.Stability(features=2)
        >>> 50 <= kx.metrics.evaluate(model, samples, found, metrics=[metric], explainer=lime)["vsi"] <= 100
        True

    References:
        Visani et al. 2020, Statistical stability indices for LIME; there for tables, here for superpixels, which stay
        fixed. Known criticism: a stable answer need not be a true one; see R2.
    """

    needs: ClassVar[str] = "LIME and the explainer that made its maps"
    repeats: int = 10
    features: int = 5
    when: str = "last"

    def __post_init__(self) -> None:
        check_counts(2, repeats=self.repeats)
        check_counts(1, features=self.features)

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """Both indices of each row; nothing for other methods."""
        if not isinstance(context.explainer, Lime):
            return {}
        vsi, csi = np.full((2, len(attribution)), np.nan)
        for sample in range(len(context.samples)):
            rows = np.flatnonzero(attribution.rows == sample)
            again = self._repeated(attribution.details["segments"][rows[0]], sample, context.explainer, context)
            for t, row in enumerate(rows):
                weights = np.array([run.details["weights"][t] for run in again])
                if weights.shape[1] <= self.features:
                    continue
                errors = np.array([run.details["weight_error"][t] for run in again])
                chosen = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, : self.features]
                vsi[row], csi[row] = variables_stability(chosen), coefficients_stability(chosen, weights, errors)
        return {"vsi": vsi, "csi": csi}

    def _repeated(self, segments: np.ndarray, sample: int, lime: Lime, context: Context) -> list[Attribution]:
        seeds = range(lime.seed + 1, lime.seed + 1 + self.repeats)
        return [
            dataclasses.replace(lime, segmentation=lambda image: segments, seed=seed).explain(
                context.scorer, context.samples[[sample]]
            )
            for seed in seeds
        ]
