"""The 299 x 299 tiles of DDSM and CBIS-DDSM known as "ddsm-mammography", and the six tasks they were classified by.

Class 0 is normal tissue; the findings are crops of CBIS-DDSM, three of each lesion. The data set comes in three shapes:

    training10_0.tfrecords ... training10_4.tfrecords     to train on; `tfrecords`
    cv10_data.npy, cv10_labels.npy, test10_*.npy          two halves of the test data; `halves`
    images/*.png and train_df_model_k.csv, test_df_...    the same as pictures, with a table for each task; `pictures`

Negatives and positives come from different collections, and class 0 holds black, label and chart tiles as well: a
network can tell the classes apart by what no radiologist would look at. None of the data are shipped here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_explain.datasets.cases import Case
from keras_explain.datasets.files import read_image
from keras_explain.errors import InputError, MissingExtra

CLASS_NAMES = ("normal", "benign calcification", "benign mass", "malignant calcification", "malignant mass")
_SIDE = 299
_PATIENT = re.compile(r"P_\d{5}")
_DARKEST, _MOST_SPREAD, _LEAST_TISSUE = 0.1, 0.3, 60000


@dataclass(frozen=True)
class Task:
    """What one of the networks was to tell apart.

    Args:
        class_map: data-set class -> model output; classes left out are not part of the task.
        class_names: of the model's outputs.
        clean: leave out tiles of class 0 without tissue: black ones, labels and charts.
    """

    class_map: Mapping[int, int]
    class_names: tuple[str, ...]
    clean: bool = False

    def of(self, cases: Iterable[Case]) -> list[Case]:
        """The cases that belong to the task; a clean one reads every tile of class 0 for it."""
        mine = [case for case in cases if case.label in self.class_map]
        return [case for case in mine if case.label or not self.clean or shows_tissue(case.read())]


TASKS: dict[str, Task] = {
    "model_0": Task({0: 0, 1: 1, 2: 2, 3: 3, 4: 4}, CLASS_NAMES),
    "model_1": Task({0: 0, 1: 1, 2: 2, 3: 3, 4: 4}, CLASS_NAMES, clean=True),
    "model_2": Task({1: 0, 2: 1, 3: 2, 4: 3}, CLASS_NAMES[1:]),
    "model_3": Task({0: 0, 1: 1, 2: 1, 3: 1, 4: 1}, ("normal", "finding")),
    "model_4": Task({1: 0, 3: 1}, ("benign calcification", "malignant calcification")),
    "model_5": Task({2: 0, 4: 1}, ("benign mass", "malignant mass")),
}


def task(name: str) -> Task:
    """One of `TASKS` by its name.

    Raises:
        InputError: another name.

    Examples:
        >>> from keras_explain.datasets import ddsm
        >>> ddsm.task("model_2").class_map[3], ddsm.task("model_2").class_names[2]
        (2, 'malignant calcification')
    """
    if name not in TASKS:
        raise InputError(f"There is no task {name!r}; known are {', '.join(TASKS)}.")
    return TASKS[name]


def shows_tissue(tile: np.ndarray) -> bool:
    """Whether a tile shows tissue: by mean and spread of its pixels that are not black, and by their number.

        mean > 0.1,  standard deviation < 0.3,  more than 60,000 of 299 x 299 pixels,  on a scale of 0 to 1

    Args:
        tile: (h, w) uint8.
    """
    light = tile[tile > 0] / 255.0
    enough = len(light) * _SIDE**2 > _LEAST_TISSUE * tile.size
    return bool(enough and light.mean() > _DARKEST and light.std() < _MOST_SPREAD)


def tfrecords(paths: str | Path | Sequence[str | Path]) -> list[Case]:
    """The cases of TFRecord files, whose pixels stay on disk.

    The files are read through once, for labels, names and places, and their check sums are verified.

    Args:
        paths: of the files, or a folder that holds them at any depth.

    Raises:
        InputError: no such files, one that is cut off or damaged, records of another kind.
        MissingExtra: tensorflow is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingExtra("TFRecord files need tensorflow: pip install tensorflow") from error
    files = _files(paths, "*.tfrecords")
    cases = []
    for file in files:
        place = 0
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator()):
                where = f"record {number} of {file}"
                label, name = _label_and_name(record, where)
                read = partial(_tile_at, file, place + 12, len(record), where)
                # 8 bytes of length, 4 of its check sum, the record, 4 of its check sum
                place += 16 + len(record)
                cases.append(Case(f"{file.stem}/{number}", label, read, group=_group(name)))
        except tf.errors.DataLossError as error:
            raise InputError(f"{file} is cut off or damaged after {place} bytes: {error.message}") from error
    return cases


