"""How far an explanation can be believed, as named numbers."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np

from keras_explain.errors import ExplanationWarning, InputError
from keras_explain.explainers import Explainer
from keras_explain.explainers import resolve as resolve_explainer
from keras_explain.gradients import Scorer
from keras_explain.metrics.border import Border, border_share, breast
from keras_explain.metrics.completeness import Completeness
from keras_explain.metrics.context import Context, Metric
from keras_explain.metrics.faithfulness import Faithfulness
from keras_explain.metrics.localization import (
    Localization,
    auprc,
    otsu_iou,
    pointing_game,
    relevance_mass,
    relevance_rank,
)
from keras_explain.metrics.randomization import Randomization
from keras_explain.metrics.similarity import Agreement, Drift, spearman, ssim
from keras_explain.metrics.stability import Sensitivity, Stability, coefficients_stability, variables_stability
from keras_explain.observer import untouched
from keras_explain.records import Attribution, Samples

__all__ = [
    "METRICS",
    "Agreement",
    "Border",
    "Completeness",
    "Context",
    "Drift",
    "Faithfulness",
    "Localization",
    "Metric",
    "Randomization",
    "Sensitivity",
    "Stability",
    "auprc",
    "border_share",
    "breast",
    "coefficients_stability",
    "evaluate",
    "measure",
    "otsu_iou",
    "pointing_game",
    "relevance_mass",
    "relevance_rank",
    "resolve",
    "spearman",
    "ssim",
    "variables_stability",
]

METRICS: dict[str, Callable[[], Metric]] = {
    "completeness": Completeness,
    "localization": Localization,
    "border": Border,
    "agreement": Agreement,
    "drift": Drift,
    "faithfulness": Faithfulness,
    "randomization": Randomization,
    "sensitivity": Sensitivity,
    "stability": Stability,
}
_CHEAP = 100  # evaluations for each map: nine of a single gradient, not of an integral over 64
FREE = ("completeness", "localization", "border", "agreement", "drift")


def default() -> list[Metric]:
    """What a callback measures unless told otherwise: all that evaluates no model, and at the end the cheap tests."""
    return [*map(resolve, FREE), Randomization(limit=_CHEAP)]


def resolve(metric: str | Metric) -> Metric:
    """The metric of a name, or the given object itself.

    Args:
        metric: one of `keras_explain.metrics.METRICS`, or an object with `when` and `measure(attribution, context)`.

    Raises:
        InputError: an unknown name, or an object that cannot measure.
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise InputError(f"There is no metric {metric!r}; known are {', '.join(METRICS)}, or pass your own object.")
        return METRICS[metric]()
    if isinstance(metric, type) or not isinstance(metric, Metric) or metric.when not in ("round", "last"):
        raise InputError(
            "A metric is a name or an object with when ('round' or 'last') and measure(attribution, context); "
            f"got {metric!r}."
        )
    return metric


