"""Which images are explained: for each class the ones that the model gets right with most confidence.

One pass over the validation pipeline. Image, label and probability come from the same pass, so a pipeline that shuffles
can not mix them up, and only the best `images_per_class` images of each class are kept in memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_explain.errors import InputError, check_counts
from keras_explain.gradients import Scorer
from keras_explain.observer import untouched
from keras_explain.outputs import Head
from keras_explain.records import Samples

_ORDER_CHECKED = 64
_ARRAY_BATCH = 32
_RESCALING = (keras.layers.Rescaling, keras.layers.Normalization)


class ClassMap:
    """Which model output each class of the data set belongs to.

    Args:
        mapping: a dict or function from data-set class to model output; a class that is absent or maps to None is left
            out; two classes may share an output. None means that they are numbered alike.

    Raises:
        InputError: an empty mapping, or one to something that is no whole number.

    Example:
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

    Example:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
        >>> _ = model.layers[0].kernel.assign(np.eye(2))
        >>> x = np.array([[3.0, 0.5], [0.5, 0.75], [2.0, 5.5], [0.0, 1.0]])
        >>> kx.select(model, (x, np.array([0, 1, 0, 1]))).ids
        ('0', '3')
    """
    check_counts(1, images_per_class=images_per_class, candidates=candidates)
    check_counts(0, background=background)
    roi = regions_of(data) if roi is None else roi
    check_roi(roi, data)
    scorer = Scorer.of(model, output)
    prepared = preprocessing_of(data)
    if prepared is not None:
        prepared.check_model(scorer.model)
        value_range = prepared.scale if value_range is None else value_range
    check_class_map(class_map, data)
    search = _Search(ClassMap(class_map), images_per_class, background, np.random.default_rng(seed))
    with untouched(scorer.model):
        for images, labels, ids in _batches(data, candidates):
            check_images(images, scorer.model, value_range)
            logits = scorer.logits(images)
            if len(class_names) not in (0, logits.shape[1]):
                raise InputError(
                    f"class_names has {len(class_names)} entries; the model has {logits.shape[1]} classes."
                )
            search.look(images, labels, ids, logits, scorer.head(images))
        _check_order(roi, data)
    samples = search.samples(tuple(class_names), tuple(channel_names))
    if prepared is not None:
        prepared.check_range(*samples.value_range)
    if roi is None:
        return samples
    if isinstance(roi, Mapping):
        roi = {str(name): region for name, region in roi.items()}
        if roi and not roi.keys() & search.ids:
            raise InputError(
                f"None of roi's {len(roi)} ids ({next(iter(roi))!r}, ...) is the id of an image; those are "
                f"{', '.join(map(repr, sorted(search.ids)[:3]))}, ..."
            )
    masks = [_region(roi, candidate, samples.images.shape[1:-1]) for candidate in search.chosen]
    return dataclasses.replace(samples, roi=np.array(masks, bool).reshape(samples.images.shape[:-1]))


def _told(data: Any, name: str) -> Any:
    """What a data set tells of itself, None if it does not."""
    return getattr(data, name, None) if isinstance(data, keras.utils.PyDataset) else None


def regions_of(data: Any) -> Any:
    """The regions of interest that a data set tells itself, as `roi` of `select`; None if it does not."""
    return _told(data, "roi")


def preprocessing_of(data: Any) -> Any:
    """The `keras_explain.datasets.preprocessing.Preprocessing` that a data set tells itself; None if it does not."""
    return _told(data, "preprocessing")


def check_class_map(class_map: Any, data: Any) -> None:
    """Raise where classes would be mapped twice.

    Args:
        class_map, data: as in `select`.
    """
    if class_map is not None and _told(data, "class_map") is not None:
        raise InputError(
            "The data give model outputs as labels already, by a class_map of their own; leave it out here."
        )


def all_looked_at(data: Any, candidates: int | None) -> bool:
    """Whether so many candidates are known to be all the images there are.

    Args:
        data, candidates: as in `select`.
    """
    names = _told(data, "ids")
    arrays = isinstance(data, (tuple, list)) and len(data) and hasattr(data[0], "__len__")
    count = len(names) if names is not None else len(data[0]) if arrays else None
    return candidates is None or (count is not None and count <= candidates)


def check_roi(roi: Any, data: Any) -> None:
    """Raise for what can not be the regions of these data, as far as it can be told before they are read.

    Args:
        roi: as in `select`.
        data: as in `select`; for arrays, number and shape of the images are known.
    """
    if roi is None or callable(roi):
        return
    if isinstance(roi, (str, bytes)) or not (isinstance(roi, Mapping) or hasattr(roi, "__getitem__")):
        raise InputError(f"roi must be a dict or function of an image's id, or a sequence; got {type(roi).__name__}.")
    if not (isinstance(data, (tuple, list)) and len(data) and hasattr(data[0], "shape")):
        return
    images = data[0]
    if isinstance(roi, Mapping):
        regions = {str(name): region for name, region in roi.items()}
    elif len(roi) == len(images):
        regions = {str(position): region for position, region in enumerate(roi)}
    else:
        raise InputError(f"roi has {len(roi)} entries for {len(images)} images.")
    for name, region in regions.items():
        if isinstance(region, np.ndarray):
            _mask(region, name, tuple(images.shape[1:-1]))


def _check_order(roi: Any, data: Any) -> None:
    """Raise where regions stand in the order of the data, and the data in another one at every pass."""
    if not isinstance(roi, Sequence | np.ndarray) or isinstance(data, (tuple, list, keras.utils.PyDataset)):
        return
    first, again = (next(_batches(data, _ORDER_CHECKED))[0] for _ in range(2))
    if not np.array_equal(first, again):
        raise InputError(
            "roi stands in the order of the data, but the data give other images first at every pass: they are "
            "shuffled or augmented. Give batches (x, y, weight, id) and roi as a dictionary of those ids, or do not "
            "shuffle."
        )


def _region(roi: Any, candidate: _Candidate, shape: tuple[int, ...]) -> np.ndarray:
    """The region of one image, empty where it has none."""
    if callable(roi):
        try:
            found = roi(candidate.id)
        except Exception as error:
            raise InputError(f"roi({candidate.id!r}) failed. {type(error).__name__}: {error}") from error
    elif isinstance(roi, Mapping):
        found = roi.get(candidate.id)
    elif candidate.position < len(roi):
        found = roi[candidate.position]
    else:
        raise InputError(f"roi has {len(roi)} entries, and the data an image at position {candidate.position}.")
    return _mask(found, candidate.id, shape)


def _mask(region: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if region is None:
        return np.zeros(shape, bool)
    if not hasattr(region, "mask") and not isinstance(region, (np.ndarray, list)):
        kind = type(region).__name__
        raise InputError(f"roi of image {name} is a {kind}; give a mask, None or Roi({shape}, [shapes]).")
    mask = np.asarray(region.mask() if hasattr(region, "mask") else region)
    if mask.dtype.kind not in "buif" or mask.shape != shape:
        raise InputError(f"roi of image {name} has shape {mask.shape}; the image has {shape}.")
    if not np.isfinite(mask).all():
        raise InputError(f"roi of image {name} has NaN or infinite entries; give 0 and 1.")
    return mask > 0


@dataclass(frozen=True)
class _Candidate:
    confidence: float
    position: int
    image: np.ndarray
    label: int
    target: int
    id: str


@dataclass
class _Search:
    """The running top k of each class, a reservoir of background images, and what was seen on the way."""

    class_map: ClassMap
    images_per_class: int
    background: int
    random: np.random.Generator
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

    def look(
        self, images: np.ndarray, labels: np.ndarray, ids: Sequence[Any] | None, logits: np.ndarray, head: Head
    ) -> None:
        """Take a batch of candidates into account."""
        if not np.isfinite(logits).all():
            raise InputError("The model's outputs are NaN or infinite; there is nothing to explain.")
        self.shape = images.shape[1:]
        self.independent = head.kind == "sigmoid" and not head.binary
        for label in self.class_map.named(head.classes):
            self.best.setdefault(label, [])
        self.low, self.high = min(self.low, images.min()), max(self.high, images.max())
        probabilities = head.probabilities(logits)
        for row, classes in enumerate(_classes_of(labels, head)):
            position = self.seen
            name = str(position if ids is None else _text(ids[row]))
            self.ids.add(name)
            self.seen += 1
            self._into_reservoir(images[row])
            for label in classes:
                target = self._target(label, head)
                if target is None:
                    continue
                right = bool(head.correct(logits[row : row + 1], target)[0])
                self.judged, self.right = self.judged + 1, self.right + right
                best = self.best.setdefault(label, [])
                confidence = float(probabilities[row, target])
                if right and (len(best) < self.images_per_class or confidence > best[-1].confidence):
                    best.append(_Candidate(confidence, position, images[row].copy(), label, target, name))
                    best.sort(key=lambda c: (-c.confidence, c.position))
                    del best[self.images_per_class :]

    def _target(self, label: int, head: Head) -> int | None:
        target = self.class_map(label)
        if target is not None and not 0 <= target < head.classes:
            raise InputError(
                f"A label is {label}, which class_map sends to output {target}; the model has outputs 0 to "
                f"{head.classes - 1}. Say in class_map which classes belong to which output, and leave out the rest."
            )
        return target

    def _into_reservoir(self, image: np.ndarray) -> None:
        if len(self.reservoir) < self.background:
            self.reservoir.append(image.copy())
        elif self.background:
            place = int(self.random.integers(self.seen))
            if place < self.background:
                self.reservoir[place] = image.copy()

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
    elif looks_unscaled(images) and not any(isinstance(layer, _RESCALING) for layer in model._flatten_layers()):
        raise InputError(
            f"images go from {low:g} to {high:g}, as raw pixels do, and '{model.name}' has no Rescaling or "
            "Normalization layer. Scale them as in training, or pass value_range=(0, 255) if it was trained on these."
        )


def looks_unscaled(images: np.ndarray) -> bool:
    """Whether images look like raw pixels, resized or not: beyond what scaled images reach, and hardly below 0."""
    return bool(images.max() > 31 and images.min() >= -0.1 * images.max())


def _batches(data: Any, candidates: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, Sequence[Any] | None]]:
    """(images float32, labels, ids or None) batches of anything that `fit` takes, cut after so many candidates."""
    if candidates is None and _endless(data):
        raise InputError("The validation data repeat without end; say in candidates how many images to look at.")
    left, names, seen = candidates, _told(data, "ids"), 0
    for batch in _raw_batches(data):
        if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 4:
            raise InputError("Every batch of the validation data must be (x, y), (x, y, weight) or (x, y, weight, id).")
        images, labels = _array(batch[0]), _array(batch[1])
        ids = list(_array(batch[3]).reshape(-1)) if len(batch) == 4 else None
        ids = names[seen : seen + len(images)] if ids is None and names is not None else ids
        seen += len(images)
        if len(images) != len(labels):
            raise InputError(f"The validation data have {len(images)} images and {len(labels)} labels in one batch.")
        if left is not None:
            images, labels = images[:left], labels[:left]
            left -= len(images)
        if len(images):
            yield images.astype("float32", copy=False), labels, ids
        if left == 0:
            return


def _endless(data: Any) -> bool:
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1  # tf.data's INFINITE_CARDINALITY


def _raw_batches(data: Any) -> Iterable[Any]:
    if isinstance(data, (tuple, list)) and len(data) in (2, 3, 4):
        if isinstance(data[0], dict) or isinstance(data[1], dict):
            raise InputError(
                "Dictionaries of inputs or labels are not supported; pass one image array and one label array."
            )
        arrays = [part if part is None else _array(part) for part in data]
        for start in range(0, len(_array(data[0])), _ARRAY_BATCH):
            yield tuple(part if part is None else part[start : start + _ARRAY_BATCH] for part in arrays)
    elif isinstance(data, keras.utils.PyDataset):
        yield from (data[i] for i in (itertools.count() if data.num_batches is None else range(data.num_batches)))
    elif isinstance(data, Iterator):
        raise InputError("validation_data is a generator, which can be read only once. Wrap it in a keras PyDataset.")
    elif isinstance(data, Iterable):
        yield from data
    else:
        raise InputError(f"validation_data must be what model.fit takes for it; got {type(data).__name__}.")


def _array(part: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(part) if keras.ops.is_tensor(part) else part)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


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
