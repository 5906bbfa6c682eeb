"""Nothing is lost and training is not disturbed, whatever fails around it. `make test-faults` prints a table."""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.tracking.spool import Spool
from tests.conftest import small_cnn
from tests.faults import Proxy, Server, audit, small_disk

X = np.random.default_rng(0).random((12, 8, 8, 1), "float32")
Y = np.arange(12) % 3
EPOCHS = 5


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """MLflow's own client gives up soon, and spools lie in an empty folder."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def proxy(mlflow_server):
    found = Proxy(mlflow_server)
    yield found
    found.close()


@pytest.fixture
def own_server(tmp_path):
    found = Server(tmp_path)
    yield found
    found.kill()


def model():
    found = small_cnn(seed=5)
    found.compile("sgd", "sparse_categorical_crossentropy")
    return found


def fit(*callbacks, **options):
    keras.utils.set_random_seed(1)
    return model().fit(X, Y, validation_data=(X, Y), verbose=0, callbacks=callbacks, **{"epochs": EPOCHS, **options})


@functools.cache
def undisturbed():
    """The losses of a training that is not explained."""
    return tuple(fit().history["loss"])


def explain(tracker, **options):
    return ExplanationCallback((X, Y), ["vanilla"], frequency=1, tracker=tracker, **options)


def at(epoch, action):
    """A callback that does something before an epoch."""
    return keras.callbacks.LambdaCallback(on_epoch_begin=lambda now, logs: action() if now == epoch else None)


@contextlib.contextmanager
def told(pattern):
    """The words of all explanation warnings of the block, one of which must be of a pattern."""
    words = []
    with pytest.warns(kx.ExplanationWarning) as caught:
        yield words
    words += [str(one.message) for one in caught if one.category is kx.ExplanationWarning]
    assert any(re.search(pattern, one) for one in words), words


def arrived(callback):
    """Wait until all rounds so far have arrived."""
    end, tracker = time.monotonic() + 60, callback.tracker
    callback._settle()
    while tracker._spool.waiting() or tracker.run_id is None:
        assert time.monotonic() < end
        time.sleep(0.05)


def sync(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", "from keras_explain.cli import main; main()", "sync", *arguments],
        capture_output=True,
        text=True,
    )
    return done


def settle(table, fault, trained, client, run_id, into, steps=range(EPOCHS), stored=""):
    """What the table says of a fault, of which nothing may be lost, and nothing doubled."""
    whole, lost, doubled = audit(client, run_id, steps, into)
    table(fault, trained, f"{len(whole)} of {len(steps)} rounds{stored}", len(lost), len(doubled))
    assert lost == []
    assert doubled == []


def as_if_nothing_were(history):
    """What the table says of a training that a fault must not disturb."""
    assert tuple(history.history["loss"]) == undisturbed()
    return f"{EPOCHS} of {EPOCHS} epochs, losses the same to the bit"


MODES = [
    (500, "server answers 500"),
    (429, "server answers 429"),
    ("hang", "server hangs"),
    ("lost", "answers get lost"),
]


@pytest.mark.parametrize(
    ("mode", "fault"),
    [pytest.param(*one, marks=pytest.mark.slow if isinstance(one[0], int) else []) for one in MODES],
    ids=[str(mode) for mode, _ in MODES],
)
def test_rounds_wait_for_a_server_that_misbehaves(mode, fault, proxy, server, tmp_path, table):
    tracker = kx.MlflowTracker(tracking_uri=proxy.address, patience=1.0)
    with told("arrived in MLflow") as said:
        # The proxy lets nothing go before fit has ended: were training waiting for it, this would never end.
        history = fit(at(2, lambda: arrived(watched) or setattr(proxy, "mode", mode)), watched := explain(tracker))
    assert proxy.asked[mode]
    assert "keras-explain sync explanations-spool" in said[-1]
    assert len(said) <= 2  # once in training, once at its end
    unsent = len(list(Path("explanations-spool").glob("*/[0-9]*_epoch_*/numbers.json")))
    assert unsent == 3
    proxy.mode = "pass"
    if mode == "hang":
        proxy.close()  # the hanging thread ends, and sends no more
        tracker._sender.join(60)
        assert not tracker._sender.is_alive()
        assert "is still sending it" not in sync("explanations-spool").stderr
    address = ["--tracking-uri", server.tracking_uri]
    done = sync("explanations-spool", *address)
    assert done.returncode == 0, done.stderr
    settle(table, fault, as_if_nothing_were(history), server, tracker.run_id, tmp_path, stored=f", {unsent} by sync")
    assert not Path("explanations-spool").exists()
    assert server.get_run(tracker.run_id).info.status == "FINISHED"


def test_a_server_that_is_killed_and_comes_back_gets_everything(own_server, tmp_path, table):
    own_server.start()
    tracker = kx.MlflowTracker(tracking_uri=own_server.address)
    with told("MLflow does not take the rounds.*cannot be reached"):
        history = fit(
            at(1, lambda: arrived(watched) or own_server.kill()), at(4, own_server.start), watched := explain(tracker)
        )
    client = mlflow.MlflowClient(own_server.address)
    settle(
        table,
        "server killed in training, back before its end",
        as_if_nothing_were(history),
        client,
        tracker.run_id,
        tmp_path,
    )
    assert not Path("explanations-spool").exists()


@pytest.mark.slow
def test_a_server_that_is_down_from_the_beginning(own_server, tmp_path, table):
    tracker = kx.MlflowTracker(tracking_uri=own_server.address)
    with told("5 rounds have not arrived in MLflow.*cannot be reached") as said:
        history = fit(explain(tracker))
    assert tracker.run_id is None
    assert len(said) == 2
    done = sync("--json")
    assert done.returncode == 1
    (reason,) = json.loads(done.stdout)["unsent"].values()
    assert "cannot be reached" in reason
    own_server.start()
    done = sync("--json")
    assert done.returncode == 0, done.stderr
    (sent,) = json.loads(done.stdout)["sent"].values()
    assert sent["rounds"] == EPOCHS
    client = mlflow.MlflowClient(own_server.address)
    settle(
        table,
        "server down from beginning to end",
        as_if_nothing_were(history),
        client,
        sent["run_id"],
        tmp_path,
        stored=" by sync",
    )
    assert len(client.search_runs(["0"])) == 1
    run = client.get_run(sent["run_id"])
    assert run.info.status == "FINISHED"
    assert "Saliency" in run.data.tags["keras_explain.explainers"]
    assert not Path("explanations-spool").exists()
    done = sync()
    assert done.returncode == 0
    assert "holds nothing to send" in done.stdout


def spoiled(table, fault, own, spoil, mend, into):
    """A training from whose third epoch on the server cannot store artifacts, until that is mended; then `sync`."""
    own.start()
    tracker = kx.MlflowTracker(tracking_uri=own.address, patience=5.0)
    watched = explain(tracker)
    with told("not arrived in MLflow.*Send what is kept"):
        history = fit(at(2, lambda: arrived(watched) or spoil()), watched)
    assert sync().returncode == 1
    mend()
    done = sync()
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(own.address)
    settle(table, fault, as_if_nothing_were(history), client, tracker.run_id, into, stored=" by sync")


@pytest.mark.slow
def test_an_artifact_disk_that_is_full(tmp_path, table):
    disk = tmp_path / "disk"
    disk.mkdir()
    filler = disk / "filler"
    with small_disk(disk, 100_000):
        own = Server(tmp_path, disk)
        try:
            spoiled(table, "artifact disk full", own, lambda: _fill(filler), filler.unlink, tmp_path)
        finally:
            own.kill()


def _fill(path):
    """Until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


