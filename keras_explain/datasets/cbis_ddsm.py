"""CBIS-DDSM: the four official tables of findings, DICOM files or the JPEG copy, whole mammograms or crops.

Files are found by the UID of their series, never by their name, which differs between downloads. Which of the files in
a finding's series is the mask is told from the pixels, since crop and mask are exchanged in parts of the tables. A mask
may have other measures than its mammogram: it covers the whole of it all the same. Citation: Lee et al. 2017, A curated
mammography data set for use in computer-aided detection and diagnosis research. None of the data are shipped here.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from keras_explain.datasets.cases import Case
from keras_explain.datasets.files import header, read_image
from keras_explain.datasets.roi import Mask, Roi
from keras_explain.errors import InputError

CLASS_NAMES = ("normal", "benign calcification", "benign mass", "malignant calcification", "malignant mass")
_TABLES = re.compile(r"(mass|calc)_case_description_(train|test)_set\.csv$")
_BENIGN = ("BENIGN", "BENIGN_WITHOUT_CALLBACK")
_FULL, _CROPPED, _MASK = "full mammogram images", "cropped images", "ROI mask images"


@dataclass(frozen=True)
class Finding:
    """One row of an official table.

    Args:
        patient, side, view: P_00001, LEFT or RIGHT, CC or MLO.
        kind: "mass" or "calcification".
        number: of the abnormality in its mammogram, from 1.
        pathology: MALIGNANT, BENIGN or BENIGN_WITHOUT_CALLBACK.
        part: "train" or "test", the official split.
        density, assessment, subtlety: whole numbers as in the table.
        about: shape and margins of a mass, type and distribution of a calcification.
        image, crop, mask: UIDs of the series of the mammogram, of the cropped image and of the mask.
    """

    patient: str
    side: str
    view: str
    kind: str
    number: int
    pathology: str
    part: str
    density: int
    assessment: int
    subtlety: int
    about: tuple[str, str]
    image: str
    crop: str
    mask: str

    @property
    def label(self) -> int:
        """Position in `CLASS_NAMES`; a finding without callback is benign."""
        return (1 if self.kind == "calcification" else 2) + (2 if self.pathology == "MALIGNANT" else 0)

    @property
    def id(self) -> str:
        """P_00001_LEFT_CC_mass_1, unique over the four tables."""
        return f"{self.patient}_{self.side}_{self.view}_{self.kind}_{self.number}"


def findings(paths: str | Path | Sequence[str | Path]) -> list[Finding]:
    """Read the official tables.

    Args:
        paths: of the CSV files, or a folder that holds some of the four at any depth.

    Raises:
        InputError: no such tables, missing columns, a pathology or path that is none.
    """
    given = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    files = [f for path in given for f in (sorted(path.rglob("*_set.csv")) if path.is_dir() else [path])]
    tables = [(file, match) for file in files if (match := _TABLES.search(file.name))]
    if not tables:
        raise InputError(f"{given[0]} holds none of the tables such as mass_case_description_train_set.csv.")
    return [
        _finding(row, match[1], match[2], f"{file}, row {i}")
        for file, match in tables
        for i, row in enumerate(_rows(file))
    ]


def _rows(file: Path) -> list[dict[str, str]]:
    """The rows of a table by column name; cells hold line ends, and one column is written in two ways."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            stream.seek(0)
            rows = list(csv.DictReader(stream, delimiter=";" if head.count(";") > head.count(",") else ","))
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8: {error}") from error
    cells = [{name: cell for name, cell in row.items() if isinstance(name, str)} for row in rows]
    return [{name.replace(" ", "_"): (cell or "").strip() for name, cell in row.items()} for row in cells]


