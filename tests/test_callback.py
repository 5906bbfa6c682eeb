"""ExplanationCallback in a real fit."""

import csv
import fcntl
import json
import os
import pty
import random as python_random
import struct
import subprocess
import sys
import termios
import threading
import time
import warnings
from collections import Counter, defaultdict

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.callbacks.budget import Budget
from keras_explain.engine import Round, counted
from tests.conftest import traced_only

X = np.random.default_rng(0).random((48, 8, 8, 1), "float32")
Y = (X[:, :4].mean(axis=(1, 2, 3)) > X[:, 4:].mean(axis=(1, 2, 3))).astype(int)
HALVES = kx.Lime(30, lambda image: np.arange(64).reshape(8, 8) // 8)
METHODS = ["vanilla", "guided", kx.IntegratedGradients(8), kx.GradientShap(samples=8), HALVES]


def build(seed=1, optimizer="adam"):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomFlip("horizontal"),
            layers.GaussianNoise(0.05),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def callback(folder, methods=("vanilla",), **options):
    options = {"tracker": kx.DirectoryTracker(folder), "on_error": "raise", "frequency": 1, **options}
    return ExplanationCallback((X, Y), methods, **options)


def fit(model, callbacks=(), epochs=3, **options):
    options = {"batch_size": 16, "verbose": 0, "validation_data": (X, Y), **options}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options)


def rounds(folder):
    return sorted(path.name for path in (folder / "explanations").glob("epoch_*"))


def augmented():
    """A pipeline that draws from NumPy's global generator, as many do."""

    def batches():
        order = np.random.permutation(len(X))
        for start in range(0, len(X), 16):
            part = order[start : start + 16]
            yield X[part] + np.random.normal(0, 0.05, (len(part), 8, 8, 1)).astype("float32"), Y[part]

    signature = (tf.TensorSpec([None, 8, 8, 1]), tf.TensorSpec([None], tf.int64))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(3))


