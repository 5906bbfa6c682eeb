"""Guided and rectified backward rules for every ReLU of a model, nested ones too.

With y = ReLU(x), R the gradient that arrives at y and [.] 1 where true, else 0, what is passed back to x is

    vanilla:    R * [gate open]
    guided:     R * [R > 0] * [gate open]
    rectified:  R * [R > 0]

The gate is open where y = x > 0. This one definition holds for `relu`, `relu6` (closed at and above the maximum) and
ReLUs with a threshold. Leaky ReLUs and PReLU have no closed side, so these rules have no meaning there and are refused.
Smooth activations (GELU, SiLU, ...) are no ReLUs and keep their own gradient.

References:
    Springenberg et al. 2014, Striving for Simplicity (guided). Zeiler & Fergus 2014, Visualizing and Understanding
    Convolutional Networks (rectified, the "deconvnet" rule). Known criticism: Adebayo et al. 2018, Sanity Checks for
    Saliency Maps, and Nie et al. 2018: both rules partly reconstruct the image and react little to the upper layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_explain.activations import Site, sites
from keras_explain.errors import InputError, RuleError

_LARGE = 1000.0
RULES = ("vanilla", "guided", "rectified")


def relu_replacements(model: keras.Model, rule: str) -> list[tuple[Site, Callable[..., Any]]]:
    """The ReLUs of a model, each with the function that has the same value and the rule's gradient.

    Args:
        model: any Keras model.
        rule: `"vanilla"` (nothing is replaced), `"guided"` or `"rectified"`.

    Raises:
        InputError: an unknown rule.
        RuleError: the model has no ReLU, or has a leaky one.
    """
    if rule not in RULES:
        raise InputError(f"rule must be one of {', '.join(RULES)}; got {rule!r}.")
    if rule == "vanilla":
        return []
    compiled = [layer.name for layer in model._flatten_layers() if hasattr(layer.call, "get_concrete_function")]
    if compiled:  # it would keep the first rule that it was traced with, in training too
        raise RuleError(
            f"The {rule} rule cannot reach into layers that compile their own call with tf.function: "
            f"{', '.join(compiled)}. Take the decorator away; Keras compiles the whole model anyway."
        )
    kinds = [(site, site.kind) for site in sites(model)]
    leaky = [site.name for site, kind in kinds if kind == "leaky"]
    if leaky:
        raise RuleError(f"The {rule} rule has no meaning for leaky ReLUs: {', '.join(leaky)}. Use rule='vanilla'.")
    relus = [site for site, kind in kinds if kind == "relu"]
    if not relus:
        raise RuleError(f"The {rule} rule rewrites ReLUs and '{model.name}' has none. Use rule='vanilla'.")
    return [(site, _with_rule(site.function, guided=rule == "guided")) for site in relus]


def _with_rule(relu: Callable[..., Any], guided: bool) -> Callable[..., Any]:
    highest = float(ops.convert_to_numpy(relu(ops.convert_to_tensor(np.array([[_LARGE]], "float32"))))[0, 0])

    @ops.custom_gradient
    def ruled(x: Any) -> Any:
        y = relu(x)

        def gradient(*args: Any, upstream: Any = None) -> Any:
            if upstream is None:  # TensorFlow and JAX pass it by position
                (upstream,) = args
            passed = ops.relu(upstream)
            if not guided:
                return passed
            # Told from y alone, so that x need not be kept until the way back.
            gate = ops.greater(y, 0)
            if highest < _LARGE:
                gate = ops.logical_and(gate, ops.less(y, highest))
            return ops.where(gate, passed, ops.zeros_like(passed))

        return y, gradient

    rewritten: Callable[..., Any] = ruled
    return rewritten
