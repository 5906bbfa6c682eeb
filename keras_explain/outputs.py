"""Which scalar is explained: the logit of a class, on the live model, with nothing copied.

The head of a model is the activation that produced the very tensor which the model returns. It is found by running the
model once on real images with every activation recorded, so flat, nested, Sequential and subclassed models are alike.
For the length of a trace the head is exchanged for the identity; the model then returns its logits.

    softmax head    p = softmax(z)        class k is explained by z_k
    sigmoid head    p_k = 1/(1+exp(-z_k)) class k is explained by z_k
    one sigmoid     p = 1/(1+exp(-z))     class 1 is explained by z, class 0 by -z
    linear head     the outputs are z already (`from_logits=True`)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_explain.activations import ONE_AT_A_TIME, Site, exchanged, sites
from keras_explain.errors import HeadError

_REGRESSION = ("squared", "absolute", "percentage", "huber", "log_cosh", "logcosh", "mse", "mae", "mape", "msle")
_TOLERANCE = {"float16": 5e-3, "bfloat16": 4e-2}
_WHAT_TO_DO = (
    "End the model with a Dense layer with softmax or sigmoid activation, a Softmax or Activation layer, "
    "or a layer that returns logits."
)


@dataclass(frozen=True)
class Head:
    """How class probabilities come from logits.

    Args:
        kind: `"softmax"` or `"sigmoid"`.
        units: outputs of the model; a one-unit sigmoid has two classes.
        site: the activation to exchange for the identity; None where the model returns logits already.
        key: position or name of the explained output among several; None for a single output.
    """

    kind: str
    units: int
    site: Site | None = None
    key: int | str | None = None

    @property
    def binary(self) -> bool:
        """One sigmoid unit stands for two classes."""
        return self.units == 1

    @property
    def classes(self) -> int:
        """Number of classes that can be explained."""
        return 2 if self.binary else self.units

    def switched(self) -> list[tuple[Site, Callable[..., Any]]]:
        """The exchange that makes the model return logits."""
        return [] if self.site is None else [(self.site, lambda x, *args, **kwargs: x)]

    def logits(self, model: keras.Model, images: Any) -> Any:
        """Class logits (n, classes), float32. Only true where `switched()` is in force."""
        z = ops.cast(_pick(run(model, images), self.key), "float32")
        return ops.concatenate([-z, z], axis=-1) if self.binary else z

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Class probabilities (n, classes), float64, of class logits (n, classes)."""
        z = np.asarray(logits, "float64")
        if self.kind == "sigmoid":
            return np.exp(-np.logaddexp(0.0, -z))
        z = z - z.max(axis=-1, keepdims=True)
        return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)

    def log_odds(self, logits: np.ndarray, target: int) -> np.ndarray:
        """log(p / (1 - p)) (n,), float64, of a class' probability p; it goes on rising where p is rounded to 1."""
        z = np.asarray(logits, "float64")
        if self.kind == "sigmoid":
            return np.asarray(z[:, target])
        return np.asarray(z[:, target] - np.logaddexp.reduce(np.delete(z, target, axis=1), axis=1))

    def correct(self, logits: np.ndarray, target: int) -> np.ndarray:
        """Which rows predict class `target`: the largest logit of a softmax, a probability above one half otherwise."""
        if self.kind == "softmax" or self.binary:
            return np.asarray(logits.argmax(axis=-1) == target)
        return np.asarray(logits[:, target] > 0)


def run(model: keras.Model, images: Any) -> Any:
    """The model's outputs at inference; the one input of some models stands in a dictionary.

    Args:
        model: of one image input.
        images: (n, *image shape), a tensor.
    """
    structure = getattr(model, "input", None)
    return model(dict.fromkeys(structure, images) if isinstance(structure, dict) else images, training=False)


