"""From the pixels of a file to what the model sees: one record for training, selection, explanation and report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_explain.datasets.roi import Roi
from keras_explain.errors import InputError, check_counts

_MOST_UNLIKE = 20.0
_SLACK = 1e-3


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every picture on its way to the model.

        x = low + (high - low) * clip((p - black) / (white - black), 0, 1)

    scaled to `size`. One channel is repeated for a model of three, three are averaged for a model of one.

    Args:
        size: (height, width) of the model's images in pixels.
        channels: of the model's images, 1 or 3.
        scale: (low, high), what black and white become.
        window: (black, white) in values of the file; `"image"` is each picture's own lowest and highest value; None is
            the range of the file's whole numbers, 0 to 255 or 0 to 65535.

    Raises:
        InputError: measures or ranges that cannot be.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.datasets.preprocessing import Preprocessing
        >>> prepare = Preprocessing(size=(2, 2), channels=3)
        >>> prepare(np.full((4, 4), 51, "uint8"))[0, 0].round(3).tolist()
        [0.20000000298023224, 0.20000000298023224, 0.20000000298023224]
    """

    size: tuple[int, int] = (299, 299)
    channels: int = 3
    scale: tuple[float, float] = (0.0, 1.0)
    window: tuple[float, float] | str | None = None

    def __post_init__(self) -> None:
        for name in ("size", "scale", "window"):
            value = getattr(self, name)
            if isinstance(value, (list, tuple, np.ndarray)):
                object.__setattr__(self, name, tuple(np.asarray(value).tolist()))
        if not (isinstance(self.size, tuple) and len(self.size) == 2):
            raise InputError(f"size must be a height and a width; got {self.size!r}.")
        check_counts(1, size=self.size[0])
        check_counts(1, size=self.size[1])
        object.__setattr__(self, "channels", int(self.channels) if self.channels in (1, 3) else self.channels)
        if self.channels not in (1, 3):
            raise InputError(f"channels must be 1 or 3; got {self.channels!r}.")
        for name in ("scale", "window"):
            value = getattr(self, name)
            if (name == "scale" or value not in (None, "image")) and not _is_range(value):
                raise InputError(f"{name} must be two numbers, the first below the second; got {value!r}.")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The model's image (height, width, channels) float32.

        Args:
            pixels: (h, w), (h, w, 1) or (h, w, 3) as in the file.

        Raises:
            InputError: another shape, NaN or infinity, or fractions whose black and white no `window` tells.
        """
        pixels = np.asarray(pixels)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
            raise InputError(f"A picture must be (h, w), (h, w, 1) or (h, w, 3); got {np.shape(pixels)}.")
        if not np.isfinite(pixels).all():
            raise InputError("A picture must be finite; NaN or infinity came.")
        black, white = self._window(pixels)
        low, high = self.scale
        share = np.clip((pixels.astype("float32") - black) / max(white - black, 1e-12), 0, 1)
        if share.shape[-1] > self.channels:
            share = share.mean(axis=-1, keepdims=True)
        share = np.stack([_scaled(channel, self.size) for channel in np.moveaxis(share, -1, 0)], axis=-1)
        share = np.repeat(share, self.channels // share.shape[-1], axis=-1)
        return np.asarray(low + (high - low) * share, "float32")

    def _window(self, pixels: np.ndarray) -> tuple[float, float]:
        if self.window == "image":
            return float(pixels.min()), float(pixels.max())
        if self.window is not None:
            return float(self.window[0]), float(self.window[1])
        if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
            raise InputError(
                f"A picture of {pixels.dtype} in {pixels.min():g} to {pixels.max():g} does not tell what is black and "
                "white; give window=(black, white)."
            )
        return 0.0, 2.0 ** (8 * pixels.dtype.itemsize) - 1

    def region(self, roi: Roi) -> Roi:
        """The regions of a picture in the model's image."""
        return roi.resize(*self.size)

    def check(self, images: np.ndarray) -> None:
        """Raise unless images can have been made by this record.

        Args:
            images: (n, height, width, channels), a batch or more.

        Raises:
            InputError: another shape, or a range as in `check_range`.
        """
        if images.shape[1:] != (*self.size, self.channels):
            raise InputError(f"images have shape {images.shape[1:]}; {self} gives {(*self.size, self.channels)}.")
        self.check_range(float(images.min()), float(images.max()))

    def check_range(self, low: float, high: float) -> None:
        """Raise unless images that go from `low` to `high` can have been made by this record.

        Args:
            low, high: lowest and highest value of many images; a single one may be dark.

        Raises:
            InputError: a range outside `scale` or twenty times narrower; both are shown.
        """
        black, white = self.scale
        width = white - black
        outside = low < black - _SLACK * width or high > white + _SLACK * width
        if outside or 0 < high - low < width / _MOST_UNLIKE:
            raise InputError(
                f"images lie in {low:g} to {high:g}; what the model was trained on lies in {black:g} to {white:g}. "
                "Pass every picture through the same Preprocessing, once; files that use a part of their range, as 12 "
                "of 16 bits, need window=(black, white)."
            )

    def check_model(self, model: keras.Model) -> None:
        """Raise unless a model takes the images of this record."""
        expected = getattr(model, "input_shape", None)
        expected = expected[0] if isinstance(expected, list) else expected
        made = (None, *self.size, self.channels)
        if expected and any(e not in (None, m) for e, m in zip(expected, made, strict=False)):
            raise InputError(f"'{model.name}' takes images {tuple(expected[1:])}; {self} gives {made[1:]}.")

    def as_settings(self) -> dict[str, Any]:
        """Ready for JSON; `from_settings` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any] | str | Path) -> Preprocessing:
        """The record that was stored with a run.

        Args:
            settings: what `as_settings` gave, or the `settings.json` of an explained round.

        Raises:
            InputError: a file without such a record.

        Examples:
            >>> from keras_explain.datasets.preprocessing import Preprocessing
            >>> Preprocessing.from_settings(Preprocessing(channels=1).as_settings())
            Preprocessing(size=(299, 299), channels=1, scale=(0.0, 1.0), window=None)
        """
        if not isinstance(settings, Mapping):
            path = Path(settings)
            if not path.is_file():
                raise InputError(f"{path} does not exist; give the settings.json of an explained round.")
            try:
                settings = json.loads(path.read_text("utf-8")).get("preprocessing") or {}
            except (ValueError, AttributeError) as error:
                raise InputError(f"{path} is no settings.json of an explained round: {error}") from error
        names = {field.name for field in dataclasses.fields(cls)}
        if set(settings) != names:
            raise InputError(
                f"There is no record of the preprocessing: {sorted(names)} are needed, {sorted(settings)} came."
            )
        return cls(**settings)


def _scaled(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    if channel.shape == size:
        return channel
    return np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR))


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, tuple) and all(isinstance(end, (int, float)) for end in value)
    return numbers and len(value) == 2 and bool(np.isfinite(value).all()) and value[0] < value[1]
