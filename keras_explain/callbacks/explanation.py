"""ExplanationCallback: every few epochs, show for each class why the model is so sure."""

from __future__ import annotations

import functools
import re
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_explain import metrics as quality
from keras_explain.engine import Round, check_why_not, counted, ended, explain_round, finite, measure_round, noted
from keras_explain.errors import ExplanationWarning, InputError, OutOfTime, Unsent, check_counts
from keras_explain.explainers import Explainer, named
from keras_explain.callbacks.budget import Budget
from keras_explain.callbacks.publishing import NotLogged, Publisher, close_abandoned
from keras_explain.callbacks.top_confidence import top_confidences
from keras_explain.gradients import Scorer, backend
from keras_explain.records import Samples
from keras_explain.confirmation import select_found
from keras_explain.regions import check_roi, regions_of
from keras_explain.selection import ClassMap, all_looked_at, check_class_map, preprocessing_of, select
from keras_explain.tracking import MlflowTracker, Tracker

_ACCURACIES = ("accuracy", "acc", "categorical_accuracy", "sparse_categorical_accuracy", "binary_accuracy")
_ACCURACY_SLACK = 0.2
_ALIKE = 24  # letters by which two warnings of a method are the same
_TRIES = 2  # rounds in a row in which TopConfidence is asked in vain


