"""What can go wrong, as types.

ExplainError
├── InputError(ValueError)      an argument, image, label or data set that cannot be used
├── HeadError(ValueError)       the model's output cannot be turned into class logits
├── RuleError(ValueError)       a backward rule that does not apply to this model
└── MissingExtra(ImportError)   an optional package is needed and absent

ExplanationWarning(UserWarning) something was skipped or cannot be trusted; training goes on
"""

from __future__ import annotations


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


class ExplanationWarning(UserWarning):
    """Something was skipped or cannot be trusted; training goes on."""
