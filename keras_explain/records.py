"""Samples and Attribution: frozen, shape-checked; what passes between the rooms of the package, and to disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_explain.errors import InputError, MissingExtra

if TYPE_CHECKING:
    import shap

_NO_VALUES = np.zeros((0,), "float32")
_NUMBER, _MAYBE = (int, float), (int, float, type(None))
# What is made of the settings of a round, of those that are shown; others may be anything.
_SETTINGS: dict[str, Any] = {
    "title": str,
    "epoch": int,
    "images_per_class": int,
    "numbers": {"each": _MAYBE},
    "failures": {"each": str},
    "trouble": {"each": str},
    "stopped": [str],
    "seconds": {"each": _NUMBER},
    "evaluations": {"each": _NUMBER},
    "versions": {"each": str},
    "panels": [str],
    "fingerprints": [str],
}


def _frozen(array: Any, dtype: str) -> np.ndarray:
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def _readable(name: Any) -> str:
    """A name that can be written: a file's may have bytes that are no text."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _sides(images: np.ndarray) -> str:
    return " x ".join(map(str, images.shape[1:]))


@dataclass(frozen=True, repr=False)
class Samples:
    """Images to explain, with what is asked about them.

    Args:
        images: (n, *image shape) float32, exactly as the model receives them.
        targets: (n, t) int, the classes explained for each image; (n,) is taken as t = 1.
        labels: (n,) int, classes of the data set; -1 where unknown.
        confidence: (n,) probability in [0, 1] of the first target; NaN where unknown.
        ids: n names, stable over training: the data set's own, or the position in the data.
        class_names: names of the model's classes; empty where unknown.
        channel_names: of the last axis of the images; empty where unknown.
        background: (m, *image shape) images for methods that take an expectation, or m = 0.
        value_range: lowest and highest pixel of all the images that were looked at.
        roi: (n, *image shape without channels) bool, where the finding of each image is, no pixel where it has none; or
            n = 0 where nothing is known.
        missing: pairs (data-set class, model class) for which no correctly predicted image was found.
        accuracy: share of the candidates with a class that were predicted correctly; NaN where unknown or where classes
            are independent.

    Raises:
        InputError: lengths or shapes that do not fit, NaN or infinity in the images.

    Examples:
        >>> import numpy as np, keras_explain as kx
        >>> samples = kx.Samples(np.zeros((2, 8, 8, 1)), targets=[0, 3])
        >>> samples.targets.tolist(), samples.ids
        ([[0], [3]], ('0', '1'))
    """

    images: np.ndarray
    targets: np.ndarray
    labels: np.ndarray = field(default_factory=lambda: _NO_VALUES)
    confidence: np.ndarray = field(default_factory=lambda: _NO_VALUES)
    ids: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    channel_names: tuple[str, ...] = ()
    background: np.ndarray = field(default_factory=lambda: _NO_VALUES)
    value_range: tuple[float, float] = (np.nan, np.nan)
    roi: np.ndarray = field(default_factory=lambda: _NO_VALUES)
    missing: tuple[tuple[int, int], ...] = ()
    accuracy: float = np.nan

    def __post_init__(self) -> None:
        images = _frozen(self.images, "float32")
        n = len(images)
        targets = np.asarray(self.targets, "int64")
        columns: dict[str, Any] = {
            "images": images,
            "targets": _frozen(targets[:, None] if targets.ndim == 1 else targets, "int64"),
            "labels": _frozen(self.labels if len(self.labels) else np.full(n, -1), "int64"),
            "confidence": _frozen(self.confidence if len(self.confidence) else np.full(n, np.nan), "float64"),
            "ids": tuple(map(_readable, self.ids)) or tuple(map(str, range(n))),
        }
        for name, column in columns.items():
            object.__setattr__(self, name, column)
            if len(column) != n:
                raise InputError(f"{name} has {len(column)} entries for {n} images.")
        object.__setattr__(self, "class_names", tuple(map(_readable, self.class_names)))
        shape = images.shape[1:]
        object.__setattr__(self, "channel_names", tuple(map(str, self.channel_names)))
        if len(self.channel_names) not in (0, shape[-1]):
            raise InputError(f"channel_names has {len(self.channel_names)} entries for {shape[-1]} channels.")
        background = self.background if len(self.background) else np.zeros((0, *shape))
        object.__setattr__(self, "background", _frozen(background, "float32"))
        if self.background.shape[1:] != shape:
            raise InputError(f"background has images of shape {self.background.shape[1:]}, the samples {shape}.")
        object.__setattr__(self, "roi", _frozen(self.roi if len(self.roi) else np.zeros((0, *shape[:-1])), "bool"))
        if len(self.roi) and self.roi.shape != images.shape[:-1]:
            raise InputError(f"roi has shape {self.roi.shape}; the samples need {images.shape[:-1]}.")
        if np.isnan(self.value_range[0]) and n:
            object.__setattr__(self, "value_range", (float(images.min()), float(images.max())))
        if not np.isfinite(images).all():
            bad = [self.ids[i] for i in range(n) if not np.isfinite(images[i]).all()]
            raise InputError(f"images must be finite; NaN or infinity in {', '.join(bad[:5])}.")

    def __repr__(self) -> str:
        asked = f"{self.targets.size} targets, background of {len(self.background)}"
        return f"Samples: {len(self)} images of {_sides(self.images)}, {asked}"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Samples:
        """The samples at some positions, everything else alike."""
        rows = np.atleast_1d(np.arange(len(self))[index])
        return dataclasses.replace(
            self,
            images=self.images[rows],
            targets=self.targets[rows],
            labels=self.labels[rows],
            confidence=self.confidence[rows],
            roi=self.roi[rows] if len(self.roi) else self.roi,
            ids=tuple(self.ids[row] for row in rows),
        )

    def asking(self, targets: Any) -> Samples:
        """The same images with other targets (n, t)."""
        return dataclasses.replace(self, targets=targets)

    @property
    def rows(self) -> np.ndarray:
        """(n t,) the sample that each pair of an image and a target belongs to, images slow and targets fast."""
        return np.repeat(np.arange(len(self)), self.targets.shape[1])

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Eight hex digits of each image's content: its identity over passes of a pipeline that shuffles."""
        return tuple(hashlib.blake2b(image.tobytes(), digest_size=4).hexdigest() for image in self.images)

    def class_name(self, target: int) -> str:
        """Name of a model class, `class k` where none was given."""
        return self.class_names[target] if 0 <= target < len(self.class_names) else f"class {target}"

    def channel_name(self, k: int) -> str:
        """Name of a channel, counted from 1 where none was given."""
        return self.channel_names[k] if self.channel_names else f"channel {k + 1}"


