"""Does the explanation lie where the finding is?"""

from __future__ import annotations

import numpy as np


def relevance_mass(values: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """The share of positive attribution that lies inside the region of interest.

        sum of max(v, 0) inside the region / sum of max(v, 0) everywhere,   v the channel sum of a map

    A map that ignores the image has the region's share of the area on average: compare with `roi.mean()`.

    Args:
        values: (n, h, w, c) signed maps.
        roi: (n, h, w) bool.

    Returns:
        (n,) in [0, 1]; NaN for an empty region or a map without positive values.

    Example:
        >>> import numpy as np
        >>> from keras_explain.metrics import relevance_mass
        >>> relevance_mass(np.array([[[[3.0], [1.0]]]]), np.array([[[True, False]]]))
        array([0.75])

    References:
        Arras et al. 2022, CLEVR-XAI ("relevance mass accuracy"). Known criticism: a model that rightly looks outside
        the marked region scores low.
    """
    positive = np.maximum(values.sum(axis=-1, dtype="float64"), 0).reshape(len(values), -1)
    inside = np.asarray(roi, bool).reshape(len(values), -1)
    total = np.where(inside.any(axis=1), positive.sum(axis=1), 0)
    return np.asarray((positive * inside).sum(axis=1) / np.where(total > 0, total, np.nan))
