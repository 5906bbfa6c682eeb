"""Compiled passes and gradients on JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import keras
import numpy as np


def compiled(
    function: Callable[..., Any], arrays: Sequence[np.ndarray], variables: Sequence[Any]
) -> Callable[..., Any]:
    """A function of arrays that is traced for each of their lengths; variables are read anew at every call.

    Args:
        function: of tensors; it may read variables.
        arrays: examples of what it will be given.
        variables: those that it may read.
    """

    def stateless(values: list[Any], *args: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*args)

    jitted = jax.jit(stateless)

    def run(*args: Any) -> Any:
        # An error must come here, where it is understood, not where the result is used.
        return jax.block_until_ready(jitted([variable.value for variable in variables], *args))

    return run


def gradients(function: Callable[[Any], Any], at: Any, weight: Any) -> tuple[Any, Any, Any]:
    """Scores, what comes beside them, and the derivatives of each point's weighted scores.

    Args:
        function: at (n, ...) -> scores (n, t) and anything else.
        at: where.
        weight: (n,) of the points.

    Returns:
        The scores, the rest and (t, n, ...) gradients.
    """
    scores, pullback, rest = jax.vjp(function, at, has_aux=True)
    each = jax.numpy.eye(scores.shape[1])
    return scores, rest, jax.numpy.stack([pullback(weight[:, None] * one)[0] for one in each])


def padded(n: int, most: int) -> int:
    """A multiple of 8, since every other number of points is another trace."""
    return min(most, -(-n // 8) * 8)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller chunk may help."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def preserved(model: Any) -> AbstractContextManager[None]:
    """An evaluation moves nothing in JAX."""
    return nullcontext()
