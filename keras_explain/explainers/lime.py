"""LIME: the weights of superpixels in a linear surrogate of the score around one image."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from keras import ops

from keras_explain.errors import ExplanationWarning, InputError, MissingExtra, check_counts
from keras_explain.explainers.masking import blend, blurred, check_hide, hidden_image, shared
from keras_explain.gradients import Scorer
from keras_explain.records import Attribution, Samples
from keras_explain.verdicts import LEAST_R2

if TYPE_CHECKING:
    from lime.lime_image import ImageExplanation

_KERNEL_WIDTH = 0.25
_NO_EFFECT = 1e-4


def partly_hidden(present: Any, segments: Any, image: Any, hidden: Any) -> Any:
    """x where the superpixel is present, the hidden image where it is not: one gather on the segment map."""
    shown = ops.expand_dims(ops.take(present, segments, axis=1), -1)
    return blend(shown, image[None], hidden[None])


def kernel(distance: np.ndarray) -> np.ndarray:
    """lime's weight of a subset at cosine distance d from the whole image, sqrt(exp(-d^2 / 0.25^2))."""
    return np.asarray(np.sqrt(np.exp(-(distance**2) / _KERNEL_WIDTH**2)))


def ridge_error(present: np.ndarray, weight: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Standard errors of the ridge coefficients, from the roots of the diagonal of

        s^2 (X'WX + I)^-1 X'WX (X'WX + I)^-1,   s^2 = residual' W residual / (n - p)

    Args:
        present: (n, p) subsets X, which are centred by their weighted mean.
        weight: (n,) diagonal of W.
        residual: (n,) logits less those of the surrogate.

    Returns:
        (p,) in logits; NaN where there are no more subsets than superpixels.
    """
    n, p = present.shape
    if n <= p:
        return np.full(p, np.nan)
    centred = present - np.average(present, axis=0, weights=weight)
    gram = centred.T @ (weight[:, None] * centred)
    inverse = np.linalg.inv(gram + np.eye(p))
    variance = (weight * residual**2).sum() / (n - p)
    return np.asarray(np.sqrt(variance * np.diag(inverse @ gram @ inverse).clip(0)))


def random_subsets(n: int, count: int, seed: int) -> np.ndarray:
    """(n, count) 0 or 1, the first row all 1: lime's own, from its own generator."""
    present = np.random.RandomState(seed).randint(0, 2, n * count).reshape(n, count)
    present[0] = 1
    return present.astype("float32")


def balanced_subsets(n: int, count: int, seed: int) -> np.ndarray:
    """(n, count) 0 or 1: the whole image, then rows of Hadamard matrices, each followed by its complement.

    Over a whole matrix each superpixel is present in half of the subsets, and in half of those of any other. With the
    complements, what pairs of superpixels do together cancels from the weight of each; what three do cancels on average
    over the random columns and signs.
    """
    from scipy.linalg import hadamard

    random = np.random.default_rng(seed)
    order, pairs = 2 ** (count - 1).bit_length(), -(-(n - 1) // 2)
    rows = []
    for _ in range(-(-pairs // order)):
        columns = random.permutation(order)[:count]  # with the complements the constant one is balanced too
        rows.append(random.permutation(hadamard(order))[:, columns] * random.choice([-1, 1], count))
    half = (np.concatenate(rows)[:pairs] + 1) / 2
    both = np.stack([half, 1 - half], axis=1).reshape(-1, count)
    return np.concatenate([np.ones((1, count)), both[: n - 1]]).astype("float32")


@dataclass
class Lime:
    """Weights of superpixels in a linear surrogate of the class logit around one image.

        f(z)[target] ~ intercept + sum over superpixels s of weight_s * [s present in z]

    fitted by the `lime` package's weighted ridge regression over subsets z of superpixels, with its kernel
    sqrt(exp(-d^2 / 0.25^2)) of the cosine distance d to the whole image. A pixel's value is the weight of its
    superpixel, shared evenly among the channels.

    Args:
        samples: subsets z, one forward pass each.
        segmentation: `"watershed"` (compact watershed on the edges of the image, of any number of axes),
            `"quickshift"` (that of lime), `"slic"`, or a function from an image scaled to [0, 1], with three channels
            if it had one, to whole numbers (*image shape without channels).
        hide: what stands in for an absent superpixel: `"blur"` (the image blurred with a standard deviation of a tenth
            of each side), `"mean"` (its own mean colour, that of lime) or a number in the units of the images.
        segments: superpixels, about; quickshift chooses for itself.
        sampling: `"balanced"`, subsets from a Hadamard design with their complements, which reach the same weights with
            a third of the passes; or `"random"`, those of lime. The standard errors, and with them the CSI of
            `keras_explain.metrics.Stability`, are those of random subsets: for balanced ones they are too large.
        seed: of the segmentation and the subsets.

    The defaults are those that a study of mammograms found to be stable, faithful and localized; see docs/lime.md.

    After `explain`, `explanations` holds one `lime.lime_image.ImageExplanation` for each image, and the attribution's
    `details` hold `segments`, `weights` and their standard errors `weight_error` (padded with NaN), the surrogate's
    weighted `r2` and `effect`, the standard deviation of the logit over the subsets. A low R2 says that the weights do
    not describe the model, and a warning names the images below 0.5; a low effect, that hiding changes nothing: below
    1e-4 of the score `r2` is NaN and a warning names the images.

    Raises:
        InputError: fewer than two samples or segments, an unknown segmentation, sampling or way to hide.
        MissingExtra: lime or scikit-image is not installed.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
        >>> halves = kx.Lime(samples=50, segmentation=lambda image: np.arange(16).reshape(4, 4) // 8, hide=0.0)
        >>> kx.explain(keras.Sequential(layers), np.ones((1, 4, 4, 1)), halves, targets=0).details["weights"].shape
        (1, 2)

    References:
        Ribeiro et al. 2016, "Why Should I Trust You?". Known criticism: the answer moves with the segmentation, the way
        to hide and the random subsets (Visani et al. 2020); images with hidden parts are none that the model knows.
    """

    method: ClassVar[str] = "lime"
    samples: int = 1000
    segmentation: str | Callable[[np.ndarray], np.ndarray] = "watershed"
    hide: str | float = "blur"
    segments: int = 50
    sampling: str = "balanced"
    seed: int = 0
    explanations: list[ImageExplanation] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        check_counts(2, samples=self.samples, segments=self.segments)
        if not callable(self.segmentation) and self.segmentation not in ("watershed", "quickshift", "slic"):
            raise InputError(
                f"segmentation must be 'watershed', 'quickshift', 'slic' or a function; got {self.segmentation!r}."
            )
        if self.sampling not in ("balanced", "random"):
            raise InputError(f"sampling must be 'balanced' or 'random'; got {self.sampling!r}.")
        check_hide(self.hide)

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One map for each image and target."""
        self.explanations = []
        found = [row for i in range(len(samples)) for row in self._of_image(scorer, samples, i)]
        self._warn([samples.ids[i] for i in samples.rows], found)
        most = max(len(row["weights"]) for row in found)
        for row in found:
            for name in ("weights", "weight_error"):
                row[name] = np.pad(row[name], (0, most - len(row[name])), constant_values=np.nan)
        columns = {name: np.array([row[name] for row in found]) for name in found[0]}
        chosen = self.segmentation if isinstance(self.segmentation, str) else repr(self.segmentation)
        settings = {"samples": self.samples, "segmentation": chosen, "hide": self.hide}
        return Attribution(
            method=self.method,
            values=columns.pop("values"),
            targets=samples.targets.reshape(-1),
            rows=samples.rows,
            score=columns.pop("score"),
            unit="logit per superpixel",
            settings={**settings, "segments": self.segments, "sampling": self.sampling, "seed": self.seed},
            details=columns,
        )

    def _of_image(self, scorer: Scorer, samples: Samples, i: int) -> list[dict[str, Any]]:
        """What is found of one image, a dictionary for each target."""
        image, targets = samples.images[i], samples.targets[i]
        segments = self._segments(image, samples.value_range)
        subsets = balanced_subsets if self.sampling == "balanced" else random_subsets
        present = subsets(self.samples, int(segments.max()) + 1, self.seed)
        hidden = hidden_image(image, self.hide, segments)
        logits = scorer.evaluate(partly_hidden, [present], [segments, image, hidden])
        explanation, fits = self._surrogate(image, segments, present, logits, targets)
        self.explanations.append(explanation)
        found = []
        for target, (weight, error, r2) in zip(targets, fits, strict=True):
            score, effect = float(logits[0, target]), float(logits[:, target].std())
            found.append(
                {
                    "values": shared(weight[segments], image.shape[-1]),
                    "score": score,
                    "segments": segments,
                    "weights": weight,
                    "weight_error": error,
                    "r2": r2 if effect > _NO_EFFECT * max(1.0, abs(score)) else np.nan,
                    "effect": effect,
                }
            )
        return found

    def _warn(self, ids: list[str], found: list[dict[str, Any]]) -> None:
        """Name the images of which the maps say nothing, or little."""
        unmoved = {name: row["effect"] for name, row in zip(ids, found, strict=True) if np.isnan(row["r2"])}
        whole = [name for name, row in zip(ids, found, strict=True) if len(row["weights"]) == 1]
        unfit = {name: row["r2"] for name, row in zip(ids, found, strict=True) if row["r2"] < LEAST_R2}
        if whole:
            words = f"LIME: image {', '.join(whole)} is a single superpixel; its map does not say where to look."
            warnings.warn(words, ExplanationWarning, stacklevel=3)
        if unmoved:
            warnings.warn(
                f"LIME: with hide={self.hide!r}, hiding superpixels of image {', '.join(unmoved)} changes the score by "
                f"only {max(unmoved.values()):.2g}; these maps say nothing. Try another hide.",
                ExplanationWarning,
                stacklevel=3,
            )
        if unfit:
            warnings.warn(
                f"LIME: the surrogate of image {', '.join(unfit)} explains little of the score (R² "
                f"{min(unfit.values()):.2f}), and its weights do not describe the model. Try fewer segments.",
                ExplanationWarning,
                stacklevel=3,
            )

    def _segments(self, image: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
        """Superpixels 0, 1, ... of an image, (*image shape without channels) int32."""
        low, high = value_range
        scaled = (image - low) / max(high - low, 1e-12)
        if image.shape[-1] == 1:
            scaled = np.repeat(scaled, 3, axis=-1)
        segments = np.asarray(self.segmentation(scaled) if callable(self.segmentation) else self._superpixels(scaled))
        if segments.shape != image.shape[:-1]:
            raise InputError(f"segmentation gave shape {segments.shape} for an image of shape {image.shape}.")
        return np.unique(segments, return_inverse=True)[1].reshape(segments.shape).astype("int32")

    def _superpixels(self, scaled: np.ndarray) -> np.ndarray:
        try:
            from skimage import filters, segmentation
        except ImportError as error:
            raise MissingExtra("Lime needs scikit-image for its superpixels: pip install scikit-image") from error
        side = min(scaled.shape[:-1])
        if self.segmentation == "watershed":
            smooth = blurred(scaled, 1 / 128)
            edges = np.max([filters.sobel(channel) for channel in np.moveaxis(smooth, -1, 0)], axis=0)
            # A step to the next pixel costs more in a small image, where edges are steeper too.
            return np.asarray(segmentation.watershed(edges, markers=self.segments, compactness=0.128 / side))
        if self.segmentation == "slic":
            if scaled.ndim < 3:
                raise InputError("slic needs images with two or three axes; use segmentation='watershed'.")
            return np.asarray(segmentation.slic(scaled, n_segments=self.segments, channel_axis=-1, start_label=0))
        if scaled.ndim != 3 or scaled.shape[-1] != 3:
            raise InputError(
                "quickshift needs images with two axes and one or three channels; use segmentation='watershed'."
            )
        # lime's own kernel of 4 pixels, made for 299 x 299, joins a smaller image into very few superpixels.
        kernel = min(4.0, max(1.0, 4.0 * side / 299))
        return np.asarray(
            segmentation.quickshift(
                scaled.astype("float64"), kernel_size=kernel, max_dist=200, ratio=0.2, rng=self.seed
            )
        )

    def _surrogate(
        self, image: np.ndarray, segments: np.ndarray, present: np.ndarray, logits: np.ndarray, targets: np.ndarray
    ) -> tuple[ImageExplanation, list[tuple[np.ndarray, np.ndarray, float]]]:
        """lime's explanation of one image, and for each target the weights, their errors and the weighted R2."""
        try:
            from lime.lime_base import LimeBase
            from lime.lime_image import ImageExplanation
        except ImportError as error:
            raise MissingExtra("Lime needs lime: pip install lime") from error
        # The cosine distance of a 0/1 row to the row of ones.
        distances = 1 - np.sqrt(present.mean(axis=1, dtype="float64"))
        base = LimeBase(kernel, random_state=np.random.RandomState(self.seed))
        explanation = ImageExplanation(np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image, segments)
        explanation.top_labels = list(map(int, targets))
        fits = []
        for target in map(int, targets):
            intercept, pairs, r2, prediction = base.explain_instance_with_data(
                present, logits, distances, target, present.shape[1], feature_selection="none"
            )
            explanation.intercept[target], explanation.local_exp[target] = intercept, pairs
            explanation.score, explanation.local_pred = r2, prediction
            weight = np.zeros(present.shape[1])
            weight[[s for s, _ in pairs]] = [w for _, w in pairs]
            residual = logits[:, target] - intercept - present @ weight
            fits.append((weight, ridge_error(present, kernel(distances), residual), float(r2)))
        return explanation, fits