@pytest.mark.slow
def test_artifacts_that_may_not_be_written(own_server, tmp_path, table):
    store = own_server.store
    store.mkdir()

    def allow(mode):
        for path in [store, *store.rglob("*")]:
            path.chmod(mode if path.is_dir() else 0o644)

    fault = "artifacts may not be written"
    spoiled(table, fault, own_server, lambda: allow(0o555), lambda: allow(0o755), tmp_path)


@pytest.mark.slow
def test_a_run_that_somebody_deletes_or_ends(server, tmp_path, table):
    tracker = kx.MlflowTracker(patience=5.0)
    with pytest.warns(
        kx.ExplanationWarning, match="The run .* has been deleted; bring it back with: mlflow runs restore"
    ):
        history = fit(at(2, lambda: arrived(watched) or server.delete_run(tracker.run_id)), watched := explain(tracker))
    assert sync().returncode == 1
    server.restore_run(tracker.run_id)
    done = sync()
    assert done.returncode == 0, done.stderr
    settle(
        table,
        "run deleted by somebody, restored later",
        as_if_nothing_were(history),
        server,
        tracker.run_id,
        tmp_path,
        stored=" by sync",
    )
    with mlflow.start_run() as run:
        history = fit(at(2, lambda: server.set_terminated(run.info.run_id)), explain(None))
    settle(table, "run ended by somebody", as_if_nothing_were(history), server, run.info.run_id, tmp_path / "ended")


