"""How far an explanation can be trusted, as named numbers."""

from __future__ import annotations

import keras
import numpy as np

from keras_explain.errors import InputError
from keras_explain.gradients import Scorer
from keras_explain.metrics.localization import relevance_mass
from keras_explain.records import Attribution, Samples

__all__ = ["evaluate", "relevance_mass"]


def evaluate(
    model: Scorer | keras.Model, samples: Samples, attribution: Attribution, roi: np.ndarray | None = None
) -> dict[str, float]:
    """The quality of one attribution as means over its maps.

    Args:
        model: what was explained.
        samples: the images that were explained.
        attribution: of these samples.
        roi: (n, h, w) bool, where the true finding of each sample is; samples without one do not count.

    Returns:
        completeness_error (logits), relative_completeness_error, mean_standard_error (logits, of the whole map's sum
        taken pixel by pixel), r2, effect and relevance_mass, as far as the method and the arguments give them.

    Raises:
        InputError: `roi` of another shape.

    Example:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
        >>> samples = kx.Samples(np.ones((1, 2)), targets=[0])
        >>> sorted(kx.metrics.evaluate(model, samples, kx.explain(model, samples, "integrated_gradients")))
        ['completeness_error', 'relative_completeness_error']
    """
    numbers = {
        "completeness_error": attribution.completeness_error,
        "relative_completeness_error": attribution.relative_completeness_error,
        "r2": attribution.details.get("r2", np.array([np.nan])),
        "effect": attribution.details.get("effect", np.array([np.nan])),
    }
    if len(attribution.standard_error):
        numbers["mean_standard_error"] = attribution.standard_error
    if roi is not None:
        if np.shape(roi) != samples.images.shape[:-1]:
            raise InputError(f"roi has shape {np.shape(roi)}; the samples need {samples.images.shape[:-1]}.")
        numbers["relevance_mass"] = relevance_mass(attribution.values, np.asarray(roi)[attribution.rows])
    return {name: float(np.nanmean(values)) for name, values in numbers.items() if np.isfinite(values).any()}
