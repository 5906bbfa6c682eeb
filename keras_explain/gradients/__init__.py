"""Scorer: the one place where a model is evaluated and differentiated.

An explainer says how its points are made from arrays and how the gradients at those points are combined, both written
with `keras.ops`. The scorer streams the arrays through the device in chunks, compiles each such program once over the
live variables, and brings only the sums back.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_explain.activations import exchanged
from keras_explain.errors import ExplainError, InputError
from keras_explain.outputs import Head, find_head
from keras_explain.rules import relu_replacements

_CHUNK_VALUES = 4_500_000  # input values in one chunk: 16 images of 299 x 299 x 3
_LARGEST_CHUNK = 128
_TARGETS_AT_ONCE = 8


def identity(images: Any) -> Any:
    """The points are the images themselves."""
    return images


def as_they_are(gradients: Any, *arrays: Any) -> Any:
    """The gradients are not combined, only laid out as (points, targets, *image shape)."""
    return keras.ops.moveaxis(gradients, 0, 1)


def columns(numbers: Any, images: Any) -> Any:
    """One number a point, shaped to multiply images (n, *image shape)."""
    return keras.ops.reshape(numbers, (-1, *(1,) * (len(images.shape) - 1)))


class Scorer:
    """Class logits of a live model and their gradients with respect to the image.

    Accepted wherever a model is, so that a script that explains often compiles once:
    `scorer = kx.Scorer(model); kx.explain(scorer, images, "vanilla")`.

    Args:
        model: any Keras classifier of one image input. It is never copied; updates of its weights are followed.
        output: name of the explained output, where the model has several.
        batch_size: points evaluated at once; None chooses by the image size. Halved by itself when memory runs out.

    `evaluations` counts the points at which the model was evaluated or differentiated so far.

    Raises:
        InputError: the model has several inputs, or there is no such backend module.
        HeadError: at first use, when the output cannot be switched to logits (see `keras_explain.outputs`).

    Example:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
        >>> scorer = kx.Scorer(model)
        >>> scorer.logits(np.zeros((2, 4), "float32")).shape
        (2, 3)
    """

    def __init__(self, model: keras.Model, output: str | None = None, batch_size: int | None = None):
        if not isinstance(model, keras.Model):
            raise InputError(f"model must be a keras.Model; got {type(model).__name__}.")
        if len(getattr(model, "inputs", None) or [None]) != 1:
            raise InputError(f"'{model.name}' has {len(model.inputs)} inputs; only models of one image input work.")
        self.model = model
        self.output = output
        self.batch_size = batch_size
        self._backend = importlib.import_module(f"keras_explain.gradients._{_backend_name()}")
        self._head: Head | None = None
        self._variables: list[Any] = []
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self.evaluations = 0

    @classmethod
    def of(cls, model: Scorer | keras.Model, output: str | None = None) -> Scorer:
        """The scorer itself, or a new one of a model."""
        return model if isinstance(model, Scorer) else cls(model, output)

    @property
    def traces(self) -> int:
        """How many programs were compiled so far; it must not grow with epochs, images or targets."""
        return len(self._compiled)

    def head(self, images: np.ndarray) -> Head:
        """The model's head, found and verified on the first images seen.

        Args:
            images: (n, *image shape); two are enough.
        """
        self._renew()
        if self._head is None:
            self._head = find_head(self.model, images[:2], self.output)
        return self._head

    def _renew(self) -> None:
        """Forget what was compiled if layers or variables were exchanged since; new values alone are followed."""
        variables = list(self.model.variables)
        if len(variables) != len(self._variables) or any(
            now is not before for now, before in zip(variables, self._variables, strict=True)
        ):
            self._variables, self._head = variables, None
            self._compiled.clear()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Class logits.

        Args:
            images: (n, *image shape), in the range that the model was trained on.

        Returns:
            (n, classes) float32.
        """
        return self.evaluate(identity, (images,))

    def evaluate(
        self, points: Callable[..., Any], each: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()
    ) -> np.ndarray:
        """Class logits at points that are made on the device.

        Args:
            points: `points(*each, *shared) -> (n, *image shape)`, written with `keras.ops`; a module-level function.
            each: arrays with one entry a point along their first axis; they are cut into chunks.
            shared: arrays that every chunk needs whole.

        Returns:
            (n, classes) float32.
        """
        program = self._program(points, None, "vanilla", 0, each, shared)
        chunks = self._chunks(program, each, shared)
        return np.concatenate([keras.ops.convert_to_numpy(logits) for logits in chunks])

    def differentiate(
        self,
        points: Callable[..., Any],
        combine: Callable[..., Any],
        targets: np.ndarray,
        each: Sequence[np.ndarray],
        shared: Sequence[np.ndarray] = (),
        rule: str = "vanilla",
    ) -> tuple[np.ndarray, Any]:
        """Gradients of target logits at points made on the device, one forward pass for all targets of a point.

        Args:
            points: `points(*each, *shared) -> (n, *image shape)`, as in `evaluate`.
            combine: `combine(gradients, *each, *shared)` with gradients (t, n, *image shape): the sum over points, as a
                tuple of arrays with t first; or `as_they_are`, to keep the gradient of every point.
            targets: (n, t) int, the classes explained at each point.
            each, shared: as in `evaluate`.
            rule: backward rule of the ReLUs, see `keras_explain.rules`.

        Returns:
            The scores (n, t) at the points, and what `combine` gives, summed over all chunks (or concatenated).
        """
        parts = [
            self._differentiate(points, combine, targets[:, part], each, shared, rule)
            for part in _even_slices(targets.shape[1], _TARGETS_AT_ONCE)
        ]
        scores = np.concatenate([score for score, _ in parts], axis=1)
        if combine is as_they_are:
            return scores, np.concatenate([result for _, result in parts], axis=1)
        return scores, tuple(np.concatenate(results) for results in zip(*(result for _, result in parts), strict=True))

    def _differentiate(
        self,
        points: Callable[..., Any],
        combine: Callable[..., Any],
        targets: np.ndarray,
        each: Sequence[np.ndarray],
        shared: Sequence[np.ndarray],
        rule: str,
    ) -> tuple[np.ndarray, Any]:
        program = self._program(points, combine, rule, targets.shape[1], each, shared)
        chunks = self._chunks(program, [targets.astype("int32"), *each], shared)
        scores, gathered, total = [], [], None
        for score, result in chunks:
            scores.append(keras.ops.convert_to_numpy(score))
            if combine is as_they_are:
                gathered.append(keras.ops.convert_to_numpy(result))
            else:
                total = result if total is None else [a + b for a, b in zip(total, result, strict=True)]
        if total is None:
            return np.concatenate(scores), np.concatenate(gathered)
        return np.concatenate(scores), tuple(keras.ops.convert_to_numpy(part) for part in total)

    def _program(
        self,
        points: Callable[..., Any],
        combine: Callable[..., Any] | None,
        rule: str,
        t: int,
        each: Sequence[np.ndarray],
        shared: Sequence[np.ndarray],
    ) -> Callable[..., Any]:
        self._renew()
        arrays = [*each, *shared]
        key = (points, combine, rule, t, *((array.shape[1:], array.dtype.str) for array in arrays))
        if key not in self._compiled:
            few = [keras.ops.convert_to_tensor(array) for array in [*(array[:2] for array in each), *shared]]
            head = self.head(points(*few))

            def logits(images: Any) -> Any:
                return head.logits(self.model, images)

            with exchanged([*head.switched(), *relu_replacements(self.model, rule)]):
                self._compiled[key] = (
                    self._backend.compile_forward(logits, points, arrays)
                    if combine is None
                    else self._backend.compile_gradient(logits, points, combine, t, arrays)
                )
        return self._compiled[key]

    def _chunks(
        self, program: Callable[..., Any], each: Sequence[np.ndarray], shared: Sequence[np.ndarray]
    ) -> Iterator[Any]:
        """Run a program over even chunks of `each`, halving them when memory runs out."""
        on_device = [keras.ops.convert_to_tensor(array) for array in shared]
        n, start = len(each[0]), 0
        while start < n:
            count = -(-(n - start) // self._chunk_size(each, shared))
            stop = start + -(-(n - start) // count)
            try:
                result = program(*(keras.ops.convert_to_tensor(array[start:stop]) for array in each), *on_device)
            except self._backend.OutOfMemory as error:
                if stop - start == 1:
                    raise ExplainError("Memory runs out on a single image; explain smaller images.") from error
                self.batch_size = (stop - start) // 2
                continue
            self.evaluations += stop - start
            yield result
            start = stop

    def _chunk_size(self, each: Sequence[np.ndarray], shared: Sequence[np.ndarray]) -> int:
        if self.batch_size is not None:
            return self.batch_size
        values = max(int(np.prod(array.shape[1:])) for array in [*each, *shared])
        return max(1, min(_LARGEST_CHUNK, _CHUNK_VALUES // max(values, 1)))


def _even_slices(n: int, most: int) -> list[slice]:
    count = -(-n // most)
    size = -(-n // count)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _backend_name() -> str:
    name: str = keras.backend.backend()
    if name != "tensorflow":
        raise InputError(f"Only KERAS_BACKEND=tensorflow is supported so far; Keras runs on {name!r}.")
    return name