@dataclass(frozen=True, repr=False)
class Attribution:
    """What one method says: one row for each pair of an image and a target.

    Args:
        method: short name of the method, as in `kx.explain`.
        values: (r, *image shape) float32, signed, in units of the explained score unless the method says otherwise.
        targets: (r,) int, the explained class of each row.
        rows: (r,) int, the sample that each row explains; with one target per image 0, 1, ..., n - 1.
        score: (r,) f(x)[target], the logit.
        base_score: (r,) f at the baseline or its mean over the background; NaN where the method has none.
        unit: of the values, as written under the colour bar.
        settings: the options that reproduce it, ready for JSON.
        standard_error: (r, *image shape) of a sampled estimate; empty where the method does not sample.
        details: further arrays by name, one entry a row along the first axis (LIME: segments, weights, weight_error,
            r2, effect).
        measures: quality of each row by name, as `keras_explain.metrics.measure` gives it, one entry a row.

    Raises:
        InputError: lengths that do not fit, or values that are not finite.

    Examples:
        >>> import numpy as np, keras_explain as kx
        >>> kx.Attribution("mine", np.ones((1, 2, 2, 1)), [0], [0], score=[5.0], base_score=[0.5]).completeness_error
        array([0.5])
    """

    method: str
    values: np.ndarray
    targets: np.ndarray
    rows: np.ndarray
    score: np.ndarray
    base_score: np.ndarray = field(default_factory=lambda: _NO_VALUES)
    unit: str = "logit"
    settings: Mapping[str, Any] = field(default_factory=dict)
    standard_error: np.ndarray = field(default_factory=lambda: _NO_VALUES)
    details: Mapping[str, np.ndarray] = field(default_factory=dict)
    measures: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        r = len(self.values)
        base = self.base_score if len(self.base_score) else np.full(r, np.nan)
        columns = {
            "values": _frozen(self.values, "float32"),
            "targets": _frozen(self.targets, "int64"),
            "rows": _frozen(self.rows, "int64"),
            "score": _frozen(self.score, "float64"),
            "base_score": _frozen(base, "float64"),
        }
        for name, column in columns.items():
            object.__setattr__(self, name, column)
            if len(column) != r:
                raise InputError(f"{name} has {len(column)} entries for {r} maps.")
        object.__setattr__(self, "standard_error", _frozen(self.standard_error, "float32"))
        for group in ("details", "measures"):
            arrays = {name: np.asarray(array) for name, array in getattr(self, group).items()}
            object.__setattr__(self, group, arrays)
            for name, array in arrays.items():
                if array.shape[:1] != (r,):
                    raise InputError(f"{group}[{name!r}] has shape {array.shape} for {r} maps.")
        if len(self.standard_error) not in (0, r):
            raise InputError(f"standard_error has {len(self.standard_error)} entries for {r} maps.")
        if not np.isfinite(self.values).all():
            raise InputError(f"The {self.method} maps are not finite: the model's weights or gradients overflow.")

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Attribution of {self.method}: {len(self)} maps of {_sides(self.values)}, in {self.unit}"

    def of(self, sample: int) -> Attribution:
        """The rows that explain one sample."""
        keep = np.flatnonzero(self.rows == sample)
        return dataclasses.replace(self[keep], rows=np.zeros(len(keep)))

    def __getitem__(self, index: slice | np.ndarray) -> Attribution:
        """The maps at some positions, which explain the same samples as before."""
        keep = np.arange(len(self))[index]
        return dataclasses.replace(
            self,
            values=self.values[keep],
            targets=self.targets[keep],
            rows=self.rows[keep],
            score=self.score[keep],
            base_score=self.base_score[keep],
            standard_error=self.standard_error[keep] if len(self.standard_error) else _NO_VALUES,
            details={name: array[keep] for name, array in self.details.items()},
            measures={name: array[keep] for name, array in self.measures.items()},
        )

    @property
    def flat(self) -> np.ndarray:
        """(r, *image shape without channels) float64, the signed sum over channels."""
        return self.values.sum(axis=-1, dtype="float64")

    @property
    def completeness_error(self) -> np.ndarray:
        """(r,) |sum(values) - (score - base_score)|; NaN where the method promises no such sum."""
        sums = self.values.reshape(len(self), -1).sum(axis=1, dtype="float64")
        return np.abs(sums - (self.score - self.base_score))

    @property
    def relative_completeness_error(self) -> np.ndarray:
        """(r,) the completeness error as a share of |score - base_score|."""
        change = np.abs(self.score - self.base_score)
        return self.completeness_error / np.where(change > 0, change, np.nan)

    def to_shap(self, images: np.ndarray | None = None) -> shap.Explanation:
        """The same as a `shap.Explanation`, values (n, *image shape, t).

        Args:
            images: (n, *image shape), shown beside the values by shap's plots.

        Raises:
            MissingExtra: shap is not installed.
        """
        try:
            import shap
        except ImportError as error:
            raise MissingExtra("Attribution.to_shap() needs shap: pip install shap") from error
        n = int(self.rows.max()) + 1 if len(self) else 0
        values = np.moveaxis(self.values.reshape(n, -1, *self.values.shape[1:]), 1, -1)
        return shap.Explanation(values, base_values=self.base_score.reshape(n, -1), data=images)


