"""One round: select, explain, measure, draw. The same in training and after it."""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import importlib.metadata
import math
import platform
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_explain import figures, metrics
from keras_explain.errors import ExplanationWarning, InputError, OutOfTime, without_secrets
from keras_explain.explainers import Explainer
from keras_explain.gradients import Scorer
from keras_explain.observer import untouched
from keras_explain.records import Attribution, Samples, save_round
from keras_explain.time_limit import interrupted_after
from keras_explain.verdicts import CHANCE

_PACKAGES = ("keras-explain-callbacks", "keras", "numpy", "lime", "shap", "mlflow")
_LONGEST_NAME = 80
_LONGEST_COMMAND = 2000


@dataclass(repr=False)
class Round:
    """What one round found: samples, attributions with their measures, numbers by name, what failed or was stopped.

    `attributions` explain the classes of the samples; those of `whole`, by method, every class. `model` says which
    weights were explained.
    """

    samples: Samples
    methods: list[str] = field(default_factory=list)
    attributions: list[Attribution] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    evaluations: Counter[str] = field(default_factory=Counter)
    whole: dict[str, Attribution] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        failed = f", failed: {', '.join(self.failures)}" if self.failures else ""
        return f"Round of {len(self.samples)} images explained by {', '.join(self.methods) or 'no method'}{failed}"


@contextmanager
def counted(what: str, scorer: Scorer, seconds: dict[str, float], evaluations: Counter[str]) -> Iterator[None]:
    """Add the seconds and evaluations of a block to those of `what`; seconds of compiling stand apart."""
    begun, evaluated, compiled = time.perf_counter(), scorer.evaluations, scorer.compiling
    try:
        yield
    finally:
        compiling = scorer.compiling - compiled
        seconds[what] += time.perf_counter() - begun - compiling
        seconds["compiling"] += compiling
        evaluations[what] += scorer.evaluations - evaluated


@contextmanager
def ended(scorer: Scorer, until: float) -> Iterator[None]:
    """The scorer evaluates nothing in the block after the time `until`."""
    before, scorer.until = scorer.until, min(scorer.until, until)
    try:
        yield
    finally:
        scorer.until = before


@contextmanager
def noted(say: Callable[[str], None]) -> Iterator[None]:
    """Hand the words of every `ExplanationWarning` of the block to `say`; other warnings go their usual way."""
    filters, listening = warnings.catch_warnings(), True
    said: list[str] = []
    filters.__enter__()
    warnings.simplefilter("always", ExplanationWarning)
    show = warnings.showwarning

    def shown(message: Any, category: Any, *place: Any, **more: Any) -> None:
        # It may outlive the block: a thread that has entered catch_warnings meanwhile puts it back.
        if listening and issubclass(category, ExplanationWarning):
            said.append(str(message))
        else:
            show(message, category, *place, **more)

    warnings.showwarning = shown
    try:
        yield
    finally:
        listening = False
        warnings.showwarning = show
        filters.__exit__(None, None, None)
        for words in said:  # outside, where a warning may be an error
            say(words)


@contextmanager
def limited(scorer: Scorer, seconds: float | None) -> Iterator[float]:
    """End what a method does in the block after so many seconds, at its next evaluation if not before."""
    seconds = math.inf if seconds is None else seconds
    until = time.perf_counter() + seconds
    with ended(scorer, until), interrupted_after(seconds):
        yield until


