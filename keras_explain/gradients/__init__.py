"""Scorer: the one place where a model is evaluated and differentiated.

An explainer says how its points are made from arrays and how the gradients at those points are combined, both written
with `keras.ops`. The scorer streams the arrays through the device in chunks, compiles each such program once over the
live variables, and brings only the sums back. What differs between TensorFlow, JAX and PyTorch lies in one small
module each, with the same seven names:

    COMPILES                                whether programs are traced at all
    compiled(function, arrays, variables, exchange)
                                            the function, traced over the live variables where the backend traces, in
                                            the context `exchange()` wherever its Python runs
    gradients(function, at, weight)         scores and their derivatives
    padded(n, most)                         how many points, at most so many, a program is run on to serve n
    memory()                                bytes of an accelerator, None if there is none or it does not tell
    is_out_of_memory(error)
    preserved(model)                        a context that puts back what an evaluation moves in the backend
"""

from __future__ import annotations

import gc
import importlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import keras
import numpy as np

from keras_explain.activations import Site, computed_in, exchanged, sites
from keras_explain.errors import ExplainError, InputError, OutOfTime
from keras_explain.outputs import Head, beside, called, find_head
from keras_explain.rules import relu_replacements

_CHUNK_MEMORY = 4.5e9  # bytes of all layers' outputs in one chunk where the device tells nothing: 16 of ResNet50 at 299
_SHARE_OF_DEVICE = 0.25  # of its memory, if it tells that
_MOST_LEFT = 2.0  # chunks whose tensors eager passes may leave before they are collected
_LARGEST_CHUNK = 128
_TARGETS_AT_ONCE = 8
# Float16 loses a gradient below 6e-8 and makes one above 65504 infinite: the score is scaled, its gradient unscaled.
_SCALE, _LEAST_SCALE, _SCALE_STEP = 2.0**10, 2.0**-10, 2.0**5


