"""Grad-CAM and Grad-CAM++: the channels of one layer, each weighted by what it does for the class logit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_explain.errors import InputError
from keras_explain.explainers.masking import check_channels_last, shared
from keras_explain.gradients import Scorer, identity
from keras_explain.outputs import beside, called
from keras_explain.records import Attribution, Samples

_MOST_STRETCH = 2.0  # of one axis against another; tokens by heads of an attention layer are no map


def mean_gradients(gradients: Any, maps: Any, images: Any) -> Any:
    """ReLU(sum over k of w_k A_k) with w_k = mean over space of dz/dA_k."""
    weight = ops.mean(gradients, axis=_space(maps), keepdims=True)
    return _weighted(weight, maps)


def positive_gradients(gradients: Any, maps: Any, images: Any) -> Any:
    """ReLU(sum over k of w_k A_k) with w_k = sum over space of ReLU(g) / (2 + g sum(A_k)), g = dz/dA_k."""
    below = 2.0 + gradients * ops.sum(maps, axis=_space(maps), keepdims=True)
    some = ops.not_equal(below, 0.0)
    alpha = ops.where(some, 1.0 / ops.where(some, below, 1.0), 0.0)
    weight = ops.sum(alpha * ops.relu(gradients), axis=_space(maps), keepdims=True)
    return _weighted(weight, maps)


def _space(maps: Any) -> tuple[int, ...]:
    """The axes of space, counted from the end: before those of `maps` (n, *space, k) gradients have one of targets."""
    return tuple(range(1 - len(maps.shape), -1))


def _weighted(weight: Any, maps: Any) -> Any:
    """(n, t, *space)"""
    return ops.moveaxis(ops.relu(ops.sum(weight * maps, axis=-1)), 0, 1)


def enlarged(maps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Maps (n, *space) brought to another size by linear interpolation between the centres of their cells.

    Args:
        maps: (n, *space).
        shape: the wanted space, as many axes.

    Returns:
        (n, *shape).
    """
    for axis, side in enumerate(shape, start=1):
        cells = maps.shape[axis]
        position = (np.arange(side) + 0.5) * cells / side - 0.5
        one_hot = np.eye(cells)
        weight = np.stack([np.interp(position, np.arange(cells), one) for one in one_hot], axis=1)
        maps = np.moveaxis(np.tensordot(maps, weight, (axis, 1)), -1, axis)
    return maps


def map_layer(scorer: Scorer, image: np.ndarray, wanted: str | None) -> tuple[str, keras.layers.Layer]:
    """The path and the layer of a name or path, or else of the layer called last whose output is a map of the image.

    A map has the axes of the image in about its proportions, several positions on them, and channels.

    Args:
        scorer: of the model; nested models are looked into, layers that lead to other outputs only are left out.
        image: (1, *image shape).
        wanted: the name of a layer, or its path as in `"resnet50/conv5_block3_out"`.

    Raises:
        InputError: there is no such layer, or there are several.
    """
    model, paths = scorer.model, list(_paths(scorer.model))
    if wanted is not None:
        found = [(path, layer) for path, layer in paths if f"/{path}".endswith(f"/{wanted}")]
        if len({id(layer) for _, layer in found}) != 1:
            known = ", ".join(path for path, _ in found or paths)
            raise InputError(f"layer must be the name or path of one layer; {wanted!r} fits {len(found)} of {known}.")
        return found[0]
    aside = beside(model, scorer.head(image).key)
    for layer, output in reversed(called(model, image)):
        own = not isinstance(layer, keras.Model) and id(layer) not in aside
        if own and _is_map(tuple(getattr(output, "shape", ())), image.shape):
            return next(found for found in paths if found[1] is layer)
    raise InputError(
        f"'{model.name}' has no layer whose output is a map of the image, which class activation maps need. "
        "Methods that need none are 'occlusion', 'rise' and those of gradients."
    )


def _is_map(shape: tuple[int, ...], image: tuple[int, ...]) -> bool:
    """Whether an output has several positions on the axes of the image, in about the image's proportions."""
    if len(shape) != len(image) or np.prod(shape[1:-1]) <= 1:
        return False
    scale = np.divide(image[1:-1], shape[1:-1])
    return bool(scale.max() <= _MOST_STRETCH * scale.min())


