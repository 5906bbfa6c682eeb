"""What can go wrong, as types.

ExplainError
├── InputError(ValueError)      an argument, image, label or data set that cannot be used
├── HeadError(ValueError)       the model's output cannot be turned into class logits
├── RuleError(ValueError)       a backward rule that does not apply to this model
└── MissingExtra(ImportError)   an optional package is needed and absent

ExplanationWarning(UserWarning) something was skipped or cannot be trusted; training goes on
"""

from __future__ import annotations

import importlib

import numpy as np


class ExplainError(Exception):
    """Base of every error that `keras_explain` raises on purpose."""


class InputError(ExplainError, ValueError):
    """An argument, image, label or data set that cannot be used."""


class HeadError(ExplainError, ValueError):
    """The model's output cannot be turned into class logits."""


class RuleError(ExplainError, ValueError):
    """A backward rule that does not apply to this model."""


class MissingExtra(ExplainError, ImportError):
    """An optional package is needed and absent."""


def check_counts(least: int, **counts: int | None) -> None:
    """Raise unless every number is whole and at least `least`; None is left alone."""
    for name, count in counts.items():
        if count is not None and not (isinstance(count, (int, np.integer)) and count >= least):
            raise InputError(f"{name} must be a whole number, at least {least}; got {count!r}.")


class OutOfTime(ExplainError):
    """An explanation was stopped, since the time that it may take is over."""


class ExplanationWarning(UserWarning):
    """Something was skipped or cannot be trusted; training goes on."""


# This module is the first to be imported, so that Keras without its backend is met here.
try:
    importlib.import_module("keras")
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"Keras runs on {error.name}, which is not installed: pip install 'keras-explain-callbacks[{error.name}]', "
        "or set KERAS_BACKEND to another backend before Keras is imported."
    ) from error