def explain_round(
    scorer: Scorer,
    samples: Samples,
    explainers: Sequence[tuple[str, Explainer]],
    quality: Sequence[metrics.Metric],
    before: Round | None,
    on_failure: Callable[[str, Exception], None],
    advance: Callable[[str], None] = lambda name: None,
    why_not: Collection[str] = (),
    time_limit: float | None = None,
    on_note: Callable[[str], Callable[[str], None]] | None = None,
) -> Round:
    """Explain selected samples by every method and measure the explanations; what fails does not stop the others.

    Args:
        scorer: of the live model.
        samples: what `select` gave; may be empty.
        explainers: (name, explainer) pairs.
        quality: metrics to measure.
        before: the previous round, for what has changed since.
        on_failure: called with the method's name and its exception; may raise.
        advance: called with each method's name before its turn.
        why_not: names of those that explain every other class of the images too.
        time_limit: seconds after which a method has failed; on_failure is then told an `OutOfTime`. None is none.
        on_note: gives, for what a warning is about, that which is done with its words; None warns as usual.
    """

    def noting(name: str) -> Any:
        return nullcontext() if on_note is None else noted(on_note(name))

    result = Round(samples, numbers=_selection_numbers(samples), model=identity(scorer.model))
    with noting("images"):
        _warn_of_images(samples)
    for name, explainer in explainers if len(samples) else ():
        advance(name)
        until = math.inf
        try:
            with (
                noting(name),
                counted(name, scorer, result.seconds, result.evaluations),
                untouched(scorer.model),
                limited(scorer, time_limit) as until,
            ):
                asked = samples.asking(_all_classes(scorer, samples)) if name in why_not else samples
                attribution = explainer.explain(scorer, asked)
            if name in why_not:
                result.whole[name] = attribution
                attribution = own_maps(samples, attribution)
            attribution = metrics.measure(scorer, samples, attribution, [])  # whether it is of these samples
            with noting(name):
                _warn_of_empty(samples, attribution)
        except OutOfTime:
            if time.perf_counter() < until:
                result.stopped.append(name)
                continue
            hangs = OutOfTime(
                f"It had not come to its end after time_limit={time_limit:g} s, and is left out from now on."
            )
            result.failures[name] = f"OutOfTime: {hangs}"
            on_failure(name, hangs)
        except Exception as error:  # whatever a method raises, the rest of the round is done
            result.failures[name] = f"{type(error).__name__}: {error}"
            on_failure(name, error)
        else:
            result.methods.append(name)
            result.attributions.append(attribution)
            continue
        gc.collect()  # Keras' frames hold the error, and it them, with the memory that training needs now
    measure_round(scorer, result, explainers, quality, before, on_failure, time_limit, on_note)
    return result


def _warn_of_images(samples: Samples) -> None:
    flat = [samples.ids[i] for i in range(len(samples)) if np.ptp(samples.images[i]) == 0]
    if flat:
        words = f"Image {', '.join(flat)} has the same value everywhere: nothing in it can be pointed at."
        warnings.warn(words, ExplanationWarning, stacklevel=2)


def _warn_of_empty(samples: Samples, attribution: Attribution) -> None:
    empty = [samples.ids[attribution.rows[r]] for r in range(len(attribution)) if not attribution.values[r].any()]
    if empty:
        words = f"Nothing in the map of image {', '.join(empty)} differs from 0: the network does not react to it."
        warnings.warn(words, ExplanationWarning, stacklevel=2)


def measure_round(
    scorer: Scorer,
    found: Round,
    explainers: Sequence[tuple[str, Explainer]],
    quality: Sequence[metrics.Metric],
    before: Round | None,
    on_failure: Callable[[str, Exception], None],
    time_limit: float | None = None,
    on_note: Callable[[str], Callable[[str], None]] | None = None,
) -> None:
    """Add measures to what a round has found, and their means to its numbers.

    Args:
        scorer, explainers, quality, before, on_failure, time_limit, on_note: as in `explain_round`.
        found: the round, which is added to.
    """
    known, ends = dict(explainers), [math.inf]

    @contextmanager
    def limit() -> Iterator[None]:
        with limited(scorer, time_limit) as ends[0]:
            yield

    for i, (name, attribution) in enumerate(zip(found.methods, found.attributions, strict=True)):

        def failed(metric: metrics.Metric, error: Exception, name: str = name) -> None:
            what = f"{type(metric).__name__} of {name}"
            if isinstance(error, OutOfTime) and time.perf_counter() < ends[0]:
                found.stopped.append(what)
                return
            found.failures[what] = f"{type(error).__name__}: {error}"
            on_failure(what, error)

        noting = nullcontext() if on_note is None else noted(on_note(name))
        with noting, counted(f"measuring {name}", scorer, found.seconds, found.evaluations):
            found.attributions[i] = metrics.measure(
                scorer,
                found.samples,
                attribution,
                quality,
                explainer=known[name],
                others=[other for k, other in enumerate(found.attributions) if k != i],
                before=_before(before, name),
                evaluations=found.evaluations[name] / max(1, len(found.whole.get(name, attribution))),
                failed=failed,
                limit=limit,
            )
        found.numbers |= {
            number_name(name, measure): mean for measure, mean in metrics.means(found.attributions[i]).items()
        }