@pytest.mark.parametrize("pipeline", ["arrays", "augmented"])
def test_a_seeded_training_is_the_same_to_the_bit_with_and_without(tmp_path, pipeline):
    def train(callbacks):
        model = build()
        np.random.seed(5)
        python_random.seed(5)
        data = (X, Y) if pipeline == "arrays" else (augmented(),)
        batching = {"batch_size": 16} if pipeline == "arrays" else {"shuffle": False}  # the pipeline does it itself
        history = model.fit(*data, epochs=4, validation_data=(X, Y), verbose=0, callbacks=callbacks, **batching)
        return model, history.history, np.random.random(3), python_random.random()

    plain, alone, numpy_after, python_after = train([])
    explained, together, numpy_too, python_too = train([callback(tmp_path, METHODS)])
    assert rounds(tmp_path) == ["epoch_0000", "epoch_0001", "epoch_0002", "epoch_0003"]
    for name, values in alone.items():
        assert together[name] == values, name
    for one, other in zip(plain.variables, explained.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    for one, other in zip(plain.optimizer.variables, explained.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    np.testing.assert_array_equal(numpy_after, numpy_too)
    assert python_after == python_too


class Restless(layers.Layer):
    """Counts its calls and draws noise, at inference too, and adds a loss: all that an observer could disturb."""

    def __init__(self):
        super().__init__(activity_regularizer="l2")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x + 0 * keras.random.normal(keras.ops.shape(x), seed=self.generator)


def test_layers_that_draw_and_count_at_inference_are_put_back(tmp_path):
    def train(callbacks):
        keras.utils.set_random_seed(2)
        steps = [keras.Input((8, 8, 1)), Restless(), layers.Flatten(), layers.Dense(2, activation="softmax")]
        model = keras.Sequential(steps)
        model.compile("sgd", "sparse_categorical_crossentropy")
        history = fit(model, callbacks)
        return model, history.history["loss"]

    plain, alone = train([])
    explained, together = train([callback(tmp_path, ["vanilla", kx.IntegratedGradients(4)])])
    assert together == alone
    assert float(explained.layers[0].calls.numpy()) == float(plain.layers[0].calls.numpy())
    for one, other in zip(plain.non_trainable_variables, explained.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    assert len(explained.losses) == len(plain.losses)


def test_what_a_round_keeps(tmp_path):
    model = build()
    explain = callback(tmp_path, METHODS, class_names=["up", "down"], frequency=2, background=6)
    history = fit(model, [explain], epochs=3).history
    assert rounds(tmp_path) == ["epoch_0000", "epoch_0002"]
    folder = tmp_path / "explanations" / "epoch_0002"
    samples, attributions, settings = kx.load_round(folder)
    assert [a.method for a in attributions] == ["vanilla", "guided", "integrated_gradients", "gradient_shap", "lime"]
    expected = kx.select(model, (X, Y), class_names=["up", "down"], background=6)
    np.testing.assert_array_equal(samples.images, expected.images)
    np.testing.assert_array_equal(samples.background, expected.background)
    for found, method in zip(attributions, METHODS, strict=True):  # the last epoch's weights are those left after fit
        np.testing.assert_array_equal(found.values, kx.explain(model, samples, method).values, err_msg=found.method)
    assert {path.name for path in folder.glob("*.png")} == {"0-up.png", "1-down.png", "over_training.png"}
    assert settings["epoch"] == 2
    assert settings["versions"]["keras"] == keras.__version__
    numbers = settings["numbers"]
    assert numbers["val_explain_integrated_gradients_completeness_error"] == pytest.approx(
        attributions[2].completeness_error.mean()
    )
    assert numbers["val_explain_confidence_1-down"] == samples.confidence[1]
    assert history["val_explain_lime_r2"][-1] == numbers["val_explain_lime_r2"]
    lines = (tmp_path / "explanations" / "metrics.csv").read_text().splitlines()
    assert f"2,val_explain_lime_r2,{numbers['val_explain_lime_r2']!r}" in lines


def test_measures_go_into_logs_and_to_the_tracker_and_beside_the_maps(tmp_path):
    roi = np.zeros((len(X), 8, 8), bool)
    roi[:, 2:5, 2:5] = True
    metrics = ["completeness", "localization", "faithfulness", "border", "agreement", "drift"]
    explain = callback(tmp_path, ["vanilla", "integrated_gradients"], metrics=metrics, roi=roi)
    history = fit(build(), [explain], epochs=3).history
    written = (tmp_path / "explanations" / "metrics.csv").read_text().splitlines()
    for epoch in range(3):
        samples, attributions, settings = kx.load_round(tmp_path / "explanations" / f"epoch_{epoch:04d}")
        np.testing.assert_array_equal(samples.roi, roi[: len(samples)])
        for attribution in attributions:
            for measure, rows in attribution.measures.items():
                shared = measure in ("roi_area", "border_area")
                name = f"val_explain_{measure}" if shared else f"val_explain_{attribution.method}_{measure}"
                mean = rows[np.isfinite(rows)].mean() if np.isfinite(rows).any() else np.nan
                # drift is not defined in the first round
                logged = history[name][epoch - 1 if measure == "drift" else epoch]
                assert logged == pytest.approx(mean, nan_ok=True), name
                assert np.isnan(mean) or f"{epoch},{name},{settings['numbers'][name]!r}" in written
                assert f"val_explain_{attribution.method}_{measure}" in settings["numbers"] or shared or np.isnan(mean)
        measured = {measure for a in attributions for measure in a.measures}
        assert {"auprc", "deletion", "insertion_logit", "border_share", "agreement", "completeness_error"} <= measured
        assert ("drift" in measured) == (epoch > 0)
        expected = {"vanilla": 0, "integrated_gradients": 0}
        assert {name: settings["evaluations"][f"measuring {name}"] for name in expected} == dict.fromkeys(
            expected, 2 * len(samples) * 17
        )
        curves = settings["history"]["curves"]
        assert settings["history"]["epochs"] == list(range(epoch + 1))
        assert curves["auprc"]["vanilla"] == history["val_explain_vanilla_auprc"][: epoch + 1]
        assert curves["roi_area"] == {"": [9 / 64] * (epoch + 1)}


def test_callbacks_after_it_can_use_its_numbers(tmp_path):
    """The checkpoint whose attribution lies most inside the lesions is kept; the table has a column."""
    roi = np.zeros((len(X), 8, 8), bool)
    roi[:, 2:5, 2:5] = True
    name = "val_explain_vanilla_relevance_mass"
    after = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor=name, mode="max", save_best_only=True),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping(monitor=name, mode="max", patience=2, min_delta=10),  # nothing is that good
    ]
    history = fit(build(), [callback(tmp_path, roi=roi), *after], epochs=9).history
    values = history[name]
    assert len(values) == 3  # stopped
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row[name]) for row in rows] == pytest.approx(values)
    best = keras.models.load_model(tmp_path / "best.keras")
    samples = kx.select(best, (X, Y), roi=roi)
    mass = kx.metrics.evaluate(best, samples, kx.explain(best, samples, "vanilla"))["relevance_mass"]
    assert mass == pytest.approx(max(values))


