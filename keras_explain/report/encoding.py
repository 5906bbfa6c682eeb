"""Numbers as small pictures inside a page: maps, which keep their full range, and what the model saw."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np

_LEVELS = 127
_QUALITIES = (80, 50)
_SMALLEST = 32  # pixels of a side
_BEYOND = 16.0
_LARGEST_WEBP = 16383  # pixels of a side


def encoded_map(values: np.ndarray, room: int, limit: float = math.inf) -> dict[str, Any]:
    """A signed map as a grey picture: 128 is zero, and the distance from it grows with the square root of the value.

    The root keeps what is small beside a few large values, and hides the losses of the format around zero.

    Args:
        values: (depth, h, w), one slice for a picture.
        limit: at which colours are cut. What is more than 16 times as large is stored as that, or else a single large
            value would take all levels.
        room: bytes that the text may take. Where the exact levels do not fit, they are stored with losses; where that
            does not fit, means over 2 x 2 pixels are, as often as needed.

    Returns:
        `src`; `max`, the largest absolute value; `shape` (depth, h, w) as stored; `exact`, false where
        levels were lost.
    """
    values = np.clip(values, -_BEYOND * limit, _BEYOND * limit)
    largest = float(np.abs(values).max())
    while True:
        levels = np.sign(values) * np.sqrt(np.abs(values) / (largest or 1.0))
        pixels = tiled(np.rint(128 + _LEVELS * levels).astype("uint8"))
        for quality in (None, *_QUALITIES):
            source = _webp(pixels, quality)
            if len(source) <= room or (quality == _QUALITIES[-1] and max(values.shape[1:]) <= _SMALLEST):
                return {"src": source, "max": largest, "shape": values.shape, "exact": quality is None}
        values = _halved(values)


def encoded_picture(pixels: np.ndarray) -> str:
    """Slices of a picture without loss, as the source of an image.

    Args:
        pixels: (depth, h, w) or (depth, h, w, 3) uint8.
    """
    return _webp(tiled(pixels), None)


def encoded_labels(labels: np.ndarray) -> str:
    """(depth, h, w) whole numbers below 65536 as a picture: 256 times red and green."""
    parts = [labels // 256, labels % 256, np.zeros_like(labels)]
    return _webp(tiled(np.stack(parts, axis=-1).astype("uint8")), None)


def tiled(slices: np.ndarray) -> np.ndarray:
    """Slices (depth, h, w, ...) in one picture, in rows of ceil(sqrt(depth)), since formats limit the sides.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.report.encoding import tiled
        >>> tiled(np.arange(3).reshape(3, 1, 1)).tolist()
        [[0, 1], [2, 0]]
    """
    depth, height, width, *rest = slices.shape
    across = math.ceil(math.sqrt(depth))
    down = -(-depth // across)
    full = np.zeros((across * down, height, width, *rest), slices.dtype)
    full[:depth] = slices
    rows = full.reshape(down, across, height, width, *rest)
    return np.swapaxes(rows, 1, 2).reshape(down * height, across * width, *rest)


def _halved(values: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 pixels; odd sides repeat their border."""
    _, height, width = values.shape
    even = np.pad(values, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return even.reshape(len(values), even.shape[1] // 2, 2, even.shape[2] // 2, 2).mean(axis=(2, 4))


def _webp(pixels: np.ndarray, quality: int | None) -> str:
    from PIL import Image

    stream = io.BytesIO()
    if max(pixels.shape[:2]) > _LARGEST_WEBP:
        Image.fromarray(pixels).save(stream, "PNG")
        return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    options: dict[str, Any] = {"quality": quality} if quality else {"lossless": True, "quality": 20, "method": 0}
    Image.fromarray(pixels).save(stream, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