def save_round(
    folder: str | Path,
    samples: Samples,
    attributions: Sequence[Attribution],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write samples, attributions and settings as `samples.npz`, `<method>.npz` and `settings.json`.

    Args:
        folder: created if needed.
        samples, attributions: what was explained and how.
        settings: anything that JSON can hold, such as a `title`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f.name: getattr(samples, f.name) for f in dataclasses.fields(samples)}
    _write_arrays(folder / "samples.npz", arrays)
    text = json.dumps({**(settings or {}), "methods": save_maps(folder, attributions)}, indent=1, default=_plain)
    (folder / "settings.json").write_text(text, encoding="utf-8")


def save_maps(folder: Path, attributions: Sequence[Attribution]) -> dict[str, Any]:
    """Write attributions as `<method>.npz`.

    Args:
        folder: that exists.
        attributions: of any samples.

    Returns:
        What `load_maps` needs beside the files: method, unit and settings of each by the file's name.
    """
    methods: dict[str, Any] = {}
    for attribution in attributions:
        name = _free_name(attribution.method, methods)
        about = {"method": attribution.method, "unit": attribution.unit, "settings": dict(attribution.settings)}
        methods[name] = about
        columns = ("values", "targets", "rows", "score", "base_score", "standard_error")
        arrays = {key: getattr(attribution, key) for key in columns}
        for group in ("details", "measures"):
            arrays |= {f"{group}.{key}": array for key, array in getattr(attribution, group).items()}
        _write_arrays(folder / f"{name}.npz", arrays)
    return methods


