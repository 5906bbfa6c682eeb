"""Two rounds side by side: what two models, two runs or two epochs say of the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_explain.errors import InputError
from keras_explain.metrics import spearman
from keras_explain.records import Attribution, Samples
from keras_explain.report import Report, write_page
from keras_explain.words import titles

Stored = tuple[Samples, Sequence[Attribution], Mapping[str, Any]]


def compare(
    first: Stored, second: Stored, file: str | Path, names: tuple[str, str] = ("first", "second")
) -> dict[str, dict[str, float]]:
    """Write a page of two rounds on the images that both explain, with the difference of the maps and their agreement.

        rank agreement = Spearman correlation of the two maps, signed, channels summed

    Args:
        first, second: samples, attributions and settings, as `kx.load_round` gives them.
        file: the HTML file.
        names: of the two.

    Returns:
        Rank agreement of each method (by title) and image (by id); NaN where a map is constant.

    Raises:
        InputError: no image or no method in common.
        MissingExtra: jinja2 is not installed.

    Example:
        >>> import numpy as np, keras_explain as kx
        >>> from keras_explain.comparison import compare
        >>> ramp = np.arange(64.0).reshape(1, 8, 8, 1)
        >>> samples = kx.Samples(ramp, [0], ids=["left"])
        >>> one, two = (kx.Attribution("mine", sign * ramp, [0], [0], score=[1.0]) for sign in (1, -1))
        >>> compare((samples, [one], {}), (samples, [two], {}), "compared.html")
        {'mine': {'left': -1.0}}
    """
    known = [_identities(first[0], second[0]), _identities(second[0], first[0])]
    common = [name for name in known[0] if name in known[1]]
    if not common:
        raise InputError(
            f"{names[0]} and {names[1]} explain no image in common: their pixels differ, or others were selected. "
            "Explain the same data with both models."
        )
    maps = [dict(zip(titles(stored[1]), stored[1], strict=True)) for stored in (first, second)]
    shared = [title for title in maps[0] if title in maps[1]]
    if not shared:
        raise InputError(f"{names[0]} has {', '.join(maps[0])}, {names[1]} {', '.join(maps[1])}: no method in common.")
    ids = dict(zip(known[0], first[0].ids, strict=True))
    places = [[identities.index(image) for image in common] for identities in known]
    report, agreement = Report(f"{names[0]} and {names[1]}", 2), {title: dict[str, float]() for title in shared}
    sides = list(zip(names, (first, second), maps, places, strict=True))
    for number, (name, (samples, _, settings), of, rows) in enumerate(sides):
        kept = [_of(of[title], rows) for title in shared]
        report.add(str(number), samples[rows], kept, {**settings, "title": name, "panels": common})
    slots: dict[str, dict[str, float]] = {image: {} for image in common}
    for title in shared:
        for n, image in enumerate(common):
            rho = _agreement(*(_own(of[title], stored[0], rows[n]) for _, stored, of, rows in sides))
            agreement[title][ids[image]] = rho
            if np.isfinite(rho):
                slots[image][title] = rho
    report.compare(slots)
    write_page(report, file)
    return agreement


def _of(attribution: Attribution, samples: Sequence[int]) -> Attribution:
    """The maps of some samples, which are counted anew."""
    keep = np.flatnonzero(np.isin(attribution.rows, samples))
    kept = attribution[keep]
    return dataclasses.replace(kept, rows=np.array([list(samples).index(row) for row in kept.rows]))


def _identities(samples: Samples, other: Samples) -> tuple[str, ...]:
    """What tells the images of two rounds: their pixels, or their ids where two models receive them in other ranges."""
    alike = set(samples.fingerprints) & set(other.fingerprints)
    same_ids = set(samples.ids) == set(other.ids) and samples.images.shape == other.images.shape
    return samples.ids if not alike and same_ids else samples.fingerprints


def _own(attribution: Attribution, samples: Samples, i: int) -> np.ndarray:
    """The map of an image that explains its first target."""
    rows = np.flatnonzero((attribution.rows == i) & (attribution.targets == samples.targets[i, 0]))
    return attribution.values[rows[:1]]


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    return float(spearman(first, second)[0]) if len(first) and len(second) else np.nan
