"""Does the explanation lie where the finding is?

v is the channel sum of a map, R the region, |R| its pixels. Every function takes values (n, *shape, channels) signed
and roi (n, *shape) bool, and gives (n,) numbers, NaN where the region is empty. Pixels of equal value, as LIME's
superpixels have, share what they would win or lose by their order. A map that ignores the image scores the region's
share of the area in all but `otsu_iou`; known criticism of all: a model that rightly looks outside the marked region
scores low.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_explain.errors import InputError, MissingExtra
from keras_explain.metrics.context import Context
from keras_explain.records import Attribution


def pointing_game(values: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """Whether the highest pixel of the map lies inside the region.

        argmax v in R

    Args:
        values: (n, *shape, channels) signed maps.
        roi: (n, *shape) bool.

    Returns:
        (n,) 0 or 1; between them where several pixels are highest, the share of those inside.

    Raises:
        InputError: shapes that do not fit.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import pointing_game
        >>> pointing_game(np.array([[[[3.0], [1.0]]]]), np.array([[[True, False]]]))
        array([1.])

    References:
        Zhang et al. 2018, Top-down Neural Attention; without its tolerance of 15 pixels. Known criticism: one pixel
        stands for the whole map.
    """

    def hit(v: np.ndarray, inside: np.ndarray) -> float:
        return float(inside[v == v.max()].mean())

    return _each(hit, values, roi)


def relevance_mass(values: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """The share of positive attribution that lies inside the region.

        sum of max(v, 0) over R / sum of max(v, 0) everywhere

    Args:
        values: (n, *shape, channels) signed maps.
        roi: (n, *shape) bool.

    Returns:
        (n,) in [0, 1]; NaN for an empty region or a map without positive values.

    Raises:
        InputError: shapes that do not fit.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import relevance_mass
        >>> relevance_mass(np.array([[[[3.0], [1.0]]]]), np.array([[[True, False]]]))
        array([0.75])

    References:
        Arras et al. 2022, CLEVR-XAI ("relevance mass accuracy"). Known criticism: a few very large values decide.
    """

    def share(v: np.ndarray, inside: np.ndarray) -> float:
        positive = np.maximum(v, 0)
        return float(positive[inside].sum() / positive.sum()) if positive.any() else np.nan

    return _each(share, values, roi)


def relevance_rank(values: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """The share of the |R| highest pixels that lies inside the region.

        |top-|R| pixels of v  and  R| / |R|

    Args:
        values: (n, *shape, channels) signed maps.
        roi: (n, *shape) bool.

    Returns:
        (n,) in [0, 1].

    Raises:
        InputError: shapes that do not fit.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import relevance_rank
        >>> relevance_rank(np.array([[[[3.0], [2.0], [1.0]]]]), np.array([[[True, False, True]]]))
        array([0.5])

    References:
        Arras et al. 2022, CLEVR-XAI ("relevance rank accuracy"). Known criticism: the order within the top does not
        count.
    """

    def share(v: np.ndarray, inside: np.ndarray) -> float:
        k = int(inside.sum())
        lowest = np.partition(v, -k)[-k]
        above, level = v > lowest, v == lowest
        return float((inside[above].sum() + (k - above.sum()) * inside[level].mean()) / k)

    return _each(share, values, roi)


def auprc(values: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve of the pixels, the region being what is to be found and v the score.

        sum over thresholds of (recall_k - recall_(k-1)) * precision_k

    Its chance level is the region's share of the area. The sum is average precision: joining the points of the curve by
    straight lines instead, as `auc(recall, precision)` does, gives a constant map about one half whatever the region.

    Args:
        values: (n, *shape, channels) signed maps.
        roi: (n, *shape) bool.

    Returns:
        (n,) in [0, 1].

    Raises:
        InputError: shapes that do not fit.
        MissingExtra: scikit-learn is not installed.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import auprc
        >>> auprc(np.array([[[[3.0], [2.0], [1.0]]]]), np.array([[[True, False, True]]])).round(3)
        array([0.833])

    References:
        Arun et al. 2021, Assessing the trustworthiness of saliency maps for localizing abnormalities in medical
        imaging. Known criticism: small regions have low values by chance: compare with the area, not between data sets.
    """
    try:
        from sklearn.metrics import average_precision_score
    except ImportError as error:
        raise MissingExtra("The AUPRC needs scikit-learn: pip install scikit-learn") from error
    return _each(lambda v, inside: float(average_precision_score(inside, v)), values, roi)