def load_round(folder: str | Path) -> tuple[Samples, list[Attribution], dict[str, Any]]:
    """Read back what `save_round` wrote: samples, attributions and settings.

    Args:
        folder: one round, for example `explanations/epoch_0004`.

    Raises:
        InputError: the folder holds no round, or one that is damaged. Nothing outside of the folder is read.
    """
    folder = Path(folder)
    if not (folder / "settings.json").is_file():
        raise InputError(f"{folder} holds no settings.json; give the folder of one round, such as epoch_0004.")
    try:
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        stored = _read_arrays(folder / "samples.npz")
        for name in ("ids", "class_names", "channel_names", "value_range"):
            stored[name] = tuple(stored.get(name, np.array([])).tolist())
        stored["missing"] = tuple(map(tuple, stored["missing"].tolist()))
        stored["accuracy"] = float(stored["accuracy"])
        samples, attributions = Samples(**stored), load_maps(folder, settings.pop("methods"))
        for name in settings.keys() & _SETTINGS.keys():
            if not _fits(settings[name], _SETTINGS[name]):
                raise InputError(f"{name} in settings.json is of another kind than `save_round` writes.")
        if "history" in settings and not _is_history(settings["history"]):
            raise InputError("history in settings.json is of another kind than `save_round` writes.")
        if len(settings.get("panels", samples.ids)) != len(samples):
            raise InputError("panels in settings.json does not name each image.")
        return samples, attributions, settings
    except Exception as error:  # a damaged file raises whatever its part of NumPy, zlib or json does
        raise InputError(f"{folder} holds no round that can be read. {type(error).__name__}: {error}") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a kind: some types, [kind of each] or {kind of each}."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(inner, kind[0]) for inner in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_fits(inner, kind["each"]) for inner in value.values())
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_history(value: Any) -> bool:
    """Whether every measure has, for every method, a number or None for each epoch."""
    if not isinstance(value, dict) or value.keys() != {"epochs", "curves"} or not _fits(value["epochs"], [int]):
        return False
    if not _fits(value["curves"], {"each": {"each": [_MAYBE]}}):
        return False
    return all(len(line) == len(value["epochs"]) for lines in value["curves"].values() for line in lines.values())


def load_maps(folder: Path, methods: Mapping[str, Any]) -> list[Attribution]:
    """Read back what `save_maps` wrote.

    Args:
        folder: of the files.
        methods: what `save_maps` gave.
    """
    attributions = []
    for name, method in methods.items():
        if name != _free_name(name, {}):
            raise InputError(f"{name!r} is no name of a method's file.")
        columns: dict[str, Any] = {"details": {}, "measures": {}}
        for key, array in _read_arrays(folder / f"{name}.npz").items():
            group, _, inner = key.partition(".")
            if inner:
                columns[group][inner] = array
            else:
                columns[key] = array
        attributions.append(Attribution(**method, **columns))
    return attributions


def _read_arrays(path: Path) -> dict[str, Any]:
    # NumPy leaves a file open that is no archive.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return dict(file)


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    plain: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(path, **plain)


def _free_name(wanted: str, taken: Mapping[str, Any]) -> str:
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in wanted)[:80] or "method"
    free = (f"{name}{suffix}" for suffix in ["", *(f"_{i}" for i in range(2, 999))])
    return next(option for option in free if option not in taken and option != "samples")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
