"""INbreast: the outlines that its radiologists drew, as regions of interest.

Only copies of the user's own are read; none are shipped here. Citation: Moreira et al. 2012, INbreast: toward a
full-field digital mammographic database.
"""

from __future__ import annotations

import plistlib
import re
from collections.abc import Collection
from pathlib import Path
from xml.parsers.expat import ExpatError

from keras_explain.datasets.roi import Box, Polygon, Roi, Shape
from keras_explain.errors import InputError

_POINT = re.compile(r"\(\s*(-?[\d.eE+]+)\s*,\s*(-?[\d.eE+]+)\s*\)")


def region(file: str | Path, size: tuple[int, int], names: Collection[str] | None = None) -> Roi:
    """The outlines of one mammogram; a drawing of one or two points is the pixels under them, a calcification.

    Args:
        file: the XML file (an Apple property list) of the mammogram, in the folder `AllXML`.
        size: (height, width) of the mammogram, such as (3328, 2560) or (4084, 3328).
        names: take the outlines of these names only, such as {"Mass", "Calcification", "Cluster"}; None takes all.

    Raises:
        InputError: no such file, one of another kind, points that are none, names that it does not have.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file} does not exist; give an XML file of INbreast.")
    try:
        with file.open("rb") as stream:
            drawn = plistlib.load(stream, fmt=plistlib.FMT_XML)["Images"][0]["ROIs"]
        found = [(str(roi["Name"]), [_point(text) for text in roi["Point_px"]]) for roi in drawn]
    except (plistlib.InvalidFileException, ExpatError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no XML file of INbreast: {type(error).__name__} {error}") from error
    if names is not None and not set(names) & {name for name, _ in found}:
        raise InputError(f"{file} has {sorted({name for name, _ in found})}, and none of {sorted(names)}.")
    return Roi(size, [shape for name, points in found if names is None or name in names for shape in _shapes(points)])


def _point(text: str) -> tuple[float, float]:
    match = _POINT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no point")
    return float(match[1]), float(match[2])


def _shapes(points: list[tuple[float, float]]) -> list[Shape]:
    if len(points) > 2:
        return [Polygon(points)]
    return [Box(int(x), int(y), int(x) + 1, int(y) + 1) for x, y in points]