def _label_and_name(record: bytes, where: str) -> tuple[int, str]:
    features = _features(record, where)
    if "label" in features and features["label"].bytes_list.value:
        raise InputError(f"{where} has a picture as its label: it is of the data set's variant for segmentation.")
    if "label" not in features or not features["label"].int64_list.value or "image" not in features:
        raise InputError(f"{where} holds {sorted(features)}; label, label_normal, image and filename are expected.")
    pixels = features["image"].bytes_list.value[0]
    if len(pixels) != _SIDE**2:
        raise InputError(f"{where} has {len(pixels)} bytes of pixels; 299 x 299 are expected.")
    name = features["filename"].bytes_list.value[0] if "filename" in features else b""
    return _checked(features["label"].int64_list.value[0], where), _decoded(name)


def _features(record: bytes, where: str) -> Any:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        return tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise InputError(f"{where} is no tf.train.Example.") from error


def _decoded(name: bytes) -> str:
    """NumPy wrote these names with four bytes a letter, filled up with zeros."""
    four = len(name) % 4 == 0 and b"\0\0\0" in name
    return name.decode("utf-32-le" if four else "utf-8", "replace").rstrip("\0")


def _tile_at(file: Path, place: int, length: int, where: str) -> np.ndarray:
    with file.open("rb") as stream:
        stream.seek(place)
        record = stream.read(length)
    pixels = _features(record, where)["image"].bytes_list.value[0]
    return np.frombuffer(pixels, "uint8").reshape(_SIDE, _SIDE)


def halves(folder: str | Path) -> list[Case]:
    """The cases of both halves of the test data, `cv10_*.npy` and `test10_*.npy`.

    They were divided along the alphabet before they were shuffled, so that each lacks classes: take both.

    Args:
        folder: with `<half>_data.npy`, `<half>_labels.npy` and, if there is one, `<half>_filenames.npy`.

    Raises:
        InputError: neither half, one without labels, arrays that do not belong together, or hold objects.
    """
    folder = Path(folder)
    cases = []
    for file in _files(folder, "*_data.npy"):
        half, folder = file.name.removesuffix("_data.npy"), file.parent
        tiles = _array(file, mmap_mode="r")
        labels = _array(folder / f"{half}_labels.npy")
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        names = folder / f"{half}_filenames.npy"
        groups = [_group(_text(name)) for name in _array(names)] if names.exists() else [""] * len(labels)
        if tiles.dtype != "uint8" or tiles.shape[1:] not in ((_SIDE, _SIDE, 1), (_SIDE, _SIDE)):
            raise InputError(f"{file} holds {tiles.dtype} of shape {tiles.shape}; uint8 (n, 299, 299, 1) is expected.")
        if not len(tiles) == len(labels) == len(groups):
            raise InputError(f"{half} has {len(tiles)} images, {len(labels)} labels and {len(groups)} names.")
        cases += [
            Case(
                f"{half}/{i}", _checked(label, f"{half}_labels.npy, row {i}"), partial(_tile_of, tiles, i), group=group
            )
            for i, (label, group) in enumerate(zip(labels, groups, strict=True))
        ]
    return cases


def _tile_of(tiles: np.ndarray, i: int) -> np.ndarray:
    return np.array(tiles[i]).reshape(_SIDE, _SIDE)


def _array(file: Path, **options: Any) -> np.ndarray:
    if not file.is_file():
        raise InputError(f"{file} does not exist.")
    try:
        return np.load(file, allow_pickle=False, **options)
    except ValueError as error:
        raise InputError(f"{file} is cut off, or holds Python objects, which are not read: {error}") from error


