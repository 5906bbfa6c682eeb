"""Panels of pictures with one or three channels, and notices where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_explain.errors import InputError
from keras_explain.figures.channels import channels_panel
from keras_explain.figures.drawing import (
    BELOW,
    CAPTION,
    CELL,
    MAP,
    PLAIN,
    VERDICT,
    caption,
    colour_bar,
    draw_outline,
    entitle,
    most_verdicts,
    share,
    sheet,
    signed_map,
    tell_verdicts,
    text,
    window,
)
from keras_explain.records import Attribution, Samples
from keras_explain.words import titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS, _MOST_COLUMNS = 4, 5


def panel(
    samples: Samples,
    attributions: Sequence[Attribution],
    *,
    title: str = "",
    percentile: float = 99.5,
) -> Figure:
    """One row for each image: the original, then one map for each method and target, with its verdicts.

    The outline of `samples.roi` is drawn on the maps where it is known; the original is left unmarked. Volumes, signals
    and pictures with other than one, three or four channels are shown channel by channel: the original, what speaks for
    the class and what against it, of volumes the maximum projections.

    Args:
        samples: what was explained, images (n, h, w, c), volumes (n, d, h, w, c) or signals (n, length, c).
        attributions: of these samples.
        title: written above everything, for example the epoch.
        percentile: of the absolute map, at which colours are cut; printed under each map.

    Returns:
        A `matplotlib.figure.Figure` that belongs to no `pyplot` window.

    Raises:
        InputError: images of another rank, an attribution of other samples, a percentile outside (0, 100].

    Examples:
        >>> import numpy as np, keras_explain as kx
        >>> samples = kx.Samples(np.random.default_rng(0).random((1, 8, 8, 1)), targets=[1], confidence=[0.9])
        >>> attribution = kx.Attribution("mine", np.ones((1, 8, 8, 1)), [1], [0], score=[64.0], base_score=[0.0])
        >>> figure = kx.figures.panel(samples, [attribution], title="epoch 3")
        >>> figure.savefig("panel.png")  # doctest: +SKIP
    """
    if not 0 < percentile <= 100:
        raise InputError(f"percentile must be above 0 and at most 100; got {percentile}.")
    if samples.images.ndim not in (3, 4, 5):
        raise InputError(f"panel draws signals, images and volumes with channels last; got {samples.images.shape}.")
    for attribution in attributions:
        if attribution.values.shape[1:] != samples.images.shape[1:] or set(attribution.rows) - set(range(len(samples))):
            raise InputError(f"The {attribution.method} maps are not of these samples.")
    if samples.images.ndim != 4 or samples.images.shape[-1] not in (1, 3, 4):
        return channels_panel(samples, attributions, title, percentile)
    named = list(zip(attributions, titles(attributions), strict=True))
    cells = [[(a.of(i), row, name) for a, name in named for row in range(len(a.of(i)))] for i in range(len(samples))]
    widest = 1 + max(map(len, cells), default=0)
    columns = widest if widest <= _MOST_COLUMNS else -(-widest // -(-widest // _COLUMNS))
    line = CELL * samples.images.shape[1] / samples.images.shape[2] + BELOW + most_verdicts(attributions) * VERDICT
    block = 2 * CAPTION + line * -(-widest // columns)
    figure = sheet(CELL * columns, CAPTION + block * len(samples), title)
    for i, maps in enumerate(cells):
        top = figure.get_figheight() - CAPTION - i * block
        text(figure, 0.05, top, caption(samples, i), size=9.5)
        outline = samples.roi[i] if len(samples.roi) else None
        places = [
            _axes(figure, n % columns, top - 1.6 * CAPTION - n // columns * line, samples) for n in range(1 + len(maps))
        ]
        _draw_image(places[0], samples, i, key=bool(maps), outline=outline)
        for axes, (attribution, r, name) in zip(places[1:], maps, strict=True):
            asked = f"\nwhy {samples.class_name(int(attribution.targets[r]))}?" if len(attribution) > 1 else ""
            entitle(axes, name + asked)
            _draw_map(figure, axes, samples, i, attribution, r, outline, percentile)
    return figure


def notice(title: str, words: str) -> Figure:
    """A picture that says why there is none, so that a series over epochs has no gap.

    Args:
        title: as of a panel.
        words: what is to be said.
    """
    figure = sheet(2 * CELL, CELL, title)
    text(figure, 0.05, figure.get_figheight() - 0.05 - CAPTION, words, size=9.5)
    return figure


def _axes(figure: Figure, column: int, top: float, samples: Samples) -> Axes:
    height = CELL * samples.images.shape[1] / samples.images.shape[2]
    box = (column * CELL + 0.05, top - 0.2 - height, CELL - 0.1, height - 0.1)
    axes = figure.add_axes(share(figure, box), xticks=[], yticks=[])
    axes.set_axis_off()
    return axes


def _shown(samples: Samples, i: int) -> np.ndarray:
    low, high = window(samples, i)
    image = np.clip((samples.images[i] - low) / max(high - low, 1e-12), 0, 1)
    return image[..., 0] if image.shape[-1] == 1 else image


def _draw_image(axes: Axes, samples: Samples, i: int, key: bool, outline: np.ndarray | None) -> None:
    """The original, unmarked, and under it what the colours beside it mean."""
    axes.imshow(_shown(samples, i), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    entitle(axes, "image")
    low, high = window(samples, i)
    words = f"black {low:.3g}, white {high:.3g}"
    if key:
        words += "\nred speaks for the class, blue against it"
    if key and outline is not None and outline.any() and not outline.all():
        words += "\nyellow is the border of the finding"
    axes.text(0, -0.02, words, fontsize=7, va="top", transform=axes.transAxes, **PLAIN)


def _draw_map(
    figure: Figure,
    axes: Axes,
    samples: Samples,
    i: int,
    attribution: Attribution,
    r: int,
    outline: np.ndarray | None,
    percentile: float,
) -> None:
    values, limit = signed_map(attribution, r, percentile)
    image = _shown(samples, i)
    grey = image if image.ndim == 2 else image[..., :3].mean(axis=-1)
    axes.imshow(1 - 0.3 * (1 - grey), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    strength = np.clip(np.abs(values) / limit, 0, 1)
    drawn = axes.imshow(
        np.clip(values, -limit, limit), cmap=MAP, vmin=-limit, vmax=limit, alpha=strength, interpolation="nearest"
    )
    draw_outline(axes, outline)
    colour_bar(figure, axes, drawn, limit, f"{attribution.unit}, cut at {percentile:g} %")
    tell_verdicts(figure, axes, attribution, r)
