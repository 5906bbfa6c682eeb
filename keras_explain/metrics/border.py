"""How much of the explanation lies where there is no breast?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_explain.errors import InputError
from keras_explain.metrics.context import Context
from keras_explain.records import Attribution

_DARK = 0.07


def breast(image: np.ndarray) -> np.ndarray:
    """The largest connected part of an image that is brighter than film, its holes filled.

    Brighter than film is what lies more than 7 % of the image's range above its darkest pixel. Labels and markers on
    the film are bright too, but they are not the largest part.

    Args:
        image: (*shape, channels).

    Returns:
        (*shape) bool; True everywhere where nothing is dark, as in a crop from inside the breast.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import breast
        >>> breast(np.array([[[0.9], [0.8], [0.0], [1.0]]]))
        array([[ True,  True, False, False]])
    """
    from scipy import ndimage

    grey = image.mean(axis=-1, dtype="float64")
    parts, count = ndimage.label(grey > grey.min() + _DARK * np.ptp(grey))
    if not count:
        return np.ones(grey.shape, bool)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(parts == largest))


def border_share(values: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """The share of absolute attribution that lies outside the foreground.

        sum of |v| outside / sum of |v| everywhere,   v the channel sum of a map

    Args:
        values: (n, *shape, channels) signed maps.
        foreground: (n, *shape) bool.

    Returns:
        (n,) in [0, 1]; the share of the area outside by chance; NaN where nothing lies outside or the map is zero.

    Raises:
        InputError: shapes that do not fit.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import border_share
        >>> border_share(np.array([[[[3.0], [-1.0]]]]), np.array([[[True, False]]]))
        array([0.25])

    References:
        Zech et al. 2018, Variable generalization performance of a deep learning model to detect pneumonia in chest
        radiographs, for models that read the film's markers. Known criticism: a shortcut inside the breast goes unseen.
    """
    values, foreground = np.asarray(values), np.asarray(foreground, bool)
    if values.shape[:-1] != foreground.shape:
        raise InputError(
            f"foreground has shape {foreground.shape}; values of shape {values.shape} need {values.shape[:-1]}."
        )
    strength = np.abs(values.sum(axis=-1, dtype="float64")).reshape(len(values), -1)
    outside = ~foreground.reshape(len(values), -1)
    total = np.where(outside.any(axis=1), strength.sum(axis=1), 0)
    return np.asarray((strength * outside).sum(axis=1) / np.where(total > 0, total, np.nan))


@dataclass(frozen=True)
class Border:
    """How much of the map lies where there is no breast, the sign of a model that reads the film instead.

    Measures `border_share` as the function of this name, and `border_area`, its chance level. No evaluation of the
    model. NaN for images without background.

    Args:
        foreground: from an image (*shape, channels) to bool (*shape), what belongs to the object; None is `breast`.

    Raises:
        InputError: a foreground that is no function.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> samples = kx.Samples(np.array([[[[1.0], [0.0]]]]), [0])
        >>> attribution = kx.Attribution("mine", np.array([[[[3.0], [1.0]]]]), [0], [0], score=[1.0])
        >>> model = keras.Sequential([keras.Input((1, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> kx.metrics.evaluate(model, samples, attribution, metrics=["border"])
        {'border_share': 0.25, 'border_area': 0.5}
    """

    foreground: Callable[[np.ndarray], np.ndarray] | None = None
    needs: ClassVar[str] = "images of two axes and channels"
    when: ClassVar[str] = "round"

    def __post_init__(self) -> None:
        if self.foreground is not None and not callable(self.foreground):
            raise InputError(f"foreground must be a function of an image; got {self.foreground!r}.")

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """Share of the attribution and of the area outside, for each row."""
        images = context.samples.images
        if images.ndim < 3:
            return {}
        inside = np.array([(self.foreground or breast)(image) for image in images])[attribution.rows]
        area = 1 - inside.reshape(len(inside), -1).mean(axis=1)
        share = border_share(attribution.values, inside)
        return {"border_share": share, "border_area": np.where(area > 0, area, np.nan)}
