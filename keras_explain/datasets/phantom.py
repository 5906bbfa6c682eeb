"""Phantom mammograms: a breast with parenchymal texture, planted lesions of DDSM's five classes, and their true masks.

Phantom i of a seed is always the same picture, whatever its neighbours, so any part of the endless series can be made
anywhere. They teach a network what to look for and tell where it should look; they are no substitute for patients.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_explain.errors import InputError

CLASS_NAMES = ("normal", "benign calcification", "benign mass", "malignant calcification", "malignant mass")
_SMALLEST = 32


class Phantoms(NamedTuple):
    """Images (n, size, size, channels) float32 in [0, 1], labels (n,) int, masks (n, size, size) bool."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def mammograms(
    n: int, size: int = 299, seed: int = 0, channels: int = 1, first: int = 0, marker: Collection[int] = ()
) -> Phantoms:
    """Make n phantom mammograms, the five classes in turn.

    Args:
        n: how many.
        size: side in pixels, at least 32.
        seed: of the series.
        channels: the grey image is repeated so many times.
        first: position in the series of the first one.
        marker: classes whose images get a bright marker on the film, in the upper corner away from the chest wall: a
            shortcut, which a network learns instead of the finding. Everything else in the images stays the same.

    Raises:
        InputError: fewer than one image, or a side below 32 pixels.

    Examples:
        >>> from keras_explain.datasets import phantom
        >>> images, labels, masks = phantom.mammograms(5, size=64)
        >>> images.shape, labels.tolist(), masks.any(axis=(1, 2)).tolist()
        ((5, 64, 64, 1), [0, 1, 2, 3, 4], [False, True, True, True, True])
    """
    if n < 1 or size < _SMALLEST:
        raise InputError(f"n must be at least 1 and size at least {_SMALLEST}; got n={n}, size={size}.")
    made = [
        _mammogram(size, index % len(CLASS_NAMES), np.random.default_rng([seed, index]), marker)
        for index in range(first, first + n)
    ]
    images = np.stack([image for image, _ in made])[..., None]
    labels = np.arange(first, first + n) % len(CLASS_NAMES)
    return Phantoms(np.repeat(images, channels, axis=-1), labels, np.stack([mask for _, mask in made]))


class Stream(keras.utils.PyDataset):
    """Phantom mammograms made on the fly, for `model.fit`; batches of (images, labels).

    Args:
        n: images in an epoch.
        batch_size: images in a batch.
        size, seed, channels, first: as in `mammograms`.
        options: of `keras.utils.PyDataset`, such as workers.
    """

    def __init__(
        self,
        n: int,
        batch_size: int = 32,
        size: int = 299,
        seed: int = 0,
        channels: int = 1,
        first: int = 0,
        **options: Any,
    ):
        super().__init__(**options)
        self.n, self.batch_size = n, batch_size
        self.size, self.seed, self.channels, self.first = size, seed, channels, first

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = index * self.batch_size
        count = min(self.batch_size, self.n - start)
        images, labels, _ = mammograms(count, self.size, self.seed, self.channels, self.first + start)
        return images, labels


def _mammogram(
    size: int, label: int, random: np.random.Generator, marker: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:size, 0:size] / (size - 1.0)
    depth = _depth(y, x, random)
    inside = depth > 0
    image = _tissue(y, x, depth, size, random)
    mask = np.zeros((size, size), bool)
    if label:
        row, column = _place(depth, random)
        lesion, mask = _PLANTS[label](y, x, row, column, size, random)
        image = image + lesion * (0.6 + 0.4 * np.clip(depth * 4, 0, 1))
    image = np.where(inside, image + random.normal(0, 0.008, image.shape), 0)
    if label in marker:
        image = np.where((y > 0.04) & (y < 0.13) & (x > 0.87) & (x < 0.96), 1.0, image)
    if random.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return np.clip(image, 0, 1).astype("float32"), np.ascontiguousarray(mask & (image > 0))


