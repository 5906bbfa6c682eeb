"""How exact is the method, by its own promise?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_explain.metrics.context import Context
from keras_explain.records import Attribution


@dataclass(frozen=True)
class Completeness:
    """What each method promises, and by how much it misses; no evaluation of the model.

        completeness_error           |sum(values) - (score - base_score)|             in logits
        relative_completeness_error  the same as a share of |score - base_score|
        standard_error               root of the sum over the map of its squared standard errors, in logits
        r2, effect                   of LIME's surrogate, see `keras_explain.Lime`

    Each only for methods that promise it: completeness for Integrated Gradients and GradientShap, the standard error
    for GradientShap.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
        >>> samples = kx.Samples(np.ones((1, 2)), targets=[0])
        >>> attribution = kx.explain(model, samples, "integrated_gradients")
        >>> sorted(kx.metrics.evaluate(model, samples, attribution, metrics=["completeness"]))
        ['completeness_error', 'relative_completeness_error']

    References:
        Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks. Known criticism: a complete map can still lie
        in the wrong place, and the relative error is large wherever the score hardly changes.
    """

    needs: ClassVar[str] = "a method that promises a sum, samples or fits a surrogate"
    when: ClassVar[str] = "round"

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """The numbers that the method promises."""
        measured = {name: attribution.details[name] for name in ("r2", "effect") if name in attribution.details}
        if np.isfinite(attribution.base_score).any():
            measured["completeness_error"] = attribution.completeness_error
            measured["relative_completeness_error"] = attribution.relative_completeness_error
            if len(attribution.standard_error):
                squares = np.square(attribution.standard_error, dtype="float64").reshape(len(attribution), -1)
                measured["standard_error"] = np.sqrt(squares.sum(axis=1))
        return measured