def called(model: keras.Model, images: Any) -> list[tuple[keras.layers.Layer, Any]]:
    """The layers, nested ones too, with their outputs, in the order in which their last calls end.

    Args:
        model: of one image input.
        images: (n, *image shape).
    """
    own = {id(layer) for layer in model._flatten_layers()}  # a data pipeline may call layers on another thread
    ended: dict[int, tuple[keras.layers.Layer, Any]] = {}

    def watched(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        result = call(layer, *args, **kwargs)
        if id(layer) in own:
            ended.pop(id(layer), None)
            ended[id(layer)] = layer, result
        return result

    with ONE_AT_A_TIME:
        call = keras.layers.Layer.__call__
        try:
            keras.layers.Layer.__call__ = watched
            run(model, ops.convert_to_tensor(images))
        finally:
            keras.layers.Layer.__call__ = call
    return list(ended.values())


def beside(model: keras.Model, key: int | str | None) -> set[int]:
    """Identities of the layers of a functional model that its explained output does not come from.

    Args:
        model: any Keras model; of other kinds nothing is known.
        key: of the explained output, as a `Head` has it.
    """
    if key is None or not getattr(model, "outputs", None):
        return set()
    behind: set[tuple[int, int]] = set()
    waiting = [model.output[key]]
    while waiting:
        history = waiting.pop()._keras_history
        if (id(history.operation), history.node_index) not in behind:
            behind.add((id(history.operation), history.node_index))
            waiting += history.operation._inbound_nodes[history.node_index].input_tensors
    used = {operation for operation, _ in behind}
    inside, outside = (
        {id(inner) for layer in model.layers if (id(layer) in used) == wanted for inner in layer._flatten_layers()}
        for wanted in (True, False)
    )
    return outside - inside  # a layer can lead to both


def find_head(model: keras.Model, images: Any, output: str | None = None) -> Head:
    """Find the head of a model and verify numerically that switching it to linear gives its logits.

    Args:
        model: any Keras model of one image input.
        images: (n, *image shape), a few real images.
        output: name of the output to explain, where the model has several.

    Raises:
        HeadError: the head is no softmax, sigmoid or linear one, the model is a regression, or the switch failed.
    """
    images = ops.convert_to_tensor(images)
    produced: list[tuple[Site, Any]] = []
    with exchanged((site, _recorder(site, produced)) for site in sites(model)):
        outputs = run(model, images)
    key = _key(model, outputs, output)
    own = _pick(outputs, key)
    if len(own.shape) != 2:
        raise HeadError(
            f"'{model.name}' returns shape {tuple(own.shape)}; (images, classes) is needed to explain a class. "
            "Pool the spatial axes first."
        )
    makers = [(site, site.kind) for site, tensor in produced if tensor is own]
    site, kind = next(((s, k) for s, k in makers if k != "linear"), makers[0] if makers else (None, "unknown"))
    units = own.shape[1]
    if kind in ("softmax", "sigmoid"):
        head = Head(kind, units, site, key)
        _verify(model, head, images, own)
    elif kind in ("linear", "unknown"):
        # Only a layer with weights of its own is known to give logits; an identity may stand behind anything.
        certain = site is not None and hasattr(site.owner, "kernel")
        head = _linear_head(model, units, key, certain or _takes_logits(model, key))
    else:
        where = site.name if site else ""
        raise HeadError(f"The head {where} of '{model.name}' is not softmax, sigmoid or linear. {_WHAT_TO_DO}")
    if head.kind == "softmax" and head.units == 1:
        raise HeadError(f"'{model.name}' has a softmax over one unit, which is always 1. Use sigmoid, or two units.")
    return head


def _recorder(site: Site, produced: list[tuple[Site, Any]]) -> Callable[..., Any]:
    def record(*args: Any, **kwargs: Any) -> Any:
        tensor = site.function(*args, **kwargs)
        produced.append((site, tensor))
        return tensor

    return record


def _linear_head(model: keras.Model, units: int, key: int | str | None, certain: bool) -> Head:
    loss = _loss_name(model, key)
    if any(word in loss for word in _REGRESSION):
        raise HeadError(
            f"'{model.name}' is a regression (linear output, loss {loss!r}); there is no class to explain. "
            f"{_WHAT_TO_DO}"
        )
    if not certain:
        raise HeadError(
            f"Are the outputs of '{model.name}' logits or probabilities? The last activation cannot be reached: "
            f"something stands behind it, or it is a plain function inside `call`. {_WHAT_TO_DO} If they are logits, "
            "compile the model with a loss with from_logits=True."
        )
    if units == 1 and "binary" not in loss:
        raise HeadError(
            f"'{model.name}' has one linear output: a regression, or one binary logit? For the second, compile it with "
            "BinaryCrossentropy(from_logits=True)."
        )
    return Head("sigmoid" if "binary" in loss else "softmax", units, None, key)


def _verify(model: keras.Model, head: Head, images: Any, own: Any) -> None:
    """Raise unless the head's own activation, applied to the switched output, gives the model's own output."""
    assert head.site is not None
    with exchanged(head.switched()):
        logits = _pick(run(model, images), head.key)
    again = ops.convert_to_numpy(ops.cast(head.site.function(logits), "float32"))
    expected = ops.convert_to_numpy(ops.cast(own, "float32"))
    tolerance = _TOLERANCE.get(keras.backend.standardize_dtype(own.dtype), 1e-5)
    if again.shape != expected.shape or not np.allclose(again, expected, rtol=0, atol=tolerance, equal_nan=True):
        raise HeadError(
            f"Switching the head {head.site.name} of '{model.name}' to linear does not give its logits: "
            f"the layer is used more than once, or changes what it is given. {_WHAT_TO_DO}"
        )


def _key(model: keras.Model, outputs: Any, output: str | None) -> int | str | None:
    if isinstance(outputs, dict):
        names = list(outputs)
    elif isinstance(outputs, (list, tuple)):
        names = list(getattr(model, "output_names", None) or map(str, range(len(outputs))))
    else:
        names = [*(getattr(model, "output_names", None) or [model.name])]
        if output is None or output in names:
            return None
    if output is None and len(names) == 1:
        output = names[0]
    if output not in names:
        raise HeadError(f"output must name one of the outputs {names} of '{model.name}'; got {output!r}.")
    return output if isinstance(outputs, dict) else names.index(output)


def _pick(outputs: Any, key: int | str | None) -> Any:
    return outputs if key is None else outputs[key]


def _loss(model: keras.Model, key: int | str | None) -> Any:
    """The compiled loss of one output, None if there is none."""
    loss = getattr(model, "loss", None)
    names = list(getattr(model, "output_names", None) or ())
    if isinstance(loss, dict):
        names = names or list(loss)
        return loss.get(key if isinstance(key, str) else names[key or 0])
    if isinstance(loss, (list, tuple)):
        return loss[names.index(key) if isinstance(key, str) else key or 0]
    return loss


def _loss_name(model: keras.Model, key: int | str | None) -> str:
    """The compiled loss of one output in words, "" if there is none."""
    loss = _loss(model, key)
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    return str(name).lower()


def _takes_logits(model: keras.Model, key: int | str | None) -> bool:
    loss = _loss(model, key)
    config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    return bool(config.get("from_logits") or (config.get("fn_kwargs") or {}).get("from_logits"))
