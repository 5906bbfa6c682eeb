"""TopConfidence: a metric that finds the surest correct images of each class inside Keras' own validation pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_explain.confirmation import Found
from keras_explain.errors import InputError, check_counts
from keras_explain.selection import ClassMap

_NOWHERE, _NOTHING = -1, 2.0  # position and doubt where no image is


@keras.saving.register_keras_serializable("keras_explain")
class TopConfidence(keras.metrics.Metric):
    """For each class the k largest confidences among the images that are predicted correctly, and where those images are.

        confidence of an image x of class c = p_{m(c)}(x)   where the model predicts m(c), with m the class map
        result = mean over the classes with a correct image of the largest confidence

    In `compile(metrics=[TopConfidence()])` it costs no forward pass: `ExplanationCallback` takes its images from there,
    reads them from the pipeline and confirms them, and evaluates the whole validation data only where that fails, as
    when the pipeline is shuffled. Alone it is worth logging: a network that grows sure of itself shows here.

    Args:
        k: images kept for each class, `images_per_class` of the callback or more.
        class_map: a dict from data-set class to model output, that of the callback; None means they are numbered alike.
        from_logits: the model ends without softmax or sigmoid.
        multi_label: the outputs are independent sigmoids, and labels rows of zeros and ones.
        name: under which Keras logs the result.
        dtype: of the result.

    Shapes of `update_state`: labels (n,), (n, 1) or one-hot (n, data-set classes); outputs (n, classes), or (n, 1) of one
    sigmoid unit, which stands for two classes. Weights are ignored.

    Raises:
        InputError: k below one; a class map that is a function, since the classes must be known before the data are
            seen; at the first batch, labels or outputs of another shape.

    Examples:
        >>> import numpy as np
        >>> from keras_explain.callbacks import TopConfidence
        >>> metric = TopConfidence()
        >>> metric.update_state(np.array([0, 1, 1]), np.array([[0.875, 0.125], [0.375, 0.625], [0.25, 0.75]]))
        >>> metric.found().best  # class: [(position, 1 - confidence)]
        {0: [(0, 0.125)], 1: [(2, 0.25)]}

    References:
        Guo et al. 2017, On Calibration of Modern Neural Networks. Known criticism: the confidence of a network is no
        probability of being right; the surest images are the easiest, not the typical ones.
    """

    def __init__(
        self,
        k: int = 1,
        class_map: Mapping[int, int | None] | None = None,
        from_logits: bool = False,
        multi_label: bool = False,
        name: str = "top_confidence",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        check_counts(1, k=k)
        if class_map is not None and not isinstance(class_map, Mapping):
            raise InputError(f"class_map of TopConfidence must be a dict; got {type(class_map).__name__}.")
        self.k, self.from_logits, self.multi_label = k, from_logits, multi_label
        # JSON has made text of the numbers of a saved model.
        self._outputs = class_map and {int(label): output for label, output in class_map.items()}
        self.class_map = ClassMap(self._outputs)
        self._labels: list[int] = []

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take a batch into account."""
        says, doubt = self._judged(ops.cast(y_pred, "float32"))
        self._prepare(says.shape[-1])
        asked = self._asked(ops.convert_to_tensor(y_true))
        targets = np.array([self.class_map(label) for label in self._labels], "int32")
        says, doubt = (ops.take(part, targets, axis=1) for part in (says, doubt))
        right = ops.logical_and(ops.logical_and(asked, says), ops.isfinite(doubt))
        n = ops.shape(doubt)[0]
        places = ops.broadcast_to(self.seen + ops.arange(n, dtype="int32")[None], (len(self._labels), n))
        doubts = ops.concatenate([self.doubt, ops.transpose(ops.where(right, doubt, _NOTHING))], axis=1)
        places = ops.concatenate([self.position, places], axis=1)
        best = ops.argsort(doubts, axis=1)[:, : self.k]  # of equals the first, which top_k does not give everywhere
        doubts, places = (ops.take_along_axis(state, best, axis=1) for state in (doubts, places))
        self.doubt.assign(doubts)
        self.position.assign(ops.where(doubts >= _NOTHING, _NOWHERE, places))
        for counter, cases in ((self.judged, asked), (self.right, right)):
            counter.assign(counter + ops.sum(ops.cast(cases, "int32")))
        self.seen.assign(self.seen + ops.cast(n, "int32"))

    def result(self) -> Any:
        """The mean of the classes' largest confidences; 0 before anything is predicted correctly."""
        if not self._labels:
            return ops.convert_to_tensor(0.0)
        least = self.doubt[:, 0]
        found = ops.cast(least < _NOTHING, "float32")
        return ops.sum((1.0 - least) * found) / ops.maximum(ops.sum(found), 1.0)

    def reset_state(self) -> None:
        """Forget what was seen."""
        if self._labels:
            self.doubt.assign(ops.full(self.doubt.shape, _NOTHING))
            self.position.assign(ops.full(self.position.shape, _NOWHERE, "int32"))
            for counter in (self.seen, self.judged, self.right):
                counter.assign(0)

    def found(self) -> Found:
        """What was seen since the last reset, as `keras_explain.confirmation.select_found` takes it."""
        if not self._labels:
            return Found({}, self.k, 0, 0, 0, self.multi_label)
        places, doubts = (ops.convert_to_numpy(state).tolist() for state in (self.position, self.doubt))
        kept = [
            [(place, doubt) for place, doubt in zip(*row, strict=True) if place >= 0]
            for row in zip(places, doubts, strict=True)
        ]
        best = dict(zip(self._labels, kept, strict=True))
        return Found(best, self.k, int(self.seen), int(self.judged), int(self.right), self.multi_label)

    def get_config(self) -> dict[str, Any]:
        """What makes the same metric again."""
        own = {"k": self.k, "from_logits": self.from_logits, "multi_label": self.multi_label}
        return {**super().get_config(), **own, "class_map": self._outputs}

    def _prepare(self, classes: int | None) -> None:
        """Make the variables, once it is known how many classes there are."""
        if self._labels:
            return
        if classes is None:
            raise InputError("TopConfidence needs outputs of a known number of classes.")
        self._labels = self.class_map.named(classes)
        wide, number = (len(self._labels), self.k), {"shape": (), "dtype": "int32", "initializer": "zeros"}
        start = keras.initializers.Constant
        self.doubt = self.add_variable(shape=wide, initializer=start(_NOTHING), dtype="float32", name="doubt")
        self.position = self.add_variable(shape=wide, initializer=start(_NOWHERE), dtype="int32", name="position")
        self.seen, self.judged, self.right = (
            self.add_variable(**number, name=name) for name in ("seen", "judged", "right")
        )

    def _judged(self, outputs: Any) -> tuple[Any, Any]:
        """Whether each class is predicted, and 1 - p of it if it is: both (n, classes).

        The doubt of a softmax is the sum of the other probabilities, which goes on falling where p is rounded to 1.
        """
        if len(outputs.shape) == 1:
            outputs = outputs[:, None]
        if len(outputs.shape) != 2:
            raise InputError(f"TopConfidence needs outputs (n, classes); got shape {tuple(outputs.shape)}.")
        one = outputs.shape[-1] == 1
        if one or self.multi_label:
            p, doubt = (ops.sigmoid(outputs), ops.sigmoid(-outputs)) if self.from_logits else (outputs, 1.0 - outputs)
            if self.multi_label and not one:
                return p > 0.5, doubt
            p = ops.concatenate([doubt, p], axis=1)
        else:
            p = ops.softmax(outputs, axis=-1) if self.from_logits else outputs
        says = ops.cast(ops.argmax(p, axis=1), "int32")[:, None] == ops.arange(p.shape[1], dtype="int32")[None]
        doubt = ops.sum(ops.where(says, 0.0, p), axis=1, keepdims=True)
        return says, ops.broadcast_to(doubt, ops.shape(p))

    def _asked(self, labels: Any) -> Any:
        """(n, data-set classes) whether an image is of a class."""
        if len(labels.shape) == 2 and labels.shape[1] != 1:
            if max(self._labels) >= labels.shape[1]:
                raise InputError(f"class_map names class {max(self._labels)}; labels have {labels.shape[1]} columns.")
            return ops.take(ops.cast(labels, "float32"), np.array(self._labels, "int32"), axis=1) > 0.5
        if len(labels.shape) > 2 or self.multi_label:
            raise InputError(f"TopConfidence needs labels (n,) or (n, classes); got shape {tuple(labels.shape)}.")
        return ops.equal(ops.cast(ops.reshape(labels, (-1, 1)), "int32"), np.array(self._labels, "int32")[None])


def top_confidences(model: keras.Model) -> list[TopConfidence]:
    """Every TopConfidence that a model was compiled with."""

    def within(metrics: list[Any]) -> Iterator[Any]:
        for metric in metrics:
            yield metric
            yield from within(getattr(metric, "metrics", []))

    return [metric for metric in within(model.metrics) if isinstance(metric, TopConfidence)]
