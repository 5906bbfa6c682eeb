"""The demo and the examples as a user runs them: whole scripts in processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import keras_explain as kx
from keras_explain.datasets import ddsm, phantom
from keras_explain.datasets.preprocessing import Preprocessing

ROOT = Path(__file__).parent.parent


def run(arguments, folder, **environment):
    """A Python process in a folder; its output, once it has ended well."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_demo_in_small(tmp_path):
    code = "from keras_explain.cli import main; main()"
    arguments = ["-c", code, "demo", "--size", 32, "--epochs", 2, "--images", 64]
    output = run(arguments, tmp_path)
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in output
    assert re.search(r"Validation accuracy 0\.\d\d \(chance 0\.20\), MLflow run [0-9a-f]{32}", output)
    for name in ("normal", "benign calcification", "benign mass", "malignant calcification", "malignant mass"):
        assert re.search(rf"^{name} .*(%|predicted correctly)", output, re.M), output
    run_id = re.search(r"MLflow run ([0-9a-f]{32})", output)[1]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(run_id).info.status == "FINISHED"
    folders = list(tmp_path.glob("mlruns/*/*/artifacts/explanations/epoch_*"))
    assert sorted(folder.name for folder in folders) == ["epoch_0000", "epoch_0001"]


@pytest.mark.slow
def test_a_shortcut_is_exposed_while_accuracy_is_perfect(tmp_path):
    output = run([ROOT / "examples" / "shortcut.py"], tmp_path)
    honest, marked = output.split("with marker: validation accuracy ")
    assert "without marker: validation accuracy 1.00" in honest
    assert marked.startswith("1.00, 0.50 on the same images without their markers")
    row = r"^malignant +\d+ +[\d.]+ +[\d.]+% +(\d+)% +(\d+)% +(in lesion|elsewhere|-) +(\d+)% +(\d+)%  (.*)$"
    lines = {name: re.findall(row, part, re.M) for name, part in (("honest", honest), ("marked", marked))}
    assert len(lines["honest"]) == len(lines["marked"]) == 3
    for _, _, peak, outside, _, against in lines["honest"]:
        assert (peak, int(outside)) == ("in lesion", 0)
        assert "above chance on background" not in against
    for _, _, peak, outside, chance, against in lines["marked"]:
        assert peak == "elsewhere"
        assert int(outside) > int(chance)
        assert "above chance on background" in against
    inside = {name: np.mean([int(line[0]) / int(line[1]) for line in part]) for name, part in lines.items()}
    assert inside["marked"] < inside["honest"] / 2
    for name in ("without_marker", "with_marker"):
        folder = tmp_path / "shortcut" / name / "explanations" / "epoch_0011"
        assert len(list(folder.glob("1-malignant*.png"))) == 3
        samples, attributions, _ = kx.load_round(folder)
        for attribution in attributions:  # every method says so, on average
            malignant = samples.targets[attribution.rows, 0] == 1
            share, area = (attribution.measures[m][malignant].mean() for m in ("border_share", "border_area"))
            assert name == "without_marker" or attribution.method == "lime" or share > area, attribution.method


def rounds_of(client, run_id, folder, epochs):
    """The rounds that a run holds, downloaded and read back, after a look at what MLflow shows of them."""
    images = [entry.path for entry in client.list_artifacts(run_id, "images")]
    for epoch in range(epochs):
        place = Path(client.download_artifacts(run_id, f"explanations/epoch_{epoch:04d}", str(folder)))
        samples, attributions, settings = kx.load_round(place)
        assert settings["failures"] == {}
        assert [a.method for a in attributions] == (METHODS if len(samples) else [])
        pictures = list(place.glob("*.png"))
        assert sum(f"+step+{epoch}+" in name and name.endswith(".png") for name in images) == len(pictures)
        for name, value in settings["numbers"].items():
            steps = {m.step: m.value for m in client.get_metric_history(run_id, name)}
            np.testing.assert_allclose(steps[epoch], value, rtol=1e-9)
        yield place, samples, attributions, settings