class ExplanationCallback(keras.callbacks.Callback):
    """Explains, every few epochs, the validation images that the model gets right with most confidence.

    A round selects the top images of each class in one pass over the validation data, explains them by every method,
    and hands figures, arrays and numbers to a tracker, which by default is MLflow: one picture a class with a step
    slider over epochs. Drawing and logging go on in the background while training continues. Training itself is not
    disturbed: a seeded loss history is the same to the bit with and without the callback.

    The numbers of a round (`val_explain_<method>_<metric>`) are put into `logs`, so callbacks that stand after this
    one in the list (`EarlyStopping`, `ModelCheckpoint`, `CSVLogger`, ...) can use them. Between rounds, and in a round
    that can not measure it, a number keeps its last value, since Keras would take an epoch without it for the best one;
    until it has been measured, as the localization of images without a finding, it is NaN. Put
    `SwapEMAWeights(swap_on_epoch=True)` and the like before this callback, so that the weights explained are those
    evaluated.

    Where several processes train together, each may have the callback: the first one explains, and only it has the
    numbers.

    Args:
        validation_data: what `model.fit(validation_data=...)` takes, see `keras_explain.select`.
        explainers: names of methods, or explainer objects.
        metrics: what is measured of each explanation, names or objects of `keras_explain.metrics`. Those that explain
            again (`when="last"`) are measured in the last round only. None is completeness, localization, border,
            agreement and drift, which evaluate no model, and at the end the randomization test of those methods that
            take few evaluations.
        class_names: names of the model's outputs, one each.
        channel_names: of the images, for volumes, signals and pictures with many channels.
        class_map: data-set class -> model output, see `keras_explain.ClassMap`; classes left out are not explained.
        images_per_class: how many images of each class.
        candidates: look at so many validation images; None looks at all.
        background: images drawn from the candidates for the expectation of GradientShap.
        frequency: explain epochs 0, frequency, 2 frequency, ... (as counted by Keras) and always the last one.
        max_overhead: share of the training time that rounds may take, such as 0.05, compiling and drawing included.
            The first round may take a quarter of it, and what does not end in that time is left out; later rounds are
            skipped where they would not leave room for the last one; of that the methods are done, in their order,
            that fit. None: no limit. What is left out or skipped is said, and warned of in the last round.
        tracker: where rounds go; None is `MlflowTracker()`.
        value_range: (lowest, highest) pixel that the model was trained on; images outside are refused.
        output: name of the explained output, where the model has several.
        precision: `"mixed_bfloat16"` computes the passes of the explanations in 16 bits, see `keras_explain.Scorer`.
        roi: where the findings are, for the localization and the outline in the figures, see `keras_explain.select`.
        why_not: methods, of those in `explainers`, that explain every other class of the images too, for the report.
        time_limit: seconds after which a method that has not come to its end in a round is given up, for all further
            rounds too; None waits for ever. What neither evaluates the model nor runs on the main thread of Unix cannot
            be stopped.
        seed: of the background, of GradientShap, SmoothGrad and LIME.
        on_error: `"warn"` turns whatever goes wrong into an `ExplanationWarning` and training goes on; `"raise"` lets
            it end the training.

    After a round, `latest` holds what it found, a `keras_explain.engine.Round`.

    Raises:
        InputError: at once for arguments that cannot work; in training as `on_error` says.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> from keras_explain.callbacks import ExplanationCallback
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> model.compile("sgd", "sparse_categorical_crossentropy")
        >>> x, y = np.random.default_rng(0).random((8, 4, 4, 1)), np.arange(8) % 2
        >>> callback = ExplanationCallback((x, y), ["vanilla"], tracker=kx.DirectoryTracker("run"))
        >>> history = model.fit(x, y, epochs=1, verbose=0, callbacks=[callback])
    """

    def __init__(
        self,
        validation_data: Any,
        explainers: Sequence[str | Explainer] = (
            "vanilla",
            "guided",
            "rectified",
            "integrated_gradients",
            "lime",
            "gradient_shap",
        ),
        metrics: Sequence[str | quality.Metric] | None = None,
        class_names: Sequence[str] = (),
        channel_names: Sequence[str] = (),
        class_map: Any = None,
        images_per_class: int = 1,
        candidates: int | None = 5000,
        background: int = 50,
        frequency: int = 5,
        max_overhead: float | None = None,
        tracker: Tracker | None = None,
        value_range: tuple[float, float] | None = None,
        output: str | None = None,
        precision: str | None = None,
        roi: Any = None,
        why_not: Sequence[str] = (),
        time_limit: float | None = 3600.0,
        seed: int = 0,
        on_error: str = "warn",
    ):
        super().__init__()
        if validation_data is None:
            raise InputError("validation_data must be given: Keras does not tell callbacks what fit validates on.")
        check_counts(1, frequency=frequency, images_per_class=images_per_class, candidates=candidates)
        check_counts(0, background=background)
        number = isinstance(max_overhead, (int, float)) and not isinstance(max_overhead, bool)
        if max_overhead is not None and not (number and 0 < max_overhead <= 1):
            raise InputError(f"max_overhead must be a share above 0 and at most 1, such as 0.05; got {max_overhead!r}.")
        if on_error not in ("warn", "raise"):
            raise InputError(f"on_error must be 'warn' or 'raise'; got {on_error!r}.")
        if isinstance(explainers, str) or not len(explainers):
            raise InputError(f"explainers must be a list of names or objects, at least one; got {explainers!r}.")
        if isinstance(metrics, str):
            raise InputError(f"metrics must be a list of names or objects; got {metrics!r}.")
        if tracker is not None and not isinstance(tracker, Tracker):
            raise InputError(f"tracker must have start, log_round and finish; got {type(tracker).__name__}.")
        self.validation_data = validation_data
        self.explainers = named(explainers, seed)
        self.why_not = check_why_not(why_not, self.explainers)
        self.metrics = [quality.resolve(metric) for metric in (quality.default() if metrics is None else metrics)]
        self.tracker = MlflowTracker() if tracker is None else tracker
        self.frequency, self.max_overhead, self.on_error = frequency, max_overhead, on_error
        self.selecting: dict[str, Any] = {
            "class_map": class_map if class_map is None else ClassMap(class_map),
            "class_names": tuple(class_names),
            "channel_names": tuple(channel_names),
            "images_per_class": images_per_class,
            "candidates": candidates,
            "background": background,
            "value_range": value_range,
            "roi": roi,
            "seed": seed,
        }
        check_class_map(class_map, validation_data)
        roi = regions_of(validation_data) if roi is None else roi
        self.selecting["roi"] = roi
        check_roi(roi, validation_data)
        if roi is None and metrics is not None and any(isinstance(m, quality.Localization) for m in self.metrics):
            raise InputError("metrics asks for the localization; give in roi where the findings are.")
        if precision not in (None, "mixed_bfloat16"):
            raise InputError(f"precision must be None or 'mixed_bfloat16'; got {precision!r}.")
        if time_limit is not None and not time_limit > 0:
            raise InputError(f"time_limit must be seconds above 0, or None; got {time_limit!r}.")
        self.time_limit = time_limit
        self._how: dict[str, Any] = {"output": output, "precision": precision}
        self._scorer: Scorer | None = None
        self._publisher: Publisher | None = None
        self._begin_fit()

    def _begin_fit(self) -> None:
        self.latest: Round | None = None
        self._previous: Round | None = None
        self._complete = True
        self._explained = self._last = -1
        self._known: dict[str, float] = {}
        self._validated, self._unconfirmed = False, 0
        self._background_of = -1  # the number of images among which TopConfidence drew it
        self._tried_last = False
        self._budget = Budget(self.max_overhead)
        self._explains = True
        self._first: int | None = None  # epoch of this fit
        self._said: set[str] = set()
        self._untold: dict[str, str] = {}  # what went wrong before there was a tracker
        self._hanging: set[str] = set()  # methods, and metrics of one, that were given up

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start afresh; the callback can be used by several fits."""
        if self._publisher is not None:
            self._warn(f"an earlier {self._closing().abandon()}")
        close_abandoned()
        self._begin_fit()
        self._explains = backend().is_first_process(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """What was validated before no longer counts. A training that goes on makes up for the round it stopped in."""
        self._validated = False
        if self._first is None:
            self._first = epoch
            if epoch and (epoch - 1) % self.frequency == 0:
                self._make_up(epoch - 1, is_last=False)
                self._budget.epoch_begins()

    def _make_up(self, epoch: int, is_last: bool) -> None:
        """Explain the epoch before those of this fit, if its round is missing: the weights are still those."""
        missing: list[bool] = []
        if self._explains:
            self._guarded("the round", lambda: missing.append(self._is_missing(epoch, is_last)), epoch)
        if any(missing):
            self._round(epoch, {}, is_last)

    def _is_missing(self, epoch: int, is_last: bool) -> bool:
        """Whether the tracker lacks a round; where no epoch is left to be done, of a training that it knows."""
        publisher = self._open()
        return not publisher.has(epoch) and (not is_last or publisher.goes_on())

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """A round is stored before what comes after it is saved, also by callbacks that stand before this one."""
        self._settle()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keras has validated."""
        self._validated = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Explain the epoch if it is due, and put the newest numbers into `logs`."""
        logs = {} if logs is None else logs
        if not self._explains:
            return
        self._budget.epoch_ends()
        self._last = epoch
        self._settle()  # see on_test_begin; fit may not validate
        if self._publisher is not None:
            self._publisher.last = epoch
        is_last = epoch + 1 == self.params.get("epochs") or getattr(self.model, "stop_training", False)
        if is_last or epoch % self.frequency == 0:
            self._round(epoch, logs, is_last)
        logs.update(self._known)
        self._budget.epoch_begins()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Explain the last epoch if fit ended early, wait for what is still being logged, and close the tracker."""
        epochs = self.params.get("epochs", 0)
        if self._first is None and epochs:  # all epochs were done before, by a training that died in its last round
            self._first = epochs
            self._make_up(epochs - 1, is_last=True)
        elif self._last >= 0 and self._explained != self._last and not self._tried_last:
            self._round(self._last, {}, is_last=True)
        elif self._explained == self._last and not self._complete:
            self._guarded("measuring", self._measure_last)
        try:
            self._settle()
        finally:
            if self._publisher is not None:
                self._guarded("closing the tracker", self._closing().close)
        if self._budget.rounds:
            self._say(self._budget.account())

    def _open(self) -> Publisher:
        """The publisher of this fit."""
        if self._publisher is None:
            first, epochs = self._first or 0, self.params.get("epochs", 1)
            title, rounds = f"Explanations of {self.model.name}", -(-epochs // self.frequency) + 1
            self._publisher = Publisher(self, self.tracker, self._settings(), title, rounds, first)
            self._publisher.last = self._last
            self._tell()
        return self._publisher

    def _closing(self) -> Publisher:
        """The publisher, to be closed."""
        publisher, self._publisher = self._open(), None
        publisher.last = self._last
        return publisher

    def _round(self, epoch: int, logs: dict[str, Any], is_last: bool) -> None:
        """Explain an epoch as far as `max_overhead` allows."""
        self._settle()
        self._tried_last, begun, budget = is_last, time.perf_counter(), self._budget
        epochs = self.params.get("epochs", epoch + 1)
        ahead = 0 if is_last else epochs - epoch - 1
        allowed = budget.allowed(ahead)
        going = [name for name, _ in self.explainers if name not in self._hanging]
        methods = budget.affordable(going, allowed, ahead)
        if not going:  # that was said when the last of them was given up
            return
        if not methods:
            say = self._warn if is_last else self._say
            say(f"epoch {epoch + 1} is not explained: a round of {budget.price:.1f} s would exceed max_overhead.")
            return
        self._guarded("the round", lambda: self._explain(epoch, logs, is_last, methods, begun + allowed), epoch)
        self._explained = epoch
        budget.spent += time.perf_counter() - begun
        budget.rounds += 1
        if budget.rounds == 1 and budget.prices:
            due = [later for later in range(epoch + 1, epochs) if later % self.frequency == 0 or later == epochs - 1]
            source = "TopConfidence" if self._background_of >= 0 else "a pass over validation_data"
            self._say(f"{budget.forecast(1 + len(due), ahead)} The images come from {source}.")

    def _explain(
        self, epoch: int, logs: dict[str, Any], is_last: bool, methods: Sequence[str], until: float
    ) -> None:
        self._complete = True  # unless this round finds something to which metrics are still due
        if self._scorer is None or self._scorer.model is not self.model:
            self._scorer = Scorer(self.model, **self._how)
        scorer, publisher = self._scorer, self._open()
        seconds: dict[str, float] = defaultdict(float)
        evaluations: Counter[str] = Counter()
        failed, note = functools.partial(self._failed, epoch), functools.partial(self._noted, epoch)
        with _progress(len(methods) + 1, bool(self.params.get("verbose", 0))) as bar:
            bar.set_description(f"epoch {epoch + 1}: selecting")
            with counted("selecting", scorer, seconds, evaluations), noted(self._noted(epoch, "selecting")):
                samples = self._selected(scorer)
            self._compare_accuracy(samples.accuracy, logs)
            if samples.missing:
                names = ", ".join(samples.class_name(target) for _, target in samples.missing)
                self._trouble("classes", epoch, f"no image is predicted correctly of {names}.", self._say)

            def advance(name: str) -> None:
                bar.update()
                bar.set_description(f"epoch {epoch + 1}: {name}")

            going = self._going_metrics()
            due = [metric for metric in going if is_last or metric.when == "round"]
            with ended(scorer, until):
                chosen = [(name, explainer) for name, explainer in self.explainers if name in methods]
                found = explain_round(
                    scorer, samples, chosen, due, self.latest, failed, advance, self.why_not, self.time_limit, note
                )
        for part, taken in seconds.items():
            found.seconds[part] += taken
        found.evaluations.update(evaluations)
        self._budget.learn(found, methods)
        left_out = [name for name, _ in self.explainers if name not in {*methods, *self._hanging}] + found.stopped
        if left_out:
            missed = is_last and any(name in left_out for name, _ in self.explainers)
            say = self._warn if missed else self._say
            say(f"left out of epoch {epoch + 1} to keep max_overhead={self.max_overhead}: {', '.join(left_out)}.")
        if found.stopped and not found.methods:
            return
        self._previous, self.latest, self._complete = self.latest, found, len(due) == len(going)
        self._known = {**found.numbers, **self._known, **finite(found.numbers)}
        publisher.hand_over(found, epoch, found.numbers)

    def _selected(self, scorer: Scorer) -> Samples:
        """The images of a TopConfidence if fit has validated just now and they are confirmed, else of an own pass."""
        metrics = top_confidences(scorer.model) if self._validated and self._unconfirmed < _TRIES else []
        reasons: list[Exception] = []
        for metric in metrics:
            try:
                found = metric.found()
                known = self.latest.samples.background if self.latest and self._background_of == found.seen else None
                samples = select_found(scorer, self.validation_data, found, known, **self.selecting)
            except Exception as error:  # whatever it is, the data can still be evaluated
                reasons.append(error)
            else:
                self._background_of, self._unconfirmed = found.seen, 0
                return samples
        if reasons:
            self._unconfirmed += 1
            if self._unconfirmed == 1:
                self._warn(f"TopConfidence is not used, the validation data are evaluated once more: {reasons[0]}")
        self._background_of = -1
        return select(scorer, self.validation_data, **self.selecting)

    def _going_metrics(self) -> list[quality.Metric]:
        """Those that were not given up."""
        given_up = tuple(what.split(" of ")[0] for what in self._hanging)
        return [metric for metric in self.metrics if type(metric).__name__ not in given_up]

    def _measure_last(self) -> None:
        """Another callback has ended the training after the round: measure what is due at the end, and log it again."""
        found, scorer = self.latest, self._scorer
        allowed = self._budget.allowed(ahead=0)
        if found is not None and scorer is not None and allowed > 0:
            self._settle()  # the round may still be being drawn
            due = [metric for metric in self._going_metrics() if metric.when == "last"]
            known = set(found.numbers)
            failed = functools.partial(self._failed, self._last)
            with ended(scorer, time.perf_counter() + allowed):
                measure_round(scorer, found, self.explainers, due, self._previous, failed, self.time_limit)
            new = {name: number for name, number in found.numbers.items() if name not in known}
            self._open().hand_over(found, self._last, new)

    def _settle(self) -> None:
        """Wait for the round that is being logged. What it took of a core counts as spent, or the wait if it is longer."""
        if self._publisher is not None:
            self._guarded("logging a round", self._wait)

    def _wait(self) -> None:
        taken = self._open().settle()
        if taken is not None:
            self._budget.drawn(*taken)

    def _guarded(self, what: str, action: Any, epoch: int | None = None) -> None:
        try:
            action()
        except Exception as error:  # an explanation must not end a training, unless it was asked to
            if self.on_error == "raise":
                self._give_up()
                raise
            if isinstance(error, Unsent):
                self._warn(str(error))
                return
            epoch = error.epoch if isinstance(error, NotLogged) else self._last if epoch is None else epoch
            shown = str(error) if isinstance(error, NotLogged) else f"{type(error).__name__}: {error}"
            words = f"{what} failed, training goes on. {shown}"
            if isinstance(error, NotLogged) and what in self._said:  # each names a folder
                self._warn(f"epoch {epoch + 1}: {words}")
            self._trouble(what, epoch, words, self._warn)

    def _give_up(self) -> None:
        """Close before fit ends by an error, since no other hook will be called."""
        if self._publisher is not None:
            self._closing().abandon()

    def _failed(self, epoch: int, name: str, error: Exception) -> None:
        if isinstance(error, OutOfTime):
            self._hanging.add(name)
        if self.on_error == "raise":
            raise error  # the round is guarded
        place = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" ({Path(place[0].filename).name}, line {place[0].lineno})" if place else ""
        words = f"{name} failed, the rest of the round is done. {type(error).__name__}: {error}{where}"
        self._trouble(name, epoch, words, self._warn)

    def _noted(self, epoch: int, name: str) -> Any:
        """What is done with a warning of a method: it is said, and kept, once."""
        return lambda words: self._trouble(name, epoch, f"{name}: {words}", self._warn, _kind(words))

    def _trouble(self, what: str, epoch: int, words: str, say: Any, kind: str = "") -> None:
        """Say what went wrong once for each kind of it, and keep it in the run and on the page."""
        key = f"{what} {kind}".strip()
        if key in self._said:
            return
        others = sum(known == what or known.startswith(f"{what} ") for known in self._said)
        self._said.add(key)
        words = f"epoch {epoch + 1}: {words}"
        self._untold[f"{what} {others + 1}" if others else what] = words
        self._tell()
        say(words)

    def _tell(self) -> None:
        """Hand on what went wrong, as soon as there is a tracker to keep it."""
        while self._publisher is not None and self._untold:
            what, words = next(iter(self._untold.items()))
            del self._untold[what]
            try:
                self._publisher.trouble(what, words)
            except Exception as error:
                self._warn(f"that could not be kept. {type(error).__name__}: {error}")

    def _compare_accuracy(self, accuracy: float, logs: dict[str, Any]) -> None:
        """Warn if the data given here are predicted much worse or better than those that fit validates on."""
        known = [logs[f"val_{name}"] for name in _ACCURACIES if f"val_{name}" in logs]
        seen = all_looked_at(self.validation_data, self.selecting["candidates"])
        if known and seen and abs(known[0] - accuracy) > _ACCURACY_SLACK:
            self._warn(
                f"the model gets {accuracy:.2f} of the images given to ExplanationCallback right, but {known[0]:.2f} of "
                "those that fit validates on. Are both scaled alike, and is class_map right?"
            )

    def _settings(self) -> dict[str, Any]:
        methods = {name: repr(explainer) for name, explainer in self.explainers}
        chosen = {**self.selecting, "class_map": ClassMap(self.selecting["class_map"]).as_text()}
        chosen["roi"] = "given" if self.selecting["roi"] is not None else None
        metrics = list(map(repr, self.metrics))
        rest = {**self._how, "why_not": list(self.why_not), "frequency": self.frequency, "max_overhead": self.max_overhead}
        prepared = preprocessing_of(self.validation_data)
        if prepared is not None:
            rest["preprocessing"] = prepared.as_settings()
        return {**chosen, "explainers": methods, "metrics": metrics, **rest}

    def _warn(self, words: str) -> None:
        warnings.warn(f"keras_explain: {words}", ExplanationWarning, stacklevel=2)

    def _say(self, words: str) -> None:
        if self.params.get("verbose", 0):
            print(f"\nkeras_explain: {words}")


def _kind(words: str) -> str:
    """By which two warnings are told apart: their beginning, without numbers."""
    return re.sub(r"[\d.]+", "", words)[:_ALIKE]


def _progress(total: int, wanted: bool) -> Any:
    """A line that shows on a terminal only, and is gone before Keras draws its own bar again."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no watching thread

    return Bar(total=total, leave=False, disable=None if wanted else True, unit="method")
