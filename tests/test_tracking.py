"""Rounds in a real MLflow server and its real UI, and in a folder."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.report import Report, joined
from keras_explain.tracking.sending import kept_page, send, sync
from keras_explain.tracking.spool import Spool
from tests.conftest import small_cnn
from tests.faults import Server

X = np.random.default_rng(0).random((12, 8, 8, 1), "float32")
Y = np.arange(12) % 3
NAMES = ["normal", "<img src=x onerror=alert(1)>", "../../etc"]


@pytest.fixture
def own_server(tmp_path):
    found = Server(tmp_path)
    yield found
    found.kill()


def fit(callbacks, epochs=3, **options):
    model = small_cnn(seed=5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=epochs, validation_data=(X, Y), verbose=0, callbacks=callbacks, **options)
    return model


def explain(tracker=None, **options):
    options = {"frequency": 2, "on_error": "raise", "class_names": NAMES, **options}
    return ExplanationCallback((X, Y), ["vanilla", "integrated_gradients"], tracker=tracker, **options)


def files(client, run_id, path=""):
    found = []
    for entry in client.list_artifacts(run_id, path):
        found += files(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return found


def test_rounds_go_into_the_active_run_at_their_step(server, tmp_path):
    with mlflow.start_run() as run:
        callback = explain()
        fit([callback])
        assert mlflow.active_run().info.run_id == run.info.run_id
    run_id = run.info.run_id
    found = files(server, run_id)
    for epoch in (0, 2):
        folder = f"explanations/epoch_{epoch:04d}"
        local = Path(server.download_artifacts(run_id, folder, str(tmp_path)))
        samples, attributions, settings = kx.load_round(local)
        assert [a.method for a in attributions] == ["vanilla", "integrated_gradients"]
        panels = {f"{folder}/{label}-{name}.png" for label, name in enumerate(["normal", PLAIN, "_etc"])}
        assert panels <= set(found)
        images = [name for name in found if name.startswith("images/") and f"+step+{epoch}+" in name]
        assert len(images) == 2 * 4  # a picture and a thumbnail for each class and for the curves
        for metric, value in settings["numbers"].items():
            steps = {m.step: m.value for m in server.get_metric_history(run_id, metric)}
            assert steps[epoch] == pytest.approx(value), metric
    last = callback.latest
    np.testing.assert_array_equal(attributions[1].values, last.attributions[1].values)
    assert samples.ids == last.samples.ids
    data = server.get_run(run_id).data
    assert data.params == {}  # they would cover the pictures in MLflow's image view
    assert data.tags["keras_explain.version.keras"] == keras.__version__
    assert "IntegratedGradients(steps=64" in data.tags["keras_explain.explainers"]
    assert server.get_run(run_id).info.status == "FINISHED"


PLAIN = "_img src_x onerror_alert_1_"


def test_names_stay_text_and_stay_in_their_folder(server):
    with mlflow.start_run() as run:
        fit([explain()], epochs=1)
    assert all(
        name.startswith(("explanations/epoch_", "explanations/report.html", "images/"))
        for name in files(server, run.info.run_id)
    )


def test_a_run_is_started_and_ended_where_there_is_none(server):
    callback = explain()
    fit([callback], epochs=1)
    assert mlflow.active_run() is None
    run = server.get_run(callback.tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.name"]
    first = callback.tracker.run_id
    fit([callback], epochs=1)
    assert callback.tracker.run_id != first


def test_a_run_that_another_callback_starts_is_shared(server):
    callback = explain()
    fit([callback, mlflow.keras.MlflowCallback()], epochs=1)
    run = mlflow.active_run()
    mlflow.end_run()
    assert callback.tracker.run_id == run.info.run_id
    metrics = server.get_run(run.info.run_id).data.metrics
    assert "val_loss" in metrics
    assert "val_explain_integrated_gradients_completeness_error" in metrics


def test_a_finished_run_is_continued_by_its_id(server):
    with mlflow.start_run() as run:
        fit([explain()], epochs=2)
    fit([explain(kx.MlflowTracker(run_id=run.info.run_id))], epochs=4, initial_epoch=2)
    steps = [m.step for m in server.get_metric_history(run.info.run_id, "val_explain_classes_without_image")]
    assert sorted(steps) == [0, 1, 2, 3]


def page_of(client, run_id, folder):
    text = Path(client.download_artifacts(run_id, "explanations/report.html", str(folder))).read_text("utf-8")
    return text, data_of(text)


def data_of(page):
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    return None if found is None else json.loads(found[1])


def test_the_page_grows_with_the_rounds_also_of_a_run_that_is_resumed(server, tmp_path):
    with mlflow.start_run() as run:
        fit([explain()], epochs=3)
    _, found = page_of(server, run.info.run_id, tmp_path)
    assert [round["title"] for round in found["rounds"].values()] == ["epoch 1", "epoch 3"]
    fit([explain(kx.MlflowTracker(run_id=run.info.run_id))], epochs=5, initial_epoch=3)
    _, found = page_of(server, run.info.run_id, tmp_path)
    assert [round["title"] for round in found["rounds"].values()] == ["epoch 1", "epoch 3", "epoch 5"]
    assert [len(round["history"]["epochs"]) for round in found["rounds"].values()] == [0, 2, 1]  # none twice
    for epochs in (3, 1):  # a folder, too; a training from the beginning takes nothing over
        fit([explain(kx.DirectoryTracker(tmp_path / "a"))], epochs=epochs)
    text = (tmp_path / "a" / "explanations" / "report.html").read_text("utf-8")
    found = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert [round["title"] for round in found["rounds"].values()] == ["epoch 1"]
    assert not list((tmp_path / "a").rglob("*.partial"))


def test_two_trainings_in_one_folder_stay_apart(tmp_path):
    def numbers(folder):
        rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
        assert len({(step, name) for step, name, _ in rows}) == len(rows)  # none twice
        return sorted({int(step) for step, _, _ in rows})

    def rounds(folder):
        return sorted(int(path.name[6:]) for path in folder.glob("epoch_*"))

    for epochs in (4, 1, 3):
        fit([explain(kx.DirectoryTracker(tmp_path), frequency=1)], epochs=epochs)
    for name, epochs in (("explanations-1", 4), ("explanations-2", 1), ("explanations", 3)):
        assert rounds(tmp_path / name) == numbers(tmp_path / name) == list(range(epochs))
        assert (tmp_path / name / "run.json").is_file()
    fit([explain(kx.DirectoryTracker(tmp_path), frequency=1)], epochs=5, initial_epoch=2)  # killed after epoch 2, say
    assert rounds(tmp_path / "explanations") == numbers(tmp_path / "explanations") == [0, 1, 2, 3, 4]
    assert not (tmp_path / "explanations-3").exists()


def test_a_tracker_of_three_methods_is_enough(tmp_path):
    class Mine:
        steps = ()

        def start(self, settings):
            self.settings = settings

        def log_round(self, step, folder, numbers):
            self.steps += (step,)

        def finish(self):
            self.finished = True

    mine = Mine()
    fit([explain(mine)], epochs=3)
    assert mine.steps == (0, 2)
    assert mine.finished


def test_the_page_is_kept_with_a_model_that_is_logged_later(server, tmp_path):
    tracker = kx.MlflowTracker()
    with pytest.raises(kx.InputError, match="call link after a fit"):
        tracker.link("m-0")
    later = kx.MlflowTracker()
    with mlflow.start_run() as run:
        model = fit([explain(tracker)], epochs=1)
        logged = mlflow.keras.log_model(model, name="small", pip_requirements=[])
    tracker.link(logged.model_id)
    text, _ = page_of(server, run.info.run_id, tmp_path)
    kept = server.list_logged_model_artifacts(logged.model_id, "explanations")
    assert [file.path for file in kept] == ["explanations/report.html"]
    place = f"{server.get_logged_model(logged.model_id).artifact_location}/{kept[0].path}"
    local = mlflow.artifacts.download_artifacts(place, dst_path=str(tmp_path / "m"))
    assert Path(local).read_text("utf-8") == text
    tags = server.get_logged_model(logged.model_id).tags
    assert tags["keras_explain.report"] == f"runs:/{run.info.run_id}/explanations/report.html"
    later = kx.MlflowTracker(run_id=run.info.run_id)
    later.link(logged.model_id)  # in another process than the training's, too


def test_the_page_works_inside_the_ui(server, mlflow_server, browser, tmp_path):
    with mlflow.start_run(experiment_id=server.create_experiment("page")) as run:
        fit([explain(why_not=["integrated_gradients"])], epochs=3)
    page = browser.new_page(viewport={"width": 1700, "height": 1200})
    said, asked = [], []
    page.goto(
        f"{mlflow_server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/explanations/report.html"
    )
    inside = page.frame_locator("iframe[sandbox]")
    inside.locator("body[data-ready=yes]").wait_for(timeout=60_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    frame = next(frame for frame in page.frames if frame.parent_frame and frame.evaluate("typeof rounds") == "object")
    assert frame.evaluate("window.origin") == "null"  # neither storage nor MLflow within reach
    assert inside.locator("#grid h2").inner_text() == "epoch 3"
    inside.locator("#round").press("ArrowLeft")
    assert inside.locator("#grid h2").inner_text() == "epoch 1"
    inside.locator("#mode").select_option("contour")
    inside.locator("#beside").select_option("1")
    assert "\nepoch 3" in inside.locator(".sample td").first.inner_text()
    inside.locator(".sample td:nth-of-type(2) .view").first.click()
    assert inside.locator("#detail figcaption", has_text="why not").count() == 2
    assert "Σ" in inside.locator("#detail").inner_text()
    page.screenshot(path=tmp_path / "page.png")
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []


def test_a_tracking_uri_of_its_own_leaves_the_global_one_alone(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a local store
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    callback = explain(kx.MlflowTracker(tracking_uri=uri))
    fit([callback], epochs=1)
    assert mlflow.get_tracking_uri() == server.tracking_uri
    other = MlflowClient(uri)
    assert other.get_run(callback.tracker.run_id).info.status == "FINISHED"


def test_an_active_run_of_another_store_is_left_alone(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with mlflow.start_run() as run:
        callback = explain(kx.MlflowTracker(tracking_uri=f"sqlite:///{tmp_path}/other.db"))
        fit([callback], epochs=1)
    assert callback.tracker.run_id != run.info.run_id
    assert files(server, run.info.run_id) == []
    assert MlflowClient(f"sqlite:///{tmp_path}/other.db").get_run(callback.tracker.run_id).info.status == "FINISHED"


def test_a_folder_keeps_the_same_tree(server, tmp_path):
    with mlflow.start_run() as run:
        fit([explain()], epochs=3)
    fit([explain(kx.DirectoryTracker(tmp_path))], epochs=3)
    local = {str(path.relative_to(tmp_path)) for path in (tmp_path / "explanations").rglob("*.*")}
    local.remove("explanations/metrics.csv")
    local.remove("explanations/run.json")
    assert local == {name for name in files(server, run.info.run_id) if name.startswith("explanations/")}
    numbers = (tmp_path / "explanations" / "metrics.csv").read_text().splitlines()[1:]
    for line in numbers:
        step, name, value = line.split(",")
        history = {m.step: m.value for m in server.get_metric_history(run.info.run_id, name)}
        assert history[int(step)] == pytest.approx(float(value))


def test_a_logged_round_can_be_drawn_again(tmp_path):
    fit([explain(kx.DirectoryTracker(tmp_path))], epochs=1)
    folder = tmp_path / "explanations" / "epoch_0000"
    command = [sys.executable, "-c", "from keras_explain.cli import main; main()", "redraw", str(folder)]
    names = sorted(path.name for path in folder.glob("*.png"))
    subprocess.run([*command, "--out", str(tmp_path / "again")], check=True, capture_output=True)
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    subprocess.run([*command, "--out", str(tmp_path / "cut"), "--percentile", "50"], check=True, capture_output=True)
    assert any((tmp_path / "cut" / name).read_bytes() != (folder / name).read_bytes() for name in names)
    whole = subprocess.run([*command[:-1], str(tmp_path)], check=True, capture_output=True, text=True)
    assert [line for line in whole.stdout.split() if line.endswith(names[0])] == [str(folder / names[0])]
    wrong = subprocess.run([*command[:-1], str(tmp_path / "again")], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "holds no round" in wrong.stderr


def test_the_ui_shows_the_pictures_with_a_step_slider(server, mlflow_server, browser, tmp_path):
    with mlflow.start_run(experiment_id=server.create_experiment("ui")) as run:
        fit([explain(class_names=["normal", "benign", "malignant"])], epochs=5)
    address = f"{mlflow_server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics"
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    page.goto(address)
    for name in ("0-normal", "1-benign", "2-malignant", "over_training"):
        page.get_by_text(f"explanations/{name}").first.wait_for(timeout=60_000)
    page.locator("img[src*='images']").nth(3).wait_for(timeout=60_000)
    pictures = page.locator("img[src*='images']")
    assert pictures.count() == 4  # three classes and the curves
    assert all(f"step%2B{0}%2B" in pictures.nth(i).get_attribute("src") for i in range(4))
    assert all(pictures.nth(i).evaluate("image => image.complete && image.naturalWidth > 100") for i in range(4))
    slider = page.locator("[role=slider]").first
    assert slider.get_attribute("aria-valuemax") == "4"
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.locator("img[src*='step%2B2%2B']").first.wait_for(timeout=30_000)
    page.screenshot(path=tmp_path / "ui.png")


def test_a_training_that_goes_on_with_its_tracker_stays_in_its_run(server):
    tracker = kx.MlflowTracker()
    fit([explain(tracker)], epochs=3)
    first = tracker.run_id
    fit([explain(tracker)], epochs=5, initial_epoch=3)
    assert tracker.run_id == first
    steps = [m.step for m in server.get_metric_history(first, "val_explain_classes_without_image")]
    assert sorted(steps) == [0, 2, 4]  # that of epoch 2 is there and not done again
    assert server.get_run(first).info.status == "FINISHED"
    before = len(server.search_runs(["0"]))
    fit([explain(kx.MlflowTracker())], epochs=5, initial_epoch=5)  # no epoch, and nothing that went before
    assert len(server.search_runs(["0"])) == before


def test_two_trainings_in_one_run_are_warned_of(server):
    with mlflow.start_run() as run:
        fit([explain()], epochs=1)
        with pytest.warns(kx.ExplanationWarning, match="has rounds of an earlier training") as said:
            fit([explain()], epochs=1)
    assert [f"MLflow run {run.info.run_id} has rounds" in str(one.message) for one in said].count(True) == 1
    history = server.get_metric_history(run.info.run_id, "val_explain_classes_without_image")
    assert [point.step for point in history] == [0, 0]  # as the warning says


def test_what_one_training_needs_another_does_not_take_away(server, monkeypatch):
    """A script of two fits whose process dies in the second."""
    died = kx.MlflowTracker()
    died.start({"initial_epoch": 2})
    run_id = server.create_run("0").info.run_id
    died._spool.tell(run_id=run_id)
    died._spool.release()
    fit([explain(kx.MlflowTracker())], epochs=2)
    again = kx.MlflowTracker()
    fit([explain(again)], epochs=5, initial_epoch=3)
    assert again.run_id == run_id


@pytest.mark.parametrize("fails", ["start", "finish"])
def test_a_tracker_that_fails_is_not_begun_again(fails, tmp_path):
    called = []

    class Mine(kx.DirectoryTracker):
        def start(self, settings):
            called.append("start")
            super().start(settings)
            if fails == "start":
                raise RuntimeError("no place")

        def finish(self):
            called.append("finish")
            raise RuntimeError("no end")

    with pytest.warns(kx.ExplanationWarning, match="no place" if fails == "start" else "no end") as said:
        fit([explain(Mine(tmp_path), on_error="warn", frequency=9)], epochs=1)
    assert called == (["start"] if fails == "start" else ["start", "finish"])
    assert [w.category for w in said].count(kx.ExplanationWarning) == 1


def test_a_spool_is_made_where_there_is_room(server, tmp_path, monkeypatch):
    tracker = kx.MlflowTracker(spool=tmp_path / "a" / "b")
    tracker.start({})
    assert tracker._spool.place.parent == tmp_path / "a" / "b"
    tracker.finish()
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tracker = kx.MlflowTracker(spool=tmp_path / "file" / "spool")
    tracker.start({})
    assert tracker._spool.place.parent == tmp_path / "spool"
    tracker.finish()


def test_numbers_and_words_that_mlflow_refuses_hold_nothing_up(server):
    class Odd:
        when = "round"

        def measure(self, attribution, context):
            return {"gain (%)": np.ones(len(attribution))}

    class Raises:
        method = "raises"

        def explain(self, scorer, samples):
            raise ValueError("bad \udce9 name")

    callback = ExplanationCallback((X, Y), ["vanilla", Raises()], metrics=[Odd()], class_names=["\udce9", "b", "c"])
    with mlflow.start_run() as run, pytest.warns(kx.ExplanationWarning, match="bad"):
        fit([callback], epochs=1)
    data = server.get_run(run.info.run_id).data
    assert data.metrics["val_explain_vanilla_gain _"] == 1.0
    assert "udce9 name" in data.tags["keras_explain.trouble.raises"]
    tracker = kx.MlflowTracker(run_id=run.info.run_id, patience=5.0)
    tracker.start({})
    for step, name in ((7, "bad (%)"), (8, "good")):
        place = Path(f"round{step}")
        place.mkdir()
        (place / "settings.json").write_text("{}")
        tracker.log_round(step, place, {name: 1.0})
    with pytest.raises(kx.errors.Unsent, match="1 round has not arrived in MLflow"):
        tracker.finish()
    assert server.get_run(run.info.run_id).data.metrics["good"] == 1.0


@pytest.mark.slow
def test_a_page_joins_what_the_run_has_when_the_server_is_back(own_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_server.start()
    client = MlflowClient(own_server.address)
    run_id = client.create_run("0").info.run_id
    fit([explain(kx.MlflowTracker(run_id, own_server.address))], epochs=3)
    own_server.kill()
    tracker = kx.MlflowTracker(run_id, own_server.address)
    with pytest.warns(kx.ExplanationWarning) as said:
        fit([explain(tracker, on_error="warn")], epochs=5, initial_epoch=3)
    assert "arrived" in str(said[-1].message)
    own_server.start()
    (spool,) = Spool.all(Path("explanations-spool"))
    sync(spool)
    _, found = page_of(client, run_id, tmp_path)
    assert [round["title"] for round in found["rounds"].values()] == ["epoch 1", "epoch 3", "epoch 5"]


def test_what_a_process_leaves_that_dies_while_it_clears_up_is_no_obstacle(server, tmp_path):
    run_id = server.create_run("0").info.run_id
    about = {"tracking_uri": server.tracking_uri, "run_id": run_id, "ours": False, "source": {}}
    spool = Spool.new(tmp_path / "spool", {**about, "experiment_id": None, "experiment_name": None})
    left = spool.place / ".000001_epoch_0002.sent" / "files"
    left.mkdir(parents=True)
    (left / "a.txt").write_text("")
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "settings.json").write_text("{}")
    spool.put(2, tmp_path / "round", {"a": 1.0})
    spool.release()
    with pytest.raises(Exception, match="not found"):
        sync(spool, run_id="0" * 32)
    assert sync(spool) == (1, run_id)  # and not that run, which does not exist
    assert not (tmp_path / "spool").exists()


def test_a_damaged_page_does_not_replace_that_of_the_run(server, tmp_path):
    run_id = server.create_run("0").info.run_id
    page, earlier = Report("mine").page(), Report("earlier").page()
    server.log_text(run_id, earlier, "explanations/report.html")
    about = {"tracking_uri": server.tracking_uri, "run_id": run_id, "ours": False, "source": {}}
    spool = Spool.new(tmp_path / "spool", {**about, "experiment_id": None, "experiment_name": None})
    (tmp_path / "report.html").write_text(page, "utf-8")
    for damaged in (b"\xff\xfe", page.encode()[:-5000], b"<!DOCTYPE html>"):
        (spool.place / "report.html").write_bytes(damaged)
        Report("goes on").take_over(spool.page(), before=1)
        with pytest.raises(kx.InputError, match=r"sending/report.html is damaged; remove it"):
            send(spool, server)
        assert kept_page(server, run_id) == earlier
    spool.put_page(tmp_path / "report.html")
    send(spool, server)
    assert kept_page(server, run_id) == page
    assert spool.is_empty()
    torn = '<!DOCTYPE html><script type="application/json" id="data">{torn</script></html>'
    assert joined(torn, earlier, 2) == earlier


def test_what_goes_wrong_again_keeps_the_words_of_its_first_time(server, tmp_path):
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "settings.json").write_text("{}")
    run_id = None
    for epoch in (1, 4):
        tracker = kx.MlflowTracker(run_id, server.tracking_uri)
        tracker.start({"initial_epoch": epoch - 1})
        tracker.log_round(epoch, tmp_path / "round", {})
        for what in ("mine", "fit", f"of {epoch}"):
            tracker.log_trouble(what, f"epoch {epoch}")
        tracker.finish()
        run_id = tracker.run_id
    expected = {"mine": "epoch 1", "fit": "epoch 4", "of 1": "epoch 1", "of 4": "epoch 4"}
    tags = server.get_run(run_id).data.tags
    assert {name: tags[f"keras_explain.trouble.{name}"] for name in expected} == expected
    first, second = Report("first"), Report("second")
    first.tell({"mine": "epoch 1", "fit": "epoch 1", "of 1": "epoch 1"})
    second.tell({"of 4": "epoch 4"})
    second.take_over(first.page(), before=3)
    second.tell({"mine": "epoch 4", "fit": "epoch 4"})
    assert data_of(second.page())["trouble"] == expected


def test_a_server_that_goes_while_it_is_sent_to_is_not_waited_for(tmp_path, monkeypatch):
    """MLflow's own client tries for minutes what it has begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "settings.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tracker = kx.MlflowTracker(tracking_uri=f"http://127.0.0.1:{listening.getsockname()[1]}", patience=300)
        tracker.start({})
        tracker.log_round(0, tmp_path / "round", {})
        connection, _ = listening.accept()  # of the look whether anybody is there
        connection.close()
        connection, _ = listening.accept()
    connection.close()
    begun = time.monotonic()
    with pytest.raises(kx.errors.Unsent, match=r"1 round has not arrived in MLflow: http://127.* cannot be reached"):
        tracker.finish()
    assert time.monotonic() - begun < 100


