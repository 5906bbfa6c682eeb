"""mini-MIAS: 322 real mammograms (PGM, 1024 x 1024, 200 micrometres a pixel) with circles around their findings.

The pictures may be had from the Mammographic Image Analysis Society for research; none are shipped here. Citation:
Suckling et al. 1994, The Mammographic Image Analysis Society Digital Mammogram Database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_explain.datasets.cases import Case
from keras_explain.datasets.files import read_image
from keras_explain.datasets.roi import Circle, Roi
from keras_explain.errors import InputError

CLASS_NAMES = ("normal", "benign calcification", "benign mass", "malignant calcification", "malignant mass")
_SIDE = 1024
_ROW = re.compile(r"^(mdb\d{3})\s+([FGD])\s+(CALC|CIRC|SPIC|MISC|ARCH|ASYM|NORM)\b\s*([BM])?\s*(.*)$")
_TISSUE_LEVEL = 40  # grey value above which a pixel is breast and not film


class Finding(NamedTuple):
    """One row of `Info.txt`.

    `row` and `column` count from the upper left corner; they and `radius` are None where the file gives no place.
    `label` is one of the five classes of `CLASS_NAMES`: calcifications, every other abnormality as a mass, or normal.
    """

    reference: str
    tissue: str
    kind: str
    severity: str
    row: int | None
    column: int | None
    radius: int | None

    @property
    def label(self) -> int:
        """Position in `CLASS_NAMES`."""
        if self.kind == "NORM":
            return 0
        return (1 if self.kind == "CALC" else 2) + (2 if self.severity == "M" else 0)

    @property
    def roi(self) -> Roi:
        """The circle around the finding in the whole mammogram; no shape where the file gives no place."""
        if self.row is None or self.column is None or self.radius is None:
            return Roi((_SIDE, _SIDE))
        return Roi((_SIDE, _SIDE), [Circle(self.column, _SIDE - self.row, self.radius, origin="lower left")])

    @property
    def woman(self) -> int:
        """Odd and even numbers that follow each other are the two breasts of one woman."""
        return (int(self.reference[3:]) + 1) // 2


class Crops(NamedTuple):
    """Images (n, size, size, 1) float32 in [0, 1], labels (n,), masks (n, size, size) bool, ids and women (n,)."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    ids: np.ndarray
    women: np.ndarray

    def where(self, keep: np.ndarray) -> Crops:
        """The crops at the rows that `keep` (n,) bool marks."""
        return Crops(*(column[keep] for column in self))

    def split(self, every: int = 4) -> tuple[Crops, Crops]:
        """Training and held-out crops, no woman in both: every fourth woman, ordered by finding, is held out."""
        worst = {int(woman): int(self.labels[self.women == woman].max()) for woman in np.unique(self.women)}
        apart = sorted(worst, key=lambda woman: (worst[woman], woman))[every - 1 :: every]
        held_out = np.isin(self.women, apart)
        return self.where(~held_out), self.where(held_out)


