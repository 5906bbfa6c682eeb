"""The command as a user types it: real model files and data, its words, numbers and exit codes."""

import csv
import json
import os
import subprocess
import sys
import zlib

import keras
import mlflow
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import keras_explain as kx
from keras_explain.cli import main
from keras_explain.datasets.own import open_data, pixels
from keras_explain.datasets.preprocessing import Preprocessing
from tests.conftest import small_cnn

NAMES = ("zebra", "cat", "ant")  # in the order of the model's outputs, which is not the alphabet's
X = np.random.default_rng(0).integers(0, 256, (12, 8, 8), "uint8")
SCALED = X[..., None].astype("float32") / 255


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model that is right about every image, and the images in every form."""
    folder = tmp_path_factory.mktemp("cli")
    model = small_cnn(seed=5)
    model.save(folder / "model.keras")
    labels = model.predict(SCALED, verbose=0).argmax(axis=1)
    assert len(set(labels)) >= 2
    for name in NAMES:
        (folder / "pictures" / name).mkdir(parents=True)
    rows = []
    for i, (image, label) in enumerate(zip(X, labels, strict=True)):
        file = folder / "pictures" / NAMES[label] / f"{i}.png"
        Image.fromarray(image).save(file)
        rows.append({"filename": f"pictures/{NAMES[label]}/{i}.png", "label": NAMES[label], "number": label})
    Image.fromarray(X[0]).save(folder / "pictures" / NAMES[0] / "more.png")  # so that no folder is empty
    Image.fromarray(X[0]).save(folder / "pictures" / NAMES[1] / "more.png")
    Image.fromarray(X[0]).save(folder / "pictures" / NAMES[2] / "more.png")
    for name, column in (("words.csv", "label"), ("numbers.csv", "number")):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "label"])
            writer.writerows([row["filename"], row[column]] for row in rows)
    np.savez(folder / "scaled.npz", images=SCALED, labels=labels)
    np.savez(folder / "raw.npz", test_images=X, test_labels=labels[:, None])
    np.savez(folder / "one_hot.npz", x=SCALED, y=np.eye(3)[labels])
    return folder


def run(*arguments, code=0):
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output + repr(done.exception)
    return done


@pytest.fixture
def expected(place):
    model = keras.models.load_model(place / "model.keras")
    labels = model.predict(SCALED, verbose=0).argmax(axis=1)
    return model, labels, kx.select(model, (SCALED, labels), class_names=NAMES)


@pytest.mark.parametrize("data", ["words.csv", "numbers.csv", "scaled.npz", "raw.npz", "one_hot.npz"])
def test_the_same_images_are_selected_from_every_form(place, expected, data):
    _, _, samples = expected
    done = run("select", place / "model.keras", place / data, "--class-names", ",".join(NAMES), "--json")
    found = json.loads(done.stdout)
    assert found["accuracy"] == 1
    assert [row["class"] for row in found["images"]] == [samples.class_name(t) for t in samples.targets[:, 0]]
    np.testing.assert_allclose([row["confidence"] for row in found["images"]], samples.confidence, rtol=1e-5)
    names = [row["id"].split("/")[-1].removesuffix(".png") for row in found["images"]]
    assert names == list(samples.ids)


def test_folders_are_classes_in_the_order_that_is_told(place, expected):
    _, _, samples = expected
    named = run("select", place / "model.keras", place / "pictures", "--class-names", "zebra,cat,ant")
    for i, name in enumerate(samples.ids):
        assert f"{samples.class_name(samples.targets[i, 0]):<28} {samples.confidence[i]:.4f}" in named.stdout
        assert name in named.stdout
    plain = run("select", place / "model.keras", place / "pictures", "--images-per-class", "2")
    assert "as guessing would. Are the classes in the order" in plain.stderr
    wrong = run("select", place / "model.keras", place / "pictures", "--class-names", "zebra,cat", code=1)
    assert "has the class 'ant'; class_names are zebra, cat." in wrong.stderr


def test_options_of_the_selection_change_it(place):
    both = json.loads(
        run("select", place / "model.keras", place / "scaled.npz", "--images-per-class", "2", "--json").stdout
    )
    one = json.loads(run("select", place / "model.keras", place / "scaled.npz", "--json").stdout)
    assert len(both["images"]) > len(one["images"])
    few = json.loads(run("select", place / "model.keras", place / "scaled.npz", "--candidates", "2", "--json").stdout)
    assert len(few["images"]) < len(one["images"])
    left = one["images"][0]["label"]
    mapped = run("select", place / "model.keras", place / "scaled.npz", "--class-map", f"{left}:{left}", "--json")
    assert {row["label"] for row in json.loads(mapped.stdout)["images"]} == {left}
    doubled = json.loads(
        run(
            "select",
            place / "model.keras",
            place / "words.csv",
            "--scale",
            "0",
            "0.5",
            "--class-names",
            ",".join(NAMES),
            "--json",
        ).stdout
    )
    assert doubled["images"][0]["confidence"] != one["images"][0]["confidence"]
    cut = json.loads(
        run(
            "select",
            place / "model.keras",
            place / "words.csv",
            "--window",
            "0",
            "128",
            "--class-names",
            ",".join(NAMES),
            "--json",
        ).stdout
    )
    assert cut["images"][0]["confidence"] != one["images"][0]["confidence"]


def test_explain_measure_report_and_redraw(place, expected, tmp_path):
    model, _, samples = expected
    out = tmp_path / "explained"
    options = [
        "--methods",
        "vanilla,integrated_gradients",
        "--why-not",
        "vanilla",
        "--class-names",
        ",".join(NAMES),
        "--out",
        out,
    ]
    done = json.loads(run("explain", place / "model.keras", place / "scaled.npz", *options, "--json").stdout)
    found, attributions, settings = kx.load_round(out / "round")
    gradients = kx.explain(model, samples, "integrated_gradients")
    np.testing.assert_allclose(attributions[1].values, gradients.values, atol=1e-5)
    assert len(attributions[0]) == 3 * len(found)
    assert done["means"]["integrated_gradients"]["relative_completeness_error"] == pytest.approx(
        gradients.relative_completeness_error.mean(), rel=1e-3
    )
    assert settings["file"].endswith("model.keras")
    assert 'id="data"' in (out / "report.html").read_text("utf-8")
    measured = json.loads(
        run("evaluate", place / "model.keras", out / "round", "--metrics", "faithfulness", "--json").stdout
    )
    own = kx.metrics.evaluate(model, found, kx.load_round(out / "round")[1][1], metrics=["faithfulness"])
    assert measured["integrated_gradients"]["deletion"] == pytest.approx(own["deletion"])
    assert "deletion" in kx.load_round(out / "round")[1][1].measures  # stored with the maps
    assert '"deletion"' in (out / "report.html").read_text("utf-8")  # the page is written again
    page = tmp_path / "other.html"
    assert run("report", out, "--out", page, "--title", "Mine").stdout.strip() == str(page)
    assert "<title>Mine</title>" in page.read_text("utf-8")
    drawn = run("redraw", out / "round", "--out", tmp_path / "again").stdout.split()
    assert drawn
    other = tmp_path / "other.keras"
    small_cnn(seed=6).save(other)
    assert "has other weights than the model that was explained" in run("evaluate", other, out / "round", code=1).stderr


def test_pictures_are_made_as_for_an_earlier_round(place, tmp_path):
    out = tmp_path / "explained"
    run(
        "explain",
        place / "model.keras",
        place / "words.csv",
        "--scale",
        "0",
        "0.5",
        "--class-names",
        ",".join(NAMES),
        "--methods",
        "vanilla",
        "--out",
        out,
    )
    settings = out / "round" / "settings.json"
    assert Preprocessing.from_settings(settings).scale == (0.0, 0.5)
    same = run(
        "select",
        place / "model.keras",
        place / "words.csv",
        "--settings",
        settings,
        "--class-names",
        ",".join(NAMES),
        "--json",
    )
    rows = json.loads(same.stdout)["images"]
    stored = kx.load_round(out / "round")[0]
    np.testing.assert_allclose([row["confidence"] for row in rows], stored.confidence)


def test_every_image_in_shards(place, expected, tmp_path):
    model, _, _ = expected
    options = ["--methods", "vanilla,lime", "--engine", "local", "--shard-size", "5", "--out", tmp_path / "all"]
    found = json.loads(run("explain", place / "model.keras", place / "scaled.npz", *options, "--json").stdout)
    assert found == {"out": str(tmp_path / "all"), "images": 12, "maps": 24, "shards": 3}
    index = kx.ExplainedDataset(tmp_path / "all").index
    by_hand = kx.explain(model, SCALED, "vanilla")
    np.testing.assert_allclose(index[index.method == "vanilla"].score, by_hand.score, rtol=1e-4)
    again = run("explain", place / "model.keras", place / "scaled.npz", *options).stdout
    assert "24 maps of 12 images in" in again
    assert "score" in again
    for wrong, message in (
        (["--why-not", "vanilla"], "are for the page, which --engine does not write"),
        (["--log"], "are for the page"),
    ):
        done = run("explain", place / "model.keras", place / "scaled.npz", *options, *wrong, code=2)
        assert message in done.stderr
    done = run("explain", place / "model.keras", place / "scaled.npz", "--shard-size", "5", code=2)
    assert "--shard-size needs --engine." in done.stderr


def test_every_class_is_stored_and_the_own_one_measured(place, expected, tmp_path):
    model, _, _ = expected
    out = tmp_path / "e"
    options = ["--methods", "vanilla,integrated_gradients", "--why-not", "vanilla", "--out", out]
    run("explain", place / "model.keras", place / "scaled.npz", *options)
    samples, before, _ = kx.load_round(out / "round")
    metrics = ["--metrics", "faithfulness,border,agreement"]
    measured = json.loads(run("evaluate", place / "model.keras", out, *metrics, "--json").stdout)
    own = kx.explain(model, samples, "vanilla")
    gradients = kx.explain(model, samples, "integrated_gradients")
    by_hand = kx.metrics.evaluate(model, samples, own, metrics=metrics[1].split(","), others=[gradients])
    for name, value in by_hand.items():
        assert measured["vanilla"][name] == pytest.approx(value, rel=1e-3), name
    _, after, settings = kx.load_round(out / "round")
    assert settings["numbers"]["val_explain_vanilla_deletion"] == pytest.approx(by_hand["deletion"], rel=1e-3)
    assert len(after[0]) == len(before[0]) == 3 * len(samples)
    others = after[0].targets != samples.targets[after[0].rows, 0]
    assert np.isnan(after[0].measures["deletion"][others]).all()
    assert np.isfinite(after[0].measures["deletion"][~others]).all()
    done = run(
        "explain", place / "model.keras", place / "scaled.npz", "--methods", "vanilla", "--why-not", "lime", code=1
    )
    assert "why_not names 'lime', which is none of the explainers: vanilla." in done.stderr


def test_seed_background_and_part_change_what_they_should(place, tmp_path):
    def maps(*options):
        run("explain", place / "model.keras", *options, "--out", tmp_path / "e")
        return kx.load_round(tmp_path / "e" / "round")[1][0]

    shap = [place / "scaled.npz", "--methods", "gradient_shap"]
    base = maps(*shap)
    assert (maps(*shap, "--seed", "1").values != base.values).any()
    assert (maps(*shap, "--background", "2").base_score != base.base_score).any()
    np.testing.assert_array_equal(maps(*shap).values, base.values)
    labels = np.load(place / "scaled.npz")["labels"]
    np.savez(tmp_path / "both.npz", x_train=SCALED[:4], y_train=labels[:4], x_test=SCALED[4:], y_test=labels[4:])
    found = [
        json.loads(
            run(
                "select",
                place / "model.keras",
                tmp_path / "both.npz",
                "--part",
                part,
                "--images-per-class",
                "12",
                "--json",
            ).stdout
        )
        for part in ("train", "test")
    ]
    assert [len(one["images"]) for one in found] == [4, 8]


def test_no_method_at_all_is_an_error(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(
        "explain",
        place / "model.keras",
        place / "scaled.npz",
        "--methods",
        "gradient_shap",
        "--background",
        "0",
        code=1,
    )
    assert "No method could explain this model" in done.stderr


def test_options_that_do_nothing_are_refused(place, tmp_path):
    done = run("compare", "a", "b", "--methods", "lime", code=2)
    assert "--methods is for two models; give their images in --data." in done.stderr
    done = run("select", place / "model.keras", place / "scaled.npz", "--scale", "0", "1", code=1)
    assert "holds fractions, which the model receives as they are" in done.stderr


def test_several_outputs_have_names(place, tmp_path):
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    heads = [keras.layers.Dense(3, "softmax", name=name)(flat) for name in ("a", "b")]
    keras.Model(image, heads).save(tmp_path / "two.keras")
    options = ["select", tmp_path / "two.keras", place / "scaled.npz", "--json"]
    one, other = (json.loads(run(*options, "--output", name).stdout)["images"] for name in ("a", "b"))
    assert one != other


def test_two_models_and_two_runs_are_compared(place, tmp_path):
    other = small_cnn(seed=5)
    kernel = other.layers[-1].kernel
    kernel.assign(-1 * keras.ops.convert_to_numpy(kernel))
    other.save(tmp_path / "other.keras")
    page = tmp_path / "c.html"
    options = ["--data", place / "scaled.npz", "--methods", "vanilla", "--out", page, "--json"]
    found = json.loads(run("compare", place / "model.keras", tmp_path / "other.keras", *options).stdout)
    assert page.is_file()
    assert all(rho < 0 for rho in found["rank_agreement"]["Gradient"].values())  # the logits have changed their sign
    same = json.loads(run("compare", place / "model.keras", place / "model.keras", *options).stdout)
    assert all(rho == pytest.approx(1) for rho in same["rank_agreement"]["Gradient"].values())
    for name in ("one", "two"):
        run("explain", place / "model.keras", place / "scaled.npz", "--methods", "vanilla", "--out", tmp_path / name)
    done = run("compare", tmp_path / "one" / "round", tmp_path / "two" / "round", "--out", page)
    assert "mean rank agreement 1.000" in done.stdout
    for epoch in (0, 1):  # the last rounds are taken
        samples, found, _ = kx.load_round(tmp_path / "one" / "round")
        turned = [kx.Attribution("vanilla", (1 - 2 * epoch) * a.values, a.targets, a.rows, a.score) for a in found]
        kx.save_round(tmp_path / "t" / "explanations" / f"epoch_{epoch:04d}", samples, turned)
    assert "mean rank agreement -1.000" in run("compare", tmp_path / "one", tmp_path / "t", "--out", page).stdout
    small = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    small.save(tmp_path / "small.keras")
    options = ["--data", place / "words.csv", "--class-names", ",".join(NAMES), "--out", page]
    done = run("compare", place / "model.keras", tmp_path / "small.keras", *options, code=1)
    assert "The models take images of (8, 8, 1) and (4, 4, 1)" in done.stderr


def test_two_models_of_other_ranges_receive_the_same_pictures(place, tmp_path):
    scaled = keras.models.load_model(place / "model.keras")
    inside = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), *scaled.layers])
    inside.save(tmp_path / "inside.keras")
    options = ["--data", place / "words.csv", "--class-names", ",".join(NAMES), "--methods", "vanilla"]
    page = tmp_path / "c.html"
    for pair in (
        (place / "model.keras", tmp_path / "inside.keras"),
        (tmp_path / "inside.keras", place / "model.keras"),
    ):
        found = json.loads(run("compare", *pair, *options, "--out", page, "--json").stdout)["rank_agreement"][
            "Gradient"
        ]
        assert len(found) >= 2
        assert all(
            rho == pytest.approx(1, abs=1e-3) for rho in found.values()
        )  # the range takes nothing from the order
        data = json.loads(page.read_text("utf-8").split('id="data">')[1].split("</script>")[0])
        first, second = data["rounds"]["0"], data["rounds"]["1"]
        assert first["accuracy"] == second["accuracy"] == 1
        for one, other in zip(first["rows"], second["rows"], strict=True):
            assert one["slot"] == other["slot"]
            assert one["maps"][0]["score"] == pytest.approx(other["maps"][0]["score"], rel=1e-4)
            p = [text.split("p = ")[-1].split(" = ")[-1] for text in (one["facts"][2][1], other["facts"][1][1])]
            assert float(p[0]) == pytest.approx(float(p[1]), abs=2e-3)


def test_python_and_the_command_scale_alike(place):
    scaled = keras.models.load_model(place / "model.keras")
    inside = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), *scaled.layers])
    opened = open_data(place / "words.csv", inside, class_names=NAMES)
    assert opened.preprocessing.scale == (0.0, 255.0)
    assert kx.select(inside, opened.data).accuracy == 1
    assert open_data(place / "words.csv", scaled, class_names=NAMES).preprocessing.scale == (0.0, 1.0)


def test_models_and_runs_of_mlflow(place, expected, mlflow_server, tmp_path, monkeypatch):
    model, _, _ = expected
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_server)
    try:
        with mlflow.start_run():
            info = mlflow.keras.log_model(model, name="small", registered_model_name="cli", pip_requirements=[])
        options = ["--methods", "vanilla", "--out", tmp_path / "e"]
        done = run("explain", "models:/cli/1", place / "scaled.npz", *options, "--log")
        assert f"and with the model {info.model_id}" in done.stdout
        kept = mlflow.MlflowClient().list_logged_model_artifacts(info.model_id, "explanations")
        assert [file.path for file in kept] == ["explanations/report.html", "explanations/round"]
        tracker = kx.MlflowTracker()
        model.compile("sgd", "sparse_categorical_crossentropy")
        data = (SCALED, np.arange(12) % 3)
        callback = kx.callbacks.ExplanationCallback(data, ["vanilla"], tracker=tracker, on_error="raise")
        model.fit(*data, epochs=1, verbose=0, callbacks=[callback])
        run("report", tracker.run_id, "--out", tmp_path / "run.html")
        assert "epoch 1" in (tmp_path / "run.html").read_text("utf-8")
        assert "is no folder, and no run of" in run("report", "0" * 32, code=1).stderr
        assert "is a file" in run("explain", place / "model.keras", place / "scaled.npz", "--log", code=2).stderr
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["select", "model.keras", "nothing"], 1, "nothing is no folder and no .csv, .npz or .tfrecords file."),
        (["select", "absent.keras", "scaled.npz"], 1, "absent.keras"),
        (["select", "model.keras", "scaled.npz", "--class-map", "1-2"], 2, "is no list of pairs such as 1:0,3:1"),
        (
            ["explain", "model.keras", "scaled.npz", "--methods", "gradcam2"],
            2,
            "there is no 'gradcam2'; known are vanilla",
        ),
        (
            ["explain", "model.keras", "scaled.npz", "--metrics", "fidelity"],
            2,
            "there is no 'fidelity'; known are compl",
        ),
        (["explain", "model.keras", "scaled.npz", "--why-not", "guid"], 2, "there is no 'guid'"),
        (["select", "model.keras", "scaled.npz", "--images-per-class", "0"], 2, "0 is not in the range x>=1"),
        (["evaluate", "model.keras", "pictures"], 1, "holds no round"),
        (["select", "model.keras", "pictures/cat"], 1, "holds pictures, but needs a folder for each class"),
        (["report", "nowhere"], 1, "'nowhere' is no folder, and no id of a run"),
        (["report", "pictures"], 1, "holds no round"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_errors_are_a_line_and_an_exit_code(place, monkeypatch, arguments, code, message):
    monkeypatch.chdir(place)
    done = run(*arguments, code=code)
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_every_command_has_help_with_an_example():
    assert set(main.commands) == {"demo", "select", "explain", "evaluate", "report", "compare", "redraw", "sync"}
    for name in main.commands:
        text = run(name, "--help").stdout
        assert "keras-explain " in text or "for example" in text or name == "demo"


def test_the_command_is_silent_off_a_terminal_and_completes(place, tmp_path):
    command = [sys.executable, "-c", "from keras_explain.cli import main; main(prog_name='keras-explain')"]
    explain = [
        "explain",
        place / "model.keras",
        place / "scaled.npz",
        "--methods",
        "vanilla",
        "--out",
        tmp_path,
        "--json",
    ]
    done = subprocess.run([*command, *map(str, explain)], capture_output=True, text=True, check=True)
    json.loads(done.stdout)
    assert "method/s" not in done.stderr
    environment = {
        **os.environ,
        "_KERAS_EXPLAIN_COMPLETE": "bash_complete",
        "COMP_WORDS": "keras-explain ",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert {"plain,explain", "plain,compare"} <= set(done.stdout.split())


# --- the data behind it ------------------------------------------------------------------------------------------


def test_colours_and_depths_of_files(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3), "uint8")
    Image.fromarray(colours).save(tmp_path / "colours.png")
    np.testing.assert_array_equal(pixels(tmp_path / "colours.png"), colours)
    deep = np.arange(30, dtype="uint16").reshape(6, 5) * 1000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(pixels(tmp_path / "deep.png"), deep)
    bomb = (tmp_path / "colours.png").read_bytes().replace((5).to_bytes(4) + (6).to_bytes(4), (2**20).to_bytes(4) * 2)
    crc = zlib.crc32(bomb[12:29]).to_bytes(4)
    (tmp_path / "bomb.png").write_bytes(bomb[:29] + crc + bomb[33:])  # says that it has 2^40 pixels
    with pytest.raises(kx.InputError, match=r"bomb.png is no picture that can be read: Image size .* exceeds limit"):
        pixels(tmp_path / "bomb.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "colours.png").read_bytes()[:60])
    with pytest.raises(kx.InputError, match=r"broken.png is no picture that can be read"):
        pixels(tmp_path / "broken.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "name,label\nx,1\n", "needs a column named filename, file, path, image or id; it has"),
        ("b.csv", "filename,kind\nx,1\n", "needs a column named label, class or y"),
        ("c.npz", {"pictures": X}, "needs images and labels, or x and y; it has pictures"),
        ("d.npz", {"images": X, "labels": np.arange(3)}, "has 12 images and 3 labels"),
        ("e.npz", b"nothing", "is no npz that can be read"),
        ("g.csv", "filename,label\n", "has no rows"),
        ("h.csv", "filename,label\na.png\n", "Line 2 of .*h.csv has no filename or no label"),
        ("i.csv", "filename,label\ngr\xfcn.png,1\n".encode("latin-1"), "is not in UTF-8"),
        ("j.npz", {"images": X, "labels": np.eye(3)[np.arange(12) % 3] + 1}, "several classes at once"),
        ("f.npz", {"images": np.array([{}], object), "labels": np.zeros(1)}, "is no npz that can be read"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path, name, content, message):
    file = tmp_path / name
    if isinstance(content, dict):
        np.savez(file, **content)
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(kx.InputError, match=message):
        open_data(file, small_cnn())


def test_data_of_another_model_are_refused(place, tmp_path):
    with pytest.raises(
        kx.InputError, match=r"has the classes ant, cat, zebra; '.*' has 4 outputs. Give all of class_names"
    ):
        open_data(place / "pictures", small_cnn(classes=4))
    assert open_data(place / "pictures", small_cnn(classes=4), class_names=[*NAMES, "dog"]).class_names[3] == "dog"
    with pytest.raises(kx.InputError, match=r"has images of \(8, 8, 1\); '.*' takes \(9, 9, 1\)"):
        open_data(place / "scaled.npz", small_cnn(size=9))


def test_a_model_of_other_images_is_refused(place):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    with pytest.raises(kx.InputError, match=r"takes \(None, 4\); pictures need a model of fixed"):
        open_data(place / "numbers.csv", model)


def test_classes_of_folders_are_those_of_keras(tmp_path):
    for name in ("b", "a", "c", ".cache"):
        (tmp_path / name).mkdir()
    for name in ("a", "c", ".cache"):
        Image.fromarray(X[0]).save(tmp_path / name / "1.png")
    opened = open_data(tmp_path, small_cnn())
    assert opened.class_names == ("a", "b", "c")  # one without pictures is a class, a hidden one is none
    assert dict(zip(opened.data.ids, opened.data.labels, strict=True)) == {"a/1.png": 0, "c/1.png": 2}


def test_labels_of_several_classes_and_words_in_an_npz(tmp_path):
    several = (np.arange(36).reshape(12, 3) % 2).astype("int64")
    np.savez(tmp_path / "several.npz", x=SCALED, y=several)
    np.testing.assert_array_equal(open_data(tmp_path / "several.npz", small_cnn(head="sigmoid")).data[1], several)
    np.savez(tmp_path / "words.npz", x=SCALED, y=np.array(NAMES)[np.arange(12) % 3])
    np.testing.assert_array_equal(
        open_data(tmp_path / "words.npz", small_cnn(), class_names=NAMES).data[1], np.arange(12) % 3
    )
    np.savez(tmp_path / "tasks.npz", x=SCALED, y=np.arange(12) % 5)
    opened = open_data(tmp_path / "tasks.npz", small_cnn(classes=2), task="model_4")
    assert kx.select(small_cnn(classes=2), opened.data, class_map=opened.class_map).targets.max() <= 1


def test_pictures_of_a_table_may_lie_in_a_folder_of_their_own(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(X[3]).save(tmp_path / "images" / "x.png")
    (tmp_path / "t.csv").write_text("id,class\nx.png,1\n")
    np.testing.assert_allclose(open_data(tmp_path / "t.csv", small_cnn()).data[0][0][0], SCALED[3], atol=1e-6)


def test_tasks_and_mammograms_are_known_by_name(tmp_path):
    from keras_explain.datasets import ddsm

    tiles = np.random.default_rng(0).integers(0, 256, (10, 299, 299), "uint8")
    ddsm.write_pictures(tmp_path / "images", tmp_path / "test_df_model_4.csv", tiles, [1, 3] * 5, "model_4")
    opened = open_data(tmp_path, small_cnn(classes=2), task="model_4")
    assert opened.class_names == ddsm.task("model_4").class_names
    assert sorted(set(opened.data.labels.tolist())) == [0, 1]
