"""VinDr-Mammo: the boxes around the findings of 5,000 exams, as regions of interest.

Access to the data is restricted; none are shipped here. Citation: Nguyen et al. 2023, VinDr-Mammo: a large-scale
benchmark dataset for computer-aided diagnosis in full-field digital mammography.
"""

from __future__ import annotations

import ast
import csv
from pathlib import Path

from keras_explain.datasets.roi import Box, Roi
from keras_explain.errors import InputError

_COLUMNS = ("image_id", "height", "width", "finding_categories", "xmin", "ymin", "xmax", "ymax")


def regions(table: str | Path, category: str | None = None) -> dict[str, Roi]:
    """The boxes of every image by its id, in pixels of the DICOM file; images without a finding have no shape.

    Args:
        table: `finding_annotations.csv`, one row a finding.
        category: take the boxes of this one only, such as "Mass" or "Suspicious Calcification".

    Raises:
        InputError: no such file, missing columns, a row that is none, a category that no row has.

    Examples:
        >>> from pathlib import Path
        >>> from keras_explain.datasets import vindr
        >>> head = "image_id,height,width,finding_categories,xmin,ymin,xmax,ymax"
        >>> _ = Path("found.csv").write_text(head + '\\na1,3518,2800,"[\\'Mass\\']",100.5,200,300,450\\n')
        >>> vindr.regions("found.csv")["a1"].shapes
        [Box(left=100.5, top=200.0, right=300.0, bottom=450.0)]
    """
    table = Path(table)
    if not table.is_file():
        raise InputError(f"{table} does not exist; give the finding_annotations.csv of VinDr-Mammo.")
    sizes: dict[str, tuple[int, int]] = {}
    boxes: dict[str, list[Box]] = {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if absent := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise InputError(f"{table} has no column {', '.join(absent)}.")
        for number, row in enumerate(reader, start=2):
            try:
                name, kinds = row["image_id"], ast.literal_eval(row["finding_categories"])
                sizes[name] = (int(row["height"]), int(row["width"]))
                corners = [row[corner] for corner in ("xmin", "ymin", "xmax", "ymax")]
                # "No Finding" has no corners
                box = Box(*map(float, corners)) if all(corner not in ("", "nan") for corner in corners) else None
            except (ValueError, SyntaxError, TypeError) as error:
                raise InputError(f"{table}, line {number}: {error}") from error
            if box is not None and (category is None or category in kinds):
                boxes.setdefault(name, []).append(box)
    if category is not None and not boxes:
        raise InputError(f"{table} has no finding of the category {category!r}.")
    return {name: Roi(size, boxes.get(name, [])) for name, size in sizes.items()}