def _finding(row: dict[str, str], table: str, part: str, where: str) -> Finding:
    try:
        if not row["abnormality_type"].startswith(table):
            raise InputError(f"{where} is of a {row['abnormality_type']}; the table is of another kind of findings.")
        if row["pathology"] not in (*_BENIGN, "MALIGNANT"):
            raise InputError(f"{where} has the pathology {row['pathology']!r}.")
        kind = row["abnormality_type"]
        about = ("mass_shape", "mass_margins") if kind == "mass" else ("calc_type", "calc_distribution")
        return Finding(
            patient=row["patient_id"],
            side=row["left_or_right_breast"],
            view=row["image_view"],
            kind=kind,
            number=int(row["abnormality_id"]),
            pathology=row["pathology"],
            part=part,
            density=int(row["breast_density"]),
            assessment=int(row["assessment"]),
            subtlety=int(row["subtlety"]),
            about=(row[about[0]], row[about[1]]),
            image=_series(row["image_file_path"]),
            crop=_series(row["cropped_image_file_path"]),
            mask=_series(row["ROI_mask_file_path"]),
        )
    except (KeyError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is no finding of CBIS-DDSM: {type(error).__name__} {error}.") from error


def _series(path: str) -> str:
    """The UID of the series: the folder that a file lies in."""
    return path.split("/")[2]


def mammograms(folder: str | Path, part: str | None = None) -> list[Case]:
    """Whole mammograms, with the masks of all their findings as regions.

    A mammogram with several findings has the label of the worst: malignant before benign, then mass before
    calcification. The group is the patient.

    Args:
        folder: with the official tables, and DICOM or JPEG files at any depth; mammograms not at hand are left out.
        part: "train" or "test" of the official split; None is both.

    Raises:
        InputError: no tables, or none of their mammograms in the folder.
        MissingExtra: pydicom is not installed, and needed.
    """
    found = _of_part(folder, part)
    files = _Files(Path(folder))
    together: dict[str, list[Finding]] = {}
    for finding in found:
        together.setdefault(finding.image, []).append(finding)
    cases = [
        Case(
            id=f"{group[0].patient}_{group[0].side}_{group[0].view}",
            label=max(finding.label for finding in group),
            read=partial(files.image, group[0]),
            roi=partial(_regions, files, group),
            group=group[0].patient,
        )
        for group in together.values()
        if files.has(group[0])
    ]
    return _some(cases, folder)


def crops(folder: str | Path, part: str | None = None, margin: float = 0.5, smallest: int = 299) -> list[Case]:
    """A square around every finding, cut from its mammogram, with the masks of all findings in it.

    Args:
        folder, part: as in `mammograms`.
        margin: added on each side, as a share of the longer side of the finding.
        smallest: side of a crop at least, in pixels of the mammogram; it is never longer than the mammogram's own.

    Raises:
        InputError, MissingExtra: as in `mammograms`.
    """
    found = _of_part(folder, part)
    files = _Files(Path(folder))
    cases = []
    for finding in found:
        if files.has(finding):
            near = [other for other in found if other.image == finding.image]
            frame = _Frame(files, finding, margin, smallest)
            roi = partial(_cut_regions, files, near, frame)
            cases.append(Case(finding.id, finding.label, frame.pixels, roi, finding.patient))
    return _some(cases, folder)


def _of_part(folder: str | Path, part: str | None) -> list[Finding]:
    if part not in (None, "train", "test"):
        raise InputError(f"part must be 'train', 'test' or None; got {part!r}.")
    return [finding for finding in findings(folder) if part in (None, finding.part)]


def _some(cases: list[Case], folder: str | Path) -> list[Case]:
    if not cases:
        raise InputError(f"{folder} holds none of the mammograms that its tables name, neither as DICOM nor as JPEG.")
    return cases


def _regions(files: _Files, group: Iterable[Finding]) -> Roi:
    group = list(group)
    shape = files.image(group[0]).shape
    return Roi((shape[0], shape[1]), [Mask(files.mask(finding, (shape[0], shape[1]))) for finding in group])


def _cut_regions(files: _Files, group: list[Finding], frame: _Frame) -> Roi:
    return _regions(files, group).crop(*frame.place)


@dataclass(frozen=True)
class _Frame:
    """The square around one finding."""

    files: _Files
    finding: Finding
    margin: float
    smallest: int

    @cached_property
    def place(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) inside the mammogram."""
        shape = self.files.image(self.finding).shape
        mask = self.files.mask(self.finding, (shape[0], shape[1]))
        scale = np.array(shape[:2]) / mask.shape
        inside = np.argwhere(mask)
        low, high = inside.min(axis=0) * scale, (inside.max(axis=0) + 1) * scale
        side = min(*shape[:2], max(self.smallest, int((high - low).max() * (1 + 2 * self.margin))))
        top, left = np.clip(((low + high - side) / 2).astype(int), 0, np.array(shape[:2]) - side)
        return int(top), int(left), side, side

    def pixels(self) -> np.ndarray:
        top, left, height, width = self.place
        return self.files.image(self.finding)[top : top + height, left : left + width]


class _Files:
    """The files of a folder by the UID of their series."""

    def __init__(self, folder: Path):
        self._of: dict[str, list[Path]] = {}
        self._described: dict[Path, str] = {}
        unnamed: list[Path] = []
        for place, _, names in os.walk(folder):
            for name in names:
                file = Path(place) / name
                if file.suffix.lower() not in (".dcm", ".jpg", ".jpeg"):
                    continue
                if re.fullmatch(r"[\d.]{20,}", file.parent.name):
                    self._of.setdefault(file.parent.name, []).append(file)
                elif file.suffix.lower() == ".dcm":
                    unnamed.append(file)
        for file in unnamed:  # downloads that name their folders by date and description
            self._of.setdefault(header(file, "SeriesInstanceUID"), []).append(file)
        for table in folder.rglob("dicom_info.csv"):
            self._describe(table)

    def _describe(self, table: Path) -> None:
        """What the JPEG copy's own table says of its files."""
        names = {(file.parent.name, file.name): file for files in self._of.values() for file in files}
        for row in _rows(table):
            if not {"image_path", "SeriesDescription"} <= row.keys():
                raise InputError(f"{table} has no column image_path or SeriesDescription.")
            path = Path(row["image_path"])
            if (path.parent.name, path.name) in names and row["SeriesDescription"]:
                self._described[names[path.parent.name, path.name]] = row["SeriesDescription"]

    def has(self, finding: Finding) -> bool:
        """Whether the mammogram of a finding is at hand."""
        return finding.image in self._of

    def image(self, finding: Finding) -> np.ndarray:
        """(h, w) the mammogram of a finding."""
        files = sorted(self._of[finding.image])
        return read_image(next((f for f in files if self._described.get(f, _FULL) == _FULL), files[0]))

    def mask(self, finding: Finding, shape: tuple[int, int]) -> np.ndarray:
        """(h, w) bool, the mask of a finding in the measures in which it was drawn.

        Args:
            finding: whose.
            shape: of the mammogram; among several masks that of the nearest measures is taken.

        Raises:
            InputError: the files of the finding's two series hold no mask.
        """
        files = dict.fromkeys([*self._of.get(finding.mask, ()), *self._of.get(finding.crop, ())])
        likely = [f for f in files if self._described.get(f, _MASK) == _MASK]
        masks = [m for m in map(read_image, likely) if _is_mask(m)]
        if not masks:
            raise InputError(f"{finding.id}: none of {len(files)} files of its series is a mask.")
        nearest = min(masks, key=lambda mask: abs(np.log(np.array(mask.shape) / shape)).sum())
        return np.asarray(nearest > nearest.max() / 2)


def _is_mask(pixels: np.ndarray) -> bool:
    """Black and white and nothing between, but for what JPEG has blurred."""
    low, high = int(pixels.min()), int(pixels.max())
    between = (pixels > low + 0.1 * (high - low)) & (pixels < high - 0.1 * (high - low))
    return bool(high > low and between.mean() < 0.01)
