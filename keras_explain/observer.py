"""Run a block and leave the model's state and every random generator as they were found."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_explain.gradients import preserved


@contextmanager
def kept(variables: Iterable[Any]) -> Iterator[None]:
    """Put back the values of some variables to the bit, whatever happens inside the block."""
    before = [(variable, np.array(variable.numpy())) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            now = np.asarray(variable.numpy())
            if now.tobytes() != value.tobytes():
                variable.assign(value)


@contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Restore, whatever happens inside the block, what an evaluation may move.

    That is: Python's, NumPy's and PyTorch's global generators (a validation pipeline may draw from them), PyTorch's
    train or eval mode, the model's non-trainable variables (seed generators, statistics that a layer updates at
    inference) and the activity losses that a traced layer leaves behind. Trainable variables are never written to, so
    they are not copied.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    losses = [(layer, list(layer._losses)) for layer in model._flatten_layers()]
    try:
        with preserved(model), kept(model.non_trainable_variables):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for layer, found in losses:
            layer._losses[:] = found
