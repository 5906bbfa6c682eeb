"""Images that somebody else's pass over the data has chosen: read at their positions, and confirmed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_explain.batches import batches_at, length
from keras_explain.errors import InputError
from keras_explain.gradients import Scorer
from keras_explain.observer import untouched
from keras_explain.records import Samples
from keras_explain.selection import Choice, Search, check_images, check_order

# How far log-odds that are predicted again may lie from those found, as a share of them, and the rounding of p near 1.
_CONFIRMED, _ROUNDING = {True: 0.01, False: 0.1}, {True: 1.2e-7, False: 8e-3}
_CERTAIN = 5.0  # least log-odds where p is rounded to 1 in any precision


@dataclass(frozen=True)
class Found:
    """What a pass over the validation data has found, without the images.

    Args:
        best: for each data-set class (position, 1 - confidence) of its surest correct images, by falling confidence.
        k: how many were kept of each class at most.
        seen: images that were looked at.
        judged, right: those of a class that has an output, and how many of them were predicted correctly.
        independent: whether an image may be of several classes.
    """

    best: Mapping[int, Sequence[tuple[int, float]]]
    k: int
    seen: int
    judged: int
    right: int
    independent: bool = False


def select_found(
    scorer: Scorer, data: Any, found: Found, known_background: np.ndarray | None = None, **options: Any
) -> Samples:
    """What `select` gives, where the pass over the data was done already: the images are read and predicted again.

    Args:
        scorer: of the model.
        data: those of that pass, in the same order.
        found: what it found.
        known_background: that of an earlier call with as many images, which is not read again.
        options: those of `select`; the pass must have looked at `candidates` images, or at all. The samples' own
            `value_range` is that of the images that were read.

    Raises:
        InputError: as `select`; and where the pass cannot be confirmed: other classes, fewer images of each, images
            that are missing, of another class, or predicted with another confidence.
    """
    choice = Choice(scorer.model, data, **options)
    _check_pass(found, choice)
    search = choice.search()
    best = {label: dict(rows[: choice.images_per_class]) for label, rows in found.best.items()}
    drawn = search.drawn(found.seen) if known_background is None else []
    search.wanted = {(position, label) for label, rows in best.items() for position in rows}
    chosen = sorted({position for position, _ in search.wanted}) or [0]
    with untouched(scorer.model):
        if known_background is None:
            check_order(data)
        read = _read(choice, {*drawn, *chosen})
        images, labels = (np.array([read[position][part] for position in chosen]) for part in (0, 1))
        names = [read[position][2] for position in chosen]
        search.look(images, labels, names, *choice.predicted(scorer, images), chosen)
        _confirm(found, best, search, scorer)
    search.reservoir = [read[position][0] for position in drawn] if known_background is None else [*known_background]
    search.judged, search.right = found.judged, found.right
    for image in [*(image for image, *_ in read.values()), *search.reservoir]:
        search.low, search.high = min(search.low, image.min()), max(search.high, image.max())
    ids = {name for _, _, name in read.values()}
    if known_background is None and isinstance(choice.roi, Mapping) and not choice.roi.keys() & ids:
        raise InputError("roi has none of the ids of the images that were read.")
    return choice.completed(search)


def _check_pass(found: Found, choice: Choice) -> None:
    """Raise where a pass was not one over these data, or has not kept enough."""
    if found.k < choice.images_per_class:
        raise InputError(
            f"it keeps k={found.k} images of each class; images_per_class={choice.images_per_class} asks for more."
        )
    known = length(choice.data)
    if known is not None and found.seen > known:
        raise InputError(f"it has seen {found.seen} images, of which validation_data have only {known}.")
    asked = known if choice.candidates is None or known is None else min(known, choice.candidates)
    if asked is not None and found.seen < asked:
        raise InputError(f"it has seen {found.seen} images of {known}; candidates={found.seen} takes these for enough.")
    if found.right and not any(found.best.values()):
        raise InputError("its outputs are no probabilities: set its from_logits.")


def _read(choice: Choice, positions: set[int]) -> dict[int, tuple[np.ndarray, np.ndarray, str]]:
    """Image, label and id at each position."""
    read: dict[int, tuple[np.ndarray, np.ndarray, str]] = {}
    for here, (images, labels, ids) in batches_at(choice.data, positions):
        check_images(images, choice.model, choice.value_range)
        names = list(map(str, here)) if ids is None else ids
        read |= dict(zip(here, zip(images, labels, names, strict=True), strict=True))
    if positions - read.keys():
        raise InputError(f"there is no image at position {min(positions - read.keys())}.")
    return read


def _confirm(found: Found, best: Mapping[int, Mapping[int, float]], search: Search, scorer: Scorer) -> None:
    """Raise unless the images that were read are those that were found."""
    if search.best.keys() != best.keys():
        raise InputError(f"it looks for the classes {sorted(best)}, and class_map for {sorted(search.best)}.")
    if search.independent != found.independent:
        raise InputError(f"the outputs are {'' if search.independent else 'not '}independent: set its multi_label.")
    exact = all(layer.compute_dtype in ("float32", "float64", None) for layer in scorer.model._flatten_layers())
    if not search.wanted and any(search.best.values()):
        raise InputError("it has found no image that is predicted correctly, and the first one is.")
    for label, rows in best.items():
        again = {candidate.position: candidate for candidate in search.best[label]}
        for position, doubt in rows.items():
            what = f"the image at position {position}, which it has for class {label} with {1 - doubt:.4g}"
            if position not in again:
                raise InputError(
                    f"{what}, is of another class or predicted otherwise: are the data shuffled or augmented, or not "
                    "those that fit validates on, in the same order?"
                )
            odds, expected = again[position].odds, np.log1p(-doubt) - np.log(doubt) if 0 < doubt < 1 else np.inf
            slack = _CONFIRMED[exact] * max(1.0, abs(odds))
            if search.rounded and doubt > 0:
                slack += _ROUNDING[exact] / doubt
            if odds < _CERTAIN if doubt == 0 else abs(odds - expected) > slack:
                raise InputError(
                    f"{what}, is predicted with {again[position].confidence:.4g}: is its from_logits right, are the "
                    "data shuffled, or was something evaluated or trained since?"
                )
