"""Two rounds side by side: what two models, two runs or two epochs say of the same images."""

from __future__ import annotations

import dataclasses
from collections import Counter
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

    An image is the same if its pixels and the class that is explained are; where two models receive all images in
    other ranges, if its id and class are. A method that both have once is compared whatever its settings, and the page
    says that they differ; of a method that one has several times, those of the same settings are compared.

    Args:
        first, second: samples, attributions and settings, as `kx.load_round` gives them.
        file: the HTML file.
        names: of the two.

    Returns:
        Rank agreement of each method (by title) and image (by id); NaN where a map is constant.

    Raises:
        InputError: no image or no method in common.
        MissingExtra: jinja2 is not installed.

    Examples:
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
            f"{names[0]} and {names[1]} explain no image and class in common: their pixels differ, or others were "
            "selected. Explain the same data with both models."
        )
    pairs = _pairs(first[1], second[1])
    if not pairs:
        own = [", ".join(titles(stored[1])) or "none" for stored in (first, second)]
        raise InputError(f"{names[0]} has the methods {own[0]}, {names[1]} {own[1]}: none in common.")
    places = [[identities.index(image) for image in common] for identities in known]
    sides = [[_of(pair[side], places[side]) for pair in pairs] for side in (0, 1)]
    shown = titles(sides[0])
    report = Report(f"{names[0]} and {names[1]}", 2)
    samples = [stored[0][rows] for stored, rows in zip((first, second), places, strict=True)]
    for side, (name, stored) in enumerate(zip(names, (first, second), strict=True)):
        report.add(str(side), samples[side], sides[side], {**stored[2], "title": name, "panels": common}, shown)
    agreement, slots = _agreements(samples, sides, shown, common)
    report.compare(slots, _notes(shown, sides, names))
    write_page(report, file)
    return agreement


def _pairs(first: Sequence[Attribution], second: Sequence[Attribution]) -> list[tuple[Attribution, Attribution]]:
    """The maps that are held against each other."""
    counts = [Counter(attribution.method for attribution in side) for side in (first, second)]
    pairs: list[tuple[Attribution, Attribution]] = []
    for one in first:
        alone = counts[0][one.method] == counts[1][one.method] == 1
        for other in second:
            taken = any(other is known for _, known in pairs)
            if other.method == one.method and not taken and (alone or dict(other.settings) == dict(one.settings)):
                pairs.append((one, other))
                break
    return pairs


def _agreements(
    samples: Sequence[Samples], sides: Sequence[Sequence[Attribution]], shown: Sequence[str], common: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Rank correlations by title and id, and, where there are any, by place on the page and title."""
    own = samples[0].ids
    ids = [name if own.count(name) == 1 else f"{name} ({common[i]})" for i, name in enumerate(own)]
    agreement: dict[str, dict[str, float]] = {title: {} for title in shown}
    slots: dict[str, dict[str, float]] = {image: {} for image in common}
    for title, *pair in zip(shown, *sides, strict=True):
        for i, image in enumerate(common):
            first, second = (_own(attribution, of, i) for attribution, of in zip(pair, samples, strict=True))
            rho = float(spearman(first, second)[0]) if len(first) and len(second) else np.nan
            agreement[title][ids[i]] = rho
            if np.isfinite(rho):
                slots[image][title] = rho
    return agreement, slots


def _notes(shown: Sequence[str], sides: Sequence[Sequence[Attribution]], names: Sequence[str]) -> list[str]:
    """Which settings differ; counts of what was done do not matter."""
    notes = []
    for title, one, other in zip(shown, *sides, strict=True):
        keys = [key for key in one.settings if key in other.settings and one.settings[key] != other.settings[key]]
        differ = [f"{key.replace('_', ' ')} {one.settings[key]} and {other.settings[key]}" for key in keys]
        if differ:
            notes.append(f"{title} of {names[0]} and {names[1]} differ in their settings: {'; '.join(differ)}.")
    return notes


def _of(attribution: Attribution, samples: Sequence[int]) -> Attribution:
    """The maps of some samples, which are counted anew."""
    keep = np.flatnonzero(np.isin(attribution.rows, samples))
    kept = attribution[keep]
    return dataclasses.replace(kept, rows=np.array([list(samples).index(row) for row in kept.rows], "int64"))


def _identities(samples: Samples, other: Samples) -> tuple[str, ...]:
    """What tells the images of two rounds, and the class that is explained."""
    pixels, theirs = samples.fingerprints, other.fingerprints
    same_ids = set(samples.ids) == set(other.ids) and samples.images.shape == other.images.shape
    names = samples.ids if not set(pixels) & set(theirs) and same_ids else pixels
    return tuple(f"{name} {target}" for name, target in zip(names, samples.targets[:, 0], strict=True))


def _own(attribution: Attribution, samples: Samples, i: int) -> np.ndarray:
    """The map of an image that explains its first target."""
    rows = np.flatnonzero((attribution.rows == i) & (attribution.targets == samples.targets[i, 0]))
    return attribution.values[rows[:1]]