def test_numbers_keep_their_last_value_between_rounds(tmp_path):
    """Keras takes an epoch without the monitored number for the best one, and NaN for better than nothing."""
    found = {}

    def lesion(name):  # in the first round no finding is known
        return np.eye(8) if len(found) else None

    name = "val_explain_vanilla_relevance_mass"
    explain = callback(tmp_path, roi=lesion, frequency=2)
    saved = []

    class Saves(keras.callbacks.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            before = self.best
            super()._save_model(epoch, batch, logs)
            saved.append((epoch, self.best != before, self.best))

    spy = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: found.update({epoch: dict(logs)}))
    after = Saves(tmp_path / "best.keras", name, mode="max", save_best_only=True, initial_value_threshold=0.0)
    fit(build(), [explain, spy, after], epochs=6)
    mass = [found[epoch][name] for epoch in range(6)]
    assert np.isnan(mass[:2]).all()
    assert 0 < mass[2] == mass[3]
    assert mass[4] != mass[3]
    best = 0.0
    for (epoch, better, kept), now in zip(saved, mass, strict=True):
        assert better == (now > best), epoch
        best = max(best, now) if now > best else best
        assert kept == best
    logged = [line.split(",")[0] for line in (tmp_path / "explanations" / "metrics.csv").read_text().splitlines()]
    assert set(logged[1:]) == {"0", "2", "4", "5"}  # the tracker gets what was measured, and nothing else


@pytest.mark.parametrize("end", ["by itself", "stopped before", "stopped after"])
def test_dear_metrics_are_measured_in_the_last_round_alone(tmp_path, end):
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", epoch == 2)
    )
    explain = callback(tmp_path)
    order = {"by itself": [explain], "stopped before": [stop, explain], "stopped after": [explain, stop]}[end]
    model = build()
    fit(model, order, epochs=3 if end == "by itself" else 9)
    assert rounds(tmp_path) == ["epoch_0000", "epoch_0001", "epoch_0002"]
    for epoch in range(3):
        (found,) = kx.load_round(tmp_path / "explanations" / f"epoch_{epoch:04d}")[1]
        assert ("randomization_passed" in found.measures) == (epoch == 2)
    written = (tmp_path / "explanations" / "metrics.csv").read_text()
    assert "\n2,val_explain_vanilla_randomization_passed," in written
    names = [line.rsplit(",", 1)[0] for line in written.splitlines()]
    assert len(names) == len(set(names))  # nothing is logged twice
    assert explain.latest.numbers["val_explain_vanilla_randomization_passed"] in (0, 1)
    np.testing.assert_array_equal(found.values, kx.explain(model, kx.select(model, (X, Y)), "vanilla").values)