def measure(
    model: Scorer | keras.Model,
    samples: Samples,
    attribution: Attribution,
    metrics: Sequence[str | Metric] | None = None,
    *,
    explainer: str | Explainer | None = None,
    others: Sequence[Attribution] = (),
    before: tuple[Samples, Attribution] | None = None,
    evaluations: float | None = None,
    failed: Callable[[Metric, Exception], None] | None = None,
    limit: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Attribution:
    """An attribution with its quality: one number a row for each measure, in `attribution.measures`.

    Args:
        model: what was explained, or a `Scorer` of it. It is left to the bit as it was.
        samples: that were explained; `samples.roi` says where the findings are.
        attribution: of these samples.
        metrics: names (see `keras_explain.metrics.METRICS`) or metric objects; an `ExplanationWarning` says which of
            them do not apply. None is whatever applies of those that evaluate no model.
        explainer: name or object that made the attribution, for `"randomization"`, `"sensitivity"` and `"stability"`.
        others: what other methods say of the same samples, for `"agreement"`.
        before: samples and attribution of the same method at an earlier time, for `"drift"`.
        evaluations: that the explainer took for each map, for `Randomization(limit=...)`.
        failed: called with a metric that raises and its exception, and the others are done; None raises.
        limit: gives what each metric is measured in, such as a limit of its time.

    Raises:
        InputError: an unknown metric, an attribution of other samples, an explainer of another method or other
            settings, two metrics that give numbers of one name; whatever a metric raises.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
        >>> model, roi = keras.Sequential(layers), np.zeros((1, 8, 8))
        >>> roi[0, :4] = 1
        >>> samples = kx.Samples(np.random.default_rng(0).random((1, 8, 8, 1)), [0], roi=roi)
        >>> found = kx.metrics.measure(model, samples, kx.explain(model, samples, "vanilla"), ["localization"])
        >>> sorted(found.measures)
        ['auprc', 'otsu_iou', 'pointing_game', 'relevance_mass', 'relevance_rank', 'roi_area']
    """
    if isinstance(metrics, str):
        raise InputError(f"metrics must be a list of names or objects; got {metrics!r}.")
    _check(samples, attribution, others, before)
    if explainer is not None:
        explainer = resolve_explainer(explainer)
        if failed is None:  # a callback knows its own
            _check_same(attribution, explainer)
    if np.array_equal(attribution.rows, np.repeat(np.arange(len(samples)), len(attribution) // max(1, len(samples)))):
        samples = samples.asking(attribution.targets.reshape(len(samples), -1))
    scorer = Scorer.of(model)
    context = Context(scorer, samples, explainer, others, before, evaluations)
    fresh: set[str] = set()
    for metric in map(resolve, FREE if metrics is None else metrics):
        try:
            with untouched(scorer.model), limit():
                numbers = {name: np.asarray(rows) for name, rows in metric.measure(attribution, context).items()}
            if odd := [name for name, rows in numbers.items() if rows.dtype.kind not in "buif"]:
                raise InputError(f"{_name(metric)} must give numbers; {', '.join(odd)} are none.")
            if again := fresh & set(numbers):
                raise InputError(f"{_name(metric)} measures {', '.join(sorted(again))} as another metric does.")
            attribution = dataclasses.replace(attribution, measures={**attribution.measures, **numbers})
            fresh |= set(numbers)
        except Exception as error:  # a metric may raise anything, the others are done
            if failed is None:
                raise
            failed(metric, error)
            continue
        if not numbers and metrics is not None and failed is None:
            needs = getattr(metric, "needs", "maps of another kind")
            words = f"{_name(metric)} measures nothing of these {attribution.method} maps: it needs {needs}."
            warnings.warn(words, ExplanationWarning, stacklevel=2)
    return attribution


def _name(metric: Metric) -> str:
    return type(metric).__name__


def _check(samples: Samples, attribution: Any, others: Any, before: Any) -> None:
    if not isinstance(attribution, Attribution):
        raise InputError(f"attribution must be one Attribution; got {type(attribution).__name__}.")
    if isinstance(others, Attribution) or not all(isinstance(other, Attribution) for other in others):
        raise InputError(f"others must be a list of Attributions; got {type(others).__name__}.")
    if before is not None and [*map(type, before if isinstance(before, tuple) else ())] != [Samples, Attribution]:
        raise InputError(f"before must be (samples, attribution) of an earlier time; got {type(before).__name__}.")
    if attribution.values.shape[1:] != samples.images.shape[1:] or set(attribution.rows) - set(range(len(samples))):
        raise InputError(f"The {attribution.method} maps are not of these samples.")


def _check_same(attribution: Attribution, explainer: Explainer) -> None:
    """Raise if an explainer of this name and these settings cannot have made the attribution."""
    method = getattr(explainer, "method", attribution.method)
    if method != attribution.method:
        raise InputError(f"explainer is of the method {method!r}; the maps are {attribution.method!r}.")
    for name, value in attribution.settings.items():
        other = getattr(explainer, name, value)
        value, other = (list(one) if isinstance(one, tuple) else one for one in (value, other))
        plain = all(isinstance(one, int | float | str | list | None) for one in (value, other))
        # A background that is None is that of the samples, and a window that is None was found from the image.
        chosen_later = other is None and not isinstance(value, str)
        if plain and not chosen_later and value != other:
            raise InputError(f"explainer has {name}={other!r}; the maps were made with {name}={value!r}.")


def evaluate(
    model: Scorer | keras.Model,
    samples: Samples,
    attribution: Attribution,
    metrics: Sequence[str | Metric] | None = None,
    **given: Any,
) -> dict[str, float]:
    """The quality of one attribution as means over its rows, without those for which a measure is not defined.

    The attribution stays as it is; `measure` gives one that carries its numbers into figures, with their verdicts.

    Args:
        model, samples, attribution, metrics, given: as in `measure`.

    Returns:
        Means by name; NaN where a measure is defined for no row.

    Raises:
        InputError: as in `measure`.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
        >>> samples = kx.Samples(np.ones((1, 2)), targets=[0])
        >>> sorted(kx.metrics.evaluate(model, samples, kx.explain(model, samples, "integrated_gradients")))
        ['completeness_error', 'relative_completeness_error']
    """
    bare = dataclasses.replace(attribution, measures={}) if isinstance(attribution, Attribution) else attribution
    return means(measure(model, samples, bare, metrics, **given))


def means(attribution: Attribution) -> dict[str, float]:
    """Means over the rows of every measure that is one number a row."""
    return {
        name: float(rows[np.isfinite(rows)].mean()) if np.isfinite(rows).any() else np.nan
        for name, rows in attribution.measures.items()
        if rows.ndim == 1
    }