def _all_classes(scorer: Scorer, samples: Samples) -> np.ndarray:
    """(n, classes) targets, that of each image first."""
    classes = np.arange(scorer.head(samples.images).classes)
    own = samples.targets[:, :1]
    others = [classes[classes != target] for target in own[:, 0]]
    return np.concatenate([own, np.stack(others)], axis=1)


def check_why_not(names: str | Collection[str], explainers: Sequence[tuple[str, Explainer]]) -> tuple[str, ...]:
    """The names, each of which must be that of an explainer.

    Raises:
        InputError: one is not.
    """
    names, known = (names,) if isinstance(names, str) else tuple(names), [name for name, _ in explainers]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"why_not names {unknown[0]!r}, which is none of the explainers: {', '.join(known)}.")
    return names


def own_maps(samples: Samples, attribution: Attribution) -> Attribution:
    """One map for each sample, that of its own class, from those of every class.

    Raises:
        InputError: it lacks one.
    """
    found = _own_rows(samples, attribution)
    if len(found) != len(samples):
        raise InputError(f"{attribution.method} gives {len(attribution)} maps, not one of every image's own class.")
    return attribution[found]


def with_others(samples: Samples, own: Attribution, whole: Attribution) -> Attribution:
    """The maps of every class, of which those of the images' own classes are measured.

    Args:
        samples: that are explained.
        own: what `own_maps` gave of `whole`, with measures.
        whole: all maps.
    """
    measures, rows = {}, _own_rows(samples, whole)
    for name, column in own.measures.items():
        measures[name] = np.full((len(whole), *column.shape[1:]), np.nan)
        measures[name][rows] = column
    return dataclasses.replace(whole, measures=measures)


def _own_rows(samples: Samples, attribution: Attribution) -> np.ndarray:
    """In the order of the samples, the first row of each that explains its first target."""
    rows, targets = attribution.rows, attribution.targets
    mine = [np.flatnonzero((rows == i) & (targets == samples.targets[i, 0]))[:1] for i in range(len(samples))]
    return np.concatenate([np.zeros(0, int), *mine])


def identity(model: keras.Model) -> dict[str, Any]:
    """Which model was explained: name, number of parameters, and a fingerprint of all weights.

    Args:
        model: the live model.
    """
    found = hashlib.blake2b(digest_size=8)
    for weight in model.weights:
        found.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight.value)).tobytes())
    return {"name": model.name, "parameters": model.count_params(), "weights": found.hexdigest()}


@functools.cache
def origin() -> dict[str, str]:
    """Where this process comes from: its command, without passwords in addresses, and the commit of its folder."""
    found = {"command": without_secrets(shlex.join(sys.orig_argv))[:_LONGEST_COMMAND]}
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return found
    return {**found, "commit": done.stdout.strip() + (" with changes" if changed.stdout.strip() else "")}


def _before(before: Round | None, name: str) -> tuple[Samples, Attribution] | None:
    if before is None or name not in before.methods:
        return None
    return before.samples, before.attributions[before.methods.index(name)]


def number_name(method: str, measure: str) -> str:
    """Chance levels belong to the images, and are the same for every method."""
    measure = plain_name(measure)
    return f"val_explain_{measure}" if measure in CHANCE.values() else f"val_explain_{plain_name(method)}_{measure}"


@dataclass
class History:
    """The means of every measure over the rounds of one training."""

    epochs: list[int] = field(default_factory=list)
    rounds: list[dict[str, dict[str, float]]] = field(default_factory=list)

    def add(self, epoch: int, found: Round) -> None:
        """Take a round into account, in the place of an earlier one of the same epoch."""
        means: dict[str, dict[str, float]] = {}
        for name, attribution in zip(found.methods, found.attributions, strict=True):
            for measure, mean in finite(metrics.means(attribution)).items():
                means.setdefault(measure, {})["" if measure in CHANCE.values() else name] = mean
        if self.epochs[-1:] == [epoch]:
            self.rounds[-1] = means
        else:
            self.epochs.append(epoch)
            self.rounds.append(means)

    def curves(self) -> dict[str, dict[str, list[float | None]]]:
        """For each measure, for each method, one number a round, None where there is none."""
        named = [(measure, method) for means in self.rounds for measure in means for method in means[measure]]
        curves: dict[str, dict[str, list[float | None]]] = {}
        for measure, method in dict.fromkeys(named):
            line = [means.get(measure, {}).get(method) for means in self.rounds]
            curves.setdefault(measure, {})[method] = line
        return curves