def test_a_failed_last_round_is_not_measured_in_its_place(tmp_path):
    """The maps of an earlier epoch say nothing of the weights of a later one."""
    failing = {"on": False}

    class Breaks(kx.Saliency):
        def explain(self, scorer, samples):
            return super().explain(scorer, samples)

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if failing["on"]:
                raise OSError("the disk is gone")
            return X[16 * index : 16 * index + 16], Y[16 * index : 16 * index + 16]

    explain = ExplanationCallback(
        Data(), ["vanilla"], tracker=kx.DirectoryTracker(tmp_path), frequency=1, on_error="warn"
    )
    fails = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: failing.update(on=epoch == 1))
    with pytest.warns(kx.ExplanationWarning, match=r"epoch 2: the round failed, .* cannot be read\. OSError: the disk"):
        fit(build(), [explain, fails], epochs=2)
    assert rounds(tmp_path) == ["epoch_0000"]
    trouble = json.loads((tmp_path / "explanations" / "run.json").read_text())["trouble"]
    assert list(trouble) == ["the round"]
    assert "epoch 2: the round failed" in (tmp_path / "explanations" / "report.html").read_text()
    written = (tmp_path / "explanations" / "metrics.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in written} == {"0"}
    assert not any("randomization" in line for line in written)


def test_each_method_is_compared_with_the_others_and_limited_by_its_own_cost(tmp_path):
    seen = {}

    class Spy:
        when = "round"

        def measure(self, attribution, context):
            seen[attribution.method] = ([other.method for other in context.others], context.evaluations)
            return {}

    class Last(Spy):
        when = "last"

        def measure(self, attribution, context):
            seen["last"] = context.before
            return {"lesion_area": np.full(len(attribution), float(len(attribution.method)))}

    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", True))
    explain = callback(tmp_path, ["vanilla", "guided"], metrics=[Spy(), Last()])
    fit(build(), [explain, stop], epochs=5)
    assert seen["vanilla"] == (["guided"], 1)
    assert seen["guided"] == (["vanilla"], 1)
    assert explain.latest.numbers["val_explain_vanilla_lesion_area"] == 7  # a user's own name, kept by method
    assert explain.latest.numbers["val_explain_guided_lesion_area"] == 6
    n = len(explain.latest.samples)
    assert repr(explain.latest) == f"Round of {n} images explained by vanilla, guided"
    history = kx.load_round(tmp_path / "explanations" / "epoch_0000")[2]["history"]
    assert history["epochs"] == [0]
    assert history["curves"]["lesion_area"] == {"vanilla": [7.0], "guided": [6.0]}


def test_a_dear_metric_is_measured_in_every_round_if_asked(tmp_path):
    fit(build(), [callback(tmp_path, metrics=[kx.metrics.Randomization(stages=2, when="round")])], epochs=2)
    for epoch in range(2):
        (found,) = kx.load_round(tmp_path / "explanations" / f"epoch_{epoch:04d}")[1]
        assert set(found.measures) >= {"randomization_passed", "randomization_ssim_stages"}
        assert "border_share" not in found.measures


class BadMetric:
    when = "round"

    def measure(self, attribution, context):
        raise ValueError("cannot be measured")


def test_a_metric_that_fails_is_named_and_nothing_else_is_lost(tmp_path):
    explain = callback(tmp_path, metrics=[BadMetric(), "border"], on_error="warn")
    with pytest.warns(kx.ExplanationWarning, match="BadMetric of vanilla failed, the rest of the round is done"):
        fit(build(), [explain], epochs=1)
    _, (found,), settings = kx.load_round(tmp_path / "explanations" / "epoch_0000")
    assert settings["failures"] == {"BadMetric of vanilla": "ValueError: cannot be measured"}
    assert "border_share" in found.measures
    with pytest.raises(ValueError, match="cannot be measured"):
        fit(build(), [callback(tmp_path, metrics=[BadMetric()])], epochs=1)


def test_same_seed_same_arrays_to_the_bit(tmp_path):
    for name in ("one", "two"):
        fit(build(), [callback(tmp_path / name, METHODS, seed=3)], epochs=1)
    one, two = (kx.load_round(tmp_path / name / "explanations" / "epoch_0000") for name in ("one", "two"))
    for a, b in zip(one[1], two[1], strict=True):
        np.testing.assert_array_equal(a.values, b.values, err_msg=a.method)
    fit(build(), [callback(tmp_path / "other", ["gradient_shap"], seed=4)], epochs=1)
    other = kx.load_round(tmp_path / "other" / "explanations" / "epoch_0000")[1][0]
    assert np.abs(other.values - one[1][3].values).max() > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"frequency": 2, "epochs": 5}, [0, 2, 4]),
        ({"frequency": 2, "epochs": 4}, [0, 2, 3]),
        ({"frequency": 10, "epochs": 3}, [0, 2]),
        ({"frequency": 4, "epochs": 7, "initial_epoch": 3}, [4, 6]),
        ({"frequency": 1, "epochs": 1}, [0]),
    ],
)
def test_which_epochs_are_explained(tmp_path, options, expected):
    frequency = options.pop("frequency")
    fit(build(), [callback(tmp_path, frequency=frequency)], **options)
    assert rounds(tmp_path) == [f"epoch_{epoch:04d}" for epoch in expected]


@pytest.mark.parametrize("first", ["explanation", "stopping"])
def test_the_last_epoch_is_explained_when_training_stops_early(tmp_path, first):
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", epoch == 2)
    )
    explain = callback(tmp_path, frequency=10)
    fit(build(), [explain, stop] if first == "explanation" else [stop, explain], epochs=9)
    assert rounds(tmp_path) == ["epoch_0000", "epoch_0002"]


def test_one_callback_serves_several_fits_and_models(tmp_path):
    explain = callback(tmp_path, frequency=3)
    model = build()
    fit(model, [explain], epochs=2)
    scorer = explain._scorer
    fit(model, [explain], epochs=6, initial_epoch=2)
    assert explain._scorer is scorer
    assert rounds(tmp_path) == ["epoch_0000", "epoch_0001", "epoch_0003", "epoch_0005"]
    other = build(seed=9)
    fit(other, [explain], epochs=1)
    found = kx.load_round(tmp_path / "explanations" / "epoch_0000")[1][0]
    np.testing.assert_array_equal(found.values, kx.explain(other, explain.latest.samples, "vanilla").values)


def test_training_needs_no_validation_of_its_own(tmp_path):
    history = fit(build(), [callback(tmp_path)], validation_data=None).history
    assert "val_loss" not in history
    assert rounds(tmp_path) == ["epoch_0000", "epoch_0001", "epoch_0002"]


@traced_only
def test_later_rounds_compile_nothing_new(tmp_path):
    explain = callback(tmp_path, METHODS)
    counts = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: counts.append(explain._scorer.traces))
    fit(build(), [explain, count], epochs=4)
    assert counts[0] == counts[-1] > 0