def _paths(owner: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    for layer in owner._flatten_layers(include_self=False, recursive=False):
        yield prefix + layer.name, layer
        yield from _paths(layer, f"{prefix}{layer.name}/")


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM: the channels A_k of a layer, weighted by their mean gradient, summed, and what is negative cut off.

        L = ReLU(sum over k of w_k A_k),   w_k = mean over positions of d f(x)[target] / d A_k

    L has the resolution of the layer and is enlarged to the image by linear interpolation. A pixel's value is shared
    evenly among the image's channels.

    Args:
        layer: name or path of a layer, in nested models too; None takes the last one whose output is a map.

    Returns of `explain`: `details["map"]` is L before it is enlarged, (r, *positions).

    Raises:
        InputError: at use, there is no such layer, it is called several times in a pass, or its output is no map.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 3), keras.layers.GlobalAveragePooling2D()]
        >>> model = keras.Sequential([*layers, keras.layers.Dense(2, activation="softmax")])
        >>> kx.explain(model, np.ones((1, 4, 4, 1)), "grad_cam", targets=0).details["map"].shape
        (1, 2, 2)

    References:
        Selvaraju et al. 2017, Grad-CAM. Known criticism: the map is coarse, and enlarging it shows more than is known;
        the mean of the gradient may weigh a channel where it is not active (Draelos & Carin 2020, HiResCAM); evidence
        against the class is cut off. Where a mean over positions and a dense layer follow, what is cut off would
        complete the sum of L to the logit less its bias; elsewhere the sum means nothing.
    """

    method: ClassVar[str] = "grad_cam"
    unit: ClassVar[str] = "logit > 0"
    combine: ClassVar[Callable[..., Any]] = staticmethod(mean_gradients)
    layer: str | None = None

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One map for each image and target."""
        shape = samples.images.shape[1:]
        check_channels_last(scorer.model)
        path, layer = map_layer(scorer, samples.images[:1], self.layer)
        scores, maps = scorer.differentiate(identity, self.combine, samples.targets, [samples.images], tap=layer)
        maps = maps.reshape(-1, *maps.shape[2:])
        if maps.ndim != len(shape):
            raise InputError(f"layer '{path}' gives no map of the image: {maps.ndim - 1} axes of positions.")
        return Attribution(
            method=self.method,
            values=shared(enlarged(maps, shape[:-1]), shape[-1]),
            targets=samples.targets.reshape(-1),
            rows=samples.rows,
            score=scores.reshape(-1),
            unit=f"{self.unit}, map {' × '.join(map(str, maps.shape[1:]))}",
            settings={"layer": self.layer, "layer_found": path},
            details={"map": maps},
        )


@dataclass(frozen=True)
class GradCamPlusPlus(GradCam):
    """Grad-CAM++: Grad-CAM with the positive gradients alone, each weighted by how much of its channel it stands for.

        L = ReLU(sum over k of w_k A_k),   w_k = sum over positions of alpha ReLU(g),   g = d f(x)[target] / d A_k
        alpha = g^2 / (2 g^2 + sum(A_k) g^3),   where g is not 0

    Args:
        layer: as in `GradCam`.

    Returns of `explain`, raises: as `GradCam`.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 3), keras.layers.GlobalAveragePooling2D()]
        >>> model = keras.Sequential([*layers, keras.layers.Dense(2, activation="softmax")])
        >>> bool((kx.explain(model, np.ones((1, 4, 4, 1)), "grad_cam_plus_plus", targets=0).values >= 0).all())
        True

    References:
        Chattopadhay et al. 2018, Grad-CAM++. The paper explains exp(z) of a logit z, which only multiplies the map of
        an image by exp(z) and is left out here; some implementations divide the alphas by their sum. Known criticism:
        the alphas hold for ReLU networks alone, and amount to little more than taking positive gradients (Lerma & Lucas
        2022, "Grad-CAM++ is Equivalent to Grad-CAM With Positive Gradients").
    """

    method: ClassVar[str] = "grad_cam_plus_plus"
    unit: ClassVar[str] = "activation > 0"
    combine: ClassVar[Callable[..., Any]] = staticmethod(positive_gradients)
