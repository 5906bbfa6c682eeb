"""One round: select, explain, measure, draw. The same in training and after it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from keras_explain import figures, metrics
from keras_explain.explainers import Explainer
from keras_explain.gradients import Scorer
from keras_explain.observer import untouched
from keras_explain.records import Attribution, Samples, save_round

_PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy", "lime", "shap", "mlflow")
_LONGEST_NAME = 80


@dataclass
class Round:
    """What one round found: samples, attributions, numbers by name, and what failed by method."""

    samples: Samples
    attributions: list[Attribution] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def explain_round(
    scorer: Scorer,
    samples: Samples,
    explainers: Sequence[tuple[str, Explainer]],
    on_failure: Callable[[str, Exception], None],
    advance: Callable[[str], None] = lambda name: None,
) -> Round:
    """Explain and measure selected samples by every method; one that fails does not stop the others.

    Args:
        scorer: of the live model.
        samples: what `select` gave; may be empty.
        explainers: (name, explainer) pairs.
        on_failure: called with the method's name and its exception; may raise.
        advance: called with each method's name before its turn.
    """
    result = Round(samples, numbers=_selection_numbers(samples))
    for name, explainer in explainers if len(samples) else ():
        advance(name)
        start = time.perf_counter()
        try:
            with untouched(scorer.model):
                attribution = explainer.explain(scorer, samples)
            measured = metrics.evaluate(scorer, samples, attribution)
        except Exception as error:  # whatever a method raises, the rest of the round is done
            result.failures[name] = f"{type(error).__name__}: {error}"
            on_failure(name, error)
            continue
        finally:
            result.seconds[name] = time.perf_counter() - start
        result.attributions.append(attribution)
        result.numbers |= {f"val_explain_{plain_name(name)}_{metric}": value for metric, value in measured.items()}
    return result


def write_round(folder: Path, found: Round, title: str, settings: Mapping[str, Any]) -> None:
    """Write one panel a sample, all arrays and the settings into a folder.

    Args:
        folder: created if needed.
        found: the round.
        title: of every panel, such as the epoch.
        settings: anything that JSON can hold, stored beside the round's own numbers.
    """
    about = {
        **settings,
        "title": title,
        "numbers": found.numbers,
        "failures": found.failures,
        "seconds": found.seconds,
        "versions": versions(),
        "fingerprints": found.samples.fingerprints,
        "panels": panel_names(found.samples),
    }
    save_round(folder, found.samples, found.attributions, about)
    draw_round(folder, found.samples, found.attributions, title, per_class=settings.get("images_per_class", 1))


def draw_round(
    folder: Path,
    samples: Samples,
    attributions: Sequence[Attribution],
    title: str,
    per_class: int = 1,
    percentile: float = 99.5,
) -> list[Path]:
    """Draw one panel a sample, and a notice in the place of each that is missing.

    Args:
        folder: of the PNG files.
        samples, attributions: as in `keras_explain.figures.panel`.
        title: of every picture.
        per_class: how many samples of each class were asked for.
        percentile: of the absolute map, at which colours are cut.

    Returns:
        The files that were written.
    """
    if samples.images.ndim != 4 or samples.images.shape[-1] not in (1, 3, 4):
        return []
    drawn = {
        name: figures.panel(samples[[i]], [a.of(i) for a in attributions], title=title, percentile=percentile)
        for i, name in enumerate(panel_names(samples))
    }
    classes = dict.fromkeys(
        [*zip(samples.labels.tolist(), samples.targets[:, 0].tolist(), strict=True), *samples.missing]
    )
    for label, target in classes:
        for rank in range(per_class):
            name, words = _panel_name(samples, label, target, rank), samples.class_name(target)
            if name not in drawn:
                words = f"{words}: no {'further ' if rank else ''}image of this class\nis predicted correctly."
                drawn[name] = figures.notice(title, words)
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in drawn]


def panel_names(samples: Samples) -> list[str]:
    """A stable, harmless file name for the panel of each sample: data-set class, name of the target, rank."""
    pairs = list(zip(samples.labels.tolist(), samples.targets[:, 0].tolist(), strict=True))
    return [_panel_name(samples, *pair, rank=pairs[:i].count(pair)) for i, pair in enumerate(pairs)]


def _panel_name(samples: Samples, label: int, target: int, rank: int) -> str:
    return f"{label}-{plain_name(samples.class_name(target))}" + (f"-{rank + 1}" if rank else "")


def plain_name(text: str) -> str:
    """Text with nothing but letters, digits, `_`, `-` and single spaces, at most 80 long."""
    kept = re.sub(r"[^A-Za-z0-9_\- ]+", "_", text)
    return re.sub(r" +", " ", kept).strip()[:_LONGEST_NAME].strip() or "_"


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that it stands on."""
    found = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for name in ("keras-explain-callbacks", *_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _selection_numbers(samples: Samples) -> dict[str, float]:
    numbers = {"val_explain_classes_without_image": float(len(samples.missing))}
    for name, confidence in zip(panel_names(samples), samples.confidence, strict=True):
        numbers[f"val_explain_confidence_{name}"] = float(confidence)
    return numbers
