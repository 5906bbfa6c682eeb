"""MLflow's own evaluation, its logged models, and its autologging, against a real server."""

import json
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import keras_explain as kx
from keras_explain.tracking.runs import keep_with_model, load_logged_model, rounds_of
from tests.conftest import small_cnn

X = np.random.default_rng(0).integers(0, 256, (12, 8, 8), "uint8")


@pytest.fixture
def logged(server):
    """A model that is right about every image, in MLflow, with its labels."""
    model = small_cnn(seed=5)
    labels = model.predict(X[..., None] / 255, verbose=0).argmax(axis=1)
    with mlflow.start_run():
        info = mlflow.keras.log_model(model, name="small", pip_requirements=[])
    return model, labels, info


def pictures(folder, labels):
    rows = []
    for i, (pixels, label) in enumerate(zip(X, labels, strict=True)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"image": str(folder / f"{i}.png"), "label": label})
    return pd.DataFrame(rows)


def evaluated(info, data, **config):
    with mlflow.start_run() as run:
        found = mlflow.models.evaluate(
            f"models:/{info.model_id}",
            data,
            targets="label",
            model_type="classifier",
            evaluators="keras_explain",
            evaluator_config={"methods": ["vanilla", "integrated_gradients"], "background": 0, **config},
        )
    return run.info.run_id, found


def test_an_evaluation_explains_the_pictures_of_a_table(server, logged, tmp_path):
    model, labels, info = logged
    run_id, found = evaluated(info, pictures(tmp_path, labels), class_names=["a", "b", "c"], why_not=["vanilla"])
    images = X[..., None].astype("float32") / 255
    samples = kx.select(model, (images, labels), class_names=["a", "b", "c"])
    expected = kx.explain(model, samples, "integrated_gradients").relative_completeness_error.mean()
    name = "val_explain_integrated_gradients_relative_completeness_error"
    assert found.metrics[name] == pytest.approx(expected, rel=1e-3)
    assert server.get_run(run_id).data.metrics[name] == pytest.approx(found.metrics[name])
    assert "by hand" not in found.artifacts["keras_explain_report"].content
    assert found.artifacts["keras_explain_report"].uri == f"runs:/{run_id}/explanations/report.html"
    stored, attributions, settings = kx.load_round(rounds_of(run_id, tmp_path) / "epoch_0000")
    np.testing.assert_allclose(stored.images, samples.images, atol=1e-6)
    assert stored.class_names == ("a", "b", "c")
    assert len(attributions[0]) == 3 * len(stored)  # every class
    assert settings["model"]["parameters"] == model.count_params()


def test_flat_numbers_are_taken_as_the_model_takes_them(server, logged):
    _, labels, info = logged
    flat = (X / 255).astype("float32").reshape(12, -1)
    for data in (
        pd.DataFrame(flat).assign(label=labels),
        pd.DataFrame(flat, columns=[f"p{i}" for i in range(64)]).assign(label=labels),
    ):
        _, found = evaluated(info, data.rename(columns=str), images_per_class=2)
        assert found.metrics["val_explain_classes_without_image"] == 3 - len(set(labels))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"why_not": ["lime"]}, "why_not names 'lime'"),
        ({"steps": 3}, "evaluator_config has steps; known are"),
        ({"methods": ["gradcam2"]}, "There is no method 'gradcam2'"),
    ],
)
def test_options_that_cannot_work_are_refused(server, logged, tmp_path, config, message):
    _, labels, info = logged
    with pytest.raises(kx.InputError, match=message):
        evaluated(info, pictures(tmp_path, labels), **config)


def test_scale_window_and_seed_of_an_evaluation(server, logged, tmp_path):
    _, labels, info = logged
    data = pictures(tmp_path, labels)
    ranges = {}
    for name, config in (("as it is", {}), ("scale", {"scale": [0, 0.5]}), ("window", {"window": [0, 128]})):
        run_id, _ = evaluated(info, data, **config)
        samples, _, _ = kx.load_round(rounds_of(run_id, tmp_path) / "epoch_0000")
        ranges[name] = float(samples.images.mean()), float(samples.images.max())
    assert 0.9 < ranges["as it is"][1] <= 1
    assert ranges["scale"][1] <= 0.5
    assert ranges["window"][0] > 1.2 * ranges["as it is"][0]
    seeds = []
    for config in ({"seed": 1, "background": 4}, {"seed": 2, "background": 4}):
        run_id, _ = evaluated(info, data, **{"methods": ["gradient_shap"], **config})
        seeds.append(kx.load_round(rounds_of(run_id, tmp_path) / "epoch_0000")[1][0].values)
    assert (seeds[0] != seeds[1]).any()