@pytest.mark.slow
def test_what_waits_can_go_into_another_run(server, tmp_path):
    tracker = kx.MlflowTracker(patience=5.0)
    with told("has been deleted"):
        fit(at(2, lambda: arrived(watched) or server.delete_run(tracker.run_id)), watched := explain(tracker))
    waiting = sorted(int(path.name[-4:]) for path in Path("explanations-spool").glob("*/[0-9]*_epoch_*"))
    other = server.create_run("0").info.run_id
    done = sync("--run-id", other)
    assert done.returncode == 0, done.stderr
    assert waiting == [2, 3, 4]
    assert audit(server, other, waiting, tmp_path) == (waiting, [], [])
    assert server.get_run(other).info.status == "RUNNING"  # it is not ours to end


def test_a_full_disk_under_the_spool_does_not_stop_the_training(tmp_path, server, table):
    small = tmp_path / "small"
    small.mkdir()
    with small_disk(small, 64):
        tracker = kx.MlflowTracker(spool=small / "spool")
        with told("No space left on device.*what was computed is kept in") as said:
            history = fit(explain(tracker))
        kept = {Path(words.split("is kept in ")[1].rstrip(")")) for words in said if "is kept in" in words}
        assert tuple(history.history["loss"]) == undisturbed()
        assert not list(small.rglob("*.partial"))
    places = sorted(kept)
    assert places
    assert all(kx.load_round(place)[1] for place in places)
    table(
        "no room for the spool",
        f"{EPOCHS} of {EPOCHS} epochs, losses the same to the bit",
        "in folders that are named",
        0,
        0,
    )


TRAINING = """
import os, signal, sys
import keras, numpy as np, keras_explain as kx
from keras_explain.callbacks import ExplanationCallback

events = {"os.rename", "os.mkdir", "os.remove", "http.client.send", "explain"}
last, count = int(os.environ.get("KILL", 0)), 0

def hook(event, arguments):
    global count
    written = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
    if armed and (written or event in events):
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

class Explainer(kx.Saliency):
    def explain(self, scorer, samples):
        hook("explain", ())
        found = super().explain(scorer, samples)
        hook("explain", ())
        return found

armed = False
sys.addaudithook(hook)
x, y = np.random.default_rng(0).random((12, 8, 8, 1), "float32"), np.arange(12) % 3
layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
keras.utils.set_random_seed(1)
model = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
where, order, uri = sys.argv[1:]
tracker = kx.DirectoryTracker("run") if where == "folder" else kx.MlflowTracker(tracking_uri=uri)
explain = ExplanationCallback((x, y), [Explainer()], frequency=2, tracker=tracker, on_error="raise", metrics=["border"])
class Backup(keras.callbacks.BackupAndRestore):
    def on_epoch_end(self, epoch, logs):  # a training that is killed here cannot go on, whatever we do
        global armed
        armed = False
        super().on_epoch_end(epoch, logs)
        armed = epoch > 0
backup = Backup("backup")
def arm(epoch, logs):
    global armed
    armed = epoch > 0  # before that there is nothing to go on with
begin = keras.callbacks.LambdaCallback(on_epoch_begin=arm)
both = [explain, backup] if order == "before" else [backup, explain]
model.fit(x, y, epochs=5, validation_data=(x, y), verbose=0, callbacks=[begin, *both])
armed = False
print("events", count)
print("run", getattr(tracker, "run_id", None))
"""


