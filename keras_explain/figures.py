"""Attribution -> matplotlib Figure. The one place that normalises for the eye.

The image is shown unmarked; a grey one is windowed to its own range, which is printed. Maps are summed over channels,
cut at a percentile of their absolute value and drawn signed, red for and blue against the explained class, transparent
at zero, over a faded copy of the image. Scale and percentile are printed. Nothing here goes through `pyplot`, so no
state of matplotlib is touched and figures can be drawn on any thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_explain.errors import InputError
from keras_explain.records import Attribution, Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL, _CAPTION, _BELOW = 2.3, 0.3, 0.8  # inches: side of a picture, a line of text, title and colour bar of a picture
_COLUMNS, _MOST_COLUMNS = 4, 5
_MAP = "RdBu_r"
# Whatever style the user has set: black on white, no LaTeX, and a dollar sign in a name starts no formula.
_PLAIN: dict[str, Any] = {"color": "black", "usetex": False, "parse_math": False}
_OUTLINE = "#ffd400"


def panel(
    samples: Samples,
    attributions: Sequence[Attribution],
    *,
    title: str = "",
    outlines: np.ndarray | None = None,
    percentile: float = 99.5,
) -> Figure:
    """One row for each image: the unmarked original, then one map for each method and target, then a caption.

    Args:
        samples: what was explained, images (n, h, w, c) with c = 1, 3 or 4.
        attributions: of these samples.
        title: written above everything, for example the epoch.
        outlines: (n, h, w) bool, regions of interest drawn as an outline.
        percentile: of the absolute map, at which colours are cut; printed under each map.

    Returns:
        A `matplotlib.figure.Figure` that belongs to no `pyplot` window.

    Raises:
        InputError: images of another rank, an attribution of other samples, a percentile outside (0, 100].

    Example:
        >>> import numpy as np, keras_explain as kx
        >>> samples = kx.Samples(np.random.default_rng(0).random((1, 8, 8, 1)), targets=[1], confidence=[0.9])
        >>> attribution = kx.Attribution("mine", np.ones((1, 8, 8, 1)), [1], [0], score=[64.0], base_score=[0.0])
        >>> figure = kx.figures.panel(samples, [attribution], title="epoch 3")
        >>> figure.savefig("panel.png")  # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    if not 0 < percentile <= 100:
        raise InputError(f"percentile must be above 0 and at most 100; got {percentile}.")
    if samples.images.ndim != 4 or samples.images.shape[-1] not in (1, 3, 4):
        raise InputError(f"panel draws images (n, h, w, c) with 1, 3 or 4 channels; got {samples.images.shape}.")
    for attribution in attributions:
        if attribution.values.shape[1:] != samples.images.shape[1:] or set(attribution.rows) - set(range(len(samples))):
            raise InputError(f"The {attribution.method} maps are not of these samples.")
    cells = [[(a.of(i), row) for a in attributions for row in range(len(a.of(i)))] for i in range(len(samples))]
    widest = 1 + max(map(len, cells), default=0)
    columns = widest if widest <= _MOST_COLUMNS else -(-widest // -(-widest // _COLUMNS))
    line = _CELL * samples.images.shape[1] / samples.images.shape[2] + _BELOW
    block = 2 * _CAPTION + line * -(-widest // columns)
    figure = Figure((_CELL * columns, _CAPTION + block * len(samples)), dpi=110, facecolor="white")
    _text(figure, 0.05, figure.get_figheight() - 0.05, title, size=11, weight="bold")
    for i, maps in enumerate(cells):
        top = figure.get_figheight() - _CAPTION - i * block
        _text(figure, 0.05, top, caption(samples, i), size=9.5)
        outline = None if outlines is None else outlines[i]
        places = [
            _axes(figure, n % columns, top - 1.6 * _CAPTION - n // columns * line, samples)
            for n in range(1 + len(maps))
        ]
        _draw_image(places[0], samples, i, outline)
        for axes, (attribution, r) in zip(places[1:], maps, strict=True):
            name = f"\nwhy {samples.class_name(int(attribution.targets[r]))}?" if len(attribution) > 1 else ""
            axes.set_title(attribution.method.replace("_", " ") + name, fontsize=9, pad=3, **_PLAIN)
            _draw_map(figure, axes, samples, i, attribution, r, outline, percentile)
    return figure


def notice(title: str, words: str) -> Figure:
    """A picture that says why there is none, so that a series over epochs has no gap.

    Args:
        title: as of a panel.
        words: what is to be said.
    """
    from matplotlib.figure import Figure

    figure = Figure((2 * _CELL, _CELL), dpi=110, facecolor="white")
    _text(figure, 0.05, figure.get_figheight() - 0.05, title, size=11, weight="bold")
    _text(figure, 0.05, figure.get_figheight() - 0.05 - _CAPTION, words, size=9.5)
    return figure


def caption(samples: Samples, i: int) -> str:
    """What is known of one image, in words: name, true class, explained class and its probability."""
    target = samples.class_name(int(samples.targets[i, 0]))
    first, second = [f"image {samples.ids[i]}"], []
    known = np.isfinite(samples.confidence[i])
    if known and samples.labels[i] >= 0:  # only correctly predicted images are selected: the target is the true class
        first.append(f"true class: {target} ({samples.labels[i]} in the data)")
    if samples.targets.shape[1] == 1:
        second.append(f"why {target}?")
    if known:
        second.append(f"{target} predicted with p {_probability(samples.confidence[i])}")
    return "  ·  ".join(first) + "\n" + "  ·  ".join(second)


def _probability(p: float) -> str:
    """Enough digits that 0.99998 does not become 1."""
    if p > 1 - 1e-6:
        return "> 0.999999"
    digits = 3 if p < 0.9995 else min(6, 1 + math.ceil(-math.log10(1 - p)))
    return f"= {p:.{digits}f}"


def quality(attribution: Attribution, r: int) -> str:
    """What the method says of its own exactness, in words."""
    if np.isfinite(attribution.relative_completeness_error[r]):
        return f"completeness error {100 * attribution.relative_completeness_error[r]:.2g} %"
    if "r2" in attribution.details and np.isnan(attribution.details["r2"][r]):
        return "hiding changes nothing"
    if "r2" in attribution.details:
        return f"surrogate R² {attribution.details['r2'][r]:.2f}, effect {attribution.details['effect'][r]:.2g}"
    return "promises no sum"


def signed_map(attribution: Attribution, r: int, percentile: float) -> tuple[np.ndarray, float]:
    """The channel sum of one map and the value at which its colours are cut."""
    flat = attribution.values[r].sum(axis=-1, dtype="float64")
    limit = float(np.percentile(np.abs(flat), percentile)) or float(np.abs(flat).max()) or 1.0
    return flat, limit


def _axes(figure: Figure, column: int, top: float, samples: Samples) -> Axes:
    height = _CELL * samples.images.shape[1] / samples.images.shape[2]
    box = (column * _CELL + 0.05, top - 0.2 - height, _CELL - 0.1, height - 0.1)
    axes = figure.add_axes(_share(figure, box), xticks=[], yticks=[])
    axes.set_axis_off()
    return axes


def _share(figure: Figure, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    width, height = figure.get_size_inches()
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _text(figure: Figure, x: float, y: float, words: str, size: float, weight: str = "normal") -> None:
    x, y, _, _ = _share(figure, (x, y, 0, 0))
    figure.text(x, y, words, fontsize=size, weight=weight, ha="left", va="top", **_PLAIN)


def window(samples: Samples, i: int) -> tuple[float, float]:
    """The pixel values drawn black and white: a grey image's own range, as at a viewing station; else the data's."""
    image = samples.images[i]
    low, high = float(image.min()), float(image.max())
    grey = (image == image[..., :1]).all()
    return (low, high) if grey and low < high else samples.value_range


def _shown(samples: Samples, i: int) -> np.ndarray:
    low, high = window(samples, i)
    image = np.clip((samples.images[i] - low) / max(high - low, 1e-12), 0, 1)
    return image[..., 0] if image.shape[-1] == 1 else image


def _draw_image(axes: Axes, samples: Samples, i: int, outline: np.ndarray | None) -> None:
    axes.imshow(_shown(samples, i), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title("image", fontsize=9, pad=3, **_PLAIN)
    low, high = window(samples, i)
    axes.text(0, -0.02, f"black {low:.2g}, white {high:.2g}", fontsize=7, va="top", transform=axes.transAxes, **_PLAIN)
    _draw_outline(axes, outline)


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
        np.clip(values, -limit, limit), cmap=_MAP, vmin=-limit, vmax=limit, alpha=strength, interpolation="nearest"
    )
    _draw_outline(axes, outline)
    box = axes.get_position()
    bar = figure.add_axes((box.x0, box.y0 - 0.1 / figure.get_figheight(), box.width, 0.06 / figure.get_figheight()))
    colour = figure.colorbar(_opaque(drawn), cax=bar, orientation="horizontal", ticks=[-limit, 0, limit])
    colour.ax.set_xticklabels([f"{-limit:.2g}", "0", f"{limit:.2g}"], fontsize=7, **_PLAIN)
    colour.ax.tick_params(length=2, pad=1, color="black")
    colour.outline.set_linewidth(0.4)
    labels = colour.ax.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")
    words = f"{attribution.unit}, cut at {percentile:g} %\n{quality(attribution, r)}"
    colour.ax.set_xlabel(words, fontsize=7, labelpad=1, **_PLAIN)


def _opaque(drawn: Any) -> Any:
    """The same colours without the transparency of the map, for the colour bar."""
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(norm=drawn.norm, cmap=drawn.cmap)


def _draw_outline(axes: Axes, outline: np.ndarray | None) -> None:
    if outline is not None and outline.any() and not outline.all():
        axes.contour(outline, levels=[0.5], colors="black", linewidths=2.2)
        axes.contour(outline, levels=[0.5], colors=_OUTLINE, linewidths=1.1)
