"""Regions of interest: where the finding of an image is, through every crop, scaling and flip on the way to the model.

Coordinates are in pixels of the source image, x to the right and y downwards from its upper left corner; pixel (row r,
column c) covers y from r to r + 1 and x from c to c + 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from keras_explain.errors import InputError, MissingExtra

_FINER = 4
_FINEST = 64  # points a side by which a pixel of the picture is judged


class Shape(Protocol):
    """A part of the plane of the source image."""

    def contains(self, y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which points of a source image of (height, width) lie inside."""


@dataclass(frozen=True)
class Circle:
    """All points at most `radius` from (x, y).

    Args:
        x, y, radius: in source pixels.
        origin: corner from which y is counted, `"upper left"` or `"lower left"` (mini-MIAS).

    Raises:
        InputError: another origin, a radius that is not positive.
    """

    x: float
    y: float
    radius: float
    origin: str = "upper left"

    def __post_init__(self) -> None:
        if self.origin not in ("upper left", "lower left"):
            raise InputError(f"origin must be 'upper left' or 'lower left'; got {self.origin!r}.")
        if not (np.isfinite([self.x, self.y]).all() and 0 < self.radius < np.inf):
            raise InputError(f"A circle needs a finite centre and a positive radius; got {self}.")

    def contains(self, y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which points lie inside."""
        row = self.y if self.origin == "upper left" else size[0] - self.y
        return np.asarray(np.hypot(y - row, x - self.x) <= self.radius)


@dataclass(frozen=True)
class Box:
    """All points with left <= x < right and top <= y < bottom, in source pixels.

    Raises:
        InputError: a box without area.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (self.left < self.right and self.top < self.bottom):
            raise InputError(f"A box needs left < right and top < bottom; got {self}.")

    def contains(self, y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which points lie inside."""
        return (self.left <= x) & (x < self.right) & (self.top <= y) & (y < self.bottom)


@dataclass(frozen=True)
class Polygon:
    """All points inside a closed line.

    Args:
        points: (x, y) of at least three corners, in source pixels.

    Raises:
        InputError: fewer than three corners, or corners that are no pairs.
    """

    points: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        corners = np.shape(np.asarray(self.points, "float64"))
        if len(corners) != 2 or corners[0] < 3 or corners[1] != 2:
            raise InputError(f"points must be three or more pairs (x, y); got shape {corners}.")
        if not np.isfinite(np.asarray(self.points, "float64")).all():
            raise InputError("points must be finite; NaN or infinity came.")

    def contains(self, y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which points lie inside."""
        try:
            from skimage.measure import points_in_poly
        except ImportError as error:
            raise MissingExtra("Polygons need scikit-image: pip install scikit-image") from error
        y, x = np.broadcast_arrays(y, x)
        inside = points_in_poly(np.stack([x.ravel(), y.ravel()], axis=1), np.asarray(self.points, "float64"))
        return np.asarray(inside).reshape(x.shape)


@dataclass(frozen=True, eq=False)
class Mask:
    """All points on pixels that are not 0 of a mask of the whole source image, which may have other measures than it.

    Args:
        pixels: (h, w).

    Raises:
        InputError: an array of another rank.
    """

    pixels: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", np.asarray(self.pixels))
        if self.pixels.ndim != 2:
            raise InputError(f"pixels must be a mask (h, w); got shape {np.shape(self.pixels)}.")

    def contains(self, y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which points lie inside."""
        height, width = self.pixels.shape
        row, column = np.floor(y * height / size[0]).astype(int), np.floor(x * width / size[1]).astype(int)
        within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return within & (self.pixels[row.clip(0, height - 1), column.clip(0, width - 1)] != 0)


@dataclass(frozen=True)
class Roi:
    """The regions of one image, none or several, carried through what is done to the image.

        y_source = start_y + step_y * y,   x_source = start_x + step_x * x

    Args:
        source: (height, width) of the image in which the shapes are given, in pixels.
        shapes: `Circle`, `Box`, `Polygon` or `Mask`; the region is their union.
        size: (height, width) of the picture now; None is that of the source.
        start, step: (y, x) of the affine map above, as the methods below set them.

    Raises:
        InputError: a size that is not two positive numbers, shapes that are none.

    Examples:
        >>> from keras_explain.datasets.roi import Box, Circle, Roi
        >>> roi = Roi((100, 200), [Circle(50, 30, 10), Box(0, 0, 20, 20)])
        >>> mask = roi.crop(top=0, left=0, height=50, width=100).resize(25, 50).flip("horizontal").mask()
        >>> mask.shape, int(mask[:10, 40:].sum()), bool(mask[15, 24])
        ((25, 50), 100, True)
    """

    source: tuple[int, int]
    shapes: Sequence[Shape] = ()
    size: tuple[int, int] | None = None
    start: tuple[float, float] = (0.0, 0.0)
    step: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("source", "size"):
            measures = getattr(self, name)
            if measures is not None and not (np.shape(measures) == (2,) and min(measures) >= 1):
                raise InputError(f"{name} must be a height and a width of at least 1; got {measures}.")
        if not isinstance(self.shapes, Sequence) or not all(hasattr(shape, "contains") for shape in self.shapes):
            raise InputError(f"shapes must be a list of Circle, Box, Polygon or Mask; got {self.shapes!r}.")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the picture now."""
        return self.source if self.size is None else self.size

    def crop(self, top: float, left: float, height: int, width: int) -> Roi:
        """The same region in a part of the picture.

        Args:
            top, left: upper left corner of the part in pixels of the picture; negative where it was padded.
            height, width: of the part.
        """
        start = (self.start[0] + self.step[0] * top, self.start[1] + self.step[1] * left)
        return dataclasses.replace(self, start=start, size=(height, width))

    def resize(self, height: int, width: int) -> Roi:
        """The same region after the picture was scaled.

        Args:
            height, width: new measures of the picture.
        """
        scaled = dataclasses.replace(self, size=(height, width))
        step = (self.step[0] * self.shape[0] / height, self.step[1] * self.shape[1] / width)
        return dataclasses.replace(scaled, step=step)

    def flip(self, direction: str) -> Roi:
        """The same region after the picture was mirrored.

        Args:
            direction: `"horizontal"` exchanges left and right, `"vertical"` top and bottom.

        Raises:
            InputError: another direction.
        """
        if direction not in ("horizontal", "vertical"):
            raise InputError(f"direction must be 'horizontal' or 'vertical'; got {direction!r}.")
        axis = 1 if direction == "horizontal" else 0
        start, step = list(self.start), list(self.step)
        start[axis] += step[axis] * self.shape[axis]
        step[axis] = -step[axis]
        return dataclasses.replace(self, start=(start[0], start[1]), step=(step[0], step[1]))

    def mask(self) -> np.ndarray:
        """(height, width) bool of the picture now: pixels of which at least half lies inside the region.

        A shape smaller than that does not vanish: it takes the pixels of which it covers most.
        """
        region = np.zeros(self.shape, bool)
        for shape in self.shapes:
            share = self._share(shape, 1)
            share = share if share.any() else self._share(shape, _FINER)  # it may have slipped between the points
            if share.any():
                region |= share >= min(0.5, share.max())
        return region

    def _share(self, shape: Shape, finer: int) -> np.ndarray:
        """How much of each pixel lies inside a shape, by as many points a side as it has source pixels, or more."""
        parts = [finer * int(np.clip(np.ceil(abs(step)), 1, _FINEST)) for step in self.step]
        y, x = (
            start + step * (np.arange(n * k) + 0.5) / k
            for start, step, n, k in zip(self.start, self.step, self.shape, parts, strict=True)
        )
        share = np.zeros(self.shape)
        for row, points in enumerate(y.reshape(self.shape[0], parts[0], 1)):
            covered = shape.contains(points, x[None], self.source)
            share[row] = covered.reshape(parts[0], self.shape[1], parts[1]).mean(axis=(0, 2))
        return share
