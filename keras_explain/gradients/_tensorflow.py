"""Compiled passes and gradients on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

COMPILES = True


def compiled(
    function: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    variables: Sequence[Any],
    exchange: Callable[[], AbstractContextManager[None]],
) -> Callable[..., Any]:
    """Trace a function of arrays once, for any length of their first axes.

    Args:
        function: of tensors; it may read variables.
        arrays: examples of what it will be given.
        variables: those that it may read.
        exchange: makes the context in which its Python has to run.
    """
    signature = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]
    with exchange():
        concrete: Callable[..., Any] = tf.function(function, signature, autograph=False).get_concrete_function()
    return concrete


def gradients(function: Callable[[Any], Any], at: Any, weight: Any) -> tuple[Any, Any, Any]:
    """Scores, what comes beside them, and the derivatives of each point's weighted scores.

    Args:
        function: at (n, ...) -> scores (n, t) and anything else.
        at: where.
        weight: (n,) of the points.

    Returns:
        The scores, the rest and (t, n, ...) gradients; None where there are none.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(at)
        scores, rest = function(at)
        sums = [tf.reduce_sum(weight * score) for score in tf.unstack(scores, axis=1)]
    # The sum over points has at each point the gradient of that point's own score.
    found = [tape.gradient(total, at) for total in sums]
    return scores, rest, None if any(gradient is None for gradient in found) else tf.stack(found)


def padded(n: int, most: int) -> int:
    """One trace serves any number of points."""
    return n


def memory() -> float | None:
    """TensorFlow tells how much of a GPU is used, but not how much there is."""
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller chunk may help."""
    return isinstance(error, tf.errors.ResourceExhaustedError)


def is_first_process(model: Any) -> bool:
    """Whether this process writes what is kept of a training; of several workers the chief does."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or bool(strategy.extended.should_checkpoint)


def preserved(model: Any) -> AbstractContextManager[None]:
    """An evaluation moves nothing in TensorFlow."""
    return nullcontext()
