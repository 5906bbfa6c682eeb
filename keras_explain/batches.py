"""Reading what `model.fit` takes as validation data: whole, or only the images at some positions."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_explain.errors import ExplanationWarning, InputError

_ARRAY_BATCH = 32

Batch = tuple[np.ndarray, np.ndarray, Sequence[str] | None]  # images float32, labels, ids or None


def told(data: Any, name: str) -> Any:
    """What a data set tells of itself, None if it does not."""
    return getattr(data, name, None) if isinstance(data, keras.utils.PyDataset) else None


def length(data: Any) -> int | None:
    """How many images there are, where that can be told without reading them."""
    names = told(data, "ids")
    arrays = isinstance(data, (tuple, list)) and len(data) and hasattr(data[0], "__len__")
    return len(names) if names is not None else len(data[0]) if arrays else None


def batches(data: Any, candidates: int | None) -> Iterator[Batch]:
    """Batches of anything that `fit` takes, cut after so many candidates."""
    if candidates is None and _endless(data):
        raise InputError("The validation data repeat without end; say in candidates how many images to look at.")
    left, seen = candidates, 0
    for raw in _raw_batches(data):
        images, labels, ids = _parts(raw, told(data, "ids"), seen)
        seen += len(images)
        if left is not None:
            images, labels = images[:left], labels[:left]
            left -= len(images)
        if len(images):
            yield images, labels, ids
        if left == 0:
            return


def count(data: Any) -> int | None:
    """How many images there are; of a `PyDataset` the first and the last batch are read. None where nothing tells."""
    known = length(data)
    if known is not None or not isinstance(data, keras.utils.PyDataset) or not data.num_batches:
        return known
    return (data.num_batches - 1) * len(data[0][0]) + len(data[data.num_batches - 1][0])


def batches_at(data: Any, positions: Collection[int]) -> Iterator[tuple[list[int], Batch]]:
    """The images at some positions of the data, in rising order, and no others.

    Args:
        data: as in `batches`; of arrays and a `PyDataset` only the batches that are needed are read.
        positions: of images, counted from 0 in the order of the data.
    """
    wanted, seen = sorted(positions), 0
    names = told(data, "ids")
    for start, raw in _raw_batches_at(data, wanted):
        seen = seen if start is None else start
        images, labels, ids = _parts(raw, names, seen)
        here = [position for position in wanted if seen <= position < seen + len(images)]
        seen += len(images)
        if here:
            rows = [position - seen + len(images) for position in here]
            yield here, (images[rows], labels[rows], None if ids is None else [ids[row] for row in rows])
        if seen > wanted[-1]:
            return


def _parts(raw: Any, names: Sequence[Any] | None, seen: int) -> Batch:
    """Images, labels and ids of a batch that begins at the position `seen`."""
    if not isinstance(raw, (tuple, list)) or not 2 <= len(raw) <= 4:
        raise InputError("Every batch of the validation data must be (x, y), (x, y, weight) or (x, y, weight, id).")
    images, labels = _array(raw[0]), _array(raw[1])
    if len(images) != len(labels):
        raise InputError(f"The validation data have {len(images)} images and {len(labels)} labels in one batch.")
    ids = _array(raw[3]).reshape(-1) if len(raw) == 4 else None if names is None else names[seen : seen + len(images)]
    return images.astype("float32", copy=False), labels, None if ids is None else list(map(_text, ids))


def _endless(data: Any) -> bool:
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1  # tf.data's INFINITE_CARDINALITY


def _raw_batches(data: Any) -> Iterable[Any]:
    if _are_arrays(data):
        arrays = _arrays(data)
        for start in range(0, len(_array(data[0])), _ARRAY_BATCH):
            yield tuple(part if part is None else part[start : start + _ARRAY_BATCH] for part in arrays)
    elif isinstance(data, keras.utils.PyDataset):
        count = itertools.count() if data.num_batches is None else range(data.num_batches)
        yield from _as_far_as_possible(data[i] for i in count)
    elif isinstance(data, Iterator):
        raise InputError("validation_data is a generator, which can be read only once. Wrap it in a keras PyDataset.")
    elif isinstance(data, Iterable):
        yield from _as_far_as_possible(data)
    else:
        raise InputError(f"validation_data must be what model.fit takes for it; got {type(data).__name__}.")


def _as_far_as_possible(data: Iterable[Any]) -> Iterator[Any]:
    """The batches of data that break off, up to there; what gives none at all is an error."""
    read = 0
    try:
        for batch in data:
            read += 1
            yield batch
    except Exception as error:  # whatever a user's pipeline raises
        if not read:
            raise InputError(f"The validation data cannot be read. {type(error).__name__}: {error}") from error
        first, *_ = [*str(error).splitlines(), ""]  # TensorFlow puts a whole traceback under it
        words = f"The validation data break off after {read} batches ({type(error).__name__}: {first})"
        warnings.warn(f"{words}; only those are looked at.", ExplanationWarning, stacklevel=2)


def _raw_batches_at(data: Any, wanted: Sequence[int]) -> Iterator[tuple[int | None, Any]]:
    """Batches with the positions at which they start; None is where the one before has ended."""
    if _are_arrays(data):
        arrays = _arrays(data)
        inside = [position for position in wanted if position < len(arrays[0])]
        yield from ((p, tuple(part if part is None else part[p : p + 1] for part in arrays)) for p in inside)
    elif isinstance(data, keras.utils.PyDataset):
        size, count = len(data[0][0]), data.num_batches
        for i in sorted({position // max(size, 1) for position in wanted}):
            if count is None or i < count:
                raw = data[i]
                if len(raw[0]) != size and i + 1 != count:
                    raise InputError(
                        f"Batch {i} has {len(raw[0])} images, the first one {size}: nothing tells where they are."
                    )
                yield i * size, raw
    else:
        yield from ((None, raw) for raw in _raw_batches(data))


def _are_arrays(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) in (2, 3, 4)


def _arrays(data: Any) -> list[Any]:
    if isinstance(data[0], dict) or isinstance(data[1], dict):
        raise InputError(
            "Dictionaries of inputs or labels are not supported; pass one image array and one label array."
        )
    return [part if part is None else _array(part) for part in data]


def _array(part: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(part) if keras.ops.is_tensor(part) else part)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
