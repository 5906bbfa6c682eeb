"""Panels of volumes, of signals and of pictures with many channels: each channel, original | positive | negative.

A volume (depth, height, width) is shown by its maximum projections: XY, below it XZ, to its right YZ. Positive and
negative parts are projected apart, since a maximum over both would hide one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_explain.figures.drawing import (
    BELOW,
    CAPTION,
    CELL,
    MAP,
    OUTLINE,
    PLAIN,
    VERDICT,
    caption,
    colour_bar,
    draw_outline,
    entitle,
    most_verdicts,
    share,
    sheet,
    tell_verdicts,
    text,
)
from keras_explain.records import Attribution, Samples
from keras_explain.words import titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP = 1
_MOST_ACROSS = 3  # channels side by side
_SIGNAL = 0.35  # height of the picture of a signal, as a share of its width


def projections(volume: np.ndarray) -> np.ndarray:
    """What is drawn of one channel: a picture as it is, the three maximum projections of a volume in one picture.

    Args:
        volume: (h, w), or (d, h, w).

    Returns:
        (h, w), or (h + 1 + d, w + 1 + d) with NaN between the parts.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.figures.channels import projections
        >>> volume = np.zeros((2, 3, 4))
        >>> volume[1, 2, 0] = 5
        >>> projections(volume)[2], projections(volume)[5, 0]
        (array([ 5.,  0.,  0.,  0., nan,  0.,  5.]), np.float64(5.0))
    """
    if volume.ndim == 2:
        return volume
    depth, height, width = volume.shape
    picture = np.full((height + _GAP + depth, width + _GAP + depth), np.nan)
    picture[:height, :width] = volume.max(axis=0)
    picture[height + _GAP :, :width] = volume.max(axis=1)
    picture[:height, width + _GAP :] = volume.max(axis=2).T
    return picture


def channels_panel(
    samples: Samples,
    attributions: Sequence[Attribution],
    title: str,
    percentile: float,
) -> Figure:
    """One line for each map: of every channel the original, the positive and the negative part.

    Args:
        samples, attributions, title, percentile: as in `panel`; images (n, *one to three axes, channels).
    """
    channels = samples.images.shape[-1]
    across = min(channels, _MOST_ACROSS)
    height = CELL * _aspect(samples.images.shape[1:-1])
    line = height + BELOW
    of_map = line * -(-channels // across) + most_verdicts(attributions) * VERDICT
    named = list(zip(attributions, titles(attributions), strict=True))
    maps = [[(a.of(i), row, name) for a, name in named for row in range(len(a.of(i)))] for i in range(len(samples))]
    tops = np.cumsum([CAPTION, *(2 * CAPTION + of_map * len(rows) for rows in maps)])
    figure = sheet(3 * CELL * across, float(tops[-1]), title)
    for i, rows in enumerate(maps):
        top = figure.get_figheight() - float(tops[i])
        text(figure, 0.05, top, caption(samples, i), size=9.5)
        for n, (attribution, r, name) in enumerate(rows):
            region = samples.roi[i] if len(samples.roi) else None
            drawn = _Parts(samples.images[i], attribution.values[r], region, percentile)
            for k in range(channels):
                low = top - 1.6 * CAPTION - n * of_map - k // across * line - 0.2 - height
                places = [_axes(figure, 3 * (k % across) + part, low, height) for part in range(3)]
                drawn.draw(figure, places, k, f"{attribution.unit}, cut at {percentile:g} %")
                _name(
                    places,
                    samples.channel_name(k),
                    name,
                    _question(samples, attribution, r),
                )
                if k % across == 0:
                    first = places[0]
            tell_verdicts(figure, first, attribution, r)
    return figure


def _question(samples: Samples, attribution: Attribution, r: int) -> str:
    return f"why {samples.class_name(int(attribution.targets[r]))}?" if len(attribution) > 1 else ""


def _name(places: Sequence[Axes], channel: str, method: str, question: str) -> None:
    words = (channel, f"{method}: for", f"{method}: against")
    for axes, title in zip(places, words, strict=True):
        entitle(axes, f"{question}\n{title}" if question else title)


def _aspect(shape: tuple[int, ...]) -> float:
    if len(shape) == 1:
        return _SIGNAL
    height, width = projections(np.zeros(shape)).shape
    return height / width


def _axes(figure: Figure, column: int, low: float, height: float) -> Axes:
    axes = figure.add_axes(share(figure, (column * CELL + 0.05, low, CELL - 0.1, height - 0.1)), xticks=[], yticks=[])
    axes.set_axis_off()
    return axes


class _Parts:
    """One map over its image: of each channel what is shown, and one scale for all of them."""

    def __init__(self, image: np.ndarray, values: np.ndarray, region: np.ndarray | None, percentile: float):
        self.signal, self.region = image.ndim == 2, region
        show = (lambda part: part) if self.signal else projections
        per_channel = [(image[..., k], values[..., k].astype("float64")) for k in range(image.shape[-1])]
        self.images = [show(picture) for picture, _ in per_channel]
        self.parts = [[show(np.maximum(sign * part, 0)) for sign in (1, -1)] for _, part in per_channel]
        shown = np.concatenate([part[np.isfinite(part)] for parts in self.parts for part in parts])
        self.limit = float(np.percentile(shown, percentile)) or float(shown.max()) or 1.0

    def draw(self, figure: Figure, places: Sequence[Axes], k: int, words: str) -> None:
        """Original, positive and negative part of channel k."""
        image = self.images[k]
        low, high = float(np.nanmin(image)), float(np.nanmax(image))
        if self.signal:
            places[0].plot(image, color="black", linewidth=0.8)
        else:
            places[0].imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
        note = f"from {low:.2g} to {high:.2g}" if self.signal else f"black {low:.2g}, white {high:.2g}"
        note = f"XY, XZ, YZ; {note}" if np.isnan(image).any() else note
        places[0].text(0, -0.02, note, fontsize=7, va="top", transform=places[0].transAxes, **PLAIN)
        for axes, part, sign in zip(places[1:], self.parts[k], (1, -1), strict=True):
            if self.signal:
                self._draw_signal(axes, image, part, sign)
            else:
                drawn = self._draw_part(axes, image, part, sign, low, high)
                if self.region is not None:
                    draw_outline(axes, np.nan_to_num(projections(self.region.astype(float))) > 0)
        if not self.signal:
            colour_bar(figure, places[1], drawn, self.limit, words)
            return
        places[1].text(
            0, -0.02, f"up to {self.limit:.2g} {words}", fontsize=7, va="top", transform=places[1].transAxes, **PLAIN
        )

    def _draw_part(self, axes: Axes, image: np.ndarray, part: np.ndarray, sign: int, low: float, high: float) -> Any:
        faded = 1 - 0.3 * (1 - (image - low) / max(high - low, 1e-12))
        axes.imshow(faded, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        strength = np.clip(np.nan_to_num(part) / self.limit, 0, 1)
        scale: dict[str, Any] = {"vmin": -self.limit, "vmax": self.limit, "cmap": MAP, "interpolation": "nearest"}
        return axes.imshow(sign * np.minimum(np.nan_to_num(part), self.limit), alpha=strength, **scale)

    def _draw_signal(self, axes: Axes, image: np.ndarray, part: np.ndarray, sign: int) -> None:
        span = max(float(np.ptp(image)), 1e-12)
        axes.plot((image - image.min()) / span, color="#bbbbbb", linewidth=0.8)
        colour = "#b2182b" if sign > 0 else "#2166ac"
        axes.fill_between(np.arange(len(part)), np.minimum(part / self.limit, 1), color=colour, alpha=0.8, linewidth=0)
        if self.region is not None:
            axes.fill_between(np.arange(len(part)), -0.06, -0.02, where=self.region, color=OUTLINE, linewidth=0)
        axes.set_ylim(-0.06, 1.02)
