"""The demo and the examples as a user runs them: whole scripts in processes of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from mlflow.tracking import MlflowClient

import keras_explain as kx

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


def test_two_epochs_on_real_mammograms(test_data, mlflow_server, tmp_path):
    arguments = [ROOT / "examples" / "train_mias.py", "--data", test_data / "mias", "--tracking-uri", mlflow_server]
    arguments += ["--epochs", 2, "--frequency", 1, "--size", 48, "--copies", 1, "--samples", 40]
    output = run(arguments, tmp_path)
    run_id = re.search(r"run ([0-9a-f]{32})", output)[1]
    client = MlflowClient(mlflow_server)
    assert client.get_run(run_id).info.status == "FINISHED"
    images = [entry.path for entry in client.list_artifacts(run_id, "images")]
    for epoch in (0, 1):
        folder = Path(client.download_artifacts(run_id, f"explanations/epoch_{epoch:04d}", str(tmp_path)))
        samples, attributions, settings = kx.load_round(folder)
        methods = ["vanilla", "guided", "rectified", "integrated_gradients", "lime", "gradient_shap"]
        assert [a.method for a in attributions] == (methods if len(samples) else [])
        assert all(re.fullmatch(r"mdb\d{3}-\d+-0", name) for name in samples.ids)
        assert len(samples) + len(samples.missing) == 5
        assert len(list(folder.glob("*.png"))) == 6  # five classes and the curves
        assert sum(f"+step+{epoch}+" in name and name.endswith(".png") for name in images) == 6
        assert settings["failures"] == {}
        lesions = samples.roi.any(axis=(1, 2))
        np.testing.assert_array_equal(lesions, samples.labels > 0)
        for attribution in attributions:
            np.testing.assert_array_equal(np.isfinite(attribution.measures["auprc"]), lesions)
        for name, value in settings["numbers"].items():
            steps = {m.step: m.value for m in client.get_metric_history(run_id, name)}
            np.testing.assert_allclose(steps[epoch], value, rtol=1e-9)
    assert {m.step for m in client.get_metric_history(run_id, "val_loss")} == {0, 1}
