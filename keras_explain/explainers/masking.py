"""Occlusion and RISE: what the class logit is when parts of the image are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_explain.errors import InputError, check_counts
from keras_explain.gradients import Scorer, identity
from keras_explain.records import Attribution, Samples

_MASKS_AT_ONCE = 64


def blend(shown: Any, image: Any, hidden: Any) -> Any:
    """The image where `shown` is 1, the hidden image where it is 0."""
    return shown * image + (1.0 - shown) * hidden


def blurred(image: np.ndarray, share: float = 0.1) -> np.ndarray:
    """The image (*shape, channels) blurred along each axis with a standard deviation of a share of its length."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(image, [*(share * side for side in image.shape[:-1]), 0]))


def shared(maps: np.ndarray, channels: int) -> np.ndarray:
    """Maps (r, *shape) shared evenly among the channels."""
    return np.repeat(maps[..., None] / channels, channels, axis=-1)


def check_hide(hide: str | float) -> None:
    """Raise InputError unless `hide` is a way to hide parts of an image."""
    number = isinstance(hide, int | float | np.number) and bool(np.isfinite(hide))
    if not number and not (isinstance(hide, str) and hide in ("mean", "blur")):
        raise InputError(f"hide must be 'mean', 'blur' or a number; got {hide!r}.")


def check_channels_last(model: keras.Model) -> None:
    """Raise where a layer has its channels before the positions: they would be taken for one of them."""
    for layer in model._flatten_layers():
        if getattr(layer, "data_format", None) == "channels_first":
            raise InputError(
                f"Layer '{layer.name}' has its channels first; only images with channels last are explained."
            )


def check_positions(samples: Samples) -> None:
    """Raise where images have no axis but channels, and so no part that could be hidden."""
    if samples.images.ndim < 3:
        raise InputError(f"images have shape {samples.images.shape[1:]}: there are no positions to hide.")


def hidden_image(image: np.ndarray, hide: str | float, segments: np.ndarray) -> np.ndarray:
    """The image with everything hidden.

    Args:
        image: (*shape, channels).
        hide: `"blur"`, the image blurred with a standard deviation of a tenth of each side; `"mean"`, the mean colour
            of each segment; or a number in the units of the image.
        segments: (*shape) whole numbers from 0.
    """
    if hide == "blur":
        return blurred(image)
    if hide == "mean":
        flat, pixels = segments.reshape(-1), image.reshape(-1, image.shape[-1])
        sums = np.stack([np.bincount(flat, channel) for channel in pixels.T], axis=-1)
        return (sums / np.bincount(flat)[:, None]).astype("float32")[segments]
    return np.full_like(image, hide)


def outside_window(corner: Any, window: Any, image: Any, hidden: Any) -> Any:
    """The image with one window hidden: corner (n, axes) its lowest indices, window (axes,) its sides."""
    inside = 1.0
    for axis, side in enumerate(image.shape[1:-1]):
        offset = ops.arange(side, dtype="int32")[None] - corner[:, axis : axis + 1]
        within = ops.logical_and(offset >= 0, offset < window[axis])
        shape = [-1 if a == axis else 1 for a in range(len(image.shape) - 2)]
        inside = inside * ops.reshape(ops.cast(within, "float32"), (ops.shape(corner)[0], *shape, 1))
    return blend(1.0 - inside, image, hidden)


def soft_masks(grid: Any, shift: Any, image: Any) -> Any:
    """Random grids enlarged to (n, *image shape without channels): linear between nodes, each grid shifted as a whole.

    Args:
        grid: (n, *nodes) 0 or 1; on each axis two more than the cells that the image is cut into.
        shift: (n, axes) in [0, 1) of a cell.
        image: (1, *image shape).
    """
    mask, letters = grid, "abcdef"[: len(grid.shape) - 1]
    for axis, (side, letter) in enumerate(zip(image.shape[1:-1], letters, strict=True)):
        nodes = grid.shape[1 + axis]
        position = ops.arange(side, dtype="float32")[None] * ((nodes - 2) / side) + shift[:, axis : axis + 1]
        distance = ops.abs(position[:, :, None] - ops.arange(nodes, dtype="float32"))
        weight = ops.relu(1.0 - distance)
        mask = ops.einsum(f"n{letters},nz{letter}->n{letters.replace(letter, 'z')}", mask, weight)
    return mask


def softly_hidden(grid: Any, shift: Any, image: Any, hidden: Any) -> Any:
    """The image behind soft masks."""
    return blend(soft_masks(grid, shift, image)[..., None], image, hidden)


