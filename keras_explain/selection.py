"""Which images are explained: for each class the ones that the model gets right with most confidence.

One pass over the validation pipeline. Image, label and probability come from the same pass, so a pipeline that shuffles
can not mix them up, and only the best `images_per_class` images of each class are kept in memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_explain.batches import batches, length, told
from keras_explain.errors import InputError, check_counts
from keras_explain.gradients import Scorer
from keras_explain.observer import untouched
from keras_explain.outputs import Head
from keras_explain.records import Samples
from keras_explain.regions import check_roi, region_of, regions_of

_ORDER_CHECKED = 64
_RESCALING = (keras.layers.Rescaling, keras.layers.Normalization)


def rescales(model: keras.Model) -> bool:
    """Whether a model scales its images itself, in a `Rescaling` or `Normalization` layer."""
    return any(isinstance(layer, _RESCALING) for layer in model._flatten_layers())


class ClassMap:
    """Which model output each class of the data set belongs to.

    Args:
        mapping: a dict or function from data-set class to model output; a class that is absent or maps to None is left
            out; two classes may share an output. None means that they are numbered alike.

    Raises:
        InputError: an empty mapping, or one to something that is no whole number.

    Examples:
        >>> import keras_explain as kx
        >>> kx.ClassMap({1: 0, 3: 1})(3), kx.ClassMap({1: 0, 3: 1})(0)
        (1, None)
    """

    def __init__(self, mapping: Mapping[int, int | None] | Callable[[int], int | None] | ClassMap | None = None):
        self._mapping: Any = mapping._mapping if isinstance(mapping, ClassMap) else mapping
        if isinstance(mapping, Mapping) and not mapping:
            raise InputError("class_map is empty, so nothing would be explained; leave it out to explain every class.")

    def __call__(self, label: int) -> int | None:
        """The model output of a data-set class, or None."""
        if self._mapping is None:
            return label
        output = self._mapping.get(label) if isinstance(self._mapping, Mapping) else self._mapping(label)
        if output is not None and int(output) != output:
            raise InputError(f"class_map must give whole numbers or None; for class {label} it gives {output!r}.")
        return None if output is None else int(output)

    def named(self, classes: int) -> list[int]:
        """The data-set classes known to have an output, each of which must exist in a model of `classes`."""
        if self._mapping is None:
            return list(range(classes))
        if not isinstance(self._mapping, Mapping):
            return []
        outputs = {label: self(label) for label in self._mapping}
        for label, output in outputs.items():
            if output is not None and not 0 <= output < classes:
                raise InputError(
                    f"class_map sends class {label} to output {output}; the model has outputs 0 to {classes - 1}."
                )
        return [label for label, output in outputs.items() if output is not None]

    def as_text(self) -> str:
        """How it is written into the settings of a run."""
        if self._mapping is None:
            return "identity"
        return str(dict(self._mapping)) if isinstance(self._mapping, Mapping) else repr(self._mapping)


def select(
    model: Scorer | keras.Model,
    data: Any,
    *,
    class_map: Any = None,
    class_names: Sequence[str] = (),
    channel_names: Sequence[str] = (),
    images_per_class: int = 1,
    candidates: int | None = None,
    background: int = 0,
    value_range: tuple[float, float] | None = None,
    output: str | None = None,
    roi: Any = None,
    seed: int = 0,
) -> Samples:
    """For each class, the images that the model predicts correctly with most confidence.

    The confidence of an image x of class c is p_{m(c)}(x) with m the class map; x is a choice only if the model
    predicts m(c): its largest probability, or above one half for independent sigmoid outputs.

    Args:
        model: a Keras classifier, or a `Scorer` of one.
        data: what `model.fit(validation_data=...)` takes: (x, y) arrays, a `tf.data.Dataset`, `PyDataset` or torch
            `DataLoader` of (x, y) or (x, y, sample_weight) batches; a fourth entry of a batch is taken as ids.
            Labels are whole numbers, one-hot or, for independent sigmoid outputs, multi-hot. Weights are ignored. A
            `PyDataset` with `ids`, `roi` or `preprocessing`, as `keras_explain.datasets.cases.Stream`, tells them.
        class_map: see `ClassMap`.
        class_names: names of the model's outputs, one each.
        channel_names: of the images, for the figures of volumes, signals and pictures with many channels.
        images_per_class: how many images of each data-set class.
        candidates: look at so many images at most; None looks at all.
        background: keep so many images drawn evenly from the candidates, for `GradientShap`.
        value_range: (lowest, highest) pixel that the model was trained on; images outside are refused.
        output: name of the output, where the model has several.
        roi: where the finding of each image is, as a (h, w) mask or an object with `mask()` such as
            `keras_explain.datasets.roi.Roi`, or None where it has none: a dict or function of an image's id (text, the
            position where the data have no ids), or a sequence in the order of the data, which must not be shuffled.
        seed: of the background draw.

    Returns:
        Samples ordered by class, then by falling confidence. Classes without a correct image are in `samples.missing`.

    Raises:
        InputError: no data, labels or images that do not fit the model, a class map to an output that does not exist, a
            roi of another shape than its image, of no image of the data, or of more images than they have.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
        >>> _ = model.layers[0].kernel.assign(np.eye(2))
        >>> x = np.array([[3.0, 0.5], [0.5, 0.75], [2.0, 5.5], [0.0, 1.0]])
        >>> kx.select(model, (x, np.array([0, 1, 0, 1]))).ids
        ('0', '3')
    """
    scorer = Scorer.of(model, output)
    choice = Choice(
        scorer.model,
        data,
        class_map,
        class_names,
        channel_names,
        images_per_class,
        candidates,
        background,
        value_range,
        roi,
        seed,
    )
    search = choice.search()
    with untouched(scorer.model):
        for images, labels, ids in batches(data, candidates):
            search.look(images, labels, ids, *choice.predicted(scorer, images))
        if isinstance(choice.roi, Sequence | np.ndarray):
            check_order(data)
    if isinstance(choice.roi, Mapping) and choice.roi and not choice.roi.keys() & search.ids:
        raise InputError(
            f"None of roi's {len(choice.roi)} ids ({next(iter(choice.roi))!r}, ...) is the id of an image; those are "
            f"{', '.join(map(repr, sorted(search.ids)[:3]))}, ..."
        )
    samples = choice.completed(search)
    if choice.prepared is not None:
        choice.prepared.check_range(*samples.value_range)
    return samples


@dataclass
class Choice:
    """What is to be chosen of which data: the options of `select`, checked before the data are read."""

    model: keras.Model
    data: Any
    class_map: Any = None
    class_names: Sequence[str] = ()
    channel_names: Sequence[str] = ()
    images_per_class: int = 1
    candidates: int | None = None
    background: int = 0
    value_range: tuple[float, float] | None = None
    roi: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(1, images_per_class=self.images_per_class, candidates=self.candidates)
        check_counts(0, background=self.background)
        self.roi = regions_of(self.data) if self.roi is None else self.roi
        check_roi(self.roi, self.data)
        if isinstance(self.roi, Mapping):
            self.roi = {str(name): region for name, region in self.roi.items()}
        self.prepared = preprocessing_of(self.data)
        if self.prepared is not None:
            self.prepared.check_model(self.model)
            self.value_range = self.prepared.scale if self.value_range is None else self.value_range
        check_class_map(self.class_map, self.data)

    def search(self) -> Search:
        """A search that has seen nothing yet."""
        return Search(ClassMap(self.class_map), self.images_per_class, self.background, self.seed)

    def predicted(self, scorer: Scorer, images: np.ndarray) -> tuple[np.ndarray, Head]:
        """Logits of checked images, and the head that they come from."""
        check_images(images, self.model, self.value_range)
        logits = scorer.logits(images)
        if len(self.class_names) not in (0, logits.shape[1]):
            raise InputError(
                f"class_names has {len(self.class_names)} entries; the model has {logits.shape[1]} classes."
            )
        return logits, scorer.head(images)

    def completed(self, search: Search) -> Samples:
        """The samples that a search has found, with all that is told about them."""
        samples = search.samples(tuple(self.class_names), tuple(self.channel_names))
        if self.roi is None:
            return samples
        shape = samples.images.shape[1:-1]
        masks = [region_of(self.roi, one.id, one.position, shape) for one in search.chosen]
        return dataclasses.replace(samples, roi=np.array(masks, bool).reshape(samples.images.shape[:-1]))


def preprocessing_of(data: Any) -> Any:
    """The `keras_explain.datasets.preprocessing.Preprocessing` that a data set tells itself; None if it does not."""
    return told(data, "preprocessing")


def check_class_map(class_map: Any, data: Any) -> None:
    """Raise where classes would be mapped twice.

    Args:
        class_map, data: as in `select`.
    """
    if class_map is not None and told(data, "class_map") is not None:
        raise InputError(
            "The data give model outputs as labels already, by a class_map of their own; leave it out here."
        )


def all_looked_at(data: Any, candidates: int | None) -> bool:
    """Whether so many candidates are known to be all the images there are.

    Args:
        data, candidates: as in `select`.
    """
    known = length(data)
    return candidates is None or (known is not None and known <= candidates)


def check_order(data: Any) -> None:
    """Raise where the data stand in another order at every pass, as far as their first images tell."""
    if isinstance(data, (tuple, list, keras.utils.PyDataset)):
        return
    first, again = (next(batches(data, _ORDER_CHECKED))[0] for _ in range(2))
    if not np.array_equal(first, again):
        raise InputError(
            "The data give other images first at every pass: they are shuffled or augmented, and positions, as those "
            "of a roi in the order of the data, mean nothing. Do not shuffle; for a roi, give batches (x, y, weight, "
            "id) and a dictionary of those ids."
        )


@dataclass(frozen=True)
class _Candidate:
    odds: float  # log(p / (1 - p)), by which images are ranked
    confidence: float
    position: int
    image: np.ndarray
    label: int
    target: int
    id: str


@dataclass
class Search:
    """The running top k of each class, a reservoir of background images, and what was seen on the way."""

    class_map: ClassMap
    images_per_class: int
    background: int
    seed: int
    best: dict[int, list[_Candidate]] = field(default_factory=dict)
    reservoir: list[np.ndarray] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    seen: int = 0
    judged: int = 0
    right: int = 0
    low: float = np.inf
    high: float = -np.inf
    shape: tuple[int, ...] = ()
    independent: bool = False
    rounded: bool = False  # whether 1 - p is known from p alone
    wanted: set[tuple[int, int]] = field(default_factory=set)  # (position, class), where not all are

    def __post_init__(self) -> None:
        self._places = self._reservoir_places()

    def look(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        ids: Sequence[str] | None,
        logits: np.ndarray,
        head: Head,
        positions: Sequence[int] | None = None,
    ) -> None:
        """Take a batch of candidates into account; positions are those in the data, None where the last batch ended."""
        if not np.isfinite(logits).all():
            raise InputError(
                "The model's outputs are NaN or infinite; there is nothing to explain. Has its training diverged?"
            )
        self.shape = images.shape[1:]
        self.independent = head.kind == "sigmoid" and not head.binary
        self.rounded = head.kind == "sigmoid"
        for label in self.class_map.named(head.classes):
            self.best.setdefault(label, [])
        self.low, self.high = min(self.low, images.min()), max(self.high, images.max())
        probabilities = head.probabilities(logits)
        for row, classes in enumerate(_classes_of(labels, head)):
            position = self.seen if positions is None else positions[row]
            name = str(position) if ids is None else ids[row]
            self.ids.add(name)
            self.seen += 1
            place = next(self._places)
            if place is not None:
                self.reservoir[place : place + 1] = [images[row].copy()]
            for label in classes:
                target = self._target(label, head)
                if target is None or (self.wanted and (position, label) not in self.wanted):
                    continue
                right = bool(head.correct(logits[row : row + 1], target)[0])
                self.judged, self.right = self.judged + 1, self.right + right
                best = self.best.setdefault(label, [])
                odds = float(head.log_odds(logits[row : row + 1], target)[0]) if right else -np.inf
                if right and (len(best) < self.images_per_class or odds > best[-1].odds):
                    confidence = float(probabilities[row, target])
                    best.append(_Candidate(odds, confidence, position, images[row].copy(), label, target, name))
                    best.sort(key=lambda c: (-c.odds, c.position))
                    del best[self.images_per_class :]

    def _target(self, label: int, head: Head) -> int | None:
        target = self.class_map(label)
        if target is not None and not 0 <= target < head.classes:
            raise InputError(
                f"A label is {label}, which class_map sends to output {target}; the model has outputs 0 to "
                f"{head.classes - 1}. Say in class_map which classes belong to which output, and leave out the rest."
            )
        return target

    def _reservoir_places(self) -> Iterator[int | None]:
        """Where each image in turn goes in an even draw of `background` images; None where it is not drawn."""
        random = np.random.default_rng(self.seed)
        for seen in itertools.count():
            place = seen if seen < self.background else int(random.integers(seen + 1)) if self.background else 0
            yield place if place < self.background else None

    def drawn(self, n: int) -> list[int]:
        """The positions of the background after a pass over n images."""
        positions: list[int] = []
        for position, place in enumerate(itertools.islice(self._reservoir_places(), n)):
            if place is not None:
                positions[place : place + 1] = [position]
        return positions

    @property
    def chosen(self) -> list[_Candidate]:
        """The best of every class, by class and falling confidence."""
        return [candidate for label in sorted(self.best) for candidate in self.best[label]]

    def samples(self, class_names: tuple[str, ...], channel_names: tuple[str, ...]) -> Samples:
        """What was found."""
        if not self.seen:
            raise InputError("The validation data are empty: not one image came.")
        if not self.judged:
            raise InputError("The validation data contain no class that class_map sends to an output of the model.")
        chosen = self.chosen
        return Samples(
            images=np.array([c.image for c in chosen]).reshape(len(chosen), *self.shape),
            targets=np.array([c.target for c in chosen], "int64").reshape(-1, 1),
            labels=np.array([c.label for c in chosen]),
            confidence=np.array([c.confidence for c in chosen]),
            ids=tuple(c.id for c in chosen),
            class_names=class_names,
            channel_names=channel_names,
            background=np.array(self.reservoir).reshape(-1, *self.shape),
            value_range=(float(self.low), float(self.high)),
            missing=tuple((label, self.class_map(label) or 0) for label, best in sorted(self.best.items()) if not best),
            accuracy=np.nan if self.independent else self.right / self.judged,
        )


def check_images(images: np.ndarray, model: keras.Model, value_range: tuple[float, float] | None = None) -> None:
    """Raise unless images have the model's shape, are finite and lie in the range that the model was trained on.

    Args:
        images: (n, *image shape).
        model: whose input they shall be.
        value_range: (lowest, highest) pixel of training; None refuses what looks like 0 to 255 in a model that does not
            rescale them itself, since that is how images are forgotten to be divided by 255.
    """
    expected = getattr(model, "input_shape", None)
    expected = expected[0] if isinstance(expected, list) else expected
    if expected and (
        images.ndim != len(expected)
        or any(e not in (None, g) for e, g in zip(expected[1:], images.shape[1:], strict=True))
    ):
        raise InputError(f"images have shape {images.shape[1:]}; '{model.name}' takes {tuple(expected[1:])}.")
    if not np.isfinite(images).all():
        raise InputError("images must be finite; NaN or infinity came.")
    low, high = float(images.min()), float(images.max())
    if value_range is not None:
        slack = 1e-3 * (value_range[1] - value_range[0])
        if low < value_range[0] - slack or high > value_range[1] + slack:
            raise InputError(f"images lie in {low:g} to {high:g}; value_range={tuple(value_range)} was trained on.")
    elif looks_unscaled(images) and not rescales(model):
        raise InputError(
            f"images go from {low:g} to {high:g}, as raw pixels do, and '{model.name}' has no Rescaling or "
            "Normalization layer. Scale them as in training, or pass value_range=(0, 255) if it was trained on these."
        )


def looks_unscaled(images: np.ndarray) -> bool:
    """Whether images look like raw pixels, resized or not: beyond what scaled images reach, and hardly below 0."""
    return bool(images.max() > 31 and images.min() >= -0.1 * images.max())


def _classes_of(labels: np.ndarray, head: Head) -> list[list[int]]:
    """The data-set classes of each row of a label batch."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "biuf" or not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
        raise InputError(
            f"labels must be class numbers or one-hot rows; got {labels.dtype} such as {labels.reshape(-1)[0]!r}. "
            "A regression has no classes to explain."
        )
    if labels.ndim == 1:
        if (labels < 0).any():
            raise InputError(f"labels must not be negative; got {int(labels.min())}.")
        return [[int(label)] for label in labels]
    if labels.ndim != 2 or not np.isin(labels, (0, 1)).all():
        raise InputError(f"labels must be class numbers or one-hot rows; got shape {labels.shape}.")
    if head.kind == "softmax" and not (labels.sum(axis=1) == 1).all():
        raise InputError("labels have rows with no or several classes; a softmax model has exactly one for each image.")
    return [[int(k) for k in np.flatnonzero(row)] for row in labels]