def test_callbacks_behind_see_the_numbers(tmp_path):
    name = "val_explain_integrated_gradients_completeness_error"
    seen = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs[name]))
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor=name, mode="min", save_best_only=True)
    history = fit(build(), [callback(tmp_path, [kx.IntegratedGradients(4)]), look, best]).history
    assert seen == history[name]
    assert len(seen) == 3
    assert best.best == min(seen)
    assert (tmp_path / "best.keras").exists()


class Failing:
    method = "failing"

    def explain(self, scorer, samples):
        raise RuntimeError("out of luck")


def test_a_failing_method_does_not_stop_the_others_or_the_training(tmp_path):
    model = build()
    explain = callback(tmp_path, [Failing(), "vanilla"], on_error="warn")
    with pytest.warns(kx.ExplanationWarning, match="failing failed, the rest of the round is done.*out of luck"):
        history = fit(model, [explain])
    assert len(history.history["loss"]) == 3
    _, attributions, settings = kx.load_round(tmp_path / "explanations" / "epoch_0002")
    assert [a.method for a in attributions] == ["vanilla"]
    assert settings["failures"] == {"failing": "RuntimeError: out of luck"}
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(build(), [callback(tmp_path / "b", [Failing()])])


def test_the_last_epoch_is_explained_once(tmp_path):
    class Counting:
        method, rounds = "counting", 0

        def explain(self, scorer, samples):
            Counting.rounds += 1
            return kx.explain(scorer, samples, "vanilla")

    fit(build(), [callback(tmp_path, [Counting()], frequency=2, metrics=["completeness"])], epochs=3)
    assert Counting.rounds == 2


def test_two_methods_of_one_kind_keep_their_own_numbers(tmp_path):
    explain = callback(tmp_path, [kx.IntegratedGradients(1), kx.IntegratedGradients(32)])
    fit(build(), [explain], epochs=1)
    few, many = (a.completeness_error.mean() for a in explain.latest.attributions)
    numbers = explain.latest.numbers
    assert numbers["val_explain_integrated_gradients_completeness_error"] == pytest.approx(few)
    assert numbers["val_explain_integrated_gradients 2_completeness_error"] == pytest.approx(many)


def test_an_interrupted_fit_is_cleared_away_by_the_next(tmp_path):
    class Closing(kx.DirectoryTracker):
        closed = 0

        def finish(self):
            Closing.closed += 1

    def interrupt(epoch, logs):
        raise KeyboardInterrupt

    explain = callback(tmp_path, tracker=Closing(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        fit(build(), [explain, keras.callbacks.LambdaCallback(on_epoch_end=interrupt)])
    assert Closing.closed == 0
    with pytest.warns(kx.ExplanationWarning, match="an earlier fit was interrupted after epoch 1."):
        fit(build(), [explain], epochs=1)
    assert Closing.closed == 2
    trouble = json.loads((tmp_path / "explanations-1" / "run.json").read_text())["trouble"]
    assert trouble == {"fit": "fit was interrupted after epoch 1."}
    assert "fit was interrupted after epoch 1." in (tmp_path / "explanations-1" / "report.html").read_text()
    assert "interrupted" not in (tmp_path / "explanations" / "report.html").read_text()


def test_unusable_validation_data_do_not_stop_the_training(tmp_path):
    explain = ExplanationCallback((X, Y + 5), ["vanilla"], tracker=kx.DirectoryTracker(tmp_path))
    with pytest.warns(kx.ExplanationWarning, match="failed, training goes on.*outputs 0 to 1"):
        assert len(fit(build(), [explain]).history["loss"]) == 3


class BrokenTracker:
    def start(self, settings):
        pass

    def log_round(self, step, folder, numbers):
        raise OSError("no space left on device")

    def finish(self):
        pass


def test_what_could_not_be_logged_is_kept(tmp_path):
    explain = ExplanationCallback((X, Y), ["vanilla"], tracker=BrokenTracker())
    with pytest.warns(kx.ExplanationWarning, match="no space left on device") as caught:
        fit(build(), [explain], epochs=1)
    (words,) = (str(w.message) for w in caught if w.category is kx.ExplanationWarning)
    folder = words.rsplit("is kept in ", 1)[1].rstrip(")")
    assert kx.load_round(folder)[1][0].method == "vanilla"


def test_data_that_fit_does_not_see_are_noticed(tmp_path):
    wrong = ExplanationCallback(
        (X, 1 - Y), ["vanilla"], candidates=None, tracker=kx.DirectoryTracker(tmp_path), frequency=30
    )
    model = build(optimizer=keras.optimizers.Adam(0.02))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kx.ExplanationWarning)
        fit(model, epochs=30)
    with pytest.warns(kx.ExplanationWarning, match="of those that fit validates on"):
        fit(model, [wrong], epochs=1)
    fit(model, [callback(tmp_path, candidates=None)], epochs=1)


@pytest.fixture
def clock(monkeypatch):
    """The time, which stands still; to be called for one second."""
    now = [0.0]

    def tick(*arguments):
        now[0] += 1.0

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)
    return tick