def train(*arguments, kill=0):
    environment = {**os.environ, "KILL": str(kill), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAINING, *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    found = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("events", "run")))
    return done.returncode == 0, found


@functools.cache
def events(*arguments):
    """How many moments there are at which a training can be killed."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        done, found = train(*arguments)
    assert done
    return int(found["events"])


KILLED = "killed, goes on from its backup"
KILLS = [(share, order) for share in (0.1, 0.3, 0.5, 0.7, 0.9) for order in ("before", "after")]
QUICK = (0.5, "before")


@pytest.mark.parametrize(
    ("share", "order"), [pytest.param(*kill, marks=[] if kill == QUICK else pytest.mark.slow) for kill in KILLS]
)
def test_a_training_that_is_killed_goes_on_in_its_run(share, order, server, tmp_path, table):
    """Killed by the system at a moment of a round; with the backup of Keras made before or after the round."""
    moments = events("mlflow", order, server.tracking_uri)
    whole, _ = train("mlflow", order, server.tracking_uri, kill=max(1, round(share * moments)))
    assert not whole
    for path in Path("explanations-spool").glob("*/[0-9]*_epoch_*"):
        assert kx.load_round(path / "files")[1]  # whatever is there is whole
    whole, found = train("mlflow", order, server.tracking_uri)
    assert whole
    fault = (
        f"training killed at {share:.0%} of its moments, backup {'after' if order == 'before' else 'before'} the round"
    )
    settle(table, fault, KILLED, server, found["run"], tmp_path, steps=(0, 2, 4))
    page = Path(server.download_artifacts(found["run"], "explanations/report.html", str(tmp_path))).read_text()
    assert all(f'"epoch_{step:04d}"' in page for step in (0, 2, 4))
    assert server.get_run(found["run"]).info.status == "FINISHED"
    if Path("explanations-spool").exists():  # killed when its backup was gone already, so that all was done again
        assert sync().returncode == 0
        assert all(spool.is_empty() for spool in Spool.all(Path("explanations-spool")))  # what was killed may go on


@pytest.mark.slow
@pytest.mark.parametrize(("share", "order"), KILLS)
def test_a_training_that_is_killed_goes_on_in_its_folder(share, order, tmp_path, table):
    moments = events("folder", order, "")
    whole, _ = train("folder", order, "", kill=max(1, round(share * moments)))
    assert not whole
    for path in Path("run/explanations").glob("epoch_*"):
        assert kx.load_round(path)[1]
    whole, _ = train("folder", order, "")
    assert whole
    rows = [line.split(",") for line in Path("run/explanations/metrics.csv").read_text().splitlines()[1:]]
    places = sorted(path.name for path in Path("run/explanations").glob("epoch_*"))
    numbers = {(step, name) for step, name, _ in rows}
    lost = [
        step for step in (0, 2, 4) if f"epoch_{step:04d}" not in places or not any(s == str(step) for s, _ in numbers)
    ]
    table(
        f"the same with rounds in a folder, {share:.0%}, {order}",
        KILLED,
        f"{len(places)} of 3 rounds",
        len(lost),
        len(rows) - len(numbers),
    )
    assert lost == []
    assert len(rows) == len(numbers)
    assert places == ["epoch_0000", "epoch_0002", "epoch_0004"]
    page = Path("run/explanations/report.html").read_text()
    assert all(f'"epoch_{step:04d}"' in page for step in (0, 2, 4))
