"""After training: select, explain, measure and write one round with its page."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_explain import metrics as quality
from keras_explain.engine import History, Round, check_why_not, explain_round, write_round
from keras_explain.errors import ExplanationWarning, InputError
from keras_explain.explainers import METHODS, Explainer, named
from keras_explain.gradients import Scorer
from keras_explain.records import Attribution, Samples
from keras_explain.report import Report, write_page


def explain_selected(
    model: Scorer,
    samples: Samples,
    methods: Sequence[str | Explainer],
    out: str | Path,
    *,
    metrics: Sequence[str | quality.Metric] | None = None,
    why_not: Collection[str] = (),
    seed: int = 0,
    title: str = "Explanations",
    settings: Mapping[str, Any] | None = None,
    advance: Callable[[str], None] = lambda name: None,
) -> Round:
    """Explain samples by several methods, measure the maps, and write `out/round` and `out/report.html`.

    Args:
        model: a `Scorer` of the model.
        samples: as `kx.select` gives them.
        methods: names or explainers. What fails is warned of, and the others are done.
        out: folder, created if needed.
        metrics: as in `ExplanationCallback`.
        why_not: names of methods that explain every other class too.
        seed: of methods given by name.
        title: of the page.
        settings: stored with the round.
        advance: called with each method's name before its turn.

    Raises:
        InputError: unknown methods or metrics, no samples.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> from keras_explain.post_training import explain_selected
        >>> layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
        >>> scorer = kx.Scorer(keras.Sequential(layers))
        >>> samples = kx.select(scorer, (np.random.default_rng(0).random((16, 8, 8, 1)), np.arange(16) % 2))
        >>> explain_selected(scorer, samples, ["vanilla"], "explained").methods
        ['vanilla']
    """
    if not len(samples):
        raise InputError("There is no image to explain: none of any class is predicted correctly.")
    explainers = named(methods, seed)
    why_not = check_why_not(why_not, explainers)
    due = [quality.resolve(metric) for metric in (quality.default() if metrics is None else metrics)]

    def failed(name: str, error: Exception) -> None:
        warnings.warn(
            f"{name} failed, the rest is done. {type(error).__name__}: {error}", ExplanationWarning, stacklevel=2
        )

    found = explain_round(model, samples, explainers, due, None, failed, advance, why_not)
    out = Path(out)
    stored = write_round(out / "round", found, History(), title, {"seed": seed, **(settings or {})})
    report = Report(title)
    report.add("round", *stored)
    write_page(report, out / "report.html")
    return found


def explainer_of(attribution: Attribution) -> Explainer | None:
    """The explainer that made an attribution, from its name and settings; None for a user's own method.

    Args:
        attribution: of one of `keras_explain.explainers.METHODS`.
    """
    if attribution.method not in METHODS:
        return None
    explainer: Any = METHODS[attribution.method]()
    known = {f.name for f in dataclasses.fields(explainer)} - {"background"}
    options = {name: value for name, value in attribution.settings.items() if name in known}
    return dataclasses.replace(explainer, **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