class Slow:
    """Takes so many seconds, and evaluates the model in each of them."""

    def __init__(self, method, seconds, clock):
        self.method, self.seconds, self.clock = method, seconds, clock

    def explain(self, scorer, samples):
        for _ in range(self.seconds):
            scorer.logits(samples.images)
            self.clock()
        return kx.Attribution(
            self.method, np.ones_like(samples.images), samples.targets[:, 0], samples.rows, samples.rows
        )


def always_right():
    """Predicts every image rightly, and learns nothing."""
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(2, "softmax", use_bias=False)])
    halves = np.repeat([1.0, -1.0], 32)
    model.set_weights([np.stack([-halves, halves], axis=1)])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_a_budget_is_kept_by_skipping_rounds(tmp_path, capsys, clock):
    """On a clock that only epochs and rounds move, one second each."""
    slow_epoch = keras.callbacks.LambdaCallback(on_epoch_begin=clock)
    slow = Slow("slow", 1, clock)
    fit(always_right(), [slow_epoch, callback(tmp_path, [slow], metrics=[], max_overhead=0.5)], epochs=12, verbose=2)
    # Half of 12 seconds: five rounds, and the last one, for which room was kept.
    assert rounds(tmp_path) == [f"epoch_{epoch:04d}" for epoch in (0, 1, 2, 3, 4, 11)]
    said = capsys.readouterr().out
    assert "epoch 6 is not explained: a round of 1.0 s would exceed max_overhead" in said
    words = "the first round took 1.0 s, compiling included. One round takes about 1.0 s (selecting 0.0, slow 1.0), "
    words += (
        "and what drawing it takes in the background. 12 rounds would be about 100 % of a training whose epochs are "
    )
    words += "all as long as the last one, drawing not counted; max_overhead allows 50 %. "
    words += "The images come from a pass over validation_data."
    assert said.count(words) == 1
    assert "6 rounds took 6.0 s, 50 % of the 12.0 s of training" in said
    assert said.count("the first round took") == 1
    fit(always_right(), [slow_epoch, callback(tmp_path / "all", [slow])], epochs=4)
    assert len(rounds(tmp_path / "all")) == 4


def test_a_budget_is_kept_by_leaving_methods_out(tmp_path, capsys, clock):
    slow_epoch = keras.callbacks.LambdaCallback(on_epoch_begin=clock)
    methods = [Slow("long", 4, clock), Slow("short", 1, clock)]
    options = {"frequency": 3, "metrics": [], "max_overhead": 0.4}
    kept = callback(tmp_path / "1", methods[::-1], **options)
    with pytest.warns(kx.ExplanationWarning, match="left out of epoch 10 to keep max_overhead=0.4: long."):
        fit(always_right(), [slow_epoch, kept], epochs=10, verbose=2)
    # Of 4 seconds the first round may take 1: the long method is stopped after one of its own, and taken for one of 2.
    assert rounds(tmp_path / "1") == ["epoch_0000", "epoch_0009"]
    assert [kx.load_round(tmp_path / "1" / "explanations" / name)[1][0].method for name in rounds(tmp_path / "1")] == [
        "short",
        "short",
    ]
    said = capsys.readouterr().out
    assert "One round takes about 3.0 s (selecting 0.0, short 1.0, long 2.0)" in said
    assert "left out of epoch 1 to keep max_overhead=0.4: long." in said
    assert said.count("is not explained: a round of 3.0 s would exceed max_overhead") == 2
    # In the other order nothing is left for the short one, nor anything to draw; it is done in the last round.
    kept = callback(tmp_path / "2", methods, **options)
    with pytest.warns(kx.ExplanationWarning, match="left out of epoch 10"):
        fit(always_right(), [slow_epoch, kept], epochs=10, verbose=2)
    assert rounds(tmp_path / "2") == ["epoch_0009"]
    assert "left out of epoch 1 to keep max_overhead=0.4: long, short." in capsys.readouterr().out


def test_a_budget_counts_what_drawing_takes(tmp_path, capsys, clock, monkeypatch):
    drawn = iter(np.arange(100) * 0.5)
    monkeypatch.setattr(time, "thread_time", lambda: float(next(drawn)))
    slow_epoch = keras.callbacks.LambdaCallback(on_epoch_begin=clock)
    kept = callback(tmp_path, [Slow("slow", 1, clock)], metrics=[], max_overhead=0.5)
    fit(always_right(), [slow_epoch, kept], epochs=12, verbose=2)
    # Half of 12 seconds are four rounds of one and a half.
    assert rounds(tmp_path) == [f"epoch_{epoch:04d}" for epoch in (0, 1, 2, 11)]
    said = capsys.readouterr().out
    assert "epoch 4 is not explained: a round of 1.5 s would exceed max_overhead" in said
    assert "4 rounds took 6.0 s, 50 % of the 12.0 s of training" in said


