"""Data sets to train and to explain on: synthetic phantoms, and readers of mammograms that the user has."""

from __future__ import annotations

from pathlib import Path

from keras_explain.datasets import cbis_ddsm, ddsm, mias
from keras_explain.datasets.cases import Case, split
from keras_explain.errors import InputError


def read(folder: str | Path, part: str = "train", task: str = "model_0") -> list[Case]:
    """The cases of a folder of mammograms, told from what lies in it.

        images/*.png with train_df_model_k.csv, test_df_model_k.csv    `ddsm.pictures`
        training10_*.tfrecords to train on, *_data.npy to test         `ddsm.tfrecords`, `ddsm.halves`
        mass_case_description_train_set.csv, ... and DICOM or JPEG     `cbis_ddsm.crops`, in the official split
        Info.txt and mdb001.pgm, ...                                   `mias.mammograms`; every fifth woman to test

    Some patients of CBIS-DDSM have masses in one part and calcifications in the other; they are not trained on. The
    classes of all of these are numbered alike, see `ddsm.CLASS_NAMES`.

    Args:
        folder: of the data.
        part: "train" or "test".
        task: of `ddsm.TASKS`; cases of other classes are left out.

    Raises:
        InputError: a folder with none of these, or none of this part.
    """
    folder, chosen = Path(folder), ddsm.task(task)
    if part not in ("train", "test"):
        raise InputError(f"part must be 'train' or 'test'; got {part!r}.")
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.")
    if (table := folder / f"{part}_df_{task}.csv").is_file():
        cases = ddsm.pictures(folder / "images", table, task)
    elif (folder / "Info.txt").is_file():
        cases = split(mias.mammograms(folder))[part == "test"]
    elif any(folder.rglob("*_case_description_*_set.csv")):
        tested = {finding.patient for finding in cbis_ddsm.findings(folder) if finding.part == "test"}
        cases = [c for c in cbis_ddsm.crops(folder, part) if part == "test" or c.group not in tested]
    elif part == "train" and any(folder.rglob("*.tfrecords")):
        cases = ddsm.tfrecords(folder)
    elif part == "test" and any(folder.rglob("*_data.npy")):
        cases = ddsm.halves(folder)
    else:
        raise InputError(
            f"{folder} holds no {part} data that are known: {part}_df_{task}.csv with images/*.png, *.tfrecords to "
            "train and *_data.npy to test, *_case_description_*_set.csv with DICOM or JPEG, or Info.txt with mdb*.pgm."
        )
    return chosen.of(cases)
