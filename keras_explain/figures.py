"""Attribution -> matplotlib Figure. The one place that normalises for the eye.

The image is shown unmarked; a grey one is windowed to its own range, which is printed. Maps are summed over channels,
cut at a percentile of their absolute value and drawn signed, red for and blue against the explained class, transparent
at zero, over a faded copy of the image. Scale and percentile are printed. Nothing here goes through `pyplot`, so no
state of matplotlib is touched and figures can be drawn on any thread. The verdicts on a map stand under it, in words
and with a tick or a cross.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_explain.errors import InputError
from keras_explain.records import Attribution, Samples
from keras_explain.verdicts import CHANCE, verdicts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: side of a picture, a line of text, title and colour bar of a picture, a verdict, height of a small plot.
_CELL, _CAPTION, _BELOW, _VERDICT, _PLOT = 2.3, 0.3, 0.7, 0.12, 1.8
_COLUMNS, _MOST_COLUMNS = 4, 5
_MAP = "RdBu_r"
# Whatever style the user has set: black on white, no LaTeX, and a dollar sign in a name starts no formula.
_PLAIN: dict[str, Any] = {"color": "black", "usetex": False, "parse_math": False}
_OUTLINE = "#ffd400"
_GOOD, _BAD = "#00695c", "#b3261e"  # told apart by the colour-blind too, and by tick and cross
# Okabe and Ito's colours, for lines: each method its own in every figure, the last three for a user's.
_METHODS = ("vanilla", "guided", "rectified", "integrated_gradients", "lime", "gradient_shap")
_LINES = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a00", "#7a3b00")


def panel(
    samples: Samples,
    attributions: Sequence[Attribution],
    *,
    title: str = "",
    percentile: float = 99.5,
) -> Figure:
    """One row for each image: the original, then one map for each method and target, with its verdicts.

    The outline of `samples.roi` is drawn on the maps where it is known; the original is left unmarked.

    Args:
        samples: what was explained, images (n, h, w, c) with c = 1, 3 or 4.
        attributions: of these samples.
        title: written above everything, for example the epoch.
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
    said = max((len(verdicts(a, row)) for a in attributions for row in range(len(a))), default=0)
    line = _CELL * samples.images.shape[1] / samples.images.shape[2] + _BELOW + said * _VERDICT
    block = 2 * _CAPTION + line * -(-widest // columns)
    figure = Figure((_CELL * columns, _CAPTION + block * len(samples)), dpi=110, facecolor="white")
    _text(figure, 0.05, figure.get_figheight() - 0.05, title, size=11, weight="bold")
    for i, maps in enumerate(cells):
        top = figure.get_figheight() - _CAPTION - i * block
        _text(figure, 0.05, top, caption(samples, i), size=9.5)
        outline = samples.roi[i] if len(samples.roi) else None
        places = [
            _axes(figure, n % columns, top - 1.6 * _CAPTION - n // columns * line, samples)
            for n in range(1 + len(maps))
        ]
        _draw_image(places[0], samples, i)
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


def history(
    epochs: Sequence[int], curves: Mapping[str, Mapping[str, Sequence[float | None]]], *, title: str = ""
) -> Figure:
    """Explanations over training: one small plot for each measure, one line for each method.

    With several rounds, what was measured in one of them only is left out.

    Args:
        epochs: of the explained rounds, counted from 1.
        curves: for each measure, for each method, one number a round, None where there is none. `roi_area`
            and `border_area` are the chance levels of others and are drawn dashed in their plots.
        title: written above everything.

    Returns:
        A `matplotlib.figure.Figure` that belongs to no `pyplot` window.

    Raises:
        InputError: a curve of another length than `epochs`.

    Example:
        >>> import keras_explain as kx
        >>> curves = {"auprc": {"vanilla": [0.1, 0.3], "guided": [0.2, 0.2]}, "roi_area": {"": [0.05, 0.05]}}
        >>> figure = kx.figures.history([1, 6], curves, title="epochs 1 to 6")
        >>> figure.savefig("over_training.png")  # doctest: +SKIP
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    for measure, methods_of in curves.items():
        for method, numbers in methods_of.items():
            if len(numbers) != len(epochs):
                raise InputError(f"curves[{measure!r}][{method!r}] has {len(numbers)} numbers, epochs {len(epochs)}.")
    least = min(2, len(epochs))
    counts = {
        measure: max(len(line) - line.count(None) for line in map(list, curves[measure].values())) for measure in curves
    }
    drawn = [measure for measure in curves if measure not in CHANCE.values() and counts[measure] >= least]
    methods = list(dict.fromkeys([*_METHODS, *(method for measure in drawn for method in curves[measure])]))
    rows = max(1, -(-len(drawn) // _COLUMNS))
    figure = Figure((_CELL * _COLUMNS, 2.5 * _CAPTION + rows * _PLOT), dpi=110, facecolor="white")
    _text(figure, 0.05, figure.get_figheight() - 0.05, title, size=11, weight="bold")
    handles: dict[str, Any] = {}
    for n, measure in enumerate(drawn):
        top = figure.get_figheight() - 2.5 * _CAPTION - n // _COLUMNS * _PLOT
        box = (n % _COLUMNS * _CELL + 0.45, top - _PLOT + 0.35, _CELL - 0.6, _PLOT - 0.6)
        axes = figure.add_axes(_share(figure, box))
        lines = {method: np.array(line, "float64") for method, line in curves[measure].items()}
        for method, line in lines.items():
            colour = _LINES[methods.index(method) % len(_LINES)]
            (handles[method],) = axes.plot(epochs, line, color=colour, linewidth=1.2, marker="o", markersize=2.5)
        chance = curves.get(CHANCE.get(measure, ""), {})
        for level in chance.values():
            (handles["chance"],) = axes.plot(
                epochs, np.array(level, "float64"), color="#777777", linewidth=1, linestyle="--", marker="_"
            )
        if measure.endswith("_error") and all((line > 0).any() for line in lines.values()):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(measure.replace("_", " "), fontsize=8, pad=3, **_PLAIN)
        axes.set_xlabel("epoch", fontsize=6.5, labelpad=1, **_PLAIN)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.tick_params(labelsize=6.5, length=2, pad=2, labelcolor="black")
        axes.set_facecolor("white")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    names = [name.replace("_", " ") for name in handles]
    figure.legend(handles.values(), names, loc="upper right", ncols=4, fontsize=7, frameon=False, labelcolor="black")
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


def _draw_image(axes: Axes, samples: Samples, i: int) -> None:
    axes.imshow(_shown(samples, i), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title("image", fontsize=9, pad=3, **_PLAIN)
    low, high = window(samples, i)
    axes.text(0, -0.02, f"black {low:.2g}, white {high:.2g}", fontsize=7, va="top", transform=axes.transAxes, **_PLAIN)


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
    colour.ax.set_xlabel(f"{attribution.unit}, cut at {percentile:g} %", fontsize=7, labelpad=1, **_PLAIN)
    for n, verdict in enumerate(verdicts(attribution, r)):
        style = {**_PLAIN, "color": _GOOD if verdict.good else _BAD}
        y = box.y0 - (0.46 + n * _VERDICT) / figure.get_figheight()
        figure.text(box.x0, y, f"{'✓' if verdict.good else '✗'} {verdict.words}", fontsize=6.8, va="top", **style)


def _opaque(drawn: Any) -> Any:
    """The same colours without the transparency of the map, for the colour bar."""
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(norm=drawn.norm, cmap=drawn.cmap)


def _draw_outline(axes: Axes, outline: np.ndarray | None) -> None:
    if outline is not None and outline.any() and not outline.all():
        axes.contour(outline, levels=[0.5], colors="black", linewidths=2.2)
        axes.contour(outline, levels=[0.5], colors=_OUTLINE, linewidths=1.1)
