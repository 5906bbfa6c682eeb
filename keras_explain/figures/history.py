"""Explanations over training: the curves of all measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_explain.errors import InputError
from keras_explain.figures.drawing import CAPTION, CELL, PLAIN, share, sheet
from keras_explain.verdicts import CHANCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLOT = 1.8  # inches, height of a small plot
_COLUMNS = 4
# Okabe and Ito's colours and a few more: each method its own in every figure, the others for a user's.
_COLOURS = {
    "vanilla": "#000000",
    "guided": "#d55e00",
    "rectified": "#0072b2",
    "integrated_gradients": "#009e73",
    "lime": "#cc79a7",
    "gradient_shap": "#e69f00",
    "grad_cam": "#7f0000",
    "grad_cam_plus_plus": "#e377c2",
    "occlusion": "#00429d",
    "rise": "#5b8c00",
    "score_cam": "#9467bd",
    "smoothgrad": "#777777",
}
_OTHERS = ("#56b4e9", "#8a8a00", "#7a3b00")


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

    Examples:
        >>> import keras_explain as kx
        >>> curves = {"auprc": {"vanilla": [0.1, 0.3], "guided": [0.2, 0.2]}, "roi_area": {"": [0.05, 0.05]}}
        >>> figure = kx.figures.history([1, 6], curves, title="epochs 1 to 6")
        >>> figure.savefig("over_training.png")  # doctest: +SKIP
    """
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
    others = list(dict.fromkeys(m for measure in drawn for m in curves[measure] if m not in _COLOURS))
    colours = _COLOURS | {method: _OTHERS[i % len(_OTHERS)] for i, method in enumerate(others)}
    rows = max(1, -(-len(drawn) // _COLUMNS))
    figure = sheet(CELL * _COLUMNS, 2.5 * CAPTION + rows * _PLOT, title)
    handles: dict[str, Any] = {}
    for n, measure in enumerate(drawn):
        top = figure.get_figheight() - 2.5 * CAPTION - n // _COLUMNS * _PLOT
        box = (n % _COLUMNS * CELL + 0.45, top - _PLOT + 0.35, CELL - 0.6, _PLOT - 0.6)
        axes = figure.add_axes(share(figure, box))
        lines = {method: np.array(line, "float64") for method, line in curves[measure].items()}
        for method, line in lines.items():
            (handles[method],) = axes.plot(
                epochs, line, color=colours[method], linewidth=1.2, marker="o", markersize=2.5
            )
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
        axes.set_title(measure.replace("_", " "), fontsize=8, pad=3, **PLAIN)
        axes.set_xlabel("epoch", fontsize=6.5, labelpad=1, **PLAIN)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.tick_params(labelsize=6.5, length=2, pad=2, labelcolor="black")
        axes.set_facecolor("white")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    names = [name.replace("_", " ") for name in handles]
    figure.legend(handles.values(), names, loc="upper right", ncols=4, fontsize=7, frameon=False, labelcolor="black")
    return figure