@dataclass(frozen=True)
class Occlusion:
    """How much the class logit falls when a window that covers the pixel is hidden.

        value of a pixel = mean over the windows that cover it of  f(x)[target] - f(x with the window hidden)[target]

    A value is shared evenly among the image's channels.

    Args:
        window: side of the window in pixels, one number or one for each axis of the image; None is an eighth of each
            side, at least one pixel.
        stride: steps between windows, likewise; None is half of the window. The last windows end at the border.
        hide: what is seen in the window: `"blur"` (the image blurred with a standard deviation of a tenth of each
            side), `"mean"` (the image's mean colour) or a number in the units of the images.

    Raises:
        InputError: a window larger than the image, a stride larger than the window, an unknown way to hide.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> model.layers[-1].set_weights([np.array([[1, 0], [2, 0], [3, 0], [4, 0.0]]), np.zeros(2)])
        >>> found = kx.explain(model, np.ones((1, 2, 2, 1)), "occlusion", targets=0, window=1, stride=1, hide=0.0)
        >>> found.values[0, ..., 0]
        array([[1., 2.],
               [3., 4.]], dtype=float32)

    References:
        Zeiler & Fergus 2014, Visualizing and Understanding Convolutional Networks. Known criticism: an image with a
        hole is none that the model knows; the answer depends on the window and on what it is filled with; what only
        several windows together would change is not seen.
    """

    method: ClassVar[str] = "occlusion"
    window: int | tuple[int, ...] | None = None
    stride: int | tuple[int, ...] | None = None
    hide: str | float = "blur"

    def __post_init__(self) -> None:
        for name, given in (("window", self.window), ("stride", self.stride)):
            if isinstance(given, list):  # as settings have it that come from a file
                object.__setattr__(self, name, tuple(given))
            for number in given if isinstance(given, tuple | list) else (given,):
                check_counts(1, **{name: number})
        check_hide(self.hide)

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One map for each image and target."""
        check_channels_last(scorer.model)
        check_positions(samples)
        shape = samples.images.shape[1:]
        window, stride = self._sizes(shape[:-1])
        corners = np.stack(
            np.meshgrid(
                *([*range(0, side - w, s), side - w] for side, w, s in zip(shape[:-1], window, stride, strict=True)),
                indexing="ij",
            ),
            axis=-1,
        ).reshape(-1, len(window))
        # Not scorer.logits: what is compared must come from passes of the same precision.
        score = np.take_along_axis(scorer.evaluate(identity, [samples.images]), samples.targets, axis=1)
        values = np.zeros((*samples.targets.shape, *shape[:-1]))
        one = np.zeros(shape[:-1], int)
        for i, (image, targets) in enumerate(zip(samples.images, samples.targets, strict=True)):
            hidden = hidden_image(image, self.hide, one)
            logits = scorer.evaluate(
                outside_window, [corners.astype("int32")], [np.array(window, "int32"), image[None], hidden[None]]
            )
            fall = score[i] - logits[:, targets]
            sums, count = np.zeros((len(targets), *shape[:-1])), np.zeros(shape[:-1])
            for corner, change in zip(corners, fall, strict=True):
                place = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
                sums[(slice(None), *place)] += change.reshape(-1, *(1,) * len(window))
                count[place] += 1
            values[i] = sums / count
        return Attribution(
            method=self.method,
            values=shared(values.reshape(-1, *shape[:-1]), shape[-1]),
            targets=samples.targets.reshape(-1),
            rows=samples.rows,
            score=score.reshape(-1),
            unit="logit per window",
            settings={
                "window": list(window) if self.window is None else self.window,
                "stride": list(stride) if self.stride is None else self.stride,
                "hide": self.hide,
            },
        )

    def _sizes(self, sides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        window = _for_each("window", self.window, sides, tuple(max(1, side // 8) for side in sides))
        stride = _for_each("stride", self.stride, sides, tuple(max(1, w // 2) for w in window))
        if any(w > side for w, side in zip(window, sides, strict=True)):
            raise InputError(f"window {window} is larger than the image {sides}.")
        if any(s > w for s, w in zip(stride, window, strict=True)):
            raise InputError(f"stride {stride} is larger than the window {window}, so some pixels are never hidden.")
        return window, stride


def _for_each(
    name: str, given: int | tuple[int, ...] | None, sides: tuple[int, ...], otherwise: tuple[int, ...]
) -> tuple[int, ...]:
    """One number for each axis of the image."""
    if given is None:
        return otherwise
    sizes = given if isinstance(given, tuple) else (given,) * len(sides)
    if len(sizes) != len(sides):
        raise InputError(f"{name} has {len(sizes)} numbers for images with {len(sides)} axes {sides}.")
    return sizes


@dataclass(frozen=True)
class Rise:
    """How the class logit rises where the pixel is visible, over random soft masks m.

        value of a pixel = E[f(x behind m)[target] given that m shows the pixel] - E[f(x behind m)[target]]
                         = sum over m of m(pixel) (f(x behind m) - mean f) / sum over m of m(pixel)

    A mask is a random grid of 0 and 1, shifted and enlarged by linear interpolation. A value is shared evenly among the
    image's channels.

    Args:
        samples: masks, one forward pass each.
        cells: that the grid cuts each side of the image into.
        probability: of a node to be visible.
        hide: what is seen where the mask is 0, as in `Occlusion`.
        seed: of the masks; every image uses the same ones.

    Returns of `explain`: also `standard_error`, that of the sampling.

    Raises:
        InputError: fewer than two samples or one cell, a probability outside ]0, 1[, an unknown way to hide.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> found = kx.explain(model, np.ones((1, 8, 8, 1)), "rise", targets=0, samples=50)
        >>> found.values.shape, found.standard_error.shape
        ((1, 8, 8, 1), (1, 8, 8, 1))

    References:
        Petsiuk et al. 2018, RISE. The paper weighs masks with the probability, hides with black and leaves the mean in;
        here the logit is explained as everywhere, so the mean is taken out for values to be centred at 0. Known
        criticism: it takes thousands of passes, and what remains is speckle; images behind masks are none that the
        model knows.
    """

    method: ClassVar[str] = "rise"
    samples: int = 2000
    cells: int = 7
    probability: float = 0.5
    hide: str | float = "blur"
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(2, samples=self.samples)
        check_counts(1, cells=self.cells)
        if not 0 < self.probability < 1:
            raise InputError(f"probability must lie between 0 and 1; got {self.probability}.")
        check_hide(self.hide)

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One map for each image and target."""
        check_channels_last(scorer.model)
        check_positions(samples)
        shape = samples.images.shape[1:]
        axes = len(shape) - 1
        random = np.random.default_rng(self.seed)
        grid = (random.random((self.samples, *(self.cells + 2,) * axes)) < self.probability).astype("float32")
        shift = random.random((self.samples, axes), "float32")
        score = np.take_along_axis(scorer.logits(samples.images), samples.targets, axis=1)
        values, errors = [], []
        for image, targets in zip(samples.images, samples.targets, strict=True):
            hidden = hidden_image(image, self.hide, np.zeros(shape[:-1], int))
            logits = scorer.evaluate(softly_hidden, [grid, shift], [image[None], hidden[None]])
            value, error = _conditional_means(logits[:, targets].astype("float64"), grid, shift, image[None])
            values.append(value)
            errors.append(error)
        return Attribution(
            method=self.method,
            values=shared(np.concatenate(values), shape[-1]),
            targets=samples.targets.reshape(-1),
            rows=samples.rows,
            score=score.reshape(-1),
            unit="logit where shown",
            settings=dict(vars(self)),
            standard_error=shared(np.concatenate(errors), shape[-1]),
        )


def _conditional_means(
    f: np.ndarray, grid: np.ndarray, shift: np.ndarray, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of f (n, t) where a pixel is visible, less the mean of all, and its standard error: (t, *shape).

    With f less its mean, M the mean of m and R = sum(m f) / sum(m), the variance is that of the linearized ratio,

        sum over masks of (m (f - R) / M - f)^2 / n^2
    """
    f = f - f.mean(axis=0)
    one = np.ones_like(f)
    sums: Any = 0.0
    squares: Any = 0.0
    for start in range(0, len(f), _MASKS_AT_ONCE):
        part = slice(start, start + _MASKS_AT_ONCE)
        tensors = map(ops.convert_to_tensor, (grid[part], shift[part], image))
        m = ops.convert_to_numpy(soft_masks(*tensors))
        sums = sums + np.tensordot(np.hstack([one, f, f**2])[part].T, m, 1)
        squares = squares + np.tensordot(np.hstack([one, f, f**2])[part].T, m**2, 1)
    m, mf, mff = np.split(sums, 3)
    if not m.all():
        raise InputError(f"In none of {len(f)} samples a mask shows some of the pixels; take more samples.")
    mm, mmf, mmff = np.split(squares, 3)
    mean, share = mf / m, m / len(f)
    squared = (mmff - 2 * mean * mmf + mean**2 * mm) / share**2 - 2 * (mff - mean * mf) / share
    squared += (f**2).sum(axis=0).reshape(-1, *(1,) * (m.ndim - 1))
    return mean, np.sqrt(squared.clip(0)) / len(f)
