"""Compiled forward and gradient passes on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_explain.errors import InputError

OutOfMemory = tf.errors.ResourceExhaustedError


def compile_forward(
    logits: Callable[[Any], Any], points: Callable[..., Any], arrays: Sequence[np.ndarray]
) -> Callable[..., Any]:
    """Trace `logits(points(*arrays))` for any length of the arrays' first axes.

    Args:
        logits: images (n, *image shape) -> (n, classes), reading the live variables.
        points: arrays -> images.
        arrays: examples of what the traced function will be given.
    """
    return _traced(lambda *args: logits(points(*args)), _signature(arrays))


def compile_gradient(
    logits: Callable[[Any], Any],
    points: Callable[..., Any],
    combine: Callable[..., Any],
    t: int,
    arrays: Sequence[np.ndarray],
) -> Callable[..., Any]:
    """Trace (targets (n, t), *arrays) -> scores (n, t) and `combine(gradients (t, n, *image shape), *arrays)`.

    Args:
        logits, points, arrays: as in `compile_forward`.
        combine: what is made of the gradients on the device.
        t: targets at each point.
    """

    def gradient(targets: Any, *args: Any) -> Any:
        images = points(*args)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            scores = tf.gather(logits(images), targets, axis=1, batch_dims=1)
            sums = [tf.reduce_sum(score) for score in tf.unstack(scores, num=t, axis=1)]
        # The sum over points has at each point the gradient of that point's own score.
        gradients = [tape.gradient(total, images) for total in sums]
        if any(gradient is None for gradient in gradients):
            raise InputError("The model casts its input to whole numbers, so it has no gradient: use a float Input.")
        gradients = tf.stack(gradients)
        return scores, combine(gradients, *args)

    return _traced(gradient, [tf.TensorSpec([None, t], "int32"), *_signature(arrays)])


def _signature(arrays: Sequence[np.ndarray]) -> list[Any]:
    return [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]


def _traced(program: Callable[..., Any], signature: list[Any]) -> Callable[..., Any]:
    concrete: Callable[..., Any] = tf.function(program, signature, autograph=False).get_concrete_function()
    return concrete