METHODS = ["vanilla", "guided", "rectified", "integrated_gradients", "lime", "gradient_shap"]
REPORTED = [*METHODS[:3], "smoothgrad", *METHODS[3:]]
SMALL = ["--size", 48, "--frequency", 1, "--samples", 40]


def tiles(n, seed):
    """Phantoms as tiles of DDSM, 299 pixels of 8 bits, with their names."""
    images, labels, _ = phantom.mammograms(n, 299, seed)
    names = [f"Mass-Training_P_{i // 2:05d}_LEFT_CC_1" if label else "NORMAL" for i, label in enumerate(labels)]
    return np.rint(255 * images[..., 0]).astype("uint8"), labels, names


@pytest.mark.slow
def test_train_and_report_on_files_as_ddsm_has_them(tmp_path):
    """Model 2: benign and malignant, calcification and mass; malignant calcification is output 2 of 4."""
    pictures, labels, names = tiles(40, 0)
    ddsm.write_tfrecords(tmp_path / "training10_0.tfrecords", pictures[:25], labels[:25], names[:25])
    ddsm.write_tfrecords(tmp_path / "training10_1.tfrecords", pictures[25:], labels[25:], names[25:])
    test_tiles, truth, _ = tiles(20, 1)
    ddsm.write_half(tmp_path, "cv10", test_tiles[:10], truth[:10])
    ddsm.write_half(tmp_path, "test10", test_tiles[10:], truth[10:])
    arguments = ["--data", tmp_path, "--task", "model_2"]
    output = run([ROOT / "examples" / "train_ddsm.py", *arguments, *SMALL, "--epochs", 1], tmp_path)
    assert "model_2: benign calcification, benign mass, malignant calcification, malignant mass; " in output
    assert len(re.findall(r"\b(\d+) images to train on, (\d+) held out", output)) == 1
    run_id = re.search(r"MLflow run ([0-9a-f]{32})", output)[1]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    ((place, samples, _, settings),) = rounds_of(client, run_id, tmp_path, 1)
    assert Preprocessing.from_settings(place / "settings.json") == Preprocessing((48, 48), 3)
    cases = {case.id: case for case in ddsm.tfrecords(tmp_path)}
    mapping = {1: 0, 2: 1, 3: 2, 4: 3}
    for image, name, label in zip(samples.images, samples.ids, samples.labels, strict=True):
        np.testing.assert_array_equal(image, Preprocessing((48, 48), 3)(cases[name].read()))
        assert mapping[cases[name].label] == label

    report = [ROOT / "examples" / "post_training_report.py", tmp_path / "models" / "model_2.keras", *arguments]
    output = run([*report, "--settings", tmp_path / "models" / "model_2.json", "--samples", 40], tmp_path)
    accuracy = float(re.search(r"accuracy ([\d.]+) on the images looked at", output)[1])
    found, attributions, settings = kx.load_round(tmp_path / "report" / "round")
    assert settings["preprocessing"] == {"size": [48, 48], "channels": 3, "scale": [0.0, 1.0], "window": None}
    assert found.accuracy == pytest.approx(accuracy, abs=1e-3)
    assert [a.method for a in attributions] == REPORTED
    assert {"deletion", "randomization_passed"} <= attributions[0].measures.keys()
    model = kx.load_model(tmp_path / "models" / "model_2.keras")
    images = np.stack([Preprocessing((48, 48), 3)(tile) for tile in test_tiles[truth > 0]])
    predicted = model.predict(images, verbose=0).argmax(axis=1)
    assert np.mean(predicted == truth[truth > 0] - 1) == pytest.approx(accuracy, abs=1e-3)
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    said = ("model_2: model_2.keras", "malignant calcification", "data:image/webp", f'"accuracy":{found.accuracy}')
    assert all(words in page for words in said)
    wrong = [sys.executable, *map(str, report), "--task", "model_3"]  # a model of four classes for a task of two
    done = subprocess.run(
        wrong, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    assert "class_names has 2 entries; the model has 4 classes" in done.stderr


def test_train_and_report_on_real_mammograms(test_data, mlflow_server, tmp_path):
    arguments = ["--data", test_data / "mias", "--task", "model_3"]
    train = [ROOT / "examples" / "train_ddsm.py", *arguments, *SMALL, "--epochs", 2, "--tracking-uri", mlflow_server]
    output = run(train, tmp_path)
    run_id = re.search(r"MLflow run ([0-9a-f]{32})", output)[1]
    client = MlflowClient(mlflow_server)
    assert client.get_run(run_id).info.status == "FINISHED"
    women = set()
    for _, samples, attributions, _ in rounds_of(client, run_id, tmp_path, 2):
        assert all(re.fullmatch(r"mdb\d{3}", name) for name in samples.ids)
        assert len(samples) + len(samples.missing) == 2
        women |= {(int(name[3:]) + 1) // 2 for name in samples.ids}
        regions = samples.roi.any(axis=(1, 2))
        assert not regions[samples.labels == 0].any()
        for attribution in attributions:
            np.testing.assert_array_equal(np.isfinite(attribution.measures["auprc"]), regions)
    assert {m.step for m in client.get_metric_history(run_id, "val_loss")} == {0, 1}
    report = [ROOT / "examples" / "post_training_report.py", tmp_path / "models" / "model_3.keras", *arguments]
    output = run([*report, "--settings", tmp_path / "models" / "model_3.json", "--samples", 40], tmp_path)
    found, _, _ = kx.load_round(tmp_path / "report" / "round")
    assert not women & {(int(name[3:]) + 1) // 2 for name in found.ids}  # other women are tested than validated
    assert (tmp_path / "report" / "report.html").stat().st_size > 20_000


@pytest.mark.slow
def test_the_old_model_is_reported_on_real_mammograms(test_data, tmp_path):
    """A file of Keras 2.2, whole, on pictures of 299 pixels."""
    model = test_data / "legacy_h5" / "resnet50_model_0_best_weights.h5"
    arguments = [ROOT / "examples" / "post_training_report.py", model, "--data", test_data / "mias", "--samples", 50]
    run(arguments, tmp_path)
    found, attributions, settings = kx.load_round(tmp_path / "report" / "round")
    assert settings["preprocessing"]["size"] == [299, 299]
    assert len(found) + len(found.missing) == 5
    assert [a.method for a in attributions] == REPORTED


def test_cells_are_explained_for_every_class(tmp_path):
    arguments = [
        ROOT / "examples" / "cells_3d.py",
        "--cells",
        200,
        "--epochs",
        6,
        "--steps",
        60,
        "--depth",
        8,
        "--side",
        16,
    ]
    output = run(arguments, tmp_path)
    lines = re.findall(
        r"why (not )?(.+)\? +Delta from baseline: +(-?[\d.]+)\. Sum of attributions: +(-?[\d.]+)", output
    )
    images = re.findall(r"^Held-out cell (\d+), (.+):$", output, re.M)
    assert len(images) >= 4
    assert len(lines) == 5 * len(images)  # every class, also those that it is not
    for (_, true), block in zip(images, np.array(lines).reshape(-1, 5, 4), strict=True):
        assert [name for other, name, _, _ in block if not other] == [true]
        deltas, sums = block[:, 2].astype(float), block[:, 3].astype(float)
        np.testing.assert_allclose(sums, deltas, atol=0.02 * np.abs(deltas).max() + 0.02)
        assert deltas.argmax() == [name for _, name, _, _ in block].index(true)
    assert "cells explained" not in output  # its progress shows on a terminal only
    assert len(list((tmp_path / "cells").glob("why-*.png"))) == len(images)
    page = (tmp_path / "cells" / "report.html").read_text("utf-8")
    shown = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["rounds"]["epoch_0005"]["rows"]
    assert len(shown) >= 4
    assert all(len(map_["planes"]) == 3 for row in shown for map_ in row["maps"])  # three channels
    assert all(len(row["maps"]) == 3 for row in shown)  # three methods
    _, attributions, settings = kx.load_round(tmp_path / "cells" / "explanations" / "epoch_0005")
    assert settings["failures"] == {}
    assert (attributions[1].measures["auprc"] > 5 * attributions[1].measures["roi_area"]).mean() > 0.7
