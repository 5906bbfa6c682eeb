"""Where a model applies its activation functions, and how to exchange them, or its precision, for one trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

_ACTIVATION_LAYERS = (keras.layers.ReLU, keras.layers.Softmax, keras.layers.LeakyReLU, keras.layers.PReLU)
_ACTIVATION_OPERATIONS = {"Relu", "Relu6", "LeakyRelu", "Sigmoid", "Softmax"}
_ABSENT = object()
ONE_AT_A_TIME = threading.RLock()  # held by whoever has changed layers for a moment
_PROBE = np.array([[-1000.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 1000.0]], "float32")
_MODERATE = _PROBE[:, 1:-1]


@dataclass(frozen=True)
class Site:
    """One place where a model applies an activation function.

    Args:
        owner: the layer, or the node of a functional graph, that applies it.
        attribute: the owner's attribute that holds it: `"activation"` or `"call"`.
        function: the function found there.
    """

    owner: Any
    attribute: str
    function: Callable[..., Any]

    @property
    def name(self) -> str:
        """How the owner is called in messages: its name and class."""
        return f"'{self.owner.name}' ({type(self.owner).__name__})"

    @property
    def kind(self) -> str:
        """What the function does: `"linear"`, `"softmax"`, `"sigmoid"`, `"relu"`, `"leaky"` or `"other"`.

        Told from its values on nine numbers, so that `"softmax"`, `tf.nn.softmax`, `layers.Softmax()` and a lambda are
        alike. `"relu"` is any function that is 0 up to some threshold and then x, or x cut at a maximum.
        """
        if isinstance(self.owner, keras.layers.PReLU):
            return "leaky"
        try:
            value, moderate = self._values(_PROBE), self._values(_MODERATE)
        except Exception:  # a function that needs another rank or more arguments is none of the kinds above
            return "other"
        if value.shape != _PROBE.shape:
            return "other"
        # Far from zero a softmax of any temperature is the same.
        if np.allclose(moderate, np.exp(_MODERATE) / np.exp(_MODERATE).sum(), atol=1e-4):
            return "softmax"
        return _kind_of(value)

    def _values(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(self.function(keras.ops.convert_to_tensor(x))), "float64")


def _kind_of(value: np.ndarray) -> str:
    x = _PROBE.astype("float64")
    positive = value[x > 0]
    if np.allclose(value, x):
        return "linear"
    if np.allclose(value, np.exp(-np.logaddexp(0, -x)), atol=1e-4):
        return "sigmoid"
    if (value[x <= 0] == 0).all() and np.isin(positive, [0.0, *x[x > 0], value.max()]).all() and (positive > 0).any():
        return "relu"
    if np.allclose(positive, x[x > 0]) and value[x == -1] != 0 and np.allclose(value[x == -2], 2 * value[x == -1]):
        return "leaky"
    return "other"


def sites(model: keras.Model) -> list[Site]:
    """Every place in a model, nested sub-models and composite layers included, where an activation is applied."""
    found: dict[int, Site] = {}
    with ONE_AT_A_TIME:  # another thread may have exchanged some
        for layer in model._flatten_layers(include_self=True, recursive=True):
            function = getattr(layer, "activation", None)
            if isinstance(layer, _ACTIVATION_LAYERS):
                found[id(layer)] = Site(layer, "call", layer.call)
            elif callable(function) and not isinstance(function, keras.Operation):
                found[id(layer)] = Site(layer, "activation", function)
            for operation in getattr(layer, "operations", ()):
                if type(operation).__name__ in _ACTIVATION_OPERATIONS:
                    found[id(operation)] = Site(operation, "call", operation.call)
    return list(found.values())


@contextmanager
def exchanged(replacements: Iterable[tuple[Site, Callable[..., Any]]]) -> Iterator[None]:
    """Replace the functions at the given sites inside a `with` block, and put back what was there, whatever happens.

    Only one thread at a time is inside such a block, since layers are shared by all of them.
    """
    # Keras tracks ordinary attribute assignments; the instance dictionary goes round that.
    before: list[tuple[dict[str, Any], str, Any]] = []
    with ONE_AT_A_TIME:
        try:
            for site, function in replacements:
                attributes = vars(site.owner)
                before.append((attributes, site.attribute, attributes.get(site.attribute, _ABSENT)))
                attributes[site.attribute] = function
            yield
        finally:
            for attributes, name, function in reversed(before):
                if function is _ABSENT:
                    del attributes[name]
                else:
                    attributes[name] = function


@contextmanager
def computed_in(policy: str | None, layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """Give layers another dtype policy inside a `with` block; their variables stay as they are.

    Args:
        policy: such as `"mixed_bfloat16"`; None changes nothing.
        layers: of a policy without quantization.
    """
    with ONE_AT_A_TIME:
        before = [(layer, layer.dtype_policy) for layer in layers] if policy else []
        try:
            for layer, _ in before:
                layer.dtype_policy = policy
            yield
        finally:
            for layer, own in before:
                layer.dtype_policy = own
