"""Phantom cells in three dimensions: a labelled structure, the DNA and the membrane of each, and the structure's mask.

Cell i of a seed is always the same volume, whatever its neighbours. What tells the classes apart is the first channel
alone; DNA and membrane are alike in all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_explain.errors import check_counts

CLASS_NAMES = ("nucleoli", "nuclear envelope", "Golgi", "mitochondria", "cell border")
CHANNEL_NAMES = ("structure", "DNA", "membrane")
_SHALLOWEST, _SMALLEST = 8, 16


class Cells(NamedTuple):
    """Volumes (n, depth, side, side, 3) float32 in [0, 1], labels (n,) int, masks (n, depth, side, side) bool."""

    volumes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def cells(n: int, depth: int = 12, side: int = 24, seed: int = 0, first: int = 0) -> Cells:
    """Make n phantom cells, the five classes in turn.

    Args:
        n: how many.
        depth, side: voxels, at least 8 and 16.
        seed: of the series.
        first: position in the series of the first one.

    Raises:
        InputError: fewer than one cell, or too few voxels.

    Examples:
        >>> from keras_explain.datasets.cells import cells
        >>> volumes, labels, masks = cells(5, depth=8, side=16)
        >>> volumes.shape, labels.tolist(), bool(masks.any(axis=(1, 2, 3)).all())
        ((5, 8, 16, 16, 3), [0, 1, 2, 3, 4], True)
    """
    check_counts(1, n=n)
    check_counts(_SHALLOWEST, depth=depth)
    check_counts(_SMALLEST, side=side)
    made = [
        _cell(depth, side, index % len(CLASS_NAMES), np.random.default_rng([seed, index]))
        for index in range(first, first + n)
    ]
    labels = np.arange(first, first + n) % len(CLASS_NAMES)
    return Cells(np.stack([volume for volume, _ in made]), labels, np.stack([mask for _, mask in made]))


def _cell(depth: int, side: int, label: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    z, y, x = np.mgrid[0:depth, 0:side, 0:side]
    space = np.stack([2 * z / (depth - 1) - 1, 2 * y / (side - 1) - 1, 2 * x / (side - 1) - 1])
    cell = _radius(space, random.normal(0, 0.06, 3), random.uniform(0.75, 0.92, 3))
    nucleus = _radius(space, random.normal(0, 0.1, 3), random.uniform(0.32, 0.44, 3))
    structure = _STRUCTURES[label](space, cell, nucleus, random)
    mask = structure > 0.3
    texture = 0.7 + 0.3 * random.random(structure.shape)
    dna, membrane = _soft(nucleus) * texture, np.exp(-(((cell - 0.95) / 0.1) ** 2))
    volume = np.stack([structure, 0.8 * dna, 0.7 * membrane], axis=-1)
    volume += np.abs(random.normal(0, 0.03, volume.shape))
    return np.clip(volume, 0, 1).astype("float32"), mask


def _radius(space: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Distance from the centre of an ellipsoid, 1 on its surface."""
    return np.asarray(np.sqrt((((space.T - centre) / axes) ** 2).sum(axis=-1)).T)


def _soft(radius: np.ndarray) -> np.ndarray:
    """1 inside, 0 outside."""
    return np.asarray(1 / (1 + np.exp(np.clip((radius - 1) * 15, -50, 50))))


def _blobs(space: np.ndarray, allowed: np.ndarray, count: int, size: float, random: np.random.Generator) -> np.ndarray:
    """Round spots with centres in the allowed voxels."""
    places = np.argwhere(allowed)
    spots = np.zeros(allowed.shape)
    for _ in range(count):
        centre = space[(slice(None), *places[random.integers(len(places))])]
        spots = np.maximum(spots, np.exp(-((_radius(space, centre, np.full(3, size))) ** 2)))
    return np.asarray(spots * random.uniform(0.8, 1.0))


def _nucleoli(space: np.ndarray, cell: np.ndarray, nucleus: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _blobs(space, nucleus < 0.6, int(random.integers(1, 4)), 0.16, random)


def _envelope(space: np.ndarray, cell: np.ndarray, nucleus: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.asarray(random.uniform(0.8, 1.0) * np.exp(-(((nucleus - 1.0) / 0.15) ** 2)))


def _golgi(space: np.ndarray, cell: np.ndarray, nucleus: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A cluster on one side of the nucleus."""
    direction = random.normal(size=3)
    ahead = np.tensordot(direction / np.linalg.norm(direction), space, axes=1)
    beside = (nucleus > 1.15) & (nucleus < 1.6) & (cell < 0.9)
    return _blobs(space, beside & (ahead >= np.quantile(ahead[beside], 0.9)), 6, 0.13, random)


def _mitochondria(space: np.ndarray, cell: np.ndarray, nucleus: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _blobs(space, (nucleus > 1.3) & (cell < 0.8), int(random.integers(14, 22)), 0.09, random)


def _border(space: np.ndarray, cell: np.ndarray, nucleus: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Spots along the membrane, where cells touch."""
    return _blobs(space, (cell > 0.88) & (cell < 1.0), int(random.integers(8, 14)), 0.12, random)


_STRUCTURES = (_nucleoli, _envelope, _golgi, _mitochondria, _border)