def pictures(images: str | Path, table: str | Path, of_task: str | None = None) -> list[Case]:
    """The cases of a table such as `train_df_model_2.csv`, whose pictures lie in a folder.

    `class` is the class of the data set, `y` the output of the task's model. In tables that were made one from another
    by replacing numbers, the two contradict each other; such a row is an error, not a wrong label.

    Args:
        images: folder of the PNG files.
        table: CSV with the columns `class` and `filename` (or `id`), and `y` if there is one.
        of_task: name of the task whose `y` the table has; None does not look at it.

    Raises:
        InputError: no such files, missing columns, a class that is none, a `y` that is not the task's.
    """
    images, table = Path(images), Path(table)
    mapping = None if of_task is None else task(of_task).class_map
    cases = []
    for number, row in enumerate(_rows(table), start=2):
        where = f"{table}, line {number}"
        label = _checked(row["class"], where)
        name = row.get("filename") or f"{row.get('id') or ''}.png"
        if mapping is not None:
            if label not in mapping:
                raise InputError(f"{where} is of class {label}, which is no part of {of_task}.")
            if row.get("y") not in (None, "") and _number(row["y"]) != mapping[label]:
                raise InputError(
                    f"{where}: class {label} has y={row['y']}; {of_task} sends it to output {mapping[label]}."
                )
        file = images / Path(name).name
        if not file.is_file():
            raise InputError(f"{where} names {file}, which does not exist.")
        cases.append(Case(file.stem, label, partial(read_image, file), group=_group(file.stem)))
    if not cases:
        raise InputError(f"{table} has no rows.")
    return cases


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        raise InputError(f"{table} does not exist.")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if "class" not in columns or not columns & {"filename", "id"}:
                raise InputError(f"{table} has the columns {sorted(columns)}; class and filename are needed.")
            return list(reader)
    except UnicodeDecodeError as error:
        raise InputError(f"{table} is no text in UTF-8: {error}") from error


def _files(paths: str | Path | Sequence[str | Path], pattern: str) -> list[Path]:
    given = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    found = [file for path in given for file in (sorted(path.rglob(pattern)) if path.is_dir() else [path])]
    absent = [file for file in found if not file.is_file()]
    if absent or not found:
        raise InputError(f"{absent[0] if absent else given[0]} is no file or folder with {pattern}.")
    return found


def _checked(label: Any, where: str) -> int:
    number = _number(label)
    if number not in range(len(CLASS_NAMES)):
        raise InputError(f"{where} has the class {label}; 0 to 4 are expected.")
    return int(number)


def _number(text: Any) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return np.nan


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _group(name: str) -> str:
    """The patient of a name such as Mass-Training_P_00001_LEFT_CC_1; "" for names that tell nothing."""
    found = _PATIENT.search(name)
    return found[0] if found else ""


# Writers of the same formats, for data sets of one's own and for tests


def write_tfrecords(path: str | Path, tiles: np.ndarray, labels: Sequence[int], names: Sequence[str] = ()) -> None:
    """Write tiles as the data set's own TFRecords have them.

    Args:
        path: of the file.
        tiles: (n, 299, 299) or (n, 299, 299, 1) uint8.
        labels: (n,) classes 0 to 4.
        names: n names; "NORMAL" and the like where none are given.
    """
    import tensorflow as tf

    def feature(value: Any) -> Any:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    padded = np.array(list(names) or ["NORMAL" if label == 0 else "" for label in labels], dtype=np.str_)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for tile, label, name in zip(np.asarray(tiles, "uint8"), labels, padded, strict=True):
            found = {
                "label": feature(int(label)),
                "label_normal": feature(int(label != 0)),
                "filename": feature(np.array(name, padded.dtype).tobytes()),
                "image": feature(tile.tobytes()),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString())


def write_half(
    folder: str | Path, half: str, tiles: np.ndarray, labels: Sequence[int], names: Sequence[str] = ()
) -> None:
    """Write tiles as one half of the test data.

    Args:
        folder: of the three files.
        half: "cv10" or "test10".
        tiles, labels, names: as in `write_tfrecords`.
    """
    folder = Path(folder)
    np.save(folder / f"{half}_data.npy", np.asarray(tiles, "uint8").reshape(-1, _SIDE, _SIDE, 1))
    np.save(folder / f"{half}_labels.npy", np.asarray(labels, "int64"))
    if len(names):
        np.save(folder / f"{half}_filenames.npy", np.array(names, dtype=np.str_))


def write_pictures(
    images: str | Path, table: str | Path, tiles: np.ndarray, labels: Sequence[int], of_task: str, first: int = 1
) -> None:
    """Write tiles as PNG files with the table of a task.

    Args:
        images: folder of the pictures, created if needed.
        table: the CSV file.
        tiles, labels: as in `write_tfrecords`; classes that are no part of the task are left out.
        of_task: name of the task.
        first: number of the first picture, c1 and so on.
    """
    from PIL import Image

    images = Path(images)
    images.mkdir(parents=True, exist_ok=True)
    mapping = task(of_task).class_map
    with Path(table).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "id", "class", "filename", "y"])
        for i, (tile, label) in enumerate(zip(np.asarray(tiles, "uint8"), labels, strict=True)):
            if int(label) in mapping:
                name = f"c{first + i}"
                Image.fromarray(tile.reshape(_SIDE, _SIDE)).save(images / f"{name}.png")
                writer.writerow([i, name, int(label), f"{name}.png", mapping[int(label)]])