@pytest.mark.filterwarnings("ignore:.*filesystem tracking backend:FutureWarning")
@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_a_round_that_is_sent_twice_is_there_once(store, tmp_path, monkeypatch):
    """As by a process that dies after MLflow has taken the numbers; SQL refuses the same number, a file does not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"sqlite:///{tmp_path}/mlflow.db" if store == "sqlite" else f"file://{tmp_path}/mlruns"
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    about = {"tracking_uri": uri, "run_id": run_id, "ours": False, "source": {}}
    spool = Spool.new(tmp_path / "spool", {**about, "experiment_id": None, "experiment_name": None})
    place = tmp_path / "round"
    place.mkdir()
    Image.new("L", (300, 200)).save(place / "0-normal.png")
    spool.put(3, place, {"a": 1.0})
    (waiting,) = spool.waiting()
    waiting.begin()
    shutil.copytree(waiting.place, tmp_path / "kept")
    for again in (False, True):
        if again:
            shutil.copytree(tmp_path / "kept", waiting.place)
        send(spool, client)
        assert spool.waiting() == []
        assert [point.value for point in client.get_metric_history(run_id, "a")] == [1.0]
        shown = [file.path for file in client.list_artifacts(run_id, "images")]
        assert len(shown) == 2  # the picture and its thumbnail
        assert all("+step+3+" in name for name in shown)
    spool.tell(goes_on=True)
    spool.put(3, place, {"a": 2.0, "b": 5.0})  # the epoch is done again, later
    send(spool, client)
    assert [point.value for point in client.get_metric_history(run_id, "a")] == [1.0]
    assert [point.value for point in client.get_metric_history(run_id, "b")] == [5.0]
    assert len(client.list_artifacts(run_id, "images")) == 2
    spool.release()