def write_round(
    folder: Path, found: Round, history: History, title: str, settings: Mapping[str, Any]
) -> tuple[Samples, list[Attribution], dict[str, Any]]:
    """Write one panel a sample, the curves over training, all arrays and the settings into a folder.

    Args:
        folder: created if needed.
        found: the round.
        history: of the training so far.
        title: of every panel, such as the epoch.
        settings: anything that JSON can hold, stored beside the round's own numbers.

    Returns:
        What `kx.load_round` would read of it.
    """
    about = {
        **settings,
        **origin(),
        "model": found.model,
        "title": title,
        "numbers": finite(found.numbers),
        "failures": found.failures,
        "stopped": found.stopped,
        "seconds": found.seconds,
        "evaluations": found.evaluations,
        "history": {"epochs": list(history.epochs), "curves": history.curves()},
        "versions": versions(),
        "fingerprints": found.samples.fingerprints,
        "panels": panel_names(found.samples),
    }
    pairs = zip(found.methods, found.attributions, strict=True)
    kept = [with_others(found.samples, own, found.whole[name]) if name in found.whole else own for name, own in pairs]
    save_round(folder, found.samples, kept, about)
    draw_round(folder, found.samples, kept, about)
    return found.samples, kept, about


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those that are neither NaN nor infinite: a tracker has no use for the others."""
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


def draw_round(
    folder: Path,
    samples: Samples,
    attributions: Sequence[Attribution],
    settings: Mapping[str, Any],
    percentile: float = 99.5,
) -> list[Path]:
    """Draw one panel a sample, a notice in the place of each that is missing, and the curves over training.

    Args:
        folder: of the PNG files.
        samples, attributions: as in `keras_explain.figures.panel`.
        settings: `title` of every picture, `images_per_class` that were asked for, and `history`, each if there is one.
        percentile: of the absolute map, at which colours are cut.

    Returns:
        The files that were written.
    """
    title, history = settings.get("title", ""), settings.get("history")
    attributions = [_own(samples, attribution) for attribution in attributions]
    drawn = {}
    if samples.images.ndim in (3, 4, 5):
        drawn = _panels(samples, attributions, title, settings.get("images_per_class", 1), percentile)
    if history is not None and history["epochs"]:
        drawn["over_training"] = figures.history(
            [epoch + 1 for epoch in history["epochs"]], history["curves"], title=f"{title}: explanations over training"
        )
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in drawn]


def _own(samples: Samples, attribution: Attribution) -> Attribution:
    """The maps of the classes that the samples ask about, without those of `why_not`."""
    asked = samples.targets[attribution.rows] if len(samples) else np.zeros((0, 1))
    return attribution[(asked == attribution.targets[:, None]).any(axis=1)]


def _panels(
    samples: Samples, attributions: Sequence[Attribution], title: str, per_class: int, percentile: float
) -> dict[str, Any]:
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
    return drawn


def panel_names(samples: Samples) -> list[str]:
    """A stable, harmless file name for the panel of each sample: data-set class, name of the target, rank."""
    pairs = list(zip(samples.labels.tolist(), samples.targets[:, 0].tolist(), strict=True))
    names: list[str] = []
    for i, pair in enumerate(pairs):
        name = _panel_name(samples, *pair, rank=pairs[:i].count(pair))
        names.append(name if name not in names else f"{name}_{i}")  # two class names may be alike but for their signs
    return names


def _panel_name(samples: Samples, label: int, target: int, rank: int) -> str:
    return f"{label}-{plain_name(samples.class_name(target))}" + (f"-{rank + 1}" if rank else "")


def plain_name(text: str) -> str:
    """Text with nothing but letters, digits, `_`, `-` and single spaces, at most 80 long."""
    kept = re.sub(r"[^A-Za-z0-9_\- ]+", "_", text)
    return re.sub(r" +", " ", kept).strip()[:_LONGEST_NAME].strip() or "_"


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that it stands on."""
    backend = keras.backend.backend()
    found = {"python": platform.python_version(), "backend": backend, backend: sys.modules[backend].__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _selection_numbers(samples: Samples) -> dict[str, float]:
    numbers = {"val_explain_classes_without_image": float(len(samples.missing))}
    for name, confidence in zip(panel_names(samples), samples.confidence, strict=True):
        numbers[f"val_explain_confidence_{name}"] = float(confidence)
    for label, target in samples.missing:
        numbers[f"val_explain_confidence_{_panel_name(samples, label, target, 0)}"] = math.nan
    return numbers
