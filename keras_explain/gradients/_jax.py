"""Compiled passes and gradients on JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import keras
import numpy as np

COMPILES = True


def compiled(
    function: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    variables: Sequence[Any],
    exchange: Callable[[], AbstractContextManager[None]],
) -> Callable[..., Any]:
    """A function of arrays that is traced for each of their lengths; variables are read anew at every call.

    Args:
        function: of tensors; it may read variables.
        arrays: examples of what it will be given.
        variables: those that it may read.
        exchange: makes the context in which its Python has to run.
    """

    def stateless(values: list[Any], *args: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*args)

    jitted = jax.jit(stateless)

    def run(*args: Any) -> Any:
        with exchange():
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
        The scores, the rest and (t, n, ...) gradients; None where there are none.
    """
    scores, pullback, rest = jax.vjp(function, at, has_aux=True)
    if not _depends(lambda at: function(at)[0], at):
        return scores, rest, None
    each = jax.numpy.eye(scores.shape[1], dtype=scores.dtype)
    return scores, rest, jax.numpy.stack([pullback(weight[:, None] * one)[0] for one in each])


def _depends(function: Callable[[Any], Any], at: Any) -> bool:
    """Whether what a function gives is reached from its argument by numbers that have derivatives.

    JAX itself gives zeros where it is not.
    """
    program = jax.make_jaxpr(function)(at).jaxpr
    reached = set(map(id, program.invars))
    for equation in program.eqns:
        if any(id(variable) in reached for variable in equation.invars):
            reached |= {id(v) for v in equation.outvars if jax.numpy.issubdtype(v.aval.dtype, jax.numpy.inexact)}
    return any(id(variable) in reached for variable in program.outvars)


def padded(n: int, most: int) -> int:
    """A multiple of 8, since every other number of points is another trace."""
    return min(most, -(-n // 8) * 8)


def memory() -> float | None:
    """Bytes that JAX may use of the first device; None on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller chunk may help."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def is_first_process(model: Any) -> bool:
    """Whether this process writes what is kept of a training."""
    return bool(jax.process_index() == 0)


def preserved(model: Any) -> AbstractContextManager[None]:
    """An evaluation moves nothing in JAX."""
    return nullcontext()
