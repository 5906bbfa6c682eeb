"""Files that are damaged, or made to do harm: a clear error or an answer, nothing run, nothing written elsewhere."""

import io
import json
import os
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_explain as kx
from benchmarks import fuzz
from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets.files import read_image
from keras_explain.engine import History, Round, draw_round, write_round
from keras_explain.report import Report
from keras_explain.tracking.sending import sync
from keras_explain.tracking.spool import Spool
from tests.conftest import small_cnn, tensorflow_only

few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", [k for k in fuzz.KINDS if k != "TFRecord"])
def test_damaged_files_are_clear_errors_or_answers(kind):
    """A few of each kind; `python -m benchmarks.fuzz` tries thousands."""
    found = dict(fuzz.cases(kind, seed=10_000, count=25))
    assert {seed: outcome for seed, outcome in found.items() if outcome not in ("answer", "clear error")} == {}
    assert len(found) == 25


@tensorflow_only
def test_damaged_records_are_clear_errors_or_answers():
    found = dict(fuzz.cases("TFRecord", seed=10_000, count=25))
    assert {seed: outcome for seed, outcome in found.items() if outcome not in ("answer", "clear error")} == {}


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@few
@given(about=anything)
def test_a_spool_that_says_anything(about, tmp_path_factory):
    place = tmp_path_factory.mktemp("spool") / "one"
    place.mkdir()
    (place / "run.json").write_text(json.dumps(about), "utf-8")
    (place / "000001_epoch_0003").mkdir()
    (place / "000001_epoch_0003" / "numbers.json").write_text(json.dumps(about), "utf-8")
    assert Spool.whole(place.parent) == []
    with pytest.raises(kx.InputError, match=r"run\.json"):
        Spool(place).about  # noqa: B018
    with pytest.raises(kx.InputError, match=r"numbers\.json"):
        Spool(place).waiting()


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
@settings(few, max_examples=15)
@given(
    key=st.sampled_from(
        ["methods", "panels", "numbers", "history", "failures", "stopped", "versions", "epoch", "trouble", "title"]
    ),
    value=anything,
)
def test_a_round_whose_settings_say_anything(key, value, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round")
    fuzz.one_round(folder)
    known = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**known, key: value}), "utf-8")
    try:
        loaded = kx.load_round(folder)
    except kx.InputError:
        return
    draw_round(folder, *loaded)
    report = Report("any", 1)
    report.add("round", *loaded)
    report.page()


NAMES = st.text(max_size=300) | st.sampled_from(
    [
        "../../../etc/passwd",
        "C:\\Windows",
        "a\0b",
        "\x1b[31m",
        "<script>alert(1)</script>",
        "x" * 5000,
        "‮gnp",
        "",
        ".",
        "..",
    ]
)


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")  # where a picture shows a box
@settings(few, max_examples=10)
@given(names=st.lists(NAMES, min_size=3, max_size=3), ids=st.lists(NAMES, min_size=3, max_size=3, unique=True))
def test_names_of_any_kind_stay_in_their_folder_and_stay_text(names, ids, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names") / "out"
    samples = kx.Samples(
        np.zeros((3, 4, 4, 1)) + np.eye(4)[None, ..., None], [0, 1, 2], [0, 1, 2], ids=ids, class_names=names
    )
    found = Round(samples, numbers={})
    stored = write_round(folder, found, History(), "epoch 1", {"epoch": 0})
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert all(len(path.name) < 255 for path in folder.iterdir())
    again, _, _ = kx.load_round(folder)
    assert again.class_names == tuple(map(str, names))
    assert again.ids == tuple(map(str, ids))
    report = Report("names", 1)
    report.add("round", *stored)
    page = report.page()
    assert "<script>alert" not in page
    assert page.encode("utf-8", "strict")


def test_a_model_file_runs_nothing(tmp_path):
    """Neither what a Lambda holds, nor a class from anywhere."""
    marker = tmp_path / "was here"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model.save(tmp_path / "good.keras")
    evil = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(2)])
    evil.save(tmp_path / "lambda.keras")
    with pytest.raises(kx.InputError, match="Lambda"):
        kx.load_model(tmp_path / "lambda.keras")
    for module, name, config in (
        ("subprocess", "Popen", {"args": ["touch", str(marker)]}),
        ("os", "system", {"command": f"touch {marker}"}),
        ("builtins", "exec", {"source": f"open({str(marker)!r}, 'w')"}),
        ("keras.src.utils.file_utils", "get_file", {"fname": "x", "origin": f"file://{marker}"}),
    ):
        with zipfile.ZipFile(tmp_path / "good.keras") as old, zipfile.ZipFile(tmp_path / "bad.keras", "w") as new:
            for entry in old.namelist():
                content = old.read(entry)
                if entry == "config.json":
                    known = json.loads(content)
                    known["config"]["layers"][1] = {
                        "module": module,
                        "class_name": name,
                        "config": config,
                        "registered_name": name,
                    }
                    content = json.dumps(known).encode()
                new.writestr(entry, content)
        with pytest.raises(kx.InputError):
            kx.load_model(tmp_path / "bad.keras")
    assert not marker.exists()


