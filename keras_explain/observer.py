"""Run a block and leave the model's state and every random generator as they were found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np


@contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Restore, whatever happens inside the block, what an evaluation may move.

    That is: Python's and NumPy's global generators (a validation pipeline may draw from them), the model's
    non-trainable variables (seed generators, statistics that a layer updates at inference) and the activity losses that
    a traced layer leaves behind. Trainable variables are never written to, so they are not copied.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    before = [(variable, np.array(variable.numpy())) for variable in model.non_trainable_variables]
    losses = [(layer, list(layer._losses)) for layer in model._flatten_layers()]
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for variable, value in before:
            if not np.array_equal(variable.numpy(), value, equal_nan=value.dtype.kind == "f"):
                variable.assign(value)
        for layer, kept in losses:
            layer._losses[:] = kept
