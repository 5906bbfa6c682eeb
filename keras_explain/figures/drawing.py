"""What all figures share: measures, words, the image as it is shown, maps in colour with their bar and verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_explain.records import Attribution, Samples
from keras_explain.verdicts import verdicts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: side of a picture, a line of text, title and colour bar of a picture, a verdict.
CELL, CAPTION, BELOW, VERDICT = 2.3, 0.3, 0.7, 0.12
MAP = "RdBu_r"
_LETTER = 0.66  # width of a letter, as a share of the font's size
# Whatever style the user has set: black on white, no LaTeX, and a dollar sign in a name starts no formula.
PLAIN: dict[str, Any] = {"color": "black", "usetex": False, "parse_math": False}
OUTLINE = "#ffd400"
_GOOD, _BAD = "#00695c", "#b3261e"  # told apart by the colour-blind too, and by tick and cross


def sheet(width: float, height: float, title: str) -> Figure:
    """An empty white figure, in inches, with a title."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=110, facecolor="white")
    text(figure, 0.05, height - 0.05, title, size=11, weight="bold")
    return figure


def share(figure: Figure, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """A box in inches as shares of the figure."""
    width, height = figure.get_size_inches()
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def text(figure: Figure, x: float, y: float, words: str, size: float, weight: str = "normal") -> None:
    """Words whose upper left corner is at (x, y) inches, smaller where they would be cut off."""
    longest = max(map(len, words.splitlines()), default=0)
    size = min(size, (figure.get_figwidth() - x) * 72 / (_LETTER * max(longest, 1)))
    x, y, _, _ = share(figure, (x, y, 0, 0))
    figure.text(x, y, words, fontsize=size, weight=weight, ha="left", va="top", **PLAIN)


def entitle(axes: Axes, words: str) -> None:
    """A title over a picture, smaller where it would reach into the next one."""
    longest = max(map(len, words.splitlines()))
    axes.set_title(words, fontsize=min(9, (CELL - 0.1) * 72 / (_LETTER * longest)), pad=3, **PLAIN)


def caption(samples: Samples, i: int) -> str:
    """What is known of one image, in words: name, true class, explained class and its probability."""
    target = samples.class_name(int(samples.targets[i, 0]))
    first, second = [f"image {samples.ids[i]}"], []
    known = np.isfinite(samples.confidence[i])
    if known and samples.labels[i] >= 0:  # only correctly predicted images are selected: the target is the true class
        other = "" if samples.labels[i] == samples.targets[i, 0] else f" ({samples.labels[i]} in the data)"
        first.append(f"true class: {target}{other}")
    if samples.targets.shape[1] == 1:
        second.append(f"why {target}?")
    if known:
        second.append(f"{target} predicted with p {probability(samples.confidence[i])}")
    return "  ·  ".join(first) + "\n" + "  ·  ".join(second)


def probability(p: float) -> str:
    """Enough digits that 0.99998 does not become 1."""
    if p > 1 - 1e-6:
        return "> 0.999999"
    digits = 3 if p < 0.9995 else min(6, 1 + math.ceil(-math.log10(1 - p)))
    return f"= {p:.{digits}f}"


def signed_map(attribution: Attribution, r: int, percentile: float) -> tuple[np.ndarray, float]:
    """The channel sum of one map and the value at which its colours are cut."""
    flat = attribution.values[r].sum(axis=-1, dtype="float64")
    limit = float(np.percentile(np.abs(flat), percentile)) or float(np.abs(flat).max()) or 1.0
    return flat, limit


def window(samples: Samples, i: int) -> tuple[float, float]:
    """The pixel values drawn black and white: a grey image's own range, as at a viewing station; else the data's."""
    image = samples.images[i]
    low, high = float(image.min()), float(image.max())
    grey = (image == image[..., :1]).all()
    return (low, high) if grey and low < high else samples.value_range


def colour_bar(figure: Figure, axes: Axes, drawn: Any, limit: float, words: str) -> None:
    """The scale of a map, right under it.

    Args:
        figure, axes: where the map is.
        drawn: what `imshow` gave; the bar has its colours without their transparency.
        limit: where the colours are cut, on both sides of 0.
        words: under the bar.
    """
    from matplotlib.cm import ScalarMappable

    box = axes.get_position()
    bar = figure.add_axes((box.x0, box.y0 - 0.1 / figure.get_figheight(), box.width, 0.06 / figure.get_figheight()))
    opaque = ScalarMappable(norm=drawn.norm, cmap=drawn.cmap)
    colour = figure.colorbar(opaque, cax=bar, orientation="horizontal", ticks=[-limit, 0, limit])
    colour.ax.set_xticklabels([f"{-limit:.2g}", "0", f"{limit:.2g}"], fontsize=7, **PLAIN)
    colour.ax.tick_params(length=2, pad=1, color="black")
    colour.outline.set_linewidth(0.4)
    labels = colour.ax.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")
    colour.ax.set_xlabel(words, fontsize=7, labelpad=1, **PLAIN)


def tell_verdicts(figure: Figure, axes: Axes, attribution: Attribution, r: int) -> None:
    """What can be said of a map, under its colour bar."""
    box = axes.get_position()
    for n, verdict in enumerate(verdicts(attribution, r)):
        style = {**PLAIN, "color": _GOOD if verdict.good else _BAD}
        y = box.y0 - (0.46 + n * VERDICT) / figure.get_figheight()
        figure.text(box.x0, y, f"{'✓' if verdict.good else '✗'} {verdict.words}", fontsize=6.8, va="top", **style)


def most_verdicts(attributions: Sequence[Attribution]) -> int:
    """Lines that verdicts may take under a map."""
    return max((len(verdicts(a, row)) for a in attributions for row in range(len(a))), default=0)


def draw_outline(axes: Axes, outline: np.ndarray | None) -> None:
    """The border of a region, if there is one."""
    if outline is not None and outline.any() and not outline.all():
        axes.contour(outline, levels=[0.5], colors="black", linewidths=2.2)
        axes.contour(outline, levels=[0.5], colors=OUTLINE, linewidths=1.1)