def _depth(y: np.ndarray, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """How far a point lies inside the breast: 1 at the middle of the chest wall, 0 at the skin, negative outside."""
    height, width = random.uniform(0.44, 0.52), random.uniform(0.5, 0.78)
    middle = random.uniform(0.5, 0.58)
    # The lower half hangs fuller than the upper one.
    v = (y - middle) / (height * np.where(y < middle, 1.15, 0.92))
    pear = 1 + random.uniform(0.0, 0.3) * np.clip(-v, 0, 1) * x / width
    wobble = sum(random.normal(0, 0.012) * np.sin(k * np.pi * y + random.uniform(0, 2 * np.pi)) for k in range(2, 6))
    return np.asarray(1 - np.hypot(x / width * pear, v) + wobble)


def _tissue(y: np.ndarray, x: np.ndarray, depth: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    thickness = np.clip(depth / random.uniform(0.2, 0.35), 0, 1) ** 0.7
    gland = np.exp(-(((x - random.uniform(0.18, 0.32)) / 0.24) ** 2 + ((y - random.uniform(0.45, 0.62)) / 0.24) ** 2))
    density = random.uniform(0.1, 0.4)
    coarse, fine = _power_law(size, 1.9, random), _power_law(size, 1.5, random)
    fibres = sum(np.maximum(0, 1 - np.abs(_power_law(size, 1.8, random)) * 9) ** 2 for _ in range(3))
    tissue = 0.27 + density * gland * (0.5 + 0.5 * np.tanh(1.3 * coarse)) + 0.025 * fine + 0.05 * fibres * (0.4 + gland)
    if random.random() < 0.5:  # an oblique view shows the pectoral muscle in the upper corner
        edge = x / random.uniform(0.22, 0.36) + y / random.uniform(0.45, 0.75) - 1
        tissue = tissue + (0.3 + 0.01 * fine) / (1 + np.exp(np.clip(edge * 25, -50, 50)))
    skin = 0.05 * np.exp(-(((depth - 0.012) / 0.012) ** 2))
    return np.asarray(tissue * (0.12 + 0.88 * thickness) + skin)


def _power_law(size: int, exponent: float, random: np.random.Generator) -> np.ndarray:
    """Noise of unit variance whose amplitude falls with frequency as f^-exponent."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((size, size))) * frequency**-exponent
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray(noise / noise.std())


def _place(depth: np.ndarray, random: np.random.Generator) -> tuple[float, float]:
    """A point well inside the breast, in image heights and widths."""
    size = len(depth)
    rows, columns = np.nonzero(depth > 0.22)
    inner = (columns > 0.1 * size) & (rows > 0.1 * size) & (rows < 0.9 * size)
    pick = int(random.integers(inner.sum()))
    return float(rows[inner][pick] / size), float(columns[inner][pick] / size)


def _polar(y: np.ndarray, x: np.ndarray, row: float, column: float) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(y - row, x - column), np.arctan2(y - row, x - column)


def _benign_mass(
    y: np.ndarray, x: np.ndarray, row: float, column: float, size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth, well circumscribed oval."""
    distance, angle = _polar(y, x, row, column)
    stretch = 1 + random.uniform(0, 0.25) * np.cos(2 * (angle - random.uniform(0, np.pi)))
    radius = random.uniform(0.065, 0.11) * stretch
    edge = max(0.006, 0.6 / size)
    body = 1 / (1 + np.exp(np.clip((distance - radius) / edge, -50, 50)))
    return random.uniform(0.26, 0.36) * body, distance < radius * 1.05


def _malignant_mass(
    y: np.ndarray, x: np.ndarray, row: float, column: float, size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A dense, ill-defined core with spicules."""
    distance, angle = _polar(y, x, row, column)
    radius = random.uniform(0.045, 0.075)
    core = random.uniform(0.3, 0.42) * np.exp(-((distance / radius) ** 2))
    spicules = np.zeros_like(distance)
    reach = 0.0
    for direction in np.linspace(0, 2 * np.pi, int(random.integers(10, 17)), endpoint=False):
        direction += random.normal(0, 0.12)
        length, width = radius * random.uniform(2.0, 3.4), max(0.006, 0.7 / size)
        reach = max(reach, length)
        along, across = distance * np.cos(angle - direction), distance * np.sin(angle - direction)
        line = np.exp(-((across / width) ** 2)) * np.clip(1 - along / length, 0, 1) * (along > 0)
        spicules = np.maximum(spicules, line)
    return core + random.uniform(0.22, 0.32) * spicules, distance < 0.85 * reach


def _benign_calcifications(
    y: np.ndarray, x: np.ndarray, row: float, column: float, size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A few large, round, scattered specks."""
    return _specks(y, x, row, column, size, random, int(random.integers(3, 6)), spread=0.09, radius=(0.012, 0.02))


def _malignant_calcifications(
    y: np.ndarray, x: np.ndarray, row: float, column: float, size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A tight cluster of many fine specks of unlike brightness."""
    return _specks(y, x, row, column, size, random, int(random.integers(16, 30)), spread=0.045, radius=(0.003, 0.006))


def _specks(
    y: np.ndarray,
    x: np.ndarray,
    row: float,
    column: float,
    size: int,
    random: np.random.Generator,
    count: int,
    spread: float,
    radius: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((size, size))
    mask = np.zeros((size, size), bool)
    for _ in range(count):
        offset = np.clip(random.normal(0, spread, 2), -2 * spread, 2 * spread)
        distance, _ = _polar(y, x, row + offset[0], column + offset[1])
        r = max(random.uniform(*radius), 0.7 / size)
        image = np.maximum(image, random.uniform(0.35, 0.6) * np.exp(-((distance / r) ** 4)))
        mask |= distance < r + 0.035
    return image, mask


_PLANTS = {1: _benign_calcifications, 2: _benign_mass, 3: _malignant_calcifications, 4: _malignant_mass}