def test_prices_of_a_budget():
    samples = kx.Samples(X[:2], [0, 1], missing=((2, 2), (3, 3)))
    found = Round(samples, ["a"])
    found.seconds |= {"selecting": 1.0, "a": 2.0, "measuring a": 0.5, "b": 3.0, "compiling": 9.0}
    found.evaluations |= {"a": 4, "b": 2}
    budget = Budget(0.5)
    found.stopped += ["b", "c", "Stability of a"]
    budget.learn(found, ["a", "b", "c"])
    # Half of the classes have images; b was stopped, and c had not begun.
    assert budget.prices == {"selecting": 1.0, "a": 5.0, "b": 12.0}
    budget.drawn(2.0, waited=0.5)
    budget.drawn(2.0, waited=3.0)
    assert budget.spent == 5.0
    assert budget.price == 20.0
    assert budget.affordable(["a", "b", "c"], allowed=20.0, ahead=3) == ["a", "b", "c"]
    assert budget.affordable(["a", "b", "c"], allowed=19.0, ahead=3) == []
    assert budget.affordable(["a", "b", "c"], allowed=19.0, ahead=0) == ["a", "c"]
    assert budget.affordable(["a", "b"], allowed=8.0, ahead=0) == ["a"]
    assert budget.affordable(["a", "b"], allowed=7.9, ahead=0) == []
    budget.trained, budget.epoch = 30.0, 10.0
    assert budget.allowed(ahead=6) == (0.5 * 90 - 5) / 4
    budget.rounds = 1
    assert budget.allowed(ahead=6) == 0.5 * 90 - 5 - 20
    assert budget.allowed(ahead=0) == 0.5 * 30 - 5


def test_seconds_of_compiling_are_not_counted_twice(clock):
    scorer, seconds, evaluations = kx.Scorer(always_right()), defaultdict(float), Counter()
    for _ in range(2):
        with counted("vanilla", scorer, seconds, evaluations):
            for _ in range(5):
                clock()
            scorer.compiling += 3.0
            scorer.evaluations += 7
    assert seconds == {"vanilla": 4.0, "compiling": 6.0}
    assert evaluations == {"vanilla": 14}


@traced_only
def test_seconds_of_compiling_stand_apart(tmp_path):
    kept = callback(tmp_path, METHODS)
    fit(build(), [kept], epochs=2)
    first, second = (
        kx.load_round(tmp_path / "explanations" / name)[2]["seconds"] for name in ("epoch_0000", "epoch_0001")
    )
    assert first["compiling"] > 0.1
    assert second["compiling"] == 0
    assert sum(second.values()) < sum(first.values())


class Shuffled:
    """Every class, targets slow and images fast, as no rule forbids."""

    method = "shuffled"

    def explain(self, scorer, samples):
        found = kx.explain(scorer, samples, "vanilla", samples.targets)
        order = np.argsort(found.targets, kind="stable")
        return found[order]


class OwnAlone:
    """Says nothing of the class that it is asked about."""

    method = "own_alone"

    def explain(self, scorer, samples):
        return kx.explain(scorer, samples, "vanilla", 1 - samples.targets[:, :1])


def test_every_other_class_is_explained_too(tmp_path):
    options = {"tracker": kx.DirectoryTracker(tmp_path), "on_error": "raise", "metrics": ["border"]}
    asked = ["vanilla", "shuffled"]
    callback = ExplanationCallback((X, Y), ["vanilla", Shuffled()], why_not=asked, **options)
    fit(always_right(), [callback], epochs=1)
    samples, maps, settings = kx.load_round(tmp_path / "explanations" / "epoch_0000")
    plain = ExplanationCallback((X, Y), ["vanilla"], **options)
    fit(always_right(), [plain], epochs=1)
    classes = len(maps[0]) // len(samples)
    for found, own in zip(maps, callback.latest.attributions, strict=True):
        assert len(found) == classes * len(samples) > len(own) == len(samples)
        np.testing.assert_array_equal(own.targets, samples.targets[:, 0])
        np.testing.assert_allclose(own.values, plain.latest.attributions[0].values, atol=1e-6)
        mine = found.targets == samples.targets[found.rows, 0]
        expected = own.measures["border_share"][found.rows[mine]]
        np.testing.assert_array_equal(found.measures["border_share"][mine], expected)
        assert np.isnan(found.measures["border_share"][~mine]).all()
        for row, target in set(zip(found.rows.tolist(), found.targets.tolist(), strict=True)):
            assert 0 <= row < len(samples)
            assert 0 <= target < classes
    assert settings["why_not"] == asked
    assert settings["model"]["parameters"] > 0
    wrong = ExplanationCallback((X, Y), [OwnAlone()], why_not=["own_alone"], **options)
    with pytest.raises(kx.InputError, match="not one of every image's own class"):
        fit(always_right(), [wrong], epochs=1)
    with pytest.raises(kx.InputError, match="why_not names 'lime', which is none of the explainers: vanilla"):
        ExplanationCallback((X, Y), ["vanilla"], why_not="lime")