class Other(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["a"].to_numpy().astype(int)


def test_evaluations_of_others_are_left_alone(server):
    """MLflow offers every evaluation to all evaluators that are installed."""
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(name="other", python_model=Other(), pip_requirements=[])
        data = pd.DataFrame({"a": [0.0, 1.0], "label": [0, 1]})
        found = mlflow.models.evaluate(info.model_uri, data, targets="label", model_type="classifier")
    assert not any("val_explain" in name for name in found.metrics)


def test_the_columns_and_labels_of_a_table(server, logged, tmp_path):
    _, labels, info = logged
    data = pictures(tmp_path, labels)
    with pytest.raises(kx.InputError, match="call that of the picture files 'image'"):
        evaluated(info, data.rename(columns={"image": "file"}).assign(patient="P0"))
    words = data.assign(label=[("a", "b", "c")[label] for label in labels])
    _, found = evaluated(info, words, class_names=["a", "b", "c"])
    assert "val_explain_vanilla_border_share" in found.metrics
    with pytest.raises(kx.InputError, match=r"The label .* is no number, and none of class_names"):
        evaluated(info, words, class_names=["x", "y", "z"])


def test_models_are_loaded_by_their_address_and_keep_their_explanations(server, logged, tmp_path):
    model, _, info = logged
    for address in (f"models:/{info.model_id}", info.model_uri):
        loaded = load_logged_model(address)
        np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "vanilla.npz").write_bytes(b"maps")
    (tmp_path / "report.html").write_text("page")
    (tmp_path / ".env").write_text("secret")
    address = f"models:/{info.model_id}"
    assert keep_with_model(address, tmp_path / "round", tmp_path / "report.html") == info.model_id
    kept = [file.path for file in server.list_logged_model_artifacts(info.model_id, "explanations")]
    assert kept == ["explanations/report.html", "explanations/round"]
    with pytest.raises(kx.InputError, match=r"models:/nothing/1 cannot be loaded from http"):
        load_logged_model("models:/nothing/1")
    with pytest.raises(kx.InputError, match="is no folder, and no run of"):
        rounds_of("0" * 32, tmp_path)
    with pytest.raises(kx.InputError, match="no id of a run"):
        rounds_of("nowhere", tmp_path)
    with mlflow.start_run() as run:
        pass
    with pytest.raises(kx.InputError, match="holds no explanations"):
        rounds_of(run.info.run_id, tmp_path)
    mlflow.set_tracking_uri("http://me:s3cret@127.0.0.1:9")  # the fixture puts it back
    with pytest.raises(kx.InputError) as told:
        rounds_of("0" * 32, tmp_path)
    assert "s3cret" not in str(told.value)
    assert "http://***@127.0.0.1:9" in str(told.value)


@pytest.fixture
def fit_as_it_was():
    before = keras.Model.__dict__.get("fit")
    yield
    kx.autolog(disable=True)
    if before is None:
        if "fit" in keras.Model.__dict__:
            del keras.Model.fit
    else:
        keras.Model.fit = before


def train(**options):
    model = small_cnn(seed=5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = X[..., None] / 255, np.arange(12) % 3
    return model.fit(x, y, verbose=0, **{"validation_data": (x, y), **options})


def test_autolog_explains_every_fit(tmp_path, fit_as_it_was):
    with pytest.raises(kx.InputError, match="There is no method 'rubbish'"):
        kx.autolog(explainers=["rubbish"])
    with pytest.raises(kx.InputError, match=r"autolog takes the options of ExplanationCallback: .*nonsense"):
        kx.autolog(nonsense=1)
    kx.autolog(explainers=["vanilla"], tracker=kx.DirectoryTracker(tmp_path), on_error="raise")
    seen = []
    watching = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(set(logs)))
    for callbacks in ([watching], watching, keras.callbacks.CallbackList([watching])):
        seen.clear()
        train(callbacks=callbacks)
        assert "val_explain_vanilla_border_share" in seen[0]  # it stands before the others
    assert "val_explain_vanilla_border_share" in train().history
    assert (tmp_path / "explanations" / "epoch_0000" / "vanilla.npz").is_file()
    with pytest.warns(kx.ExplanationWarning, match="this fit has no validation_data"):
        assert "val_explain_vanilla_border_share" not in train(validation_data=None).history
    x, y = X[..., None] / 255, np.arange(12) % 3
    own = kx.callbacks.ExplanationCallback((x, y), ["guided"], tracker=kx.DirectoryTracker(tmp_path / "own"))
    assert not any("vanilla" in name for name in train(callbacks=[own]).history)
    kx.autolog(disable=True)
    assert "val_explain_vanilla_border_share" not in train().history


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_autolog_beside_that_of_mlflow(server, fit_as_it_was, first):
    turns = [
        lambda: kx.autolog(explainers=["vanilla"], on_error="raise"),
        lambda: mlflow.keras.autolog(log_models=False, log_datasets=False),
    ]
    for turn in turns if first == "ours" else turns[::-1]:
        turn()
    train(callbacks=[])
    run = mlflow.last_active_run()
    mlflow.keras.autolog(disable=True)
    assert run.info.status == "FINISHED"
    assert "val_loss" in run.data.metrics
    assert "val_explain_vanilla_border_share" in run.data.metrics
    assert [entry.path for entry in server.list_artifacts(run.info.run_id, "explanations")]


def test_the_page_of_an_evaluation_is_whole(server, logged, tmp_path):
    _, labels, info = logged
    run_id, _ = evaluated(info, pictures(tmp_path, labels))
    text = Path(server.download_artifacts(run_id, "explanations/report.html", str(tmp_path))).read_text("utf-8")
    found = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [method["title"] for method in found["rounds"]["round"]["methods"]] == ["Gradient", "Integrated Gradients"]
