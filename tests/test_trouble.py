"""Whatever goes wrong in a round is named once, in the log, in the run and on the page, and the rest is done."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.engine import noted
from tests.conftest import small_cnn, tensorflow_only

X = np.random.default_rng(0).random((24, 8, 8, 1), "float32")
Y = np.arange(24) % 3
EPOCHS = 3


def fit(model, *callbacks, optimizer="sgd", **options):
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(X, Y, validation_data=(X, Y), epochs=EPOCHS, verbose=0, callbacks=callbacks, **options)


def explained(folder, model, explainers=("vanilla",), data=(X, Y), optimizer="sgd", **options):
    """What was warned of, what is kept in the folder, what the page says, and the methods of each round."""
    options = {"frequency": 1, "metrics": [], "tracker": kx.DirectoryTracker(folder), **options}
    callback = ExplanationCallback(data, explainers, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", kx.ExplanationWarning)
        fit(model, callback, optimizer=optimizer)
    said = [str(one.message) for one in caught if one.category is kx.ExplanationWarning]
    return said, *kept(folder)


def kept(folder):
    root = Path(folder) / "explanations"
    trouble = json.loads((root / "run.json").read_text())["trouble"]
    page = json.loads(re.search(r'id="data">(.*?)</script>', (root / "report.html").read_text(), re.S)[1])
    assert page["trouble"] == trouble
    rounds = {int(path.name[6:]): kx.load_round(path) for path in root.glob("epoch_*")}
    return trouble, {step: [a.method for a in maps] for step, (_, maps, _) in rounds.items()}


def named_once(found, what, pattern, methods=("vanilla",)):
    said, trouble, rounds = found
    about = [words for words in said if re.search(pattern, words)]
    assert len(about) == 1, said
    assert re.search(pattern, trouble[what]), trouble
    assert trouble[what].startswith("epoch 1: ")
    assert rounds == {step: list(methods) for step in range(EPOCHS)}


class Raises:
    method = "mine"

    def explain(self, scorer, samples):
        raise RuntimeError("I cannot")


class Quick:
    """Takes no time, however busy the machine is."""

    method = "quick"

    def explain(self, scorer, samples):
        values = np.ones_like(samples.images)
        return kx.Attribution("quick", values, samples.targets[:, 0], samples.rows, np.zeros(len(values)))


class Sleeps(Raises):
    method = "sleeps"

    def explain(self, scorer, samples):
        time.sleep(10_000)


class Runs(Raises):
    method = "runs"

    def explain(self, scorer, samples):
        while True:
            pass


class Evaluates(Raises):
    method = "evaluates"

    def explain(self, scorer, samples):
        while True:
            scorer.logits(samples.images)


def test_an_explainer_that_raises(tmp_path):
    found = explained(tmp_path, small_cnn(), [Raises(), "vanilla"])
    named_once(found, "mine", "mine failed, the rest of the round is done. RuntimeError: I cannot")


def test_explainers_that_hang_are_given_up(tmp_path):
    found = explained(tmp_path, small_cnn(), [Sleeps(), Runs(), Evaluates(), Quick()], time_limit=1.0)
    for name in ("sleeps", "runs", "evaluates"):
        pattern = f"{name} failed.*OutOfTime: It had not come to its end after time_limit=1 s, and is left out"
        named_once(found, name, pattern, ("quick",))
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_explainer_that_hangs_and_catches_everything(tmp_path):
    class Stubborn(Raises):
        method = "stubborn"

        def explain(self, scorer, samples):
            while True:
                try:
                    time.sleep(10_000)
                except Exception:
                    continue

    said, trouble, _ = explained(tmp_path, small_cnn(), [Stubborn()], time_limit=0.5)
    assert "left out from now on" in trouble["stubborn"]
    assert len(said) == 1


def test_each_kind_of_trouble_of_a_method_is_said(tmp_path):
    class Worse(Raises):
        method = "worse"
        count = 0

        def explain(self, scorer, samples):
            self.count += 1
            warnings.warn(
                f"odd map {self.count}" if self.count < 3 else "another thing", kx.ExplanationWarning, stacklevel=1
            )
            if self.count > 1:
                raise RuntimeError("now it fails")
            return kx.explain(scorer, samples, "vanilla")

    said, trouble, _ = explained(tmp_path, small_cnn(), [Worse(), "vanilla"])
    assert [words.split(": ", 2)[2].split(" (")[0] for words in said] == [
        "worse: odd map 1",
        "worse failed, the rest of the round is done. RuntimeError: now it fails",
        "worse: another thing",
    ]
    assert [what for what in trouble if what != "classes"] == ["worse", "worse 2", "worse 3"]


def test_warnings_of_others_go_their_usual_way():
    def warn(words, category):
        with noted(said.append):
            warnings.warn(words, category, stacklevel=1)
            shown.append(warnings.showwarning)
            if words == "before it failed":
                raise ValueError("late")

    said, shown, before = [], [], warnings.showwarning
    with pytest.warns(FutureWarning, match="of another library"):
        warn("of another library", FutureWarning)
    warn("ours", kx.ExplanationWarning)
    with pytest.raises(ValueError, match="late"):
        warn("before it failed", kx.ExplanationWarning)
    assert said == ["ours", "before it failed"]
    assert warnings.showwarning is before
    with warnings.catch_warnings(record=True) as caught:
        shown[1](
            "put back later", kx.ExplanationWarning, "file.py", 1
        )  # by a thread that entered catch_warnings meanwhile
    assert said == ["ours", "before it failed"]
    assert len(caught) <= 1


def test_where_all_explainers_hang_nothing_more_is_tried(tmp_path):
    said, trouble, rounds = explained(tmp_path, small_cnn(), [Sleeps()], time_limit=0.2)
    assert len(said) == 1
    assert "sleeps" in trouble
    assert rounds == {0: []}


def test_a_metric_that_hangs(tmp_path):
    class Metric:
        when = "round"

        def measure(self, attribution, context):
            time.sleep(10_000)

    metrics = [Metric(), kx.metrics.resolve("border")]
    found = explained(tmp_path, small_cnn(), [Quick()], metrics=metrics, time_limit=1.0)
    named_once(found, "Metric of quick", "Metric of quick failed.*OutOfTime: It took more than 1 s", ("quick",))
    maps = kx.load_round(tmp_path / "explanations" / "epoch_0000")[1]
    assert "border_share" in maps[0].measures


@pytest.mark.slow
@tensorflow_only
def test_memory_that_runs_out(tmp_path, request):
    from tests.faulty_layer import RUNS_OUT, Failing, Faulty, memory_runs_out_at_once

    if not memory_runs_out_at_once(request):
        return

    model = keras.Sequential([keras.Input((8, 8, 1)), Faulty(), *small_cnn().layers])
    found = explained(tmp_path, model, [Failing(kx.IntegratedGradients(), RUNS_OUT), "vanilla"])
    named_once(found, "integrated_gradients", "Memory runs out on a single image")


def test_a_training_that_has_diverged(tmp_path):
    said, trouble, rounds = explained(tmp_path, small_cnn(), optimizer=keras.optimizers.SGD(1e38))
    assert len(said) == 1
    assert "outputs are NaN or infinite; there is nothing to explain. Has its training diverged" in said[0]
    assert list(trouble) == ["the round"]
    assert rounds == {}


def dead():
    """No unit of it ever reacts."""
    model = small_cnn()
    kernel, _ = model.layers[0].get_weights()
    model.layers[0].set_weights([-np.abs(kernel), np.full(6, -1.0)])
    model.layers[-1].set_weights([np.zeros_like(model.layers[-1].get_weights()[0]), np.array([0.1, 0.0, 0.0])])
    return model


def test_a_network_that_is_dead(tmp_path):
    found = explained(tmp_path, dead(), optimizer=keras.optimizers.SGD(0.0))
    named_once(found, "vanilla", "vanilla: Nothing in the map of image 0 differs from 0: the network does not react")
    assert "no image is predicted correctly of class 1, class 2" in found[1]["classes"]  # said, but not warned of


def test_images_that_are_constant(tmp_path):
    flat = np.ones_like(X) * np.linspace(0.1, 0.9, len(X), dtype="float32")[:, None, None, None]
    found = explained(tmp_path, small_cnn(), data=(flat, Y), optimizer=keras.optimizers.SGD(0.0))
    named_once(found, "images", "has the same value everywhere: nothing in it can be pointed at")


def test_lime_with_a_single_superpixel(tmp_path):
    whole = kx.Lime(samples=20, segmentation=lambda image: np.zeros(image.shape[:2], int))
    found = explained(tmp_path, small_cnn(), [whole, "vanilla"])
    named_once(found, "lime", "lime: LIME: image .* is a single superpixel", ("lime", "vanilla"))


class BreaksOff(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise OSError("the file is cut off")
        return X[6 * index : 6 * index + 6], Y[6 * index : 6 * index + 6]


def test_validation_data_that_end_early(tmp_path):
    found = explained(tmp_path, small_cnn(), data=BreaksOff())
    named_once(
        found, "selecting", r"break off after 2 batches \(OSError: the file is cut off\); only those are looked at"
    )
    samples = kx.load_round(tmp_path / "explanations" / "epoch_0000")[0]
    with pytest.warns(kx.ExplanationWarning, match="break off"):
        expected = kx.select(small_cnn(), BreaksOff(workers=1))
    assert set(samples.ids) <= set(map(str, range(12)))
    assert expected.accuracy == kx.select(small_cnn(), (X[:12], Y[:12])).accuracy


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError])
def test_a_fit_that_does_not_end(tmp_path, end):
    def stop(epoch, logs):
        if epoch == 1:
            raise end("enough")

    callback = ExplanationCallback((X, Y), ["vanilla"], frequency=1, metrics=[], tracker=kx.DirectoryTracker(tmp_path))
    with pytest.raises(end):
        fit(small_cnn(), callback, keras.callbacks.LambdaCallback(on_epoch_end=stop))
    again = ExplanationCallback((X, Y), ["vanilla"], metrics=[], tracker=kx.DirectoryTracker(tmp_path / "again"))
    with pytest.warns(kx.ExplanationWarning, match="keras_explain: a fit was interrupted after epoch 2."):
        fit(small_cnn(), again)
    trouble, rounds = kept(tmp_path)
    assert trouble["fit"] == "fit was interrupted after epoch 2."
    assert rounds == {0: ["vanilla"], 1: ["vanilla"]}


INTERRUPTED = """
import os, signal
import keras, numpy as np, keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.engine import noted
x, y = np.random.default_rng(0).random((24, 8, 8, 1), "float32"), np.arange(24) % 3
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
model.compile("sgd", "sparse_categorical_crossentropy")
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a suite in the background of a shell takes away
explain = ExplanationCallback((x, y), ["vanilla"], frequency=1, metrics=[], tracker=kx.MlflowTracker())
key = keras.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: os.kill(os.getpid(), signal.SIGINT) if explain._last == 1 else None
)
model.fit(x, y, epochs=9, verbose=0, callbacks=[explain, key])
"""


def test_a_script_that_is_interrupted_by_a_key(tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": address, "TF_CPP_MIN_LOG_LEVEL": "3"}
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "KeyboardInterrupt" in done.stderr
    assert done.stderr.count("fit was interrupted after epoch 2 by KeyboardInterrupt.") == 1
    client = mlflow.MlflowClient(address)
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags["keras_explain.trouble.fit"] == "fit was interrupted after epoch 2 by KeyboardInterrupt."
    page = Path(client.download_artifacts(run.info.run_id, "explanations/report.html", str(tmp_path))).read_text()
    assert "fit was interrupted after epoch 2 by KeyboardInterrupt." in page
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "val_explain_classes_without_image")]
    assert sorted(steps) == [0, 1]


def test_trouble_becomes_a_tag_of_the_run(server):
    with mlflow.start_run() as run, pytest.warns(kx.ExplanationWarning, match="I cannot"):
        fit(small_cnn(), ExplanationCallback((X, Y), [Raises(), "vanilla"], frequency=1, metrics=[]))
    tags = server.get_run(run.info.run_id).data.tags
    words = "epoch 1: mine failed, the rest of the round is done. RuntimeError: I cannot (test_trouble.py, line "
    assert tags["keras_explain.trouble.mine"].startswith(words)
    assert server.get_run(run.info.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("time_limit", [0, -1.0])
def test_a_time_limit_is_a_time(time_limit):
    with pytest.raises(kx.InputError, match="time_limit must be seconds above 0, or None"):
        ExplanationCallback((X, Y), ["vanilla"], time_limit=time_limit)
