"""One line for a whole script: every `fit` with validation data is explained."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import keras
import numpy as np

from keras_explain.callbacks.explanation import ExplanationCallback
from keras_explain.errors import ExplanationWarning, InputError

_OF_DATA = ("roi", "metrics", "class_map")
_options: dict[str, Any] | None = None


def autolog(disable: bool = False, **options: Any) -> None:
    """Add an `ExplanationCallback` to every `keras.Model.fit` that is given validation data and has none.

    The images are those of `fit`'s own `validation_data`. The callback stands before the others, so that they can use
    its numbers. It replaces the public method `keras.Model.fit` by one that passes everything on, and can stand beside
    `mlflow.keras.autolog()` in any order; rounds then go into the run that MLflow starts.

    Args:
        disable: explain no more.
        options: of `ExplanationCallback`, but for `validation_data`.

    Raises:
        InputError: for options that cannot work.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> kx.autolog(explainers=["vanilla"], tracker=kx.DirectoryTracker("run"))
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> model.compile("sgd", "sparse_categorical_crossentropy")
        >>> x, y = np.random.default_rng(0).random((8, 4, 4, 1)), np.arange(8) % 2
        >>> history = model.fit(x, y, validation_data=(x, y), verbose=0)
        >>> kx.autolog(disable=True)
    """
    global _options
    if not disable:  # what cannot work whatever the data are
        try:
            ExplanationCallback((np.zeros((1, 1)), np.zeros(1)), **{k: v for k, v in options.items() if k not in _OF_DATA})
        except TypeError as error:
            raise InputError(f"autolog takes the options of ExplanationCallback: {error}") from error
    _options = None if disable else options
    if not disable and not getattr(keras.Model.fit, "explains", False):
        keras.Model.fit = _explained(keras.Model.fit)


def _explained(fit: Any) -> Any:
    signature = inspect.signature(fit)

    @functools.wraps(fit)
    def explained(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _options is None:
            return fit(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs)
        data, callbacks = given.arguments.get("validation_data"), _listed(given.arguments.get("callbacks"))
        if any(isinstance(callback, ExplanationCallback) for callback in callbacks):
            return fit(self, *args, **kwargs)
        if data is None:
            words = "keras_explain.autolog: this fit has no validation_data, nothing is explained."
            warnings.warn(words, ExplanationWarning, stacklevel=2)
            return fit(self, *args, **kwargs)
        given.arguments["callbacks"] = [ExplanationCallback(data, **_options), *callbacks]
        return fit(*given.args, **given.kwargs)

    explained.explains = True  # type: ignore[attr-defined]
    return explained


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