def otsu_iou(values: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """Overlap of the region with the positive map cut at Otsu's threshold, its holes filled.

        |S and R| / |S or R|,   S = filled(m > otsu(m)),   m = max(v, 0) scaled to whole numbers 0..255

    Args:
        values: (n, *shape, channels) signed maps.
        roi: (n, *shape) bool.

    Returns:
        (n,) in [0, 1].

    Raises:
        InputError: shapes that do not fit.
        MissingExtra: scikit-image is not installed.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.metrics import otsu_iou
        >>> otsu_iou(np.array([[[[3.0], [3.0], [0.0]]]]), np.array([[[True, False, False]]]))
        array([0.5])

    References:
        Saporta et al. 2022, Benchmarking saliency methods for chest X-ray interpretation (cheXlocalize). Known
        criticism: Otsu expects two heaps of values; noisy gradient maps have one, and fall into specks.
    """
    try:
        from skimage.filters import threshold_otsu
    except ImportError as error:
        raise MissingExtra("The Otsu IoU needs scikit-image: pip install scikit-image") from error
    from scipy.ndimage import binary_fill_holes

    shape = np.shape(roi)[1:]

    def overlap(v: np.ndarray, inside: np.ndarray) -> float:
        positive = np.maximum(v, 0)
        levels = np.rint(255 * (positive - positive.min()) / (np.ptp(positive) or 1)).astype("uint8")
        segment = binary_fill_holes((levels > threshold_otsu(levels)).reshape(shape)).ravel()
        return float((segment & inside).sum() / (segment | inside).sum())

    return _each(overlap, values, roi)


def _each(number: Callable[[np.ndarray, np.ndarray], float], values: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """A number of each flat channel sum and its region; NaN where the region is empty."""
    values, roi = np.asarray(values), np.asarray(roi, bool)
    if values.shape[:-1] != roi.shape:
        raise InputError(f"roi has shape {roi.shape}; values of shape {values.shape} need {values.shape[:-1]}.")
    sums = values.sum(axis=-1, dtype="float64").reshape(len(values), -1)
    regions = roi.reshape(len(roi), -1)
    return np.array([number(*pair) if pair[1].any() else np.nan for pair in zip(sums, regions, strict=True)])


@dataclass(frozen=True)
class Localization:
    """Where the map lies, compared with the region of interest of its image; no evaluation of the model.

    Measures `pointing_game`, `relevance_mass`, `relevance_rank`, `auprc` and `otsu_iou` as the functions of these names
    define them, and `roi_area`, the chance level of the first four. Only where `samples.roi` is known; NaN for images
    without a finding.

    Args:
        absolute: rank the absolute values instead of the signed ones.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> samples = kx.Samples(np.zeros((1, 2, 2, 1)), [0], roi=np.array([[[True, False], [False, False]]]))
        >>> attribution = kx.Attribution("mine", samples.roi[..., None], [0], [0], score=[1.0])
        >>> model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> kx.metrics.evaluate(model, samples, attribution, metrics=["localization"])["auprc"]
        1.0
    """

    absolute: bool = False
    needs: ClassVar[str] = "samples.roi"
    when: ClassVar[str] = "round"

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """Five numbers and the chance level of each row."""
        if not len(context.samples.roi):
            return {}
        roi = context.samples.roi[attribution.rows]
        values = attribution.flat[..., None]
        values = np.abs(values) if self.absolute else values
        area = roi.reshape(len(roi), -1).mean(axis=1)
        measured = {
            f.__name__: f(values, roi) for f in (pointing_game, relevance_mass, relevance_rank, auprc, otsu_iou)
        }
        return measured | {"roi_area": np.where(area > 0, area, np.nan)}
