"""One round of explanation -> what its page shows of it: text, numbers and small pictures, ready for JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_explain.figures import panel, probability, window
from keras_explain.records import Attribution, Samples
from keras_explain.report.encoding import encoded_labels, encoded_map, encoded_picture
from keras_explain.verdicts import GUESSING, advice, verdicts
from keras_explain.words import about, titles

_PERCENTILE = 99.5
_APART = (
    "title",
    "numbers",
    "failures",
    "stopped",
    "trouble",
    "versions",
    "history",
    "methods",
    "panels",
    "fingerprints",
)


def pictures_of(samples: Samples) -> dict[str, dict[str, Any]]:
    """The images by their fingerprints: grey or colour as the model sees them, and the regions of the findings.

    Args:
        samples: pictures (n, h, w, c) or volumes (n, d, h, w, c). Of others there is no picture here.
    """
    if samples.images.ndim not in (4, 5):
        return {}
    found = {}
    for i, name in enumerate(samples.fingerprints):
        region = samples.roi[i] if len(samples.roi) else None
        shown = region is not None and region.any() and not region.all()
        planes, words = _planes(samples, i)
        found[name] = {
            "planes": [encoded_picture(plane) for plane in planes],
            "shape": samples.images.shape[1:-1] if samples.images.ndim == 5 else (1, *samples.images.shape[1:-1]),
            "channels": [samples.channel_name(k) for k in range(len(planes))] if len(planes) > 1 else [],
            "window": words,
            "roi": encoded_picture(255 * _deep(region).astype("uint8")) if shown and region is not None else None,
        }
    return found


def round_of(
    name: str,
    samples: Samples,
    attributions: Sequence[Attribution],
    settings: Mapping[str, Any],
    room: int,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """What is shown of a round.

    Args:
        name: of the round where it has no title.
        samples, attributions, settings: as `kx.load_round` gives them.
        room: bytes that each map may take, see `encoding.encoded_map`.
        names: titles of the attributions, where they are given.
    """
    rows = [_row(samples, i, attributions, settings, room) for i in range(len(samples))]
    chance = 1 / len(samples.class_names) if len(samples.class_names) > 1 else None
    return {
        "title": settings.get("title") or name,
        "epoch": settings.get("epoch"),
        "accuracy": _number(samples.accuracy),
        "chance": chance,
        "guesses": chance is not None and samples.accuracy < GUESSING * chance,
        "rows": rows,
        "missing": [samples.class_name(target) for _, target in samples.missing],
        "methods": _methods(attributions, names or titles(attributions)),
        "failures": sorted(settings.get("failures", {}).items()),
        "stopped": list(settings.get("stopped", [])),
        "numbers": [[key, _number(value)] for key, value in sorted(settings.get("numbers", {}).items())],
        "settings": [[key, _words(value)] for key, value in settings.items() if key not in _APART],
        "versions": sorted(settings.get("versions", {}).items()),
        "history": _history(settings.get("history") or {"epochs": [], "curves": {}}),
    }


def _history(history: Mapping[str, Any]) -> dict[str, Any]:
    curves = {
        name: {method: [_number(value) for value in line] for method, line in lines.items()}
        for name, lines in history["curves"].items()
    }
    return {"epochs": list(history["epochs"]), "curves": curves}


def _methods(attributions: Sequence[Attribution], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "says": about(attribution.method).says,
            "failing": about(attribution.method).failing,
            "unit": attribution.unit,
            "settings": [[key, _words(value)] for key, value in attribution.settings.items()],
        }
        for title, attribution in zip(names, attributions, strict=True)
    ]


def _row(
    samples: Samples, i: int, attributions: Sequence[Attribution], settings: Mapping[str, Any], room: int
) -> dict[str, Any]:
    known = bool(np.isfinite(samples.confidence[i]))
    target = samples.class_name(int(samples.targets[i, 0]))
    slots = settings.get("panels") or [f"{i}-{target}" for i, target in enumerate(samples.ids)]
    facts = [["image", samples.ids[i]]]
    if not known:
        facts += [["explained", f"why {target}?"]]
    if known and samples.labels[i] >= 0:
        facts += [["true class", target], ["predicted", f"{target}, p {probability(samples.confidence[i])}"]]
    elif known:
        facts += [["probability", f"of {target} {probability(samples.confidence[i])}"]]
    return {
        "slot": slots[i],
        "image": samples.fingerprints[i],
        "target": target,
        "facts": facts,
        "maps": [
            _map(samples, i, m, attribution, int(r), room)
            for m, attribution in enumerate(attributions)
            for r in _own_first(samples, i, attribution)
        ],
        "figure": _figure(samples, i, attributions) if samples.images.ndim == 3 else None,
    }


def _own_first(samples: Samples, i: int, attribution: Attribution) -> Iterable[int]:
    """Rows that explain an image, that of its own class before the others, which keep their order."""
    rows = np.flatnonzero(attribution.rows == i)
    return sorted(rows, key=lambda r: attribution.targets[r] != samples.targets[i, 0])


def _map(samples: Samples, i: int, m: int, attribution: Attribution, r: int, room: int) -> dict[str, Any]:
    values = attribution.values[r].astype("float64")
    base, score = float(attribution.base_score[r]), float(attribution.score[r])
    found: dict[str, Any] = {
        "method": m,
        "target": samples.class_name(int(attribution.targets[r])),
        "own": bool(attribution.targets[r] == samples.targets[i, 0]),
        "score": _number(score),
        "base": _number(base),
        "delta": _number(score - base),
        "sum": _number(values.sum()),
        "error": _number(attribution.relative_completeness_error[r]),
        "verdicts": [[v.words, v.good, "" if v.good else advice(v)] for v in verdicts(attribution, r)],
        "measures": [
            [name, _number(column[r])] for name, column in sorted(attribution.measures.items()) if column.ndim == 1
        ],
    }
    if samples.images.ndim in (4, 5):
        planes = [values.sum(axis=-1)[None]] if _is_picture(samples) else _channels(values)
        largest = float(np.abs(values if len(planes) > 1 else planes[0]).max())
        limit = float(np.percentile(np.abs(np.stack(planes)), _PERCENTILE)) or largest or 1.0
        found |= {
            "limit": limit,
            "positive": bool((values >= 0).all()),
            "planes": [encoded_map(plane, room // len(planes), limit) for plane in planes],
        }
    if "segments" in attribution.details:
        found["superpixels"] = _superpixels(attribution, r)
    return found


def _superpixels(attribution: Attribution, r: int) -> dict[str, Any]:
    details = attribution.details
    segments = _deep(details["segments"][r])
    count = int(segments.max()) + 1
    return {
        "src": encoded_labels(segments),
        "shape": segments.shape,
        "weights": [_number(weight) for weight in details["weights"][r][:count]],
        "errors": [_number(error) for error in details["weight_error"][r][:count]],
        "r2": _number(details["r2"][r]),
        "effect": _number(details["effect"][r]),
    }


def _planes(samples: Samples, i: int) -> tuple[list[np.ndarray], str]:
    """Pictures (d, h, w) or (d, h, w, 3) of an image as 8 bits, and what they call black and white."""
    image = samples.images[i]
    if _is_picture(samples):
        low, high = window(samples, i)
        levels = _levels(image[..., :3], low, high)
        grey = image.shape[-1] == 1 or (levels == levels[..., :1]).all()
        return [levels[None, ..., 0] if grey else levels[None]], f"black {low:.3g}, white {high:.3g}"
    planes = [_levels(image[..., k], image[..., k].min(), image[..., k].max()) for k in range(image.shape[-1])]
    return [_deep(plane) for plane in planes], "each channel from its lowest to its highest value"


def _is_picture(samples: Samples) -> bool:
    """Grey or coloured, and not a number of channels with names of their own."""
    return samples.images.ndim == 4 and samples.images.shape[-1] in (1, 3, 4) and not samples.channel_names


def _channels(values: np.ndarray) -> list[np.ndarray]:
    return [_deep(values[..., k]) for k in range(values.shape[-1])]


def _deep(plane: np.ndarray) -> np.ndarray:
    return plane if plane.ndim == 3 else plane[None]


def _levels(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.asarray(np.rint(255 * np.clip((pixels - low) / max(high - low, 1e-12), 0, 1)), "uint8")


def _figure(samples: Samples, i: int, attributions: Sequence[Attribution]) -> str:
    """Signals are lines, which the page does not draw."""
    stream = io.BytesIO()
    panel(samples[[i]], [attribution.of(i) for attribution in attributions]).savefig(stream, format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _words(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> float | None:
    """What JSON can hold: None for NaN and infinity."""
    return float(value) if value is not None and np.isfinite(value) else None
