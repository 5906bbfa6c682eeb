"""What can go wrong, as types.

ExplainError
├── InputError(ValueError)      an argument, image, label or data set that cannot be used
├── HeadError(ValueError)       the model's output cannot be turned into class logits
├── RuleError(ValueError)       a backward rule that does not apply to this model
├── OutOfTime                   an explanation took longer than it may
├── Unsent                      rounds are safe in a folder, but have not arrived where they belong
└── MissingExtra(ImportError)   an optional package is needed and absent

ExplanationWarning(UserWarning) something was skipped or cannot be trusted; training goes on
"""

from __future__ import annotations

import importlib
import re

import numpy as np

FIT = "fit"  # the name of the trouble of a training that has not ended as it should
_SECRET = "(?:pass|token|secret|key|credential)"


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


class Unsent(ExplainError):
    """Rounds are safe in a folder, but have not arrived where they belong."""


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


def without_secrets(command: str) -> str:
    """A command or address without its passwords, and without what is called password, token, secret or key.

    Examples:
        >>> from keras_explain.errors import without_secrets
        >>> without_secrets("train --api-key abc --lr=1 http://me:pw@host/?token=xyz&run=1")
        'train --api-key *** --lr=1 http://***@host/?token=***&run=1'
    """
    command = re.sub(r"(?<=://)[^\s'\"]+@", "***@", command)
    command = re.sub(rf"([?&][^=&\s]*{_SECRET}[^=&\s]*=)[^&\s'\"]+", r"\1***", command, flags=re.I)
    return re.sub(rf"(--?[\w-]*{_SECRET}[\w-]*)([= ])\S+", r"\1\2***", command, flags=re.I)