def test_a_budget_that_choosing_images_exhausts(tmp_path, capsys, clock):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, i):
            clock()
            return X, Y

    slow_epoch = keras.callbacks.LambdaCallback(on_epoch_begin=clock)
    kept = ExplanationCallback(
        Batches(), ["vanilla"], frequency=1, max_overhead=0.1, tracker=kx.DirectoryTracker(tmp_path), on_error="raise"
    )
    message = "epoch 4 is not explained: a round of 1.0 s would exceed max_overhead"
    with pytest.warns(kx.ExplanationWarning, match=message) as caught:
        fit(always_right(), [slow_epoch, kept], epochs=4, verbose=2)
    assert [w.category for w in caught].count(kx.ExplanationWarning) == 1
    assert rounds(tmp_path) == []
    assert kept.latest is None
    assert "left out of epoch 1 to keep max_overhead=0.1: vanilla." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_data": None}, "validation_data must be given"),
        ({"explainers": ["gradcam2"]}, "There is no method 'gradcam2'"),
        ({"explainers": []}, "at least one"),
        ({"explainers": "vanilla"}, "list of names"),
        ({"metrics": "border"}, "metrics must be a list of names or objects; got 'border'"),
        ({"metrics": ["fidelity"]}, "There is no metric 'fidelity'"),
        ({"frequency": 0}, "frequency must be a whole number, at least 1"),
        ({"frequency": 1.5}, "frequency must be a whole number, at least 1; got 1.5"),
        ({"max_overhead": 5}, "max_overhead must be a share"),
        ({"max_overhead": "5%"}, "max_overhead must be a share above 0 and at most 1, such as 0.05; got '5%'"),
        ({"on_error": "ignore"}, "on_error must be"),
        ({"tracker": "mlflow"}, "tracker must have start"),
        ({"class_map": {}}, "class_map is empty"),
        ({"images_per_class": 0}, "images_per_class must be a whole number, at least 1"),
        ({"candidates": 0}, "candidates must be a whole number, at least 1"),
        ({"background": -1}, "background must be a whole number, at least 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(options, message):
    with pytest.raises(kx.InputError, match=message):
        ExplanationCallback(**{"validation_data": (X, Y), **options})


def test_no_thread_is_left(tmp_path):
    before = set(threading.enumerate())
    fit(build(), [callback(tmp_path)], verbose=0)
    assert set(threading.enumerate()) <= before


TERMINAL = """
import numpy as np, keras, keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
x, y = np.random.default_rng(0).random((32, 8, 8, 1)).astype("float32"), np.arange(32) % 2
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, activation="relu"),
                          keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
explain = ExplanationCallback((x, y), ["vanilla", "guided"], frequency=1, tracker=kx.DirectoryTracker("run"))
print("BEGIN")
model.fit(x, y, epochs=2, verbose=1, callbacks=[explain])
print("END")
"""


def test_keras_own_progress_bar_is_whole_on_a_terminal(tmp_path):
    """Run in a real pseudo-terminal; a terminal emulator says what is on the screen at the end."""
    pyte = pytest.importorskip("pyte")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL], stdout=theirs, stderr=theirs, stdin=theirs, cwd=tmp_path, env=environment
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end was closed
            break
        if not part:
            break
        output += part
    assert process.wait() == 0
    assert b"epoch 1: selecting" in output
    assert b"epoch 2: guided" in output
    screen = pyte.Screen(200, 60)
    pyte.ByteStream(screen).feed(output.split(b"BEGIN")[1])
    told = "".join(screen.display).split("keras_explain: the first round took")
    assert len(told) == 2
    lines = [line.rstrip() for line in screen.display if line.strip()]
    at = next(i for i, line in enumerate(lines) if line.startswith("1/1 "))
    lines[1:at] = []  # what was told, in as many lines as the terminal takes
    assert lines[0] == "Epoch 1/2"
    assert lines[1].startswith("1/1 ")
    assert "loss:" in lines[1]
    assert "Epoch 2/2" in lines
    assert lines[-1] == "END"
    assert any("2 rounds took" in line for line in lines)
    assert not any("selecting" in line or "method" in line for line in lines), lines