class Rows:
    """An array that is made in parts, as it is cut, so that the whole never lies in memory.

    Args:
        n: rows.
        shape: of a row.
        make: `make(range of rows) -> (rows, *shape)` float32.
    """

    dtype = np.dtype("float32")

    def __init__(self, n: int, shape: Sequence[int], make: Callable[[range], np.ndarray]):
        self.shape, self._make = (n, *shape), make

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._make(range(len(self))[part])


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
        precision: `"mixed_bfloat16"` computes the passes of explanations in 16 bits, but for the layers from the last
            matrix of weights on. What `logits` gives stays in the model's own precision; scores that come out of an
            explanation's passes, such as those of saliency and LIME, do not. None leaves all in it.
        batch_size: points evaluated at once; None chooses by what one image takes in all layers. Halved by itself, and
            for good, when memory runs out.

    `evaluations` counts the points at which the model was evaluated or differentiated so far, `compiling` the seconds
    in which programs were traced (on JAX compiled too). After the time `until`, on the clock `time.perf_counter`, it
    evaluates no more.

    Raises:
        OutOfTime: from any evaluation after `until`.
        InputError: the model has several inputs, or Keras runs on a backend without gradients.
        HeadError: at first use, when the output cannot be switched to logits (see `keras_explain.outputs`).

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
        >>> scorer = kx.Scorer(model)
        >>> scorer.logits(np.zeros((2, 4), "float32")).shape
        (2, 3)
    """

    def __init__(
        self,
        model: keras.Model,
        output: str | None = None,
        batch_size: int | None = None,
        precision: str | None = None,
    ):
        if not isinstance(model, keras.Model):
            raise InputError(f"model must be a keras.Model; got {type(model).__name__}.")
        if len(getattr(model, "inputs", None) or [None]) != 1:
            raise InputError(f"'{model.name}' has {len(model.inputs)} inputs; only models of one image input work.")
        if precision not in (None, "mixed_bfloat16"):
            raise InputError(f"precision must be None or 'mixed_bfloat16'; got {precision!r}.")
        self.model = model
        self.output = output
        self.precision = precision
        self.batch_size = batch_size
        self._backend = backend()
        self._head: Head | None = None
        self._point = 0.0  # bytes that all layers' outputs take for one image
        self._left = 0.0  # bytes of those that may not have been freed yet
        self._reduced: list[keras.layers.Layer] = []  # which layers `precision` is meant for
        self._parts: list[Any] = []
        self._compiled: dict[Any, _Program] = {}
        self.evaluations = 0
        self.compiling = 0.0
        self.until = math.inf

    @classmethod
    def of(cls, model: Scorer | keras.Model, output: str | None = None) -> Scorer:
        """The scorer itself, or a new one of a model."""
        return model if isinstance(model, Scorer) else cls(model, output)

    @property
    def traces(self) -> int:
        """How often a program's Python ran: on TensorFlow and JAX once a trace, which must not grow with epochs."""
        return sum(program.traces for program in self._compiled.values())

    def head(self, images: np.ndarray) -> Head:
        """The model's head, found and verified on the first images seen.

        Args:
            images: (n, *image shape); two are enough.
        """
        self._renew()
        if self._head is None:
            self._head = find_head(self.model, images[:2], self.output)
            calls = called(self.model, images[:1])
            outputs = keras.tree.flatten([output for _, output in calls])
            self._point = sum(4.0 * math.prod(output.shape) for output in outputs if hasattr(output, "shape"))
            aside = beside(self.model, self._head.key)
            self._reduced = _before_the_logits([layer for layer, _ in calls if id(layer) not in aside])
        return self._head

    def _renew(self) -> None:
        """Forget what was compiled if layers, variables or activations were exchanged since; values are followed."""
        functions = [part for site in sites(self.model) for part in (site.owner, site.function)]
        parts = [*self.model.variables, *functions]
        if len(parts) != len(self._parts) or any(
            now is not before and (not callable(now) or now != before)
            for now, before in zip(parts, self._parts, strict=True)
        ):
            self._parts, self._head = parts, None
            self._compiled.clear()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Class logits.

        Args:
            images: (n, *image shape), in the range that the model was trained on.

        Returns:
            (n, classes) float32.
        """
        return self._evaluate(_Recipe(identity), (images,), ())

    def evaluate(
        self, points: Callable[..., Any], each: Sequence[np.ndarray | Rows], shared: Sequence[np.ndarray] = ()
    ) -> np.ndarray:
        """Class logits at points that are made on the device.

        Args:
            points: `points(*each, *shared) -> (n, *image shape)`, written with `keras.ops`; a module-level function.
            each: arrays, or `Rows`, with one entry a point along their first axis; they are cut into chunks.
            shared: arrays that every chunk needs whole.

        Returns:
            (n, classes) float32.
        """
        return self._evaluate(_Recipe(points, precision=self.precision), each, shared)

    def _evaluate(self, recipe: _Recipe, each: Sequence[np.ndarray | Rows], shared: Sequence[np.ndarray]) -> np.ndarray:
        chunks = self._chunks(recipe, [], each, shared)
        return np.concatenate([keras.ops.convert_to_numpy(logits)[:n] for n, logits in chunks])

    def differentiate(
        self,
        points: Callable[..., Any],
        combine: Callable[..., Any],
        targets: np.ndarray,
        each: Sequence[np.ndarray | Rows],
        shared: Sequence[np.ndarray] = (),
        rule: str = "vanilla",
        tap: keras.layers.Layer | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Gradients of target logits at points made on the device, one forward pass for all targets of a point.

        Args:
            points: `points(*each, *shared) -> (n, *image shape)`, as in `evaluate`.
            combine: `combine(gradients, *each, *shared)` with gradients (t, n, *image shape): sums over the points, a
                tuple of arrays with t first; or one array (n, t, ...) with something of every point.
            targets: (n, t) int, the classes explained at each point.
            each, shared: as in `evaluate`.
            rule: backward rule of the ReLUs, see `keras_explain.rules`.
            tap: a layer that is called once in a pass. The gradients are then those with respect to its output A
                (n, *shape of A), and what is called is `combine(gradients, A, *each, *shared)`.

        Returns:
            The scores (n, t) at the points, and what `combine` gives, summed over all chunks or concatenated.

        Raises:
            InputError: the model has no gradient, or the tapped layer is not called once.
        """
        recipe = _Recipe(points, combine, rule, tap, self.precision)
        scores, of_points, sums = np.empty(targets.shape, "float32"), None, []
        for part in _even_slices(targets.shape[1], _TARGETS_AT_ONCE):
            done, total = 0, tuple[Any, ...]()
            for n, (score, result, _) in self._chunks(recipe, [targets[:, part].astype("int32")], each, shared):
                rows, done = slice(done, done + n), done + n
                scores[rows, part] = keras.ops.convert_to_numpy(score)[:n]
                if not np.isfinite(scores[rows, part]).all():
                    raise InputError(
                        "The logits of the model are not finite: its weights are not, or float16 overflows."
                    )
                if isinstance(result, tuple):
                    total = tuple(a + b for a, b in zip(total, result, strict=True)) if total else result
                    continue
                found = keras.ops.convert_to_numpy(result)[:n]
                if of_points is None:  # one array is filled: gathered and then joined, it would lie in memory twice
                    of_points = np.empty((*targets.shape, *found.shape[2:]), found.dtype)
                of_points[rows, part] = found
            sums.append([keras.ops.convert_to_numpy(array) for array in total])
        return scores, tuple(map(np.concatenate, zip(*sums, strict=True))) if of_points is None else of_points

    def _chunks(
        self,
        recipe: _Recipe,
        targets: Sequence[np.ndarray],
        each: Sequence[np.ndarray | Rows],
        shared: Sequence[np.ndarray],
    ) -> Iterator[tuple[int, Any]]:
        """The length of every chunk and what a program makes of it; chunks are halved when memory runs out."""
        self._check_time()
        program = self._program(recipe, targets, each, shared)
        on_device = [_tensor(array) for array in shared]
        n, start, scale = len(each[0]), 0, _SCALE if program.half else 1.0
        while start < n:
            most = self._chunk_size()
            stop = start + -(-(n - start) // -(-(n - start) // most))
            length = self._backend.padded(stop - start, most)
            weight = np.where(np.arange(length) < stop - start, scale, 0).astype("float32")
            cut = [_lengthened(array[start:stop], length) for array in (*targets, *each)]
            self._check_time()
            try:
                with self._compiling(program):
                    result = program.run(*map(_tensor, [weight, *cut]), *on_device)
            except Exception as error:
                if not self._backend.is_out_of_memory(error):
                    raise
                if length == 1:
                    raise ExplainError("Memory runs out on a single image; explain smaller images.") from error
                self.batch_size, result = length // 2, None
            if result is None:
                gc.collect()  # Keras' frames hold the error, and it them, with all the memory that they had
                continue
            self._let_go(length)
            self.evaluations += stop - start
            if program.half and scale > _LEAST_SCALE and not bool(result[-1]):
                scale /= _SCALE_STEP
                continue
            yield stop - start, result
            start = stop

    def _program(
        self,
        recipe: _Recipe,
        targets: Sequence[np.ndarray],
        each: Sequence[np.ndarray | Rows],
        shared: Sequence[np.ndarray],
    ) -> _Program:
        self._renew()
        arrays: list[Any] = [*targets, *each, *shared]
        key = (recipe, *((array.shape[1:], array.dtype.str) for array in arrays))
        if key not in self._compiled:
            few = [_tensor(array) for array in [*(array[:2] for array in each), *shared]]
            images = recipe.points(*few)
            program = _Program(self.model, self.head(images), recipe, images, self._reduced)
            with self._compiling(program):
                program.run = self._backend.compiled(
                    program.forward if recipe.combine is None else program.gradient,
                    [np.ones(1, "float32"), *arrays],
                    list(self.model.variables),
                    program.exchange,
                )
            self._compiled[key] = program
        return self._compiled[key]

    def _check_time(self) -> None:
        if time.perf_counter() > self.until:
            raise OutOfTime("The time that this may take is over.")

    @contextmanager
    def _compiling(self, program: _Program) -> Iterator[None]:
        """Count the seconds of a block in which a program was traced."""
        traces, begun = program.traces, time.perf_counter()
        yield
        if self._backend.COMPILES and program.traces > traces:
            self.compiling += time.perf_counter() - begun

    def _chunk_size(self) -> int:
        if self.batch_size is not None:
            return self.batch_size
        return max(1, min(_LARGEST_CHUNK, int(self._chunk_memory() / max(self._point, 1.0))))

    def _chunk_memory(self) -> float:
        device = self._backend.memory()
        return _CHUNK_MEMORY if device is None else _SHARE_OF_DEVICE * device

    def _let_go(self, points: int) -> None:
        """Free what eager passes have left: Keras keeps tensors in circles, which Python itself would find too late."""
        self._left += 0.0 if self._backend.COMPILES else points * self._point
        if self._left > _MOST_LEFT * self._chunk_memory():
            gc.collect()
            self._left = 0.0


def _even_slices(n: int, most: int) -> list[slice]:
    count = -(-n // most)
    size = -(-n // count)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _lengthened(array: np.ndarray, length: int) -> np.ndarray:
    """The array with its last entry repeated."""
    return np.concatenate([array, np.repeat(array[-1:], length - len(array), axis=0)])


def _tensor(array: np.ndarray) -> Any:
    """The array on the device with its own type, which is not always that of Keras' policy."""
    return keras.ops.convert_to_tensor(array, dtype=array.dtype.name)


def _before_the_logits(layers: list[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """Of layers in the order of their calls, those of float32 before the last one with a matrix of weights."""
    single = [layer for layer in layers if not layer._flatten_layers(include_self=False)]
    weighted = [i for i, layer in enumerate(single) if any(len(weight.shape) > 1 for weight in layer.weights)]
    return [layer for layer in single[: max(weighted, default=0)] if layer.dtype_policy.name == "float32"]


def _takes_whole_numbers(model: keras.Model) -> bool:
    inputs = getattr(model, "inputs", None) or ()
    return not all(keras.backend.is_float_dtype(one.dtype) for one in inputs)


@dataclass(frozen=True)
class _Recipe:
    """What is computed at the points: logits where there is no `combine`, else as in `Scorer.differentiate`."""

    points: Callable[..., Any]
    combine: Callable[..., Any] | None = None
    rule: str = "vanilla"
    tap: keras.layers.Layer | None = None
    precision: str | None = None


class _Program:
    """A recipe on a model, as a function of arrays that can be traced.

    Args:
        model, head, recipe: what is computed.
        images: (n, *image shape), some points.
        reduced: layers that are computed in the precision of the recipe, if it has one.
    """

    run: Callable[..., Any]  # the traced `forward` or `gradient`

    def __init__(self, model: keras.Model, head: Head, recipe: _Recipe, images: Any, reduced: list[keras.layers.Layer]):
        self.model, self.head, self.recipe = model, head, recipe
        self.reduced = reduced if recipe.precision else []
        self.replacements = [*head.switched(), *relu_replacements(model, recipe.rule)]
        gradient = recipe.combine is not None
        self.half = gradient and any(layer.compute_dtype == "float16" for layer in model._flatten_layers())
        self.tapped_shape = () if recipe.tap is None else tuple(self._tapped(images, 0.0)[1].shape[1:])
        self.traces = 0

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """The state in which the model is traced."""
        with exchanged(self.replacements), computed_in(self.recipe.precision, self.reduced):
            yield

    def forward(self, weight: Any, *arrays: Any) -> Any:
        """Logits (n, classes) at the points."""
        self.traces += 1
        return self.head.logits(self.model, self.recipe.points(*arrays))

    def gradient(self, weight: Any, targets: Any, *arrays: Any) -> Any:
        """Scores (n, t), what is made of the gradients (t, n, ...) of each point's, and whether those were finite.

        The weight (n,) is the scale of a point's score, and 0 where it only fills up a chunk.
        """
        self.traces += 1
        images = self.recipe.points(*arrays)

        def scores_at(at: Any) -> tuple[Any, tuple[Any, ...]]:
            logits, *tapped = (
                (self.head.logits(self.model, at),) if self.recipe.tap is None else self._tapped(images, at)
            )
            return keras.ops.take_along_axis(logits, targets, axis=1), tuple(tapped)

        at = images
        if self.recipe.tap is not None:
            at = keras.ops.zeros((keras.ops.shape(images)[0], *self.tapped_shape), "float32")
        scores, tapped, gradients = backend().gradients(scores_at, at, weight)
        if self.recipe.tap is not None and gradients is None:
            raise InputError(f"Layer '{self.recipe.tap.name}' does not lead to the explained output.")
        if self.recipe.tap is None and (gradients is None or _takes_whole_numbers(self.model)):
            raise InputError("The model casts its input to whole numbers, so it has no gradient: use a float Input.")
        finite = keras.ops.all(keras.ops.isfinite(gradients)) if self.half else True
        if self.half:
            gradients = gradients / weight[0]
        assert self.recipe.combine is not None
        return scores, self.recipe.combine(gradients, *tapped, *arrays), finite

    def _tapped(self, images: Any, shift: Any) -> tuple[Any, Any]:
        """Logits where A + shift stands in the place of the tapped layer's output A, and A (n, ...) float32."""
        layer, found = self.recipe.tap, []
        assert layer is not None
        site = Site(layer, "call", layer.call)

        def shifted(*args: Any, **kwargs: Any) -> Any:
            found.append(site.function(*args, **kwargs))
            if not hasattr(found[-1], "dtype"):
                raise InputError(f"Layer '{layer.name}' gives a {type(found[-1]).__name__}, not one tensor.")
            return found[-1] + keras.ops.cast(shift, found[-1].dtype)

        with exchanged([(site, shifted)]):
            logits = self.head.logits(self.model, images)
        if len(found) != 1:
            raise InputError(
                f"Layer '{layer.name}' is called {len(found)} times in a pass; a layer called once is needed."
            )
        return logits, keras.ops.cast(found[0], "float32")


def backend() -> ModuleType:
    """The module of the backend that Keras runs on."""
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax", "torch"):
        raise InputError(f"Keras runs on {name!r}; gradients need KERAS_BACKEND=tensorflow, jax or torch.")
    return importlib.import_module(f"keras_explain.gradients._{name}")


def preserved(model: keras.Model) -> AbstractContextManager[None]:
    """A context that puts back what an evaluation of the model moves in the backend itself."""
    context: AbstractContextManager[None] = backend().preserved(model)
    return context
