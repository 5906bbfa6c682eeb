"""How alike are two maps: of two methods, of two rounds, of two models?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_explain.errors import InputError, MissingExtra
from keras_explain.metrics.context import Context
from keras_explain.records import Attribution

_WINDOW = 11  # pixels that SSIM's Gaussian of sigma 1.5 spans


def spearman(first: np.ndarray, second: np.ndarray, absolute: bool = False) -> np.ndarray:
    """Rank correlation of two maps.

        Pearson correlation of the ranks of v and w, equal values sharing their mean rank

    Args:
        first, second: (n, *shape, channels) signed maps, whose channels are summed to v and w.
        absolute: rank |v| and |w|.

    Returns:
        (n,) in [-1, 1]; NaN where a map is constant.

    Raises:
        InputError: shapes that differ.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import spearman
        >>> ramp = np.arange(4.0).reshape(1, 2, 2, 1)
        >>> spearman(ramp, ramp**3), spearman(ramp, -ramp), spearman(ramp, -ramp, absolute=True)
        (array([1.]), array([-1.]), array([1.]))

    References:
        Adebayo et al. 2018, Sanity Checks for Saliency Maps. Known criticism: the many pixels near zero count as
        much as the few large ones.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(flat, axis=1) for flat in _flat_pair(first, second, absolute)]
    v, w = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    spread = np.sqrt((v**2).sum(axis=1) * (w**2).sum(axis=1))
    return np.asarray((v * w).sum(axis=1) / np.where(spread > 0, spread, np.nan))


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity of two maps as they look: absolute, each scaled to 0..1.

        SSIM of |v| and |w|, each scaled from its minimum and maximum to 0 and 1,
        with Gaussian weights of sigma 1.5 and a data range of 1

    Args:
        first, second: (n, *shape, channels) signed maps, whose channels are summed to v and w.

    Returns:
        (n,) in [-1, 1]; NaN for images below 11 pixels a side.

    Raises:
        InputError: shapes that differ.
        MissingExtra: scikit-image is not installed.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import ssim
        >>> map = np.random.default_rng(0).random((1, 16, 16, 1))
        >>> ssim(map, -7 * map).round(6)
        array([1.])

    References:
        Wang et al. 2004, Image quality assessment; Adebayo et al. 2018. Known criticism: two sparse maps are alike in
        their many dark pixels, so values must be compared with those of unrelated maps.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtra("SSIM needs scikit-image: pip install scikit-image") from error
    pair = _flat_pair(first, second, absolute=True)
    shape = np.shape(first)[1:-1]
    if not shape or min(shape) < _WINDOW:
        return np.full(len(pair[0]), np.nan)
    v, w = (((flat - flat.min(1, keepdims=True)) / _positive(np.ptp(flat, 1))[:, None]) for flat in pair)
    return np.array(
        [
            structural_similarity(one.reshape(shape), other.reshape(shape), data_range=1, gaussian_weights=True)
            for one, other in zip(v, w, strict=True)
        ]
    )


def _positive(numbers: np.ndarray) -> np.ndarray:
    return np.where(numbers > 0, numbers, 1)


def _flat_pair(first: np.ndarray, second: np.ndarray, absolute: bool) -> list[np.ndarray]:
    if np.shape(first) != np.shape(second):
        raise InputError(f"The maps must have one shape; got {np.shape(first)} and {np.shape(second)}.")
    flat = [np.asarray(values).sum(axis=-1, dtype="float64").reshape(len(values), -1) for values in (first, second)]
    return [np.abs(values) for values in flat] if absolute else flat


@dataclass(frozen=True)
class Agreement:
    """Whether other methods point at the same pixels; no evaluation of the model.

        agreement = mean over the other methods of the rank correlation of the absolute maps

    Each method that was given counts, guided backpropagation too: compare a method's number with those of the others.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> samples = kx.Samples(np.ones((1, 2, 2, 1)), targets=[0])
        >>> one, other = kx.explain(model, samples, "vanilla"), kx.explain(model, samples, "integrated_gradients")
        >>> kx.metrics.evaluate(model, samples, one, metrics=["agreement"], others=[other])
        {'agreement': 1.0}

    References:
        Krishna et al. 2022, The Disagreement Problem in Explainable Machine Learning. Known criticism: methods can
        agree and be wrong together.
    """

    needs: ClassVar[str] = "others, of the same samples and targets"
    when: ClassVar[str] = "round"

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """The mean of each row over the methods that explained the same images and targets."""
        same = [
            other
            for other in context.others
            if other.values.shape[:-1] == attribution.values.shape[:-1]
            and np.array_equal(other.rows, attribution.rows)
            and np.array_equal(other.targets, attribution.targets)
        ]
        if not same:
            return {}
        ranks = np.stack([spearman(attribution.flat[..., None], o.flat[..., None], absolute=True) for o in same])
        known = np.isfinite(ranks)
        mean = np.where(known, ranks, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
        return {"agreement": mean}


@dataclass(frozen=True)
class Drift:
    """How much the map of the same image and target has changed since the previous round; no evaluation of the model.

        drift = 1 - rank correlation of the signed maps, 0 for the same order of pixels, about 1 for unrelated maps

    NaN for images that were not explained in the previous round; an image is known by its content.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> samples = kx.Samples(np.ones((1, 2, 2, 1)), targets=[0])
        >>> found = kx.explain(model, samples, "vanilla")
        >>> kx.metrics.evaluate(model, samples, found, metrics=["drift"], before=(samples, found))
        {'drift': 0.0}

    Known criticism: it compares what the model shows, and a model can change in what it does not show.
    """

    needs: ClassVar[str] = "before"
    when: ClassVar[str] = "round"

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """The change of each row."""
        if context.before is None:
            return {}
        samples, before = context.before
        past = {
            (samples.fingerprints[row], int(target)): i
            for i, (row, target) in enumerate(zip(before.rows, before.targets, strict=True))
        }
        drift = np.full(len(attribution), np.nan)
        fingerprints = context.samples.fingerprints
        for i, (row, target) in enumerate(zip(attribution.rows, attribution.targets, strict=True)):
            then = past.get((fingerprints[row], int(target)))
            if then is not None:
                drift[i] = 1 - spearman(attribution.values[[i]], before.values[[then]])[0]
        return {"drift": drift}