class Harm:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_no_pickle_is_opened(tmp_path):
    harm = np.array([Harm(str(tmp_path / "was here"))], dtype=object)
    np.savez(tmp_path / "a.npz", images=harm, labels=[0])
    fuzz.one_round(tmp_path / "round")
    np.savez(tmp_path / "round" / "samples.npz", images=harm)
    for action in (lambda: fuzz.opened("a.npz")(tmp_path), lambda: kx.load_round(tmp_path / "round")):
        with pytest.raises(kx.InputError, match="pickle"):
            action()
    assert not (tmp_path / "was here").exists()


def test_pictures_that_would_fill_the_memory(tmp_path):
    from PIL import Image

    stream = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(stream, "PNG")  # 110 kB
    (tmp_path / "bomb.png").write_bytes(stream.getvalue())
    (tmp_path / "bomb.dcm").write_bytes(fuzz.dicom(Rows=60_000, Columns=60_000, NumberOfFrames=900))
    for name in ("bomb.png", "bomb.dcm"):
        with pytest.raises(kx.InputError, match=r"pixels|bomb"):
            read_image(tmp_path / name)


SECRETS = {
    "PatientName": "Doe^Jane^Secretname",
    "PatientID": "SECRET-ID-4711",
    "PatientBirthDate": "19430219",
    "InstitutionName": "Secret Hospital",
    "AccessionNumber": "SECRETACC",
    "OtherPatientIDs": "SECRETOTHER",
}


def test_no_patient_is_named_in_what_is_made_of_dicom_files(tmp_path, capfd):
    """Neither in files, nor in arrays, nor in what is printed; file names are what the user has given."""
    from click.testing import CliRunner

    from keras_explain.cli import main

    for k in range(4):
        folder = tmp_path / "data" / f"class{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(k)
        pixels = random.integers(0, 255, (16, 16)).astype("uint16").tobytes()
        (folder / f"{k}.dcm").write_bytes(fuzz.dicom(PixelData=pixels, **SECRETS))
    assert SECRETS["PatientID"].encode() in (tmp_path / "data" / "class0" / "0.dcm").read_bytes()
    fuzz.small_model().save(tmp_path / "m.keras")
    arguments = [str(tmp_path / "m.keras"), str(tmp_path / "data"), "--methods", "vanilla", "--metrics", "border"]
    done = CliRunner().invoke(main, ["explain", *arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    samples, _, _ = kx.load_round(tmp_path / "out" / "round")
    said = done.output + "".join(capfd.readouterr())
    for path in [p for p in (tmp_path / "out").rglob("*") if p.is_file()]:
        content = path.read_bytes()
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                content += b"".join(archive.read(name) for name in archive.namelist())
        for value in SECRETS.values():
            for part in value.split("^"):
                assert part.encode() not in content, (path, part)
                assert part.encode("utf-32-le") not in content, (path, part)
                assert part not in said
    assert all(name.endswith(".dcm") for name in samples.ids)


def test_a_password_is_neither_stored_nor_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = kx.MlflowTracker(tracking_uri="http://me:hunter2@127.0.0.1:9/?token=hunter3", patience=5.0)
    x, y = np.random.default_rng(0).random((6, 8, 8, 1), "float32"), np.arange(6) % 3
    model = small_cnn()
    model.compile("sgd", "sparse_categorical_crossentropy")
    callback = ExplanationCallback((x, y), ["vanilla"], metrics=[], tracker=tracker)
    with pytest.warns(kx.ExplanationWarning) as said:
        model.fit(x, y, verbose=0, callbacks=[callback])
    everything = [str(one.message) for one in said]
    assert any("not arrived in MLflow" in words for words in everything)
    everything += [path.read_text("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in everything if "hunter" in text]
    (spool,) = Spool.all(Path("explanations-spool"))
    with pytest.raises(kx.InputError, match=r"The passwords of .* are not written down"):
        sync(spool)