def read_info(path: str | Path) -> list[Finding]:
    """Read `Info.txt`, whose prose is skipped and whose y axis, counted from the bottom, is turned round.

    Args:
        path: of the file.

    Raises:
        InputError: no file, or none of the rows of mini-MIAS in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the Info.txt of mini-MIAS.")
    findings = [Finding(*fields) for fields in map(_fields, path.read_text("latin-1").splitlines()) if fields]
    if not findings:
        raise InputError(f"{path} has no row such as 'mdb001 G CIRC B 535 425 197'.")
    return findings


def _fields(line: str) -> tuple[str, str, str, str, int | None, int | None, int | None] | None:
    match = _ROW.match(line.strip())
    if match is None:
        return None
    reference, tissue, kind, severity, rest = match.groups()
    numbers = [int(number) for number in rest.split()] if re.fullmatch(r"\d+\s+\d+\s+\d+", rest.strip()) else None
    if numbers is None:  # "*NOTE 3*" stands for findings spread over the whole breast
        return reference, tissue, kind, severity or "", None, None, None
    x, y, radius = numbers
    return reference, tissue, kind, severity or "", _SIDE - y, x, radius


def mammograms(folder: str | Path) -> list[Case]:
    """Whole mammograms, with the circles of all their findings as regions; the group is the woman.

    A mammogram with several findings has the label of the worst: malignant before benign, then mass before
    calcification.

    Args:
        folder: as in `crops`.

    Raises:
        InputError: as in `crops`.
    """
    folder = Path(folder)
    together: dict[str, list[Finding]] = {}
    for finding in read_info(folder / "Info.txt"):
        together.setdefault(finding.reference, []).append(finding)
    cases = [
        Case(
            id=reference,
            label=max(finding.label for finding in group),
            read=partial(_read, folder / f"{reference}.pgm"),
            roi=partial(Roi, (_SIDE, _SIDE), [shape for finding in group for shape in finding.roi.shapes]),
            group=f"woman {group[0].woman}",
        )
        for reference, group in together.items()
        if (folder / f"{reference}.pgm").is_file()
    ]
    if not cases:
        raise InputError(f"{folder} holds none of the pictures (mdb001.pgm, ...) that its Info.txt names.")
    return cases


def crops(
    folder: str | Path, size: int = 96, region: int = 160, copies: int = 1, shift: int = 0, seed: int = 0
) -> Crops:
    """Squares around the findings, and from inside normal breasts, with the circles of all findings in them as mask.

    Args:
        folder: with `Info.txt` and the `mdb*.pgm` that are at hand; missing pictures are left out.
        size: side of a crop in pixels.
        region: side of the square cut from the mammogram, in its pixels of 200 micrometres.
        copies: crops of each finding or normal breast.
        shift: move each crop's centre at random by up to so many pixels of the mammogram.
        seed: of the places in normal breasts and of the shifts.

    Raises:
        InputError: no `Info.txt`, or none of its pictures in the folder.
    """
    folder = Path(folder)
    made = list(_crops(folder, size, region, copies, shift, seed))
    if not made:
        raise InputError(f"{folder} holds none of the pictures (mdb001.pgm, ...) that its Info.txt names.")
    images, labels, masks, ids, women = zip(*made, strict=True)
    return Crops(np.stack(images), np.array(labels), np.stack(masks), np.array(ids), np.array(women))


def _crops(
    folder: Path, size: int, region: int, copies: int, shift: int, seed: int
) -> Iterator[tuple[np.ndarray, int, np.ndarray, str, int]]:
    findings = read_info(folder / "Info.txt")
    for number, finding in enumerate(_placed(findings)):
        path = folder / f"{finding.reference}.pgm"
        if not path.is_file():
            continue
        mammogram = _read(path)
        circles = [shape for other in findings if other.reference == finding.reference for shape in other.roi.shapes]
        roi = Roi((_SIDE, _SIDE), circles)
        random = np.random.default_rng([seed, number])
        for copy in range(copies):
            row, column = _centre(finding, mammogram, region, random)
            row, column = np.array([row, column]) + random.integers(-shift, shift + 1, 2)
            corner = np.clip(np.array([row, column]) - region // 2, 0, _SIDE - region)
            image = _cut(mammogram, corner, region, size)
            mask = roi.crop(int(corner[0]), int(corner[1]), region, region).resize(size, size).mask()
            yield image, finding.label, mask, f"{finding.reference}-{number}-{copy}", finding.woman


def _placed(findings: Iterable[Finding]) -> list[Finding]:
    """Findings with a known place, and normal breasts."""
    return [finding for finding in findings if finding.kind == "NORM" or finding.row is not None]


def _read(path: Path) -> np.ndarray:
    pixels = read_image(path)
    if pixels.shape != (_SIDE, _SIDE):
        raise InputError(f"{path} has {pixels.shape} pixels; mini-MIAS has {_SIDE} x {_SIDE}.")
    return pixels


def _centre(finding: Finding, mammogram: np.ndarray, region: int, random: np.random.Generator) -> tuple[int, int]:
    if finding.row is not None and finding.column is not None:
        return finding.row, finding.column
    half = region // 2
    inner = mammogram[half:-half, half:-half]
    # Labels and film edges are bright, but not over a whole neighbourhood.
    smooth = inner[::16, ::16].astype("float32")
    smooth = (
        smooth + np.roll(smooth, 2, 0) + np.roll(smooth, -2, 0) + np.roll(smooth, 2, 1) + np.roll(smooth, -2, 1)
    ) / 5
    rows, columns = np.nonzero((smooth > 2 * _TISSUE_LEVEL) & (smooth < 220))
    pick = int(random.integers(len(rows)))
    return half + 16 * int(rows[pick]), half + 16 * int(columns[pick])


def _cut(mammogram: np.ndarray, corner: np.ndarray, region: int, size: int) -> np.ndarray:
    from PIL import Image

    top, left = map(int, corner)
    square = Image.fromarray(mammogram[top : top + region, left : left + region])
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR), "float32")[..., None] / 255
