"""Whatever a user has, pictures by class, a table, an npz, TFRecords -> data that a model can be asked about."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_explain.datasets import ddsm, read
from keras_explain.datasets.cases import Case, Stream
from keras_explain.datasets.files import read_image
from keras_explain.datasets.preprocessing import Preprocessing
from keras_explain.errors import InputError
from keras_explain.selection import rescales

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".dcm", ".dicom")
_FILES, _LABELS = ("filename", "file", "path", "image", "id"), ("label", "class", "y")


@dataclass(frozen=True)
class OwnData:
    """What `kx.select` takes, with what the files tell of it.

    Args:
        data: a `Stream`, or arrays (images, labels) that are passed on as they are.
        class_names: of the model's outputs, () where the files do not tell.
        preprocessing: what is done to each picture; None for arrays that are passed on.
        class_map: that is still to be applied, of arrays that are passed on.
    """

    data: Any
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    class_map: Mapping[int, int] | None = None


def open_data(
    place: str | Path,
    model: keras.Model,
    *,
    part: str = "test",
    task: str | None = None,
    class_names: Sequence[str] = (),
    class_map: Mapping[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    scale: tuple[float, float] | None = None,
    window: tuple[float, float] | str | None = None,
) -> OwnData:
    """Images and labels for a model, told from what lies at a place.

        folder/<class>/*.png         a folder for each class
        *.csv                        columns filename (or file, path, image, id) and label (or class, y)
        *.npz                        images and labels (or x and y, test_images and test_labels, x_test and y_test)
        *.tfrecords                  of DDSM tiles
        a folder of mammograms       see `keras_explain.datasets.read`

    Classes that are names are numbered as in `class_names`; without it, in their alphabetical order.

    Args:
        place: file or folder.
        model: whose input tells size and channels of the images.
        part: "train" or "test", where the data have both.
        task: of `ddsm.TASKS`, which fixes classes and their names.
        class_names: of the model's outputs, in their order.
        class_map: data-set class -> model output; classes left out are not looked at.
        preprocessing: that the model was trained with. None: pictures are scaled to the model's input, and black and
            white become `scale`.
        scale: what black and white become; None is (0, 255) for a model with a `Rescaling` or `Normalization` layer,
            else (0, 1).
        window: as in `Preprocessing`.

    Raises:
        InputError: nothing that is known lies there, or it does not fit the model.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_explain.datasets.own import open_data
        >>> np.savez("mine.npz", images=np.zeros((2, 4, 4, 1), "float32"), labels=[0, 1])
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> images, labels = open_data("mine.npz", model).data
        >>> images.shape, labels.tolist()
        ((2, 4, 4, 1), [0, 1])
    """
    place = Path(place)
    if task is not None:
        class_map = ddsm.task(task).class_map
    names = tuple(class_names) or (ddsm.task(task).class_names if task else ())
    if place.suffix == ".npz":
        found = _arrays(place, part, tuple(class_names))
        if isinstance(found, tuple):
            _check_shape(found[0], model, place)
            if scale or window or preprocessing:
                raise InputError(f"{place} holds fractions, which the model receives as they are: nothing is scaled.")
            return OwnData(found, names, class_map=class_map)
        cases = found
    elif place.suffix == ".csv":
        cases, told = _table(place, tuple(class_names))
        names = names or _fitting(told, model, class_map, place)
    elif place.suffix in (".tfrecord", ".tfrecords"):
        cases = ddsm.tfrecords(place)
    elif place.is_dir():
        cases, told = _folders(place, tuple(class_names))
        names = names or _fitting(told, model, class_map, place)
        if not cases:
            try:
                cases = read(place, part, task or "model_0")
            except InputError as error:
                if not any(file.suffix.lower() in PICTURES for file in place.rglob("*")):
                    raise
                words = "holds pictures, but needs a folder for each class, two at least, with its own"
                raise InputError(f"{place} {words}. ({error})") from error
            names = names or ddsm.CLASS_NAMES
    else:
        raise InputError(f"{place} is no folder and no .csv, .npz or .tfrecords file.")
    made = preprocessing or Preprocessing(
        *_input_of(model), scale or ((0.0, 255.0) if rescales(model) else (0.0, 1.0)), window
    )
    made.check_model(model)
    if class_map is not None and not task and not class_names:
        names = ()  # those of the data are no longer those of the outputs
    return OwnData(Stream(cases, made, class_map=class_map), names, made)


def _input_of(model: keras.Model) -> tuple[tuple[int, int], int]:
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise InputError(f"'{model.name}' takes {shape}; pictures need a model of fixed (height, width, channels).")
    height, width, channels = shape[1:]
    return (height, width), channels


def _fitting(names: tuple[str, ...], model: keras.Model, class_map: Any, place: Path) -> tuple[str, ...]:
    """The names of the data's classes, if they can be those of the outputs."""
    shape = getattr(model, "output_shape", None)
    outputs = shape[-1] if isinstance(shape, tuple) else None
    if names and class_map is None and outputs not in (None, len(names)) and not (outputs == 1 and len(names) == 2):
        raise InputError(
            f"{place} has the classes {', '.join(names)}; '{model.name}' has {outputs} outputs. Give all of "
            "class_names, in the order of the outputs."
        )
    return names


def _check_shape(images: np.ndarray, model: keras.Model, place: Path) -> None:
    expected = getattr(model, "input_shape", None)
    if isinstance(expected, tuple) and (
        len(expected) != images.ndim
        or any(e not in (None, n) for e, n in zip(expected[1:], images.shape[1:], strict=True))
    ):
        raise InputError(f"{place} has images of {images.shape[1:]}; '{model.name}' takes {expected[1:]}.")


def _folders(place: Path, class_names: tuple[str, ...]) -> tuple[list[Case], tuple[str, ...]]:
    """A folder for each class, numbered as `keras.utils.image_dataset_from_directory` does unless names are given."""
    folders = [folder for folder in sorted(place.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    found = {folder.name: _pictures(folder) for folder in folders}  # a class without pictures is a class
    if len(found) < 2 or not any(found.values()):
        return [], ()
    names = _numbered(found, class_names, place)
    cases = [
        Case(str(file.relative_to(place)), names.index(name), partial(pixels, file))
        for name, files in found.items()
        for file in files
    ]
    return cases, names


def _numbered(found: Iterable[str], class_names: tuple[str, ...], place: Path) -> tuple[str, ...]:
    """The names whose positions are the labels."""
    found = sorted(found)
    if unknown := [name for name in found if class_names and name not in class_names]:
        raise InputError(f"{place} has the class {unknown[0]!r}; class_names are {', '.join(class_names)}.")
    return class_names or tuple(found)


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)


def _table(table: Path, class_names: tuple[str, ...]) -> tuple[list[Case], tuple[str, ...]]:
    if not table.is_file():
        raise InputError(f"{table} does not exist.")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise InputError(f"{table} is not in UTF-8: {error}") from error
    if not rows:
        raise InputError(f"{table} has no rows under its first line.")
    file_column, label_column = (_column(table, rows, names) for names in (_FILES, _LABELS))
    for number, row in enumerate(rows, 2):
        if not row[file_column] or not row[label_column]:
            raise InputError(f"Line {number} of {table} has no {file_column} or no {label_column}.")
    texts = [row[label_column].strip() for row in rows]
    numbered = all(re.fullmatch(r"-?[0-9]+", text) for text in texts)
    names = () if numbered else _numbered(set(texts), class_names, table)
    labels = [int(text) if numbered else names.index(text) for text in texts]
    cases = [
        Case(row[file_column], label, partial(pixels, _beside(table, row[file_column])))
        for row, label in zip(rows, labels, strict=True)
    ]
    return cases, names


def _column(table: Path, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    columns = list(rows[0]) if rows else []
    known = [name for name in names if name in columns]
    if not known:
        raise InputError(f"{table} needs a column named {', '.join(names[:-1])} or {names[-1]}; it has {columns}.")
    return known[0]


def _beside(table: Path, name: str) -> Path:
    places = [folder / name for folder in (table.parent, table.parent / "images")]
    return next((place for place in places if place.is_file()), places[0])


def _arrays(file: Path, part: str, class_names: tuple[str, ...]) -> list[Case] | tuple[np.ndarray, np.ndarray]:
    """Cases of whole numbers of 8 or 16 bits, which are pictures; else arrays that the model receives as they are."""
    if not file.is_file():
        raise InputError(f"{file} does not exist.")
    try:
        # NumPy leaves a file open that is no archive.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            pairs = [("images", "labels"), ("x", "y"), (f"{part}_images", f"{part}_labels"), (f"x_{part}", f"y_{part}")]
            known = [pair for pair in pairs if set(pair) <= set(stored.files)]
            if not known:
                raise InputError(f"{file} needs images and labels, or x and y; it has {', '.join(stored.files)}.")
            images, labels = (np.asarray(stored[name]) for name in known[0])
    except InputError:
        raise
    except Exception as error:  # a damaged file raises whatever its part of NumPy, zipfile or zlib does
        raise InputError(f"{file} is no npz that can be read. {type(error).__name__}: {error}") from error
    if not images.ndim or not labels.ndim:
        raise InputError(f"{file} holds single numbers in the place of images or labels.")
    labels = labels.reshape(-1) if labels.shape[1:] in ((), (1,)) else labels
    if labels.dtype.kind == "U":
        names = _numbered(set(labels.reshape(-1).tolist()), class_names, file)
        labels = np.array([names.index(name) for name in labels.reshape(-1).tolist()])
    one_hot = labels.ndim == 2 and bool((labels.sum(axis=1) == 1).all())
    labels = labels.argmax(axis=1) if one_hot else labels
    if len(images) != len(labels):
        raise InputError(f"{file} has {len(images)} images and {len(labels)} labels.")
    if images.dtype.kind != "u" or images.ndim not in (3, 4):
        return images, labels.astype("int64")
    if labels.ndim == 2:
        raise InputError(f"{file} has pictures of several classes at once; store them as the model receives them.")
    return [Case(str(i), int(label), partial(images.__getitem__, i)) for i, label in enumerate(labels)]


def pixels(file: str | Path) -> np.ndarray:
    """The pixels of a picture file, (h, w), or (h, w, 3) where it has colours.

    Args:
        file: DICOM, or what Pillow reads.

    Raises:
        InputError: no such file, or one that cannot be read.
        MissingExtra: pydicom is not installed, and needed.
    """
    file = Path(file)
    if not file.is_file() or file.suffix.lower() in (".dcm", ".dicom"):
        return read_image(file)
    from PIL import Image

    try:
        with Image.open(file) as picture:
            coloured = picture.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr", "LAB", "HSV")
            if coloured:
                return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is no picture that can be read: {error}") from error
    return read_image(file)
