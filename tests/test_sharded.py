"""A whole data set in shards: the same maps as by hand, stopped and gone on with, here and on Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_explain as kx
from keras_explain.datasets.cases import Case, Stream
from keras_explain.datasets.preprocessing import Preprocessing
from keras_explain.datasets.roi import Box, Roi
from tests.conftest import small_cnn

ROOT = Path(__file__).parent.parent
MODEL = small_cnn(seed=5)
X, Y = np.random.default_rng(0).random((23, 8, 8, 1), "float32"), np.arange(23) % 3
METHODS = ["vanilla", "integrated_gradients", kx.Lime(16, segments=4)]


def explained(out, data=(X, Y), methods=METHODS, **options):
    return kx.explain_dataset(MODEL, data, methods, out, **{"shard_size": 5, "targets": 1, **options})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*.npz"))}


@pytest.mark.parametrize("targets", [1, "all", None, "each"])
def test_the_maps_are_those_of_explain(tmp_path, targets):
    asked = (np.arange(46) % 3).reshape(23, 2) if targets == "each" else targets
    found = explained(tmp_path, targets=asked)
    assert found.shards == [0, 1, 2, 3, 4]
    scorer = kx.Scorer(MODEL)
    index = found.index
    for name, method in zip(("vanilla", "integrated_gradients", "lime"), METHODS, strict=True):
        by_hand = kx.explain(scorer, X, method, asked)
        rows = index[index.method == name]
        assert rows.position.tolist() == by_hand.rows.tolist()
        assert rows.target.tolist() == by_hand.targets.tolist()
        np.testing.assert_allclose(rows.score, by_hand.score, rtol=1e-5)
        np.testing.assert_allclose(rows.completeness_error, by_hand.completeness_error, atol=1e-5)
        assert rows.label.tolist() == Y[by_hand.rows].tolist()
        values = np.concatenate([next(a for a in found.maps(k) if a.method == name).values for k in found.shards])
        np.testing.assert_allclose(values, by_hand.values, atol=1e-5)
        for k in found.shards:
            mine = rows[rows.shard == k]
            stored = next(a for a in found.maps(k) if a.method == name)
            np.testing.assert_array_equal(stored.score[mine.row], mine.score)
            np.testing.assert_array_equal(stored.targets[mine.row], mine.target)


def test_every_kind_of_data_gives_the_same_shards(tmp_path):
    names = np.array([f"n{i}" for i in range(23)])

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            part = slice(4 * i, 4 * i + 4)
            return X[part], Y[part], np.ones(len(X[part])), names[part]

    def generated():
        for i in range(0, 23, 7):
            yield X[i : i + 7], np.eye(3)[Y[i : i + 7]], None, names[i : i + 7]

    class Iterable:
        def __iter__(self):
            return generated()

    first = explained(tmp_path / "arrays", methods=["vanilla"])
    for kind, data in (("dataset", Batches()), ("iterable", Iterable())):
        found = explained(tmp_path / kind, data, methods=["vanilla"])
        assert files(tmp_path / kind) == files(tmp_path / "arrays")
        assert found.index.id.tolist() == names.tolist()
        assert found.index.drop(columns="id").equals(first.index.drop(columns="id"))


def test_done_shards_are_not_done_again(tmp_path):
    class Counting:
        method = "counting"

        def explain(self, scorer, samples):
            seen.append(samples.ids)
            return kx.explain(scorer, samples, "vanilla")

    seen = []
    whole = explained(tmp_path, methods=[Counting()])
    assert len(seen) == 5
    before = files(tmp_path)
    for k in (1, 3):
        (tmp_path / "index" / f"{k:06d}.parquet").unlink()
    shutil.rmtree(tmp_path / "maps" / "000003")
    seen.clear()
    again = explained(tmp_path, methods=[Counting()])
    assert [ids[0] for ids in seen] == ["5", "15"]
    assert files(tmp_path) == before
    assert again.index.equals(whole.index)
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [f"{k:06d}" for k in range(5)]


def test_what_stops_it_leaves_the_shards_that_are_done(tmp_path):
    class Failing:
        method = "failing"

        def explain(self, scorer, samples):
            if "12" in samples.ids and broken:
                raise RuntimeError("power cut")
            return kx.explain(scorer, samples, "vanilla")

    broken = [True]
    with pytest.raises(RuntimeError, match="power cut"):
        explained(tmp_path, methods=[Failing()])
    assert kx.ExplainedDataset(tmp_path).shards == [0, 1]
    assert len(kx.ExplainedDataset(tmp_path).index) == 10
    broken.clear()
    assert explained(tmp_path, methods=[Failing()]).shards == [0, 1, 2, 3, 4]


def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path):
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import keras, numpy as np, keras_explain as kx
class Slow:
    method = "slow"
    def explain(self, scorer, samples):
        time.sleep(0.3)
        return kx.explain(scorer, samples, "vanilla")
model = keras.models.load_model({str(tmp_path / "model.keras")!r})
x = np.load({str(tmp_path / "x.npy")!r})
kx.explain_dataset(model, (x, np.arange(23) % 3), [Slow()], {str(tmp_path / "out")!r}, shard_size=5, targets=1)
"""
    MODEL.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list((tmp_path / "out" / "index").glob("*.parquet"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(kx.ExplainedDataset(tmp_path / "out").shards) < 5
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    explained(tmp_path / "whole", methods=["vanilla"])
    kept, whole = (sorted(files(tmp_path / name).items()) for name in ("out", "whole"))
    assert [data for _, data in kept] == [data for _, data in whole]


def test_another_job_does_not_mix_with_what_lies_there(tmp_path):
    explained(tmp_path, methods=["vanilla"])
    for options, message in (
        ({"methods": ["guided"]}, "another job, which differs in methods"),
        ({"targets": 2}, "differs in targets"),
        ({"shard_size": 6}, "differs in shard_size"),
        ({"seed": 1}, "differs in methods, seed"),
        ({"data": (X[:20], Y[:20])}, "differs in images"),
        ({"data": (X[::-1], Y)}, "differs in first_image"),
        ({"metrics": ["border"]}, "differs in metrics"),
    ):
        with pytest.raises(kx.InputError, match=message):
            explained(tmp_path, **{"methods": ["vanilla"], **options})
    with pytest.raises(kx.InputError, match="differs in model"):
        kx.explain_dataset(small_cnn(seed=6), (X, Y), ["vanilla"], tmp_path, shard_size=5, targets=1)


def test_measures_and_regions_are_in_the_index(tmp_path):
    tiles = (255 * X[..., 0]).astype("uint8")
    cases = [
        Case(f"case {i}", int(Y[i]), lambda i=i: tiles[i], lambda: Roi((8, 8), [Box(2, 2, 5, 5)])) for i in range(6)
    ]
    stream = Stream(cases, Preprocessing((8, 8), 1), batch_size=4)
    found = explained(tmp_path, stream, methods=["vanilla"], metrics=["localization"], shard_size=4)
    images = np.concatenate([stream[i][0] for i in range(2)])
    roi = np.stack([stream.roi(case.id) for case in cases])
    by_hand = kx.explain(MODEL, images, "vanilla", 1)
    np.testing.assert_allclose(found.index.auprc, kx.metrics.auprc(by_hand.values, roi), rtol=1e-5)
    assert found.index.id.tolist() == [f"case {i}" for i in range(6)]


def test_the_background_is_spread_over_the_data(tmp_path):
    found = explained(tmp_path / "a", methods=["gradient_shap"], background=4, seed=3)
    spread = X[[0, 7, 15, 22]]
    by_hand = explained(tmp_path / "b", methods=[kx.GradientShap(spread, seed=3)])
    np.testing.assert_array_equal(found.index.base_score, by_hand.index.base_score)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    few = explained(tmp_path / "c", methods=["gradient_shap"], background=2, seed=3)
    assert few.index.base_score[0] != found.index.base_score[0]


def test_numbers_without_maps(tmp_path):
    whole, numbers = explained(tmp_path / "a"), explained(tmp_path / "b", maps=False)
    assert numbers.index.equals(whole.index)
    assert files(tmp_path / "b") == {}
    with pytest.raises(kx.InputError, match="differs in maps"):
        explained(tmp_path / "b")


def test_a_model_from_a_file_and_precision(tmp_path):
    MODEL.save(tmp_path / "model.keras")
    found = kx.explain_dataset(tmp_path / "model.keras", (X, Y), ["vanilla"], tmp_path / "a", targets=1)
    low = kx.explain_dataset(MODEL, (X, Y), ["vanilla"], tmp_path / "b", targets=1, precision="mixed_bfloat16")
    assert found.settings["model"]["weights"] == low.settings["model"]["weights"]
    assert (found.maps(0)[0].values != low.maps(0)[0].values).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "engine must be 'local' or 'ray'; got 'spark'"),
        ({"methods": "vanilla"}, "explainers must be a list"),
        ({"shard_size": 0}, "shard_size must be a whole number, at least 1"),
        ({"workers": 0}, "workers must be a whole number"),
        ({"methods": ["gradient_shap"], "background": 0}, "GradientShap needs a background"),
        ({"engine": "ray", "data": iter([])}, "On Ray the data must be arrays or a PyDataset"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, options, message):
    with pytest.raises(kx.InputError, match=message):
        explained(tmp_path, **options)
    with pytest.raises(kx.InputError, match=r"holds no dataset\.json"):
        kx.ExplainedDataset(tmp_path / "nothing")


def test_ray_that_is_missing_says_what_to_install(tmp_path):
    code = """
import sys, numpy as np, keras
sys.modules["ray"] = None
import keras_explain as kx
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
try:
    kx.explain_dataset(model, (np.ones((2, 8, 8, 1)), np.zeros(2)), ["vanilla"], "out", engine="ray")
except kx.MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 'pip install "keras-explain-callbacks[ray]"' in done.stdout


def workers_of_ray():
    """Process ids of Ray's actors that hold a model."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if words.startswith("ray::") and "MapWorker" in words:
            found.append(int(place.name))
    return found


class Slow:
    """A method that takes its time, so that there is some to be killed in."""

    method = "slow"

    def explain(self, scorer, samples):
        time.sleep(0.5)
        return kx.explain(scorer, samples, "integrated_gradients")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_worker_of_ray_that_is_killed_loses_and_doubles_nothing(tmp_path):
    here = explained(tmp_path / "local", methods=["integrated_gradients"], shard_size=1)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import threading

    killed = []

    def kill():
        out = tmp_path / "ray" / "index"
        while not killed:
            if len(list(out.glob("*.parquet"))) >= 3 and (found := workers_of_ray()):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.02)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    found = explained(tmp_path / "ray", methods=[Slow()], shard_size=1, engine="ray", workers=2)
    assert killed
    thread.join()
    assert found.shards == here.shards == list(range(23))
    assert found.index.drop(columns="method").equals(here.index.drop(columns="method"))
    mine, theirs = files(tmp_path / "local"), files(tmp_path / "ray")
    assert list(mine.values()) == list(theirs.values())
    assert sorted(path.name for path in (tmp_path / "ray" / "index").iterdir()) == [
        f"{k:06d}.parquet" for k in range(23)
    ]
    settings = json.loads((tmp_path / "ray" / "dataset.json").read_text("utf-8"))
    assert settings["images"] == 23
